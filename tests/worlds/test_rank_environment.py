"""The variables that training scripts read their rank from: each rank its own, the process's as they were."""

import os

import pytest

from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def read(comm):
    before = [os.environ[name] for name in NAMES]
    comm.all_gather(comm_rank(comm), dim=0, total=comm.size, name="turns")
    assert [os.environ[name] for name in NAMES] == before
    return before


def comm_rank(comm):
    import torch

    return torch.tensor([float(comm.rank)])


@pytest.mark.parametrize("world", [ThreadedWorld, pytest.param(SpawnedWorld, marks=pytest.mark.processes)])
def test_every_rank_has_its_own(world, monkeypatch):
    monkeypatch.setenv("RANK", "77")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    found = world(size=3).run(read)
    assert [one[:4] for one in found] == [[str(rank), str(rank), "3", "3"] for rank in range(3)]
    assert len({tuple(one[4:]) for one in found}) == 1
    assert found[0][4] == "127.0.0.1"
    assert 0 < int(found[0][5]) < 65536
    assert (os.environ["RANK"], "LOCAL_RANK" in os.environ) == ("77", False)

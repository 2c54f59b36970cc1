"""Meshes of ranks that are threads: what PyTorch has worked out for one rank is not served to another."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.worlds import threaded
from shardproof.worlds.threaded import ThreadedWorld


def gather_rows(comm, rows):
    """Whether rows, split over both axes, come together: 5 rows are 2 and 1 on ranks 0 and 1, 1 and 1 on 2 and 3."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    full = torch.arange(3.0 * rows).view(rows, 3)
    half = full.chunk(2)[comm.rank // 2]
    shards = half.chunk(2)
    own = shards[comm.rank % 2] if comm.rank % 2 < len(shards) else half[:0]
    tensor = DTensor.from_local(
        own, mesh, [Shard(0), Shard(0)], run_check=False, shape=full.shape, stride=full.stride()
    )
    return torch.equal(tensor.redistribute(placements=[Replicate(), Replicate()]).to_local(), full)


@pytest.mark.parametrize("rows", [3, 5, 7, 9])
def test_rows_that_do_not_divide_come_together(rows):
    assert ThreadedWorld(size=4).run(gather_rows, rows) == [True] * 4


def test_without_it_a_rank_takes_the_lengths_of_another_one(monkeypatch):
    monkeypatch.setattr(threaded, "tell_meshes_apart", lambda: None)
    with pytest.raises((CannotRunError, AssertionError)):
        assert ThreadedWorld(size=4).run(gather_rows, 5) == [True] * 4


def make_meshes(comm):
    whole = init_device_mesh("cpu", (comm.size, 1), mesh_dim_names=("a", "b"))
    assert whole["a"] == whole["a"]
    assert hash(whole["a"]) == hash(whole["a"])
    return [whole, whole["a"], whole["b"]]


def test_no_two_ranks_of_any_world_have_equal_meshes():
    found = [meshes for _ in range(3) for meshes in ThreadedWorld(size=2).run(make_meshes)]
    for kind in zip(*found, strict=True):
        assert len(set(kind)) == len(kind) == 6

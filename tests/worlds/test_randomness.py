"""Random generators: kept, put back, told when they moved; each rank has its own, whichever way the ranks run."""

import random

import numpy as np
import pytest
import torch
import torch.distributed as dist

from shardproof.worlds.randomness import Randomness, randomness_kept
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

DRAWS = {
    "PyTorch's generator": lambda: torch.rand(2),
    "Python's random": random.random,
    "NumPy's random": lambda: np.random.rand(2),  # noqa: NPY002 - the legacy generator is what is kept
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_draw_is_told_and_taken_back(name):
    before = Randomness.now()
    with randomness_kept():
        first = DRAWS[name]()
        assert before.moved() == [name]
    assert before.moved() == []
    assert str(DRAWS[name]()) == str(first)
    before.restore()


def draw_between_collectives(comm):
    """Rank 1 draws more than the others before the second collective."""
    torch.manual_seed(5)
    random.seed(5)
    found = [(float(torch.rand(())), random.random())]
    dist.all_reduce(torch.ones(1))
    if comm.rank == 1:
        torch.rand(3)
        random.random()
    dist.all_reduce(torch.ones(1))
    return [*found, (float(torch.rand(())), random.random())]


@pytest.mark.parametrize(
    "world", [ThreadedWorld(size=3), pytest.param(SpawnedWorld(size=3), marks=pytest.mark.processes)]
)
def test_every_rank_has_generators_of_its_own(world):
    before = Randomness.now()
    ranks = world.run(draw_between_collectives)
    assert ranks[0][0] == ranks[1][0] == ranks[2][0]
    assert ranks[0][1] == ranks[2][1]
    assert ranks[0][1][0] != ranks[1][1][0]
    assert ranks[0][1][1] != ranks[1][1][1]
    assert before.moved() == []


def test_ranks_in_threads_begin_as_the_process_is():
    with randomness_kept():
        torch.manual_seed(7)
        expected = float(torch.rand(()))
        torch.manual_seed(7)
        assert ThreadedWorld(size=2).run(lambda _comm: float(torch.rand(()))) == [expected, expected]

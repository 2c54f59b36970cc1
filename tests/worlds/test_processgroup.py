"""The communicator over a process group: what it announces, how it fails, and the bound on reordered sums."""

import itertools

import pytest
import torch
import torch.distributed as dist
from tests.worlds import rank_code
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardproof.worlds.processgroup import CollectiveFailedError, ProcessGroupCommunicator, bound_reordering


@pytest.fixture
def group():
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_each_collective_is_announced_and_its_end(group):
    announced = []
    comm = ProcessGroupCommunicator(group=group, announce=announced.append)
    comm.all_reduce(torch.ones(3), name="a")
    comm.reduce_scatter(torch.ones(3), dim=0, name="b")
    assert [call and str(call) for call in announced] == [
        "all_reduce 'a' (float32 [3])",
        None,
        "reduce_scatter 'b' (float32 [3] along dim 0)",
        None,
    ]


def test_a_collective_that_breaks_off_names_itself(group, monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("[gloo/pair.cc:12] Connection closed by peer. This is typically a sign of ...\nmore")

    monkeypatch.setattr(dist, "all_reduce", fail)
    with pytest.raises(CollectiveFailedError) as caught:
        ProcessGroupCommunicator(group=group).all_reduce(torch.ones(3), name="a")
    assert str(caught.value) == "all_reduce 'a' (float32 [3]): Connection closed by peer"
    assert caught.value.call == "all_reduce 'a' (float32 [3])"


@pytest.mark.parametrize("dtype", rank_code.DTYPES)
def test_sums_in_any_two_orders_differ_within_the_bound(dtype):
    parts = [rank_code.draw((50,), dtype, seed) for seed in range(4)]
    sums = []
    for order in itertools.permutations(parts):
        total = order[0].clone()
        for part in order[1:]:
            total += part
        sums.append(total.double())
    spread = torch.stack(sums).amax(0) - torch.stack(sums).amin(0)
    bound = bound_reordering(parts)
    assert (spread <= bound).all()
    assert (spread > bound / 100).any()  # the bound is not so wide that it could not fail

"""The simulated world against torch.cat and sums in rank order, and how it ends when ranks misbehave."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worlds import rank_code

from shardproof.errors import CannotRunError
from shardproof.worlds.communicator import shard_range, shard_sizes
from shardproof.worlds.simulated import SimulatedWorld

worlds = st.integers(1, 9)
shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3)


def sum_in_rank_order(parts):
    total = parts[0].clone()
    for part in parts[1:]:
        total += part
    return total


@settings(deadline=None, max_examples=60)
@given(size=worlds, shape=shapes, data=st.data(), dtype=st.sampled_from(rank_code.DTYPES))
def test_collectives_are_cat_and_sum(size, shape, data, dtype):
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    whole = rank_code.draw(shape, dtype, 0)
    parts = [rank_code.draw(shape, dtype, 1 + rank) for rank in range(size)]
    pieces = torch.split(whole, shard_sizes(shape[dim], size), dim)

    def fn(comm):
        return (
            comm.all_gather(pieces[comm.rank], dim=dim, total=shape[dim], name="x"),
            comm.reduce_scatter(parts[comm.rank], dim=dim, name="p"),
            comm.all_reduce(parts[comm.rank], name="p"),
        )

    total = sum_in_rank_order(parts)
    for rank, (gathered, scattered, reduced) in enumerate(SimulatedWorld(size=size).run(fn)):
        start, stop = shard_range(shape[dim], rank, size)
        assert torch.equal(gathered, whole)
        assert torch.equal(scattered, total.narrow(dim, start, stop - start))
        assert torch.equal(reduced, total)
        assert gathered.is_contiguous()
        assert scattered.is_contiguous()
        assert reduced.is_contiguous()


def test_sums_notice_a_missing_rank():
    # The negative control of the comparison above: a sum that leaves a rank out must not be equal.
    parts = [rank_code.draw((3, 4), torch.float32, rank) for rank in range(3)]
    got = SimulatedWorld(size=3).run(lambda comm: comm.all_reduce(parts[comm.rank], name="p"))[0]
    assert not torch.equal(got, sum_in_rank_order(parts[:2]))


def test_results_come_in_rank_order():
    assert SimulatedWorld(size=5).run(rank_code.echo, "a", 2) == [(rank, 5, ("a", 2)) for rank in range(5)]


def test_no_more_than_two_partials_are_alive():
    alive, most = set(), 0

    def fn(comm):
        nonlocal most
        for _ in range(2):
            # The allocation is watched, not the tensor: a view would keep it.
            comm.reduce_scatter(watch(torch.ones(8)), dim=0, name="p")

    def watch(partial):
        nonlocal most
        mark = id(partial)
        alive.add(mark)
        weakref.finalize(partial, alive.discard, mark)
        most = max(most, len(alive))
        return partial

    gc.disable()
    try:
        SimulatedWorld(size=8).run(fn)
    finally:
        gc.enable()
    assert most == 2


def test_rank_that_raises_is_named_and_the_others_are_unwound():
    unwound = []

    def fn(comm):
        try:
            rank_code.raise_on(comm, 1)
        finally:
            unwound.append(comm.rank)

    with pytest.raises(CannotRunError) as caught:
        SimulatedWorld(size=3).run(fn)
    raised, waits = str(caught.value).rsplit("; ", 1)
    assert raised.startswith("rank 1: OverflowError: more than it can hold (")
    assert "raise_on" in raised
    assert waits == "rank 0 waits in all_reduce 'second' (float32 [2])"
    assert isinstance(caught.value.__cause__, OverflowError)
    assert sorted(unwound) == [0, 1, 2]


def test_rank_that_clings_to_life_is_ended():
    def fn(comm):
        if comm.rank == 1:
            raise OverflowError
        while True:
            try:
                comm.all_reduce(torch.ones(1), name="p")
            except Exception:  # noqa: BLE001
                continue
            finally:
                comm.all_reduce(torch.ones(1), name="parting")

    with pytest.raises(CannotRunError, match=r"^rank 1: OverflowError"):
        SimulatedWorld(size=2).run(fn)


def test_interrupt_passes_through():
    def fn(comm):
        comm.all_reduce(torch.ones(1), name="p")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SimulatedWorld(size=3).run(fn)


def differ(comm, first, second):
    tensors = {"wide": torch.ones(2, 4), "tall": torch.ones(4, 2), "double": torch.ones(2, 4, dtype=torch.float64)}
    tensor, dim, name = first if comm.rank < 2 else second
    comm.reduce_scatter(tensors[tensor], dim=dim, name=name)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (("tall", 0, "p"), "rank 2 calls reduce_scatter 'p' (float32 [4, 2] along dim 0)"),
        (("double", 0, "p"), "rank 2 calls reduce_scatter 'p' (float64 [2, 4] along dim 0)"),
        (("wide", 1, "p"), "rank 2 calls reduce_scatter 'p' (float32 [2, 4] along dim 1)"),
        (("wide", 0, "q"), "rank 2 calls reduce_scatter 'q' (float32 [2, 4] along dim 0)"),
    ],
)
def test_ranks_that_part_are_named(second, said):
    with pytest.raises(CannotRunError) as caught:
        SimulatedWorld(size=3).run(differ, ("wide", 0, "p"), second)
    known = "the ranks call different collectives: ranks 0, 1 call reduce_scatter 'p' (float32 [2, 4] along dim 0), "
    assert str(caught.value) == known + said


def test_ranks_in_different_collectives_are_named():
    with pytest.raises(CannotRunError) as caught:
        SimulatedWorld(size=2).run(rank_code.part)
    assert str(caught.value) == (
        "the ranks call different collectives: rank 0 calls all_gather 'hidden' (float32 [4] along dim 0), "
        "rank 1 calls reduce_scatter 'gradient' (float32 [6] along dim 0)"
    )


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_rank_that_ends_early_is_named(rank):
    with pytest.raises(CannotRunError, match=rf"^rank {rank} ended while ranks? .* in all_reduce 'second'"):
        SimulatedWorld(size=3).run(rank_code.return_on, rank)


@pytest.mark.parametrize("collective", ["all_gather", "all_reduce"])
@pytest.mark.parametrize("through_view", [False, True])
def test_writing_into_a_shared_result_is_refused(collective, through_view):
    def fn(comm):
        if collective == "all_gather":
            result = comm.all_gather(torch.ones(2), dim=0, total=4, name="x")
        else:
            result = comm.all_reduce(torch.ones(4), name="x")
        comm.all_reduce(torch.ones(1), name="later")
        if comm.rank == 1:
            target = result[1:].view(-1) if through_view else result
            target.mul_(2)
        return result

    with pytest.raises(CannotRunError, match=rf"^rank 1 wrote in place into the result of {collective} 'x'"):
        SimulatedWorld(size=2).run(fn)


def test_own_part_of_a_reduce_scatter_may_be_written():
    def fn(comm):
        return comm.reduce_scatter(torch.ones(4), dim=0, name="x").mul_(10)

    assert [part.tolist() for part in SimulatedWorld(size=2).run(fn)] == [[20, 20], [20, 20]]


@pytest.mark.parametrize("size", [1, 3])
def test_arguments_stay_and_results_are_no_aliases(size):
    def fn(comm):
        partial = torch.full((3,), 2.0)
        results = comm.all_reduce(partial, name="p"), comm.reduce_scatter(partial, dim=0, name="p")
        partial.zero_()
        return results

    for reduced, scattered in SimulatedWorld(size=size).run(fn):
        assert reduced.tolist() == [2.0 * size] * 3
        assert set(scattered.tolist()) == {2.0 * size}


def test_each_rank_keeps_its_own_grad_mode():
    seen = []

    def fn(comm):
        seen.append(torch.is_grad_enabled())
        if comm.rank == 0:
            with torch.no_grad():
                comm.all_reduce(torch.ones(1), name="p")
                seen.append(not torch.is_grad_enabled())
        else:
            comm.all_reduce(torch.ones(1), name="p")
        seen.append(torch.is_grad_enabled())

    SimulatedWorld(size=3).run(fn)
    assert seen == [True] * 7


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda comm: comm.all_gather(torch.ones(3), dim=0, total=4, name="x"),
            "holds 2 of 4: cut it with shard_range",
        ),
        (lambda comm: comm.all_gather(torch.ones(2), dim=1, total=4, name="x"), "all_gather 'x': .* has no dim 1"),
        (lambda comm: comm.reduce_scatter(torch.ones(2), dim=-2, name="x"), "reduce_scatter 'x': .* has no dim -2"),
    ],
)
def test_impossible_calls_say_what_was_needed(call, said):
    with pytest.raises(CannotRunError, match=said):
        SimulatedWorld(size=2).run(call)


def test_a_world_needs_a_rank():
    with pytest.raises(CannotRunError, match="a world of 0 ranks"):
        SimulatedWorld(size=0)


def test_worlds_nest():
    def outer(comm):
        inner = SimulatedWorld(size=2).run(lambda inner: inner.all_reduce(torch.ones(1), name="in"))
        return comm.all_reduce(inner[0], name="out").item()

    assert SimulatedWorld(size=3).run(outer) == [6.0] * 3

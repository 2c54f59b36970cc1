"""Asynchronous calls and messages of ranks that are processes, in ordinary numbers and in exact arithmetic."""

import pytest
import torch
import torch.distributed as dist
from tests.worlds import p2p_code
from tests.worlds.test_in_flight import EVERYWHERE, EXPECTED, access, ignore

from shardproof.errors import CannotRunError
from shardproof.exact import ExactArithmetic
from shardproof.worlds.collective_trace import trace_collectives
from shardproof.worlds.spawned import SpawnedWorld

pytestmark = pytest.mark.processes


def access_every_kind(comm, exact):
    return {
        (kind, waits): access(comm, kind, ExactArithmetic(seed=2) if exact else None, waits)
        for kind in EVERYWHERE
        for waits in (False, True)
    }


@pytest.mark.parametrize("exact", [False, True])
def test_an_early_use_is_reported_and_the_run_goes_on(exact):
    for rank, found in enumerate(SpawnedWorld(size=2).run(access_every_kind, exact)):
        for (kind, waits), (early, doubled) in found.items():
            assert [one.access for one in early] == ([] if waits else ["mul"]), kind
            assert doubled == [2 * x for x in EXPECTED[kind](rank)], kind


def traced(comm, fn):
    found = []
    with trace_collectives(ignore, found.append):
        result = fn(comm)
    assert found == []
    return result


def test_messages_under_the_trace_are_those_without_it():
    for fn in (p2p_code.ring, p2p_code.batch, p2p_code.in_order, p2p_code.objects):
        assert str(SpawnedWorld(size=2).run(traced, fn)) == str(SpawnedWorld(size=2).run(fn))


@pytest.mark.parametrize(
    ("fn", "said"),
    [
        (p2p_code.another_shape, r"calls send of float32 \[3\] to rank 1 .* receive of float32 \[2, 2\] from rank 0"),
        (p2p_code.another_dtype, r"calls send of float32 \[2\] to rank 1 .* receive of int32 \[2\] from rank 0"),
    ],
)
def test_a_message_that_does_not_fit_is_named_with_both_calls(fn, said):
    with pytest.raises(CannotRunError, match=f"a message does not fit: rank 0 {said}"):
        SpawnedWorld(size=2).run(traced, fn)


def exchange_residues(comm, wrong):
    """Whether what came is the other's, digit by digit, and the bounds of both."""
    weight = torch.nn.Parameter(torch.linspace(0.5, 2, 3, dtype=torch.float64))
    exact = ExactArithmetic(seed=3)
    with exact.joined(), trace_collectives(ignore, poison=False):
        own = torch.exp(weight) * (comm.rank + 1) / 3
        got = torch.empty(3, dtype=torch.float64)
        works = [dist.irecv(got, 1 - comm.rank), dist.isend(own.detach() * wrong, 1 - comm.rank)]
        for work in works:
            work.wait()
        same = torch.equal(exact.digits(got * (comm.rank + 1) / (2 - comm.rank)), exact.digits(own))
        return same, exact.bound(got).per_trial == exact.bound(own.detach()).per_trial


@pytest.mark.parametrize("wrong", [1, 2])
def test_residues_and_what_is_known_of_them_are_passed_on(wrong):
    assert [same for same, _ in SpawnedWorld(size=2).run(exchange_residues, wrong)] == [wrong == 1] * 2
    assert [bound for _, bound in SpawnedWorld(size=2).run(exchange_residues, 1)] == [True] * 2

"""Exact arithmetic on real gloo processes: DTensor steps and every collective give the digits of one process."""

import pytest
import torch
from tests.exact import ranks

from shardproof.exact import ExactArithmetic
from shardproof.exact.engine.collectives import composing_kernel
from shardproof.worlds.spawned import SpawnedWorld

pytestmark = pytest.mark.processes

TIMEOUT = 120.0


@pytest.fixture(scope="module")
def calls():
    """What every collective gave on four ranks."""
    return SpawnedWorld(size=4, timeout=TIMEOUT).run(ranks.call_collectives)


@pytest.mark.parametrize(("size", "name"), [(2, "sgd"), (4, "adamw")])
def test_a_tensor_parallel_step_has_the_digits_of_one_process(size, name):
    alone = ranks.train_alone(name)
    for digits, back in SpawnedWorld(size=size, timeout=TIMEOUT).run(ranks.train_on_ranks, name):
        assert digits.keys() == alone.keys()
        assert all(torch.equal(digits[key], alone[key]) for key in alone)
        assert back  # every rank's parameters, bit for bit


def test_a_lost_part_of_a_sum_is_seen():
    for right, lost in SpawnedWorld(size=2, timeout=TIMEOUT).run(ranks.diverge):
        assert not torch.equal(right, lost)


def balanced(x, prime):
    x = x % prime
    return torch.where(x > prime // 2, x - prime, x)


def test_sums_and_averages_are_those_of_integers_modulo_the_prime(calls):
    prime = ExactArithmetic(seed=ranks.SEED).prime
    total = balanced(sum(call["mine"][0] for call in calls), prime)
    average = balanced(total * pow(4, -1, prime), prime)
    for asynchronous in (False, True):
        for call in calls:
            assert torch.equal(call[f"all_reduce SUM {asynchronous}"][0], total)
            assert torch.equal(call[f"all_reduce AVG {asynchronous}"][0], average)
    for rank, call in enumerate(calls):
        assert torch.equal(call["waited SUM"][0], total)
        assert torch.equal(call["reduce_scatter"][0], total[0, rank : rank + 1])
        assert torch.equal(call["reduce_scatter_tensor"][0], average[:1])
        assert torch.equal(call["reduce"][0], total if rank == 0 else call["mine"][0])
    assert not torch.equal(total, average)


def test_the_maximum_over_ranks_is_the_maximum_along_a_dim(calls):
    drawn = [ranks.own(rank) for rank in range(4)]
    with ExactArithmetic(seed=ranks.SEED) as exact:
        stacked = torch.stack([x * 3 + 1 for x in drawn])
        wanted = {"MAX": exact.digits(stacked.amax(0)), "MIN": exact.digits(stacked.amin(0))}
    for call in calls:
        for name, digits in wanted.items():
            assert torch.equal(call[f"all_reduce {name} False"][0], digits)
            assert torch.equal(call[f"all_reduce {name} True"][0], digits)
    assert not torch.equal(wanted["MAX"], wanted["MIN"])


def test_gathers_scatters_and_exchanges_move_residues(calls):
    prime = ExactArithmetic(seed=ranks.SEED).prime
    mine = [call["mine"][0] for call in calls]
    for rank, call in enumerate(calls):
        assert all(map(torch.equal, call["all_gather"], mine))
        assert torch.equal(call["all_gather_into_tensor"][0], torch.cat(mine))
        start = rank * (rank + 1) // 2  # rank r gets r + 1 elements from each
        parts = [other["all_to_all_single uneven"][0][start : start + rank + 1] for other in calls]
        assert torch.equal(call["all_to_all_single uneven"][1], torch.cat(parts))
        assert torch.equal(call["broadcast"][0], mine[1])
        assert torch.equal(call["scatter"][0], balanced(mine[0] * (rank + 1), prime))
        exchanged = torch.cat([balanced(x[:1] * (rank + 1), prime) for x in mine])
        assert torch.equal(call["all_to_all_single"][0], exchanged)
    assert all(map(torch.equal, calls[0]["gather"], mine))
    assert calls[1]["gather"] == []


def test_integers_and_real_counts_stay_what_they_are(calls):
    assert [call["count"] for call in calls] == [10.0] * 4
    assert [call["integers"] for call in calls] == [6] * 4


def test_roots_gathered_from_ranks_still_have_their_squares(calls):
    drawn = [ranks.own(rank) for rank in range(4)]
    with ExactArithmetic(seed=ranks.SEED) as exact:
        everything = torch.cat([x * 3 + 1 for x in drawn])
        wanted = [exact.digits(everything.norm()), exact.digits((everything * everything).sum())]
    for call in calls:
        assert all(map(torch.equal, call["norm of norms"], wanted))


def test_a_division_by_zero_on_one_rank_voids_the_sum_on_all(calls):
    assert [call["void before"] for call in calls] == [False, True, False, False]
    assert all(call["void after"] for call in calls)


def test_only_the_elements_that_were_void_on_some_rank_are_void_after(calls):
    for call in calls:
        for name in ("SUM", "MAX", "MIN"):
            assert call[f"void {name}"] == [[False, True, False, False]] * 3


def test_constants_that_every_rank_knows_are_compared_as_reals_after_a_collective(calls):
    for call in calls:
        assert call["known"] == [[True, True, False], [True, True, False], [False, True, False]]
        assert torch.equal(call["largest weight"][0], calls[0]["largest weight"][0])
    prime = ExactArithmetic(seed=ranks.SEED).prime
    assert balanced(calls[0]["largest weight"][0] * 2, prime).tolist() == [3, 2, 0]


def test_messages_bring_residues(calls):
    for rank, call in enumerate(calls):
        assert torch.equal(call["arrived"][0], calls[rank - 1]["mine"][0])


def test_products_and_sums_of_masks_are_refused_on_every_rank(calls):
    for call in calls:
        product, masks = call["refused"]
        assert product.startswith("UnsupportedOpError")
        assert "PRODUCT" in product
        assert "SUM, AVG, MAX and MIN have" in product
        assert masks.startswith("SymbolError")


@pytest.mark.parametrize("keys", [["CPU"], ["CompositeExplicitAutograd"], ["CPU", "CompositeExplicitAutograd"]])
def test_an_op_of_fsdp_is_called_by_a_kernel_that_it_has(keys):
    """FSDP2's copy into the buffer of a reduce-scatter: for the CPU in torch 2.13, composite from 2.15 on."""
    name = f"copy_for_{'_and_'.join(keys)}"
    library = torch.library.Library("fsdp", "FRAGMENT")
    library.define(f"{name}(Tensor x, *, Tensor(a!) out) -> ()")

    def copy(x, *, out):
        out.copy_(x * 2)

    for key in keys:
        library.impl(name, copy, key)
    out = torch.zeros(3, dtype=torch.int64)
    kernel = composing_kernel(getattr(torch.ops.fsdp, name).default)
    kernel(torch.tensor([1, 2, 3]), out=out)
    assert out.tolist() == [2, 4, 6]

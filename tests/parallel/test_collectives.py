"""Each collective's backward is its adjoint, to the last digit, and a wrong backward is not.

Three layers, cheapest first: values against torch, the adjoint in exact arithmetic, gloo processes.
"""

import itertools

import pytest
import torch
import torch.distributed as dist
from tests.parallel import adjoints
from tests.parallel.adjoints import PAIRS, WRONG, Case, Pair
from tests.parallel.ranks import alone, calls_of, count_calls, run

from shardproof.errors import CannotRunError
from shardproof.exact import ExactArithmetic
from shardproof.parallel import collectives
from shardproof.parallel.collectives import sum_gradients, sum_gradients_together
from shardproof.worlds.communicator import shard_sizes
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld

# Uneven on 2, 3 and 4 ranks; shorter than 3 or 4 ranks, so that some shards are empty; nothing at all; one dim alone.
SHAPES = (((5, 3), 0), ((3, 5), 1), ((3, 5), -1), ((2, 7, 3), 1), ((2, 3), 0), ((3, 1), 1), ((0, 3), 0), ((9,), 0))
CASES = [
    Case(shape=shape, dim=dim, strided=strided, by_exchange=by_exchange)
    for (shape, dim), strided, by_exchange in itertools.product(SHAPES, (False, True), (False, True))
]


# Values --------------------------------------------------------------------------------------------------------------


def values(size):
    """What each rank gets, of wholes that are known here."""

    def on_rank(axis):
        found = []
        for case in CASES:
            here = case.over(axis)
            own, shard = case.draw("own", here, 3), case.draw("shard", here, 3)
            total = case.shape[case.dim]
            with torch.no_grad():
                found.append(
                    {
                        "own": own,
                        "shard": shard,
                        "gathered": collectives.all_gather(shard, here, dim=case.dim, total=total),
                        "reduced": collectives.all_reduce(own, here),
                        "scattered": collectives.reduce_scatter(own, here, dim=case.dim),
                        "highest": collectives.all_reduce_max(own, here),
                        "cut": collectives.own_shard(own, here, dim=case.dim),
                    }
                )
        return found

    return run(size, on_rank)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_values_are_those_of_one_device(size):
    for case, *ranks in zip(CASES, *values(size), strict=True):
        owns = [rank["own"] for rank in ranks]
        total = owns[0].clone()
        for other in owns[1:]:
            total += other
        scattered = total.split(shard_sizes(case.shape[case.dim], size), case.dim)
        for rank, found in enumerate(ranks):
            assert torch.equal(found["gathered"], torch.cat([other["shard"] for other in ranks], case.dim))
            assert torch.equal(found["reduced"], total)  # bit for bit: sums are in rank order
            assert torch.equal(found["scattered"], scattered[rank])
            assert torch.equal(found["highest"], torch.stack(owns).amax(0))
            assert torch.equal(found["cut"], owns[rank].split(shard_sizes(case.shape[case.dim], size), case.dim)[rank])


def test_the_argument_is_left_as_it_is():
    def on_rank(axis):
        x = torch.full((4, 2), float(axis.rank))
        before = x.clone()
        collectives.all_reduce(x, axis)
        collectives.reduce_scatter(x, axis, dim=0)
        collectives.all_gather(x, axis, dim=0)
        collectives.all_reduce_max(x, axis)
        return torch.equal(x, before)

    assert run(2, on_rank) == [True, True]
    assert run(3, on_rank) == [True] * 3


def test_scalars_are_summed():
    assert run(3, lambda axis: collectives.all_reduce(torch.tensor(axis.rank + 1.0), axis).item()) == [6.0] * 3


def test_along_an_axis_of_one_rank_nothing_is_done():
    x = torch.randn(3, 2, requires_grad=True)

    def on_rank(axis):
        return [pair.function(x, axis, 0, 3) is x for pair in PAIRS.values()]

    assert run(1, on_rank) == [[True] * len(PAIRS)]


# Adjoints ------------------------------------------------------------------------------------------------------------


def gaps(pair, cases, mesh_shape, seed=7):
    """<A x, y> - <x, A* y> modulo the prime, of each case; and whether ranks that should be alike are."""
    exact = ExactArithmetic(seed=seed, check=True)
    world = ThreadedWorld(size=torch.Size(mesh_shape).numel())
    ranks = world.run(adjoints.products, exact, pair, cases, mesh_shape)
    differences, alike = [], True
    for found in zip(*ranks, strict=True):
        differences.append(sum(left - right for left, right, _, _ in found) % exact.prime)
        for key in ("out", "gradient"):
            first = {}
            for _, _, group, replicas in found:
                if replicas[key] is not None:
                    alike &= torch.equal(replicas[key], first.setdefault(group, replicas[key]))
    return differences, alike


@pytest.mark.parametrize("mesh_shape", [(2,), (3,), (4,), (2, 2)])
@pytest.mark.parametrize("name", PAIRS)
def test_backward_is_the_adjoint_in_exact_arithmetic(name, mesh_shape):
    differences, alike = gaps(PAIRS[name], CASES, mesh_shape)
    assert differences == [0] * len(CASES)
    assert alike


@pytest.mark.parametrize("mesh_shape", [(2,), (3,), (2, 2)])
@pytest.mark.parametrize("name", WRONG)
def test_a_backward_that_is_not_the_adjoint_is_seen_in_every_case(name, mesh_shape):
    cases = [case for case in CASES if torch.Size(case.shape).numel()]
    differences, _ = gaps(WRONG[name], cases, mesh_shape)
    if "another order" in name:  # at least two ranks must have something
        differences = [d for d, case in zip(differences, cases, strict=True) if case.shape[case.dim] > 1]
    assert differences
    assert 0 not in differences


def test_a_sum_that_crosses_groups_is_seen():
    """On a 2 x 2 mesh, the sum over all four ranks in place of the two along the axis."""

    def sum_everywhere(x, *_):
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    pair = Pair(source="own", target="replicated", function=adjoints.wrong(sum_everywhere, adjoints.same))
    case = Case(shape=(3, 5), dim=1)
    assert gaps(pair, [case], (4,)) == ([0], True)  # right where the axis is the world
    assert gaps(pair, [case], (2, 2))[0] != [0]


@pytest.mark.parametrize("name", PAIRS)
def test_the_backward_has_its_own_backward(name):
    """The gradient of <A x, y> with respect to y, through the gradient with respect to x, is A x again."""

    def on_rank(axis):
        pair, case = PAIRS[name], Case(shape=(5, 3), dim=0)
        x = case.draw(pair.source, axis, 1).requires_grad_()
        y = case.draw(pair.target, axis, 2).requires_grad_()
        out = pair.function(x, axis, 0, 5)
        (gradient,) = torch.autograd.grad(out, x, y, create_graph=True)
        (again,) = torch.autograd.grad(gradient, y, x.detach())
        return torch.equal(again, out)

    assert run(3, on_rank) == [True] * 3


# gloo, counts and refusals -------------------------------------------------------------------------------------------


@pytest.mark.processes
@pytest.mark.parametrize("size", [2, 3])
def test_gloo_gives_what_threads_give(size):
    """Bit for bit where ranks swap; the library adds in an order of its own."""
    by_threads = ThreadedWorld(size=size).run(adjoints.natively, CASES)
    by_gloo = SpawnedWorld(size=size).run(adjoints.natively, CASES)
    for threads, processes in zip(by_threads, by_gloo, strict=True):
        assert threads.keys() == processes.keys()
        for (name, number), expected in threads.items():
            for mine, other in zip(processes[name, number], expected, strict=True):
                if CASES[number].by_exchange or size == 2:
                    assert torch.equal(mine, other)
                else:
                    torch.testing.assert_close(mine, other)


EXPECTED = {
    "sum_gradients": ([], ["all_reduce"]),
    "sum_partials": (["all_reduce"], []),
    "gather_shards": (["all_gather"], []),
    "take_shard": ([], ["all_gather"]),
    "gather_shards_sum_gradients": (["all_gather"], ["reduce_scatter"]),
    "sum_partials_take_shard": (["reduce_scatter"], ["all_gather"]),
}


@pytest.mark.parametrize("by_exchange", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_calls_what_its_first_line_says(size, by_exchange):
    case = Case(shape=(8, 2), dim=0, by_exchange=by_exchange)
    with alone(size) as whole:
        axis = case.over(whole)
        for name, (forward, backward) in EXPECTED.items():
            x = case.draw(PAIRS[name].source, axis, 1).requires_grad_()
            outputs = []
            calls = calls_of(lambda x=x, name=name, to=outputs: to.append(PAIRS[name].function(x, axis, 0, 8)))
            assert calls == count_calls(forward, axis)
            assert calls_of(lambda to=outputs: (to[0] * 2).sum().backward()) == count_calls(backward, axis)


def test_a_shard_of_another_length_is_refused():
    def on_rank(axis):
        with pytest.raises(CannotRunError) as refused:
            collectives.all_gather(torch.ones(4, 4), axis, dim=0, total=5)
        return str(refused.value)

    for rank, (told, held) in enumerate(zip(run(2, on_rank), (3, 2), strict=True)):
        assert told == (
            f"the shard of shape [4, 4] is 4 long along dim 0; rank {rank} of 2 along 'tp' holds {held} of 5: "
            "cut it with take_shard"
        )


def test_a_dim_that_is_not_there_is_refused():
    def on_rank(axis):
        for call in (collectives.own_shard, collectives.reduce_scatter, collectives.all_gather):
            with pytest.raises(CannotRunError, match=r"shape \[2, 2\] has no dim 2; it has 2"):
                call(torch.ones(2, 2), axis, dim=2)

    run(2, on_rank)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_gradients_summed_together_are_those_summed_apart_in_one_message(size):
    def on_rank(axis):
        found = []
        for function in (sum_gradients_together, lambda tensors, axis: [sum_gradients(x, axis) for x in tensors]):
            x = torch.arange(6.0).view(2, 3).requires_grad_()
            w = torch.arange(4.0, dtype=torch.float64).requires_grad_()
            first, second = function([x, w], axis)
            loss = (first**2).sum() * (axis.rank + 1) + (second**3).sum() * (axis.rank - 2)
            gradients = torch.autograd.grad(loss, [x, w], create_graph=True)
            twice = torch.autograd.grad(sum(g.sum() for g in gradients), [x, w])
            found.append([*gradients, *twice])
        return found

    for together, apart in run(size, on_rank):
        for ours, theirs in zip(together, apart, strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs)
    with alone(size) as axis:
        tensors = [torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)]
        together, apart = (
            calls_of(lambda joined=joined: sum(x.sum() for x in joined).backward())
            for joined in (sum_gradients_together(tensors, axis), [sum_gradients(x, axis) for x in tensors])
        )
        assert together == count_calls(["all_reduce"], axis)
        assert apart == count_calls(["all_reduce", "all_reduce"], axis)

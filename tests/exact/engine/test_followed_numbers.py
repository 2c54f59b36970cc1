"""Numbers that a program reads: arithmetic with them stays exact, what is shown is drawn, comparisons are decided."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from shardproof.exact import ExactArithmetic, LeavingFieldError
from shardproof.exact.engine.followed_numbers import FollowedNumber
from shardproof.worlds.threaded import ThreadedWorld


def drawn(*shape, seed=0):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def follow(seed=1, limits=()):
    return ExactArithmetic(seed=seed, leaving="follow", limits=limits)


# Each with a tensor without dims in place of the number.
FORMULAS = {
    "a coefficient": lambda n: 3.0 / (n + 1e-6),
    "a root": lambda n: n**0.5,
    "reversed": lambda n: 2 - n,
    "negated": lambda n: -n * 2,
    "with another": lambda n: (n + 1) / (n * n),
    "a sum": lambda n: sum([n, n, 0.5]),
    "a power": lambda n: +(n**3),
}
# What a program does with the number and a tensor.
USES = {
    "times": lambda g, n: g * n,
    "reversed": lambda g, n: n / g,
    "in place": lambda g, n: g.clone().mul_(n),
    "foreach": lambda g, n: torch._foreach_mul([g.clone()], n)[0],
    "torch.tensor": lambda g, n: g + torch.tensor([n, n])[1],
    "where": lambda g, n: torch.where(torch.tensor([True]), n, g),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("formula", FORMULAS)
def test_arithmetic_with_a_number_is_that_with_its_tensor(formula, use):
    x = drawn(3, 4)
    with follow() as exact:
        square = (x * x).sum()
        number = FORMULAS[formula](square.item())
        tensor = FORMULAS[formula](square)
        assert isinstance(number, FollowedNumber)
        right = exact.digits(USES[use](x.detach() * 2, tensor))
        found = USES[use](x.detach() * 2, number)
        assert torch.equal(exact.digits(found), right)
        assert not torch.equal(exact.digits(USES[use](x.detach() * 2, number + 1)), right)
        assert exact.bound(found).per_trial is not None


def test_a_number_in_an_expression_with_a_gradient():
    x = drawn(4)
    grads = []
    for read in (lambda n: n.item(), lambda n: n.detach()):
        x.grad = None
        with follow() as exact:
            y = (x * x).sum()
            (x * (read(y) * y)).sum().backward()
            grads.append(exact.digits(x.grad))
    assert torch.equal(*grads)


SHOWN = {
    "format": lambda x: f"{x:.3f}",
    "format of the number": lambda x: f"{x.item():.3f}",
    "percent": lambda x: "%.2f" % x.item(),  # noqa: UP031
    "json": lambda x: json.dumps({"loss": x.item()}),
    "perplexity": lambda x: math.exp(x.item()),
    "round": lambda x: round(x.item(), 3),
    "float": float,
    "float of the number": lambda x: float(x.item()),
    "isfinite": lambda x: math.isfinite(x.item()),
    "numpy": lambda x: np.asarray([x.item()]).mean(),
    "an array": lambda x: x.detach().numpy().item(),
    "tolist": lambda x: x.tolist(),
    "copies": lambda x: (copy.deepcopy({"loss": x.item()}), pickle.loads(pickle.dumps(x.item()))),
    "mean": lambda x: sum([x.item(), x.item()]) / 2,
    "smallest": lambda x: min([math.inf, x.item(), x.item() * 2]),
    "int": lambda x: int(x.item()),
    "a share": lambda x: (x.expand(3) > 0.5).float().mean().item(),
    "logarithm": lambda x: math.log(x.item()),
}


@pytest.mark.parametrize("way", SHOWN)
def test_a_number_may_be_shown_in_any_way(way):
    x = drawn(3)
    with follow():
        SHOWN[way]((x**2).sum())


@pytest.mark.parametrize("seed", range(20))
def test_what_is_shown_is_drawn_for_the_residue(seed):
    x, y = drawn(3, seed=seed), drawn(3, seed=seed + 1)
    with follow(seed) as exact:
        first, again, other = ((z * z).sum() for z in (x, x, y))
        assert float(first) == float(again) == float(first.item())
        assert float(first) != float(other)
        assert 2.0**-9 <= float(other) <= 2.0**9
        assert exact.run.left  # by float(): nothing is derived of what follows


def test_reading_leaves_the_bounds_of_the_candidate_and_takes_those_of_the_reference():
    x = drawn(3)
    for limits, derived in (((), True), (None, False)):
        with follow(limits=limits) as exact:
            (x * x).sum().item()
            assert (exact.bound(x * 2).per_trial is not None) == derived


LARGE = {
    "numpy": lambda x: (x * 2).detach().numpy(),
    "tolist": lambda x: (x * 2).tolist(),
    "equal": lambda x: torch.equal(x, x * 2),
    "integers": lambda x: (x * 2).long(),
    "an index": lambda x: torch.arange(10)[x.long()],
    "a branch on any": lambda x: 1 if (x > 0.3).any() else 2,
    "a branch on all": lambda x: (x * 2 > x).all().item(),
}


@pytest.mark.parametrize("way", LARGE)
def test_more_than_one_number_is_refused_as_before(way):
    x = drawn(3)
    with pytest.raises(LeavingFieldError), follow():
        LARGE[way](x)


def read_replicated(comm, seed):
    """Of a DTensor that is replicated: the number, and whether arithmetic with it is that with its local tensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    mesh = init_device_mesh("cpu", (comm.size,))
    x = drawn(4)
    exact = follow(seed)
    with exact.joined():
        split = DTensor.from_local((x * x).chunk(comm.size)[comm.rank], mesh, [Shard(0)], run_check=False)
        total = split.sum().redistribute(placements=[Replicate()])
        number = total.detach().item()
        right = torch.equal(exact.digits(x.detach() * number), exact.digits(x.detach() * (x * x).sum().detach()))
        return isinstance(number, FollowedNumber), right, math.exp(float(total.detach())) > 1


def test_a_replicated_dtensor_is_read_as_its_local_tensor():
    assert ThreadedWorld(size=1).run(read_replicated, 1) == [(True, True, True)]


def test_whether_a_number_is_zero_ends_what_is_derived():
    x = drawn(2)
    for ask in (bool, lambda number: number == 3.0, lambda number: number != 3.0):
        with follow() as exact:
            number = (x * x).sum().item()
            assert not exact.run.left
            ask(number)
            assert exact.run.left


# Comparisons ----------------------------------------------------------------------------------------------------------


def test_a_comparison_is_decided_alike_everywhere_and_both_ways_over_seeds():
    x, y = drawn(3), drawn(3, seed=1)
    found = []
    for seed in range(24):
        with follow(seed) as exact:
            number, tensor, other = (x * x).sum().item(), (x * x).sum(), (y * y).sum().item()
            found.append(number > 2)
            assert found[-1] == bool(tensor > 2) == (number > 2) == (not number <= 2) == bool(torch.gt(tensor, 2))
            assert found[-1] == (tensor > 2).item()
            assert (number < other) == (other > number) == (not other <= number)
            assert number == (x * x).sum().item()
            assert number != other
            assert exact.run.left
            assert {(one.holds, one.limited) for one in exact.branches} == {(True, False), (False, False)}
    assert 4 < sum(found) < 20


@pytest.mark.parametrize("seed", range(12))
def test_integers_and_constants_are_compared_by_their_own_order(seed):
    """As `max(height, width) // 2` of an image's grid does."""
    with follow(seed) as exact:
        three, two = torch.tensor([3, 2])
        assert (max(two, three) // 2).item() == 1
        assert bool(three > 2.5)
        assert not bool(torch.tensor(2.0) < torch.tensor(1.0))
        assert not exact.branches


@pytest.mark.parametrize("limit", [math.inf, -math.inf, math.nan])
def test_a_comparison_with_what_is_no_number_is_pythons(limit):
    x = drawn(2)
    with follow():
        number = (x**2).sum().item()
        expected = (limit == math.inf, limit == -math.inf, False)
        assert (number < limit, number > limit, number == limit) == expected


def clip_by_number(gradient, coefficient):
    coefficient = coefficient.item()
    return gradient * coefficient if coefficient < 1.0 else gradient


def clip_by_min(gradient, coefficient):
    return gradient * min(coefficient.item(), 1.0)


def clip_by_min_reversed(gradient, coefficient):
    return gradient * min(1.0, coefficient.item())


def clip_by_tensor(gradient, coefficient):
    return gradient * coefficient if coefficient < 1.0 else gradient


def clip_by_complement(gradient, coefficient):
    coefficient = coefficient.item()
    if coefficient >= 1.0:
        return gradient
    return coefficient * gradient


def clip_always(gradient, coefficient):
    return gradient * coefficient.item()


def clip_by_another_limit(gradient, coefficient):
    coefficient = coefficient.item()
    return gradient * coefficient if coefficient < 2.0 else gradient


def clip_by_another_number(gradient, coefficient):
    return gradient * coefficient if coefficient.item() * 3 < 1.0 else gradient


@pytest.mark.parametrize(
    ("clip", "right"),
    [
        *((clip, True) for clip in (clip_by_number, clip_by_min, clip_by_min_reversed, clip_by_tensor)),
        (clip_by_complement, True),
        *((clip, False) for clip in (clip_always, clip_by_another_limit, clip_by_another_number)),
    ],
)
def test_a_branch_on_what_the_reference_limits_is_the_limit(clip, right):
    x = drawn(5)
    for seed in range(4):
        with follow(seed, limits=None) as exact:
            y = x.detach() * x
            expected = exact.digits(y * torch.clamp(2.0 / (y.sum().detach() + 1e-6), max=1.0))
            limits = exact.limits
        with follow(seed, limits=limits) as exact:
            y = x.detach() * x
            found = clip(y, 2.0 / (y.sum().detach() + 1e-6))
            assert torch.equal(exact.digits(found), expected) == right
            if clip is clip_always:
                assert exact.branches == ()
            for branch in exact.branches:
                assert branch.limited == right
                assert "test_followed_numbers.py" in branch.line


def test_the_number_that_was_read_stays_beside_its_limited_value():
    x = drawn(5)
    with follow(limits=None) as exact:
        torch.clamp((x * x).sum().detach(), min=0.5)
        limits = exact.limits
    with follow(limits=limits) as exact:
        number = (x * x).sum().item()
        assert number > 0.5
        assert torch.equal(exact.digits(number.tensor), exact.digits((x * x).sum()))
        assert not torch.equal(exact.digits(number.now), exact.digits(number.tensor))


def test_behind_the_run_it_is_the_number_that_was_shown():
    x = drawn(3)
    with follow():
        number = (x**2).sum().item()
        shown = float(number)
    assert (number + 1, number < 1000, -number) == (shown + 1, True, -shown)

"""Cuts: each segment has a bound of its own, and what an element was before a cut does not reach what comes after."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed._local_tensor import LocalTensor, LocalTensorMode
from torch.distributed.tensor import Partial

from shardproof.exact import ExactArithmetic, trials_needed
from shardproof.exact.algebra.bound import bound_of
from shardproof.exact.rules.cut import CutBothWays

PRIME = 2_097_169


class Deep(nn.Module):
    def __init__(self, layers=6):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(layers)])

    def forward(self, x, cut=lambda h, _name: h, bug_at=None):
        for i, layer in enumerate(self.layers):
            x = F.gelu(layer(x))
            if i == bug_at:
                x = x * (1 + 2**-20)
            x = cut(x, f"layer {i}")
        return x.square().mean()


def step(seed=1, *, cuts, bug_at=None):
    torch.manual_seed(0)
    net, x = Deep(), torch.randn(4, 8)
    with ExactArithmetic(seed=seed) as exact:
        loss = net(x, exact.cut if cuts else lambda h, _name: h, bug_at)
        loss.backward()
        return exact.cuts, exact.bound(loss), exact.digits(net.layers[0].weight.grad)


def test_a_deep_model_has_no_derived_bound_and_one_for_each_segment_with_cuts():
    assert step(cuts=False)[1].probability is None
    cuts, last, _ = step(cuts=True)
    assert last.probability is not None
    forward = [f"layer {i}" for i in range(6)]
    assert [cut.name for cut in cuts] == forward + [f"{name} gradient" for name in reversed(forward)]
    for cut in cuts:
        assert bound_of(cut.degree, prime=PRIME).probability < 1e-3
        assert trials_needed(cut.degree, prime=PRIME) <= 4


@pytest.mark.parametrize("bug_at", [0, 3, 5])
def test_a_bug_is_seen_at_the_cut_of_its_own_segment_and_not_before(bug_at):
    right, wrong = step(cuts=True)[0], step(cuts=True, bug_at=bug_at)[0]
    agree = [torch.equal(a.residues, b.residues) for a, b in zip(right, wrong, strict=True)]
    assert agree[:bug_at] == [True] * bug_at
    assert not agree[bug_at]


def test_the_same_program_meets_itself_at_every_cut_and_another_seed_does_not():
    first, again, other = (step(seed, cuts=True) for seed in (1, 1, 2))
    for a, b in zip(first[0], again[0], strict=True):
        assert torch.equal(a.residues, b.residues)
    assert torch.equal(first[2], again[2])
    assert not torch.equal(first[0][0].residues, other[0][0].residues)


def test_a_shard_with_its_numbers_is_cut_as_the_full_tensor_is():
    w = torch.randn(6, 4, requires_grad=True)
    numbers = torch.arange(24).view(6, 4)
    with ExactArithmetic(seed=1) as exact:
        full = exact.digits(exact.cut(w, "here"))
        columns = [exact.cut(w[:, part], "here", numbers[:, part]) for part in (slice(0, 1), slice(1, 4))]
        assert torch.equal(full, torch.cat([exact.digits(one) for one in columns], 1))
        unnumbered = exact.digits(exact.cut(w[3:], "here"))
        assert not torch.equal(full[3:], unnumbered)
        assert not torch.equal(full, exact.digits(exact.cut(w, "there")))
        assert not torch.equal(full, exact.digits(w))


def test_equal_elements_are_independent_after_a_cut():
    with ExactArithmetic(seed=1) as exact:
        x = torch.full((50,), 0.3, requires_grad=True) * 1
        assert len(set(exact.digits(exact.cut(x, "here")).tolist())) == 50


@pytest.mark.parametrize("prime", [101, 1009])
def test_what_a_cut_hands_on_is_uniform_whatever_was_cut(prime):
    counts = torch.zeros(prime)
    for seed in range(20):
        with ExactArithmetic(seed=seed, prime=prime) as exact:
            found = exact.digits(exact.cut(torch.zeros(5000, requires_grad=True) * 1, "here"))
        counts += torch.bincount(found + prime // 2, minlength=prime)
    expected = 100_000 / prime
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert abs(statistic - (prime - 1)) < 5 * (2 * (prime - 1)) ** 0.5  # chi-squared, mean p - 1, variance 2 (p - 1)


def test_a_cut_leaves_masks_and_padding_what_they_are():
    w = torch.randn(3, requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        padded = exact.cut(w * torch.tensor([1.0, 0.0, 1.0]), "padded", torch.tensor([0, -1, 1]))
        assert exact.digits(padded)[1] == 0
        assert exact.digits(padded)[0] != 0
        zero = exact.cut(w * torch.tensor([1.0, 0.0, 1.0]), "a zero that is no padding")
        assert exact.digits(zero)[1] != 0
        masked = exact.cut(w.masked_fill(torch.tensor([True, False, False]), float("-inf")), "masked")
        assert exact.digits(masked.softmax(0))[0] == 0


def test_a_redrawn_tensor_keeps_equal_numbers_equal_and_zeros_zero():
    x = torch.tensor([0.3, 0.0, 0.7, 0.3])
    with ExactArithmetic(seed=1) as exact:
        first, _, third, fourth = found = exact.digits(exact.redraw(x, "batch")).tolist()
        assert found[1] == 0
        assert first == fourth != third
        assert found != exact.digits(exact.redraw(x, "another name")).tolist()
    with ExactArithmetic(seed=2) as exact:
        assert found != exact.digits(exact.redraw(x, "batch")).tolist()


def test_a_cut_has_the_bound_of_its_segment_and_says_when_it_is_void():
    w = torch.tensor([0.3, 0.7], requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        exact.cut(exact.cut(w**3, "first") ** 2, "second")
        exact.cut(1 / (w - w), "void")
        first, second, void = (exact.bound(cut, trials=2) for cut in exact.cuts)
        assert first.per_trial == 3 / exact.prime
        assert second.probability == (2 / exact.prime) ** 2
        assert void.void


def test_a_cut_cuts_the_gradient_too():
    w = torch.randn(3, requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        exact.cut(w, "w").sum().backward()
        assert exact.cuts[-1].residues.tolist() == [1, 1, 1]
        assert len({1, *exact.digits(w.grad).tolist()}) == 4


def test_a_cut_gives_ranks_and_one_process_the_same_residues():
    w = torch.randn(4, 6)
    whole = torch.nn.Parameter(w)
    parts = LocalTensor({0: w[:2].clone(), 1: w[2:].clone()}).requires_grad_()
    with ExactArithmetic(seed=1) as exact:
        cut = exact.cut(whole * 2, "here")
        expected = exact.digits(cut)
    with ExactArithmetic(seed=1) as exact, LocalTensorMode(2):
        numbers = LocalTensor({0: torch.arange(12).view(2, 6), 1: torch.arange(12, 24).view(2, 6)})
        local = exact.cut(parts * 2, "here", numbers)
        with exact.paused():
            found = [local._local_tensors[rank].detach().long() for rank in range(2)]
    assert torch.equal(torch.cat(found), expected)
    assert {cut.name for cut in exact.cuts} == {"here"}


def test_a_cut_through_a_partial_sum_is_refused():
    class Part:
        placements = (Partial(),)

    with pytest.raises(ValueError, match="partial sum"):
        CutBothWays.forward(type("Context", (), {})(), Part(), torch.arange(1), "here")

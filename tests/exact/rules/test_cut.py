"""Cuts: fresh residues that give each segment a bound of its own."""

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


def test_a_cut_gives_the_same_value_the_same_residue_however_the_tensor_is_split():
    w = torch.randn(6, 4, requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        whole = exact.digits(exact.cut(w, "here"))
        parts = torch.cat([exact.cut(part, "here") for part in w.split(2)])
        assert torch.equal(whole, exact.digits(parts))
        assert not torch.equal(whole, exact.digits(exact.cut(w, "there")))
        assert not torch.equal(whole, exact.digits(w))


def test_a_cut_leaves_zeros_and_masks_what_they_are():
    w = torch.randn(3, requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        kept = exact.cut(w * torch.tensor([1.0, 0.0, 1.0]), "kept")
        assert exact.digits(kept)[1] == 0
        assert exact.digits(kept)[0] != 0
        masked = exact.cut(w.masked_fill(torch.tensor([True, False, False]), float("-inf")), "masked")
        assert exact.digits(masked.softmax(0))[0] == 0


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
        assert len(set(exact.digits(w.grad).tolist())) == 1
        assert exact.digits(w.grad)[0] != 1


def test_a_cut_gives_ranks_and_one_process_the_same_residues():
    w = torch.randn(4, 6)
    whole = torch.nn.Parameter(w)
    parts = LocalTensor({0: w[:2].clone(), 1: w[2:].clone()}).requires_grad_()
    with ExactArithmetic(seed=1) as exact:
        cut = exact.cut(whole * 2, "here")
        expected = exact.digits(cut)
    with ExactArithmetic(seed=1) as exact, LocalTensorMode(2):
        local = exact.cut(parts * 2, "here")
        with exact.paused():
            found = [local._local_tensors[rank].detach().long() for rank in range(2)]
    assert torch.equal(torch.cat(found), expected)
    assert [cut.name for cut in exact.cuts] == ["here", "here"]


def test_a_cut_through_a_partial_sum_is_refused():
    class Part:
        placements = (Partial(),)

    with pytest.raises(ValueError, match="partial sum"):
        CutBothWays.forward(type("Context", (), {})(), Part(), "here")

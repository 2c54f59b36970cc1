"""Bounds: what a degree says, how trials combine, and cuts that give each segment its own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed._local_tensor import LocalTensor, LocalTensorMode
from torch.distributed.tensor import Partial

from shardproof.exact import ExactArithmetic, trials_needed
from shardproof.exact.algebra.bound import Bound, bound_of
from shardproof.exact.algebra.degree import CONSTANT, UNKNOWN, VARIABLE
from shardproof.exact.rules.cut import CutBothWays

PRIME = 2_097_169


@given(over=st.integers(1, 1000), exponent=st.integers(1, 15))
def test_the_trials_needed_are_enough_and_no_fewer_are(over, exponent):
    degree, wanted = VARIABLE.power(over), 10.0**-exponent
    trials = trials_needed(degree, prime=PRIME, wanted=wanted)
    assert bound_of(degree, prime=PRIME, trials=trials).probability <= wanted
    if trials > 1:
        assert bound_of(degree, prime=PRIME, trials=trials - 1).probability > wanted


def test_the_default_wanted_is_one_in_a_million_millions():
    assert trials_needed(VARIABLE, prime=PRIME) == 2
    assert trials_needed(VARIABLE.power(40), prime=PRIME) == 3
    assert trials_needed(CONSTANT, prime=PRIME) == 1


def test_no_number_of_trials_is_enough_where_nothing_is_derived():
    assert trials_needed(UNKNOWN, prime=PRIME) is None
    assert trials_needed(VARIABLE.power(PRIME // 2), prime=PRIME) is None
    assert "no derived bound" in str(bound_of(UNKNOWN, prime=PRIME, trials=3))


@pytest.mark.parametrize("wanted", [0, 1, -1e-3, 2])
def test_a_wanted_bound_that_is_no_probability_is_refused(wanted):
    with pytest.raises(ValueError, match="probability above 0 and below 1"):
        trials_needed(VARIABLE, prime=PRIME, wanted=wanted)


def test_void_trials_drawn_again_count_in_all_ways_to_pick_the_others():
    plain = Bound(prime=PRIME, trials=3, per_trial=1e-3)
    again = Bound(prime=PRIME, trials=3, per_trial=1e-3, draws=5)
    assert plain.probability == pytest.approx(1e-9)
    assert again.probability == pytest.approx(10 * 1e-9)  # 5 choose 3
    with pytest.raises(ValueError, match="a draw for each"):
        Bound(prime=PRIME, trials=3, per_trial=1e-3, draws=2)


def test_a_void_trial_has_no_bound():
    bound = bound_of(VARIABLE, prime=PRIME, void=True)
    assert bound.probability is None
    assert "draw again" in str(bound)


# In the mode ----------------------------------------------------------------------------------------------------------


def test_a_division_by_zero_voids_what_is_computed_from_it_and_nothing_else():
    w = torch.tensor([0.3, 0.7], requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        bad, good = (1 / (w - w)).sum(), (1 / w).sum()
        assert exact.bound(bad).void
        assert exact.bound(bad * 0 + 1).void
        assert not exact.bound(good).void


def test_after_a_residue_has_left_nothing_is_derived():
    w = torch.tensor([0.3, 0.7], requires_grad=True)
    with ExactArithmetic(seed=1, leaving="allow") as exact:
        total = w.sum()
        assert exact.bound(total).probability is not None
        total.item()
        assert exact.bound(w.sum()).probability is None


def test_what_is_chosen_by_comparing_owes_to_all_that_was_compared():
    w = torch.randn(4, 6, requires_grad=True)
    with ExactArithmetic(seed=1, record_selections=True) as exact:
        plain = exact.bound(w * 2).per_trial
        chosen = w.gather(1, w.topk(2).indices)
        masked = torch.where(w > 0, w, 0.0)
        scaled = w * (w > 0).float()
        counted = (w * 2) * (w > 0).sum()
        assert exact.bound(chosen).per_trial >= plain * 6
        for owing in (masked, scaled, counted):
            assert exact.bound(owing).per_trial > plain
        assert exact.bound(counted).per_trial > exact.bound(scaled).per_trial
        assert exact.bound(w * 2).per_trial == plain


def test_a_product_of_different_elements_has_the_gates_of_all():
    w = torch.randn(5, requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        five = F.gelu(w).prod()
        by_hand = F.gelu(w[0]) * F.gelu(w[1]) * F.gelu(w[2]) * F.gelu(w[3]) * F.gelu(w[4])
        assert exact.bound(five).per_trial == exact.bound(by_hand).per_trial
        assert exact.bound(five).per_trial > exact.bound(F.gelu(w) ** 5).per_trial


def test_a_count_of_nonzero_elements_owes_to_the_comparisons_with_zero():
    w = torch.randn(5, requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        for counted in (torch.linalg.vector_norm(w, 0), torch.heaviside(w, torch.tensor(0.5)), (w != 0).sum() * w):
            assert exact.bound(counted).probability is None
    with ExactArithmetic(seed=1, record_selections=True) as exact:
        assert exact.bound(torch.linalg.vector_norm(w, 0)).per_trial > 0


def test_what_is_chosen_has_no_bound_where_what_was_compared_is_not_recorded():
    w = torch.randn(4, 6, requires_grad=True)
    bounds = []
    for record in (True, False):
        with ExactArithmetic(seed=1, record_selections=record) as exact:
            found = (w.max(), w.amax(0), w.sort().values, torch.where(w > 0, w, 0.0), w.gather(1, w.argmax(1, True)))
            bounds.append([exact.bound(x).probability for x in found])
            bounds.append([exact.bound(w.softmax(1)).probability, exact.bound(w.logsumexp(1)).probability])
    assert None not in bounds[0] + bounds[1]
    assert bounds[2] == [None] * 5
    assert bounds[3] == bounds[1]


def test_a_shape_that_depends_on_a_comparison_counts_from_then_on():
    w = torch.randn(4, 6, requires_grad=True)
    with ExactArithmetic(seed=1, record_selections=True) as exact:
        before = exact.bound(w * 2).per_trial
        (w > 0).nonzero()
        assert exact.bound(w * 2).per_trial > before


# Cuts -----------------------------------------------------------------------------------------------------------------


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

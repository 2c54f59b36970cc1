"""Bounds of tensors that programs compute: void ones, ones that left, and what is chosen by comparing."""

import torch
import torch.nn.functional as F

from shardproof.exact import ExactArithmetic, NoBound
from shardproof.exact.algebra.degree import VARIABLE


def test_a_division_by_zero_voids_what_is_computed_from_it_and_nothing_else():
    w = torch.tensor([0.3, 0.7], requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        bad, good = (1 / (w - w)).sum(), (1 / w).sum()
        assert exact.bound(bad).void
        assert exact.bound(bad + 1).void
        assert not exact.bound(bad * 0 + 1).void  # a product with a constant zero is zero
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
        for counted in (torch.linalg.vector_norm(w, 0), (w != 0).sum() * w):
            assert exact.bound(counted).probability is None
    with ExactArithmetic(seed=1, record_selections=True) as exact:
        assert exact.bound(torch.linalg.vector_norm(w, 0)).per_trial > 0


def test_what_is_chosen_has_no_bound_where_what_was_compared_is_not_recorded():
    w = torch.randn(4, 6, requires_grad=True)
    bounds = []
    for record in (True, False):
        with ExactArithmetic(seed=1, record_selections=record) as exact:
            found = (
                w.max(),
                w.amax(0),
                w.sort().values,
                torch.where(w > w.flip(0), w, 0.0),
                w.gather(1, w.argmax(1, True)),
            )
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


def test_a_gate_is_no_product_of_variables():
    """It is (1 + s) / 2, s an oracle's output, so that its inverse has a denominator."""
    with ExactArithmetic(seed=1) as exact:
        x = exact.arithmetic.residue(torch.tensor([3.0, -5.0], dtype=torch.float64), VARIABLE)
        assert x.gate(above=True).inverse().degree.under == 1
        assert x.odd_oracle("sin").inverse().degree.under == 0


def test_where_a_bound_is_lost_is_said_by_the_op():
    w, wide = torch.randn(4, 300, requires_grad=True), torch.randn(1, 40_000, requires_grad=True)
    labels = torch.arange(4)
    with ExactArithmetic(seed=1) as exact:
        reasons = {
            NoBound.SOFTMAX: wide.softmax(-1) * 2,
            NoBound.CROSS_ENTROPY: F.cross_entropy(w[:, :40].repeat(20, 1), labels.repeat(20)),
            NoBound.SELECTION: w.topk(2).values + 1,
            NoBound.DEGREE: w.double() ** 400_000,
        }
        for reason, tensor in reasons.items():
            assert exact.bound(tensor).reason is reason, reason
        assert exact.bound(w.softmax(-1)).reason is None

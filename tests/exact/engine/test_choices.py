"""Choices: what integers and truth values that came of comparing residues may be used for, and what they owe."""

import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn

from shardproof.exact import ExactArithmetic


def test_masks_and_indices_from_comparisons_may_be_used():
    """Routing: which experts were hit is an integer that the program loops over."""
    x = drawn(3, 4)
    with ExactArithmetic(seed=1) as exact:
        y = x * 3
        assert torch.where(y > 0, y, 0.0).shape == (3, 4)
        assert y[y > 0].ndim == 1
        _, chosen = y.topk(2, -1)
        counts = F.one_hot(chosen, 4).sum((0, 1))
        hit = [expert.item() for expert in (counts > 0).nonzero()]
        assert 0 < len(hit) <= 4
        assert exact.bound(y).per_trial is None or exact.run.escaped.orders > 0


def test_whether_choices_have_been_read_is_known():
    x, numbers = drawn(6), torch.arange(6)
    with ExactArithmetic(seed=1, leaving="follow") as exact:
        chosen = x.topk(2).indices
        torch.bincount(numbers.topk(2).indices).tolist()
        assert not exact.choices_read
        torch.bincount(chosen, minlength=6)  # how long its result is, is chosen too
        assert exact.choices_read

"""Above autograd: tensors come in before PyTorch looks at them, copies keep what is known, what is shown is no op."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shardproof.exact import ExactArithmetic
from shardproof.exact.engine.function_mode import _is_left_alone, ordinary_pytorch


def weight():
    return torch.nn.Parameter(torch.linspace(-1.3, 2.1, 6).view(2, 3))


def test_a_parameter_is_in_float64_from_its_first_use_on_and_float32_behind_the_run():
    w = weight()
    before = w.detach().clone()
    with ExactArithmetic(seed=2):
        assert (w * 2).dtype == w.dtype == torch.float64
    assert w.dtype == torch.float32
    assert torch.equal(w, before)


def test_a_copy_has_the_residues_and_what_is_known_of_them():
    w = weight()
    with ExactArithmetic(seed=2) as exact:
        squares = (w * w).detach()
        copied = copy.deepcopy(squares)
        assert copied is not squares
        assert torch.equal(exact.digits(copied), exact.digits(squares))
        assert exact.bound(copied).per_trial == exact.bound(squares).per_trial is not None
        assert not torch.equal(exact.digits(copied + 1), exact.digits(squares))


def test_what_is_shown_is_no_op():
    w = weight()
    with ExactArithmetic(seed=2) as exact:
        total = (w * w).sum().detach()
        digits = exact.digits(total).item()
        before = exact.ops
        assert f"{total:.0f}" == str(digits)
        assert "tensor(" in repr(total)
        assert exact.ops == before


def test_outside_both_modes_a_sum_is_no_sum_of_residues():
    w = weight()
    with ExactArithmetic(seed=2) as exact:
        w * 1
        large = torch.stack([w.detach().abs().max() * 0 + exact.prime // 2] * 3)
        assert exact.digits(large.sum()).abs() <= exact.prime // 2
        with ordinary_pytorch():
            assert large.sum() == 3 * (exact.prime // 2)


SEEN = {
    "a number read": Tensor.item,
    "a truth value": Tensor.__bool__,
    "numbers written down": torch.tensor,
    "a comparison": torch.lt,
    "memory read": Tensor.numpy,
    "a copy": Tensor.__deepcopy__,
    "dropout": torch.dropout,
    "a composite": F.softmax,
    "a backward": Tensor.backward,
    "attention": F.scaled_dot_product_attention,
    "a divergence": torch.kl_div,
}


@pytest.mark.parametrize("name", SEEN)
def test_a_function_that_is_followed_refused_or_written_otherwise_is_not_left_alone(name):
    assert not _is_left_alone(SEEN[name])


@pytest.mark.parametrize("func", [torch.add, Tensor.mul_, Tensor.shape.__get__, Tensor.view, torch.zeros])
def test_other_functions_are_called_as_they_are(func):
    assert _is_left_alone(func)

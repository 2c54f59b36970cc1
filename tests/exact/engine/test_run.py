"""One run: where it says it is, and what it refuses in which words."""

import re

import pytest
import torch
from tests.exact.engine.probes import drawn
from torch import nn

from shardproof.exact import ExactArithmetic, ExactArithmeticError, LeavingFieldError


class Reading(nn.Module):
    def forward(self, x):
        return float(x.sum())


def test_a_refusal_names_the_module_and_the_users_line():
    x = drawn(3)
    with pytest.raises(LeavingFieldError) as caught, ExactArithmetic(seed=1):
        nn.Sequential(nn.Identity(), Reading())(x * 2)
    assert re.search(r"in module Sequential\.1, at .*test_run\.py:\d+ in forward", str(caught.value))


def test_outside_any_module_it_names_the_line_alone():
    x = drawn(3)
    with pytest.raises(LeavingFieldError) as caught, ExactArithmetic(seed=1):
        float((x * 2).sum())
    assert "in module" not in str(caught.value)
    assert "test_run.py" in str(caught.value)


def test_a_number_that_is_no_residue_is_found_where_elements_are_checked():
    run = ExactArithmetic(seed=1).run
    run.require_canonical(torch.tensor([0.0, float(run.arithmetic.field.half)]))
    for bad in (0.5, float(run.arithmetic.field.half + 1), float("nan"), float("-inf")):
        with pytest.raises(ExactArithmeticError, match="not a canonical residue"):
            run.require_canonical(torch.tensor([0.0, bad]))
    run.require_canonical(torch.tensor([0.0, float("-inf")]), symbols=True)

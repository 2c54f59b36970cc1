"""Arguments by their names: positional, by keyword, left out."""

import torch

from shardproof.op_arguments import complete_arguments, name_arguments

SUM = torch.ops.aten.sum.dim_IntList
X = torch.zeros(2, 3)


def test_arguments_that_were_given_have_their_names():
    assert name_arguments(SUM, (X, [0]), {"keepdim": True}) == {"self": X, "dim": [0], "keepdim": True}
    assert name_arguments(SUM, (X,), {}) == {"self": X}


def test_others_have_their_default_values():
    found = complete_arguments(SUM, (X, [0]), {"dtype": torch.float64})
    assert found == {"self": X, "dim": [0], "keepdim": False, "dtype": torch.float64}

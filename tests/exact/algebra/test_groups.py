"""Products of groups are those of a loop; what no group has is NaN."""

import pytest
import torch

from shardproof.exact.algebra.groups import multiply_groups

ENDS = [2, 2, 5]
SHAPES = {"rows": ((6, 4), (3, 4, 5)), "columns": ((3, 5, 4), (4, 6)), "inner": ((5, 6), (6, 4))}


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("name", SHAPES)
def test_each_group_is_a_product_of_its_own(name):
    a, b = (draw(*shape) for shape in SHAPES[name])
    found = multiply_groups(torch.matmul, a, b, ENDS)
    for index, (start, end) in enumerate(((0, 2), (2, 2), (2, 5))):
        if name == "rows":
            assert torch.equal(found[start:end], a[start:end] @ b[index])
        elif name == "columns":
            assert torch.equal(found[:, start:end], a[index] @ b[:, start:end])
        else:
            assert torch.equal(found[index], a[:, start:end] @ b[start:end])


@pytest.mark.parametrize(("name", "rest"), [("rows", lambda y: y[5:]), ("columns", lambda y: y[:, 5:])])
def test_what_no_group_has_is_nan(name, rest):
    a, b = (draw(*shape) for shape in SHAPES[name])
    found = multiply_groups(torch.matmul, a, b, ENDS)
    assert rest(found).isnan().all()
    assert int(found.isnan().sum()) == rest(found).numel()


def test_inner_elements_that_no_group_has_are_not_read():
    a, b = (draw(*shape) for shape in SHAPES["inner"])
    a[:, 5:] = b[5:] = float("nan")
    assert not multiply_groups(torch.matmul, a, b, ENDS).isnan().any()

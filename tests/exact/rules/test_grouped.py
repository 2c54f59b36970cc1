"""Grouped products against Python's integers, and against a loop over the groups, forward and backward."""

from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from shardproof.exact import ExactArithmetic, ExactArithmeticError
from shardproof.exact.rules.registry import RULES, find_op

ENDS = [2, 2, 7]  # the second group is empty
SHAPES = {
    "rows in groups": ((7, 4), (3, 4, 5)),
    "columns in groups": ((3, 6, 4), (4, 7)),
    "inner dim in groups": ((4, 7), (7, 5)),
    "batch": ((3, 2, 4), (3, 4, 5)),
}


def product(a, b, prime):
    return [
        [sum(x * y for x, y in zip(row, column, strict=True)) % prime for column in zip(*b, strict=True)] for row in a
    ]


def by_hand(name, a, b, prime):
    groups = [slice(start, end) for start, end in zip([0, *ENDS[:-1]], ENDS, strict=True)]
    if name == "batch":
        return [product(x, y, prime) for x, y in zip(a, b, strict=True)]
    if name == "rows in groups":
        return [row for group, y in zip(groups, b, strict=True) if a[group] for row in product(a[group], y, prime)]
    if name == "inner dim in groups":
        empty = [[0] * len(b[0]) for _ in a]
        parts = [([row[group] for row in a], b[group]) for group in groups]
        return [product(x, y, prime) if y else empty for x, y in parts]
    parts = [product(x, [row[group] for row in b], prime) for x, group in zip(a, groups, strict=True)]
    return [list(chain(*rows)) for rows in zip(*parts, strict=True)]


@pytest.mark.parametrize("name", SHAPES)
def test_every_grouping_is_that_of_integers(name):
    exact = ExactArithmetic(seed=1)
    half, generator = exact.prime // 2, torch.Generator().manual_seed(0)
    a, b = (torch.randint(-half, half + 1, shape, generator=generator) for shape in SHAPES[name])
    m = exact.run.arithmetic
    offsets = None if name == "batch" else torch.tensor(ENDS, dtype=torch.int32)
    rule = RULES[find_op("_grouped_mm.default")].function
    found = rule(m, m.residue(a.double()), m.residue(b.double()), offsets)
    assert (found.tensor.long() % exact.prime).tolist() == by_hand(name, a.tolist(), b.tolist(), exact.prime)
    if offsets is not None:
        other = rule(m, m.residue(a.double()), m.residue(b.double()), torch.tensor([3, 3, 7], dtype=torch.int32))
        assert not torch.equal(found.tensor, other.tensor)


def grads(grouped, ends):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator).requires_grad_() for shape in SHAPES["rows in groups"])
    with ExactArithmetic(seed=1, check=True) as exact:
        if grouped:
            y = F.grouped_mm(x, w, offs=torch.tensor(ends, dtype=torch.int32))
        else:
            starts = [0, *ends[:-1]]
            y = torch.cat([x[start:end] @ w[i] for i, (start, end) in enumerate(zip(starts, ends, strict=True))])
        y.square().sum().backward()
        return [exact.digits(t) for t in (y, x.grad, w.grad)]


def test_a_loop_over_the_groups_has_the_same_digits_forward_and_backward():
    loop = grads(grouped=False, ends=ENDS)
    assert all(torch.equal(a, b) for a, b in zip(grads(grouped=True, ends=ENDS), loop, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(grads(grouped=True, ends=[3, 3, 7]), loop, strict=True))


def test_rows_that_no_group_has_are_refused():
    with pytest.raises(ExactArithmeticError, match="groups that end at 6 of 7"):
        grads(grouped=True, ends=[2, 2, 6])

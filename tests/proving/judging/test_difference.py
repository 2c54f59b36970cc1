"""A difference knows which ranks are wrong, and makes causes that are as exact as its comparison."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.judging.alignment import ActualExpected
from shardproof.proving.judging.closeness import Exact, WithinNoise
from shardproof.proving.judging.difference import Difference
from shardproof.proving.records import Phase


def difference(closeness, off):
    """Of two ranks, of which the second is off at one element."""
    right = torch.arange(4).to(torch.float64 if closeness.approximate else torch.int64)
    wrong = right + torch.tensor([0, 0, 0, 1]).to(right.dtype) * off
    held = {0: ActualExpected(actual=right, expected=right), 3: ActualExpected(actual=wrong, expected=right)}
    return Difference(phase=Phase.GRADIENT, held=held, axes=Axes(sizes={"tp": 4}), closeness=closeness)


@pytest.mark.parametrize(
    ("closeness", "off", "wrong"),
    [(Exact(101), 1, [3]), (Exact(101), 0, []), (WithinNoise(0.1), 0.5, [3]), (WithinNoise(0.1), 0.3, [])],
)
def test_the_wrong_ranks_are_those_with_an_element_that_is_not_close(closeness, off, wrong):
    found = difference(closeness, off)
    assert found.wrong == wrong
    assert [found.is_right(one) for one in found.held.values()] == [True, not wrong]


@pytest.mark.parametrize("closeness", [Exact(101), WithinNoise(0.1)])
def test_a_cause_is_as_exact_as_the_comparison(closeness):
    cause = difference(closeness, 1).cause(CauseKind.REPLICAS_DIFFER, ranks=(3,))
    assert cause == Cause(kind=CauseKind.REPLICAS_DIFFER, ranks=(3,), approximate=closeness.approximate)

"""Where a difference is: ranks, and the dim of which the smallest share of indices is concerned."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind
from shardproof.proving.judging.alignment import ActualExpected
from shardproof.proving.judging.closeness import Exact, WithinNoise
from shardproof.proving.judging.difference import Difference
from shardproof.proving.judging.places import locate
from shardproof.proving.records import Phase


def place(*wrong, shape=(4, 6), closeness=None):
    """The cause, where each rank is off by one at these indices."""
    held = {}
    for rank, at in enumerate(wrong):
        expected = torch.zeros(shape, dtype=torch.int64)
        actual = expected.clone()
        if at is not None:
            actual[at] = 1
        held[rank] = ActualExpected(actual=actual, expected=expected)
    axes = Axes(sizes={"tp": len(held)})
    difference = Difference(phase=Phase.GRADIENT, held=held, axes=axes, closeness=closeness or Exact(101))
    return locate(difference)


@pytest.mark.parametrize(
    ("wrong", "ranks", "elements", "dim", "indices"),
    [
        (([1],), (0,), 6, 0, (1,)),
        (((slice(None), [2, 3]),), (0,), 8, 1, (2, 3)),
        ((None, [0, 2]), (1,), 12, 0, (0, 2)),
        (([0], [3]), (0, 1), 12, 0, (0, 3)),
        (((1, 5),), (0,), 1, 1, (5,)),
        ((slice(None),), (0,), 24, None, ()),
        (((range(4), range(4)),), (0,), 4, 1, (0, 1, 2, 3)),
    ],
)
def test_rows_columns_ranks_and_elements_are_named(wrong, ranks, elements, dim, indices):
    cause = place(*wrong)
    assert (cause.kind, cause.ranks, cause.elements) == (CauseKind.UNEXPLAINED, ranks, elements)
    assert (cause.dim, cause.indices) == (dim, indices)


def test_too_many_indices_are_not_named_and_a_scalar_has_none():
    assert place(slice(0, 30), shape=(60,)).dim is None
    assert place(slice(0, 16), shape=(60,)).indices == tuple(range(16))
    assert place(slice(0, 17), shape=(60,)).indices == ()
    scalar = place((), shape=())
    assert (scalar.dim, scalar.elements) == (None, 1)


def test_within_noise_nothing_differs():
    assert place([1], [2], closeness=WithinNoise(1.0)).ranks == ()
    assert place([1], [2], closeness=WithinNoise(0.1)).approximate

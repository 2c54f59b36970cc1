"""Why a norm is wrong, on a mesh of two axes; the table of the judge has a row for each cause."""

from fractions import Fraction

import pytest
import torch

from shardproof.exact import VOID
from shardproof.proving.axes import Axes
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.closeness import Exact
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.norms import explain_clipping
from shardproof.proving.records import Key, Phase, Recorded, Records

PRIME = 1009
AXES = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))
WEIGHT, NORM = Key(0, Phase.GRADIENT, "w"), Key(0, Phase.NORM, "gradient norm")
GRADIENT = torch.tensor([3, 500, 7, 11])
TOTAL = int((GRADIENT**2).sum())


HALVES = [slice(0, 2), slice(2, 4)] * 2
QUARTERS = [slice(rank, rank + 1) for rank in range(4)]


def explain(squares, *, gradient=GRADIENT, parts=HALVES, axes=AXES, untold=()):
    """Ranks hold parts of a vector of four; the squares of their norms are given."""
    state = {"w": torch.arange(1.0, 5).double()}
    layout = find_layout(state, {"w": {rank: state["w"][part] for rank, part in enumerate(parts)}})

    def records(values, square, rank=None):
        tensors = {WEIGHT: Recorded(stored=values), NORM: Recorded(stored=torch.tensor(square % PRIME + 5))}
        return Records(tensors=tensors, squares={} if rank in untold else {NORM: torch.tensor(square % PRIME)})

    alignment = Alignment(
        reference=records(GRADIENT, TOTAL),
        ranks=[records(gradient[part], squares[rank], rank) for rank, part in enumerate(parts)],
        layout=layout,
        axes=axes,
    )
    return explain_clipping(alignment, NORM, alignment.of(NORM), Exact(PRIME))


def half(first):
    return int((GRADIENT[:2] if first else GRADIENT[2:]).square().sum())


@pytest.mark.parametrize(
    ("squares", "cause"),
    [
        ([half(True), half(False)] * 2, Cause(kind=CauseKind.NORM_OF_PART)),
        ([2 * TOTAL] * 4, Cause(kind=CauseKind.NORM_COUNTS_REPLICAS, axes=("dp", "tp"))),
        ([2 * half(True), 2 * half(False)] * 2, Cause(kind=CauseKind.NORM_COUNTS_REPLICAS, axes=("dp",))),
        ([0] * 4, Cause(kind=CauseKind.NORM_MISSES_PARAMETER, parameter="w")),
        ([2 * TOTAL, 2 * TOTAL, TOTAL, TOTAL], None),
        ([TOTAL + 1] * 4, None),
        ([3 * TOTAL] * 4, None),
        ([4 * TOTAL] * 4, Cause(kind=CauseKind.NORM_COUNTS_PARAMETER, parameter="w", factor=Fraction(4))),
    ],
)
def test_a_wrong_norm_is_of_wrong_squares(squares, cause):
    assert explain(squares) == cause


@pytest.mark.parametrize(
    ("groups", "factor", "cause"),
    [
        ([[0], [1], [2], [3]], 1, Cause(kind=CauseKind.NORM_OF_PART)),
        ([[0, 1], [0, 1], [2, 3], [2, 3]], 1, Cause(kind=CauseKind.NORM_OF_PART, axes=("tp",))),
        ([[0, 2], [1, 3], [0, 2], [1, 3]], 1, Cause(kind=CauseKind.NORM_OF_PART, axes=("dp",))),
        ([[0, 1, 3]] * 4, 1, Cause(kind=CauseKind.NORM_MISSES_SHARD, ranks=(2,))),
        ([[0, 1]] * 4, 1, None),
        ([[0, 1, 2, 3]] * 4, 2, Cause(kind=CauseKind.NORM_COUNTS_PARAMETER, parameter="w", factor=Fraction(2))),
    ],
)
def test_shards_along_both_axes_are_added_along_both(groups, factor, cause):
    squares = [factor * int(GRADIENT[group].square().sum()) for group in groups]
    assert explain(squares, parts=QUARTERS) == cause


def test_one_rank_alone_leaves_out_no_shard():
    alone = {"parts": [slice(4)], "axes": Axes(sizes={"tp": 1})}
    assert explain([TOTAL + 1], **alone) is None
    assert explain([2 * TOTAL], **alone).kind is CauseKind.NORM_COUNTS_PARAMETER


def test_a_norm_of_wrong_gradients_has_no_cause_of_its_own():
    assert explain([half(True), half(False)] * 2, gradient=GRADIENT + 1) is None


def test_without_squares_or_with_a_void_number_nothing_is_said():
    for untold in ([0], [3], [None]):  # a rank's square, or that of one device
        assert explain([half(True), half(False)] * 2, untold=untold) is None
    void = GRADIENT.clone()
    void[0] = VOID
    assert explain([half(True), half(False)] * 2, gradient=void) is None


def test_nothing_is_said_of_other_tensors():
    state = {"w": torch.ones(1).double()}
    alignment = Alignment(reference=Records(), ranks=[], layout=find_layout(state, {}), axes=AXES)
    assert explain_clipping(alignment, Key(0, Phase.LOSS, "loss"), None, Exact(PRIME)) is None

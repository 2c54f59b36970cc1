"""Why a norm is wrong, on a mesh of two axes; the table of the judge has a row for each cause."""

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


def explain(squares, *, gradient=GRADIENT, told=True):
    """Ranks along tp hold halves of a vector of four; the squares of their norms are given."""
    state = {"w": torch.arange(1.0, 5).double()}
    halves = {rank: slice(0, 2) if rank % 2 == 0 else slice(2, 4) for rank in range(4)}
    layout = find_layout(state, {"w": {rank: state["w"][half] for rank, half in halves.items()}})

    def records(values, square):
        tensors = {WEIGHT: Recorded(values=values), NORM: Recorded(values=torch.tensor(square + 5))}
        return Records(tensors=tensors, squares={NORM: torch.tensor(square)} if told else {})

    alignment = Alignment(
        reference=records(GRADIENT, TOTAL % PRIME),
        ranks=[records(gradient[half], squares[rank] % PRIME) for rank, half in halves.items()],
        layout=layout,
        axes=AXES,
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
    ],
)
def test_a_wrong_norm_is_of_wrong_squares(squares, cause):
    assert explain(squares) == cause


def test_a_norm_of_wrong_gradients_has_no_cause_of_its_own():
    assert explain([half(True), half(False)] * 2, gradient=GRADIENT + 1) is None


def test_without_squares_or_with_a_void_number_nothing_is_said():
    assert explain([half(True), half(False)] * 2, told=False) is None
    void = GRADIENT.clone()
    void[0] = VOID
    assert explain([half(True), half(False)] * 2, gradient=void) is None


def test_nothing_is_said_of_other_tensors():
    state = {"w": torch.ones(1).double()}
    alignment = Alignment(reference=Records(), ranks=[], layout=find_layout(state, {}), axes=AXES)
    assert explain_clipping(alignment, Key(0, Phase.LOSS, "loss"), None, Exact(PRIME)) is None

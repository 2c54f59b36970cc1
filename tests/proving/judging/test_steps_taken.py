"""What an update's step says of its cause: told on every element, of an update alone, and not where one is off."""

from fractions import Fraction

import pytest
import torch

from shardproof.exact import VOID
from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.closeness import Exact
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.steps_taken import explain_step
from shardproof.proving.records import Key, Phase, Recorded, Records

PRIME = 2_097_143
EXACT = Exact(PRIME)
NAME = "w"
UPDATE = Key(0, Phase.UPDATE, NAME)
GRADIENT, CLIPPED = Key(0, Phase.GRADIENT, NAME), Key(0, Phase.CLIPPED, NAME)
START = torch.tensor([12, -700_001, 44_321, 1_000_003])
STEP = torch.tensor([-5, 812_345, 77, -1_000_000])
CUT = [slice(0, 2), slice(2, 4)]


def explain(steps, *, key=UPDATE, starts=True, gradients=None, void_at=None):
    """Ranks hold parts of a vector of four, and take these steps."""
    state = {NAME: torch.arange(1.0, 5).double()}
    layout = find_layout(state, {NAME: {rank: state[NAME][part] for rank, part in enumerate(CUT)}})
    reference = {key: EXACT.canonical(START + STEP)} | (gradients or {})
    ranks = [{key: EXACT.canonical(START[part] + step)} for part, step in zip(CUT, steps, strict=True)]
    if void_at is not None:
        ranks[0][key][void_at] = VOID

    def records(tensors, **more):
        return Records(tensors={one: Recorded(stored=values) for one, values in tensors.items()}, **more)

    alignment = Alignment(
        reference=records(reference, starts={UPDATE: Recorded(stored=START)} if starts else {}),
        ranks=[records(tensors) for tensors in ranks],
        layout=layout,
        axes=Axes(sizes={"tp": len(CUT)}),
    )
    cause = explain_step(alignment, key, alignment.of(key), EXACT)
    return None if cause is None else (cause.kind, cause.factor)


def times(factor, part):
    return EXACT.scaled(STEP[part], Fraction(factor))


def one_off(step):
    return step + torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("steps", "cause"),
    [
        ([times(0, part) for part in CUT], (CauseKind.NEVER_STEPPED, None)),
        ([times(0, CUT[0]), times(1, CUT[1])], (CauseKind.NEVER_STEPPED, None)),
        ([times(0, CUT[0]), one_off(times(0, CUT[1]))], None),
        ([times(2, part) for part in CUT], (CauseKind.STEP_SCALED, 2)),
        ([times(-1, part) for part in CUT], (CauseKind.STEP_SCALED, -1)),
        ([times("2/3", CUT[0]), one_off(times("2/3", CUT[1]))], None),
        ([times(2, CUT[0]), times(3, CUT[1])], None),
    ],
)
def test_a_step_of_one_factor_is_told_on_all_ranks_that_are_wrong(steps, cause):
    assert explain(steps) == cause


def test_another_tensor_of_a_parameter_takes_no_step():
    assert explain([times(2, part) for part in CUT], key=GRADIENT) is None


def test_without_the_parameters_before_nothing_is_told():
    assert explain([times(2, part) for part in CUT], starts=False) is None


def test_nor_where_an_element_is_void():
    first, second = (times(2, part) for part in CUT)
    assert explain([first, second], void_at=0) is None


CLIP = 1009  # the clipped gradient is a 1009th of the gradient


@pytest.mark.parametrize(("factor", "kind"), [(CLIP, CauseKind.NOT_CLIPPED), (CLIP + 1, None), (3, "scaled")])
def test_a_step_by_the_gradient_before_clipping(factor, kind):
    clipped = torch.tensor([3, -8, 900, 21])
    gradients = {GRADIENT: EXACT.scaled(clipped, Fraction(CLIP)), CLIPPED: clipped}
    found = explain([times(factor, part) for part in CUT], gradients=gradients)
    assert found == {None: None, "scaled": (CauseKind.STEP_SCALED, 3)}.get(kind, (kind, None))


def test_where_clipping_gives_zero_or_a_gradient_is_missing_nothing_is_told_of_it():
    steps = [times(CLIP, part) for part in CUT]
    clipped = torch.tensor([0, 0, 0, 0])
    assert explain(steps, gradients={GRADIENT: STEP, CLIPPED: clipped}) is None
    assert explain(steps, gradients={GRADIENT: STEP}) is None

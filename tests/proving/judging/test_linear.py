"""What a fault makes of a linear layer and its gradients: computed from made-up records, and near misses beside it."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.closeness import Exact, WithinNoise
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.linear import explain_linear
from shardproof.proving.records import Key, Phase, Recorded, Records

PRIME = 2_097_143
FIELD = Exact(PRIME)
INPUTS, OUTPUTS = 5, 6
ROWS = [slice(0, 3), slice(3, 6)]
STEP = 2


def key(phase, name, step=STEP):
    return Key(step, phase, name)


NORM, HEAD = key(Phase.OUTPUT, "norm"), key(Phase.OUTPUT, "head")
OF_NORM, OF_HEAD = key(Phase.OUTPUT_GRADIENT, "norm"), key(Phase.OUTPUT_GRADIENT, "head")


def draw(*shape, seed):
    return FIELD.canonical(torch.randint(1, PRIME, shape, generator=torch.Generator().manual_seed(seed)))


def times(x, matrix):
    return FIELD.canonical(x @ matrix)


WEIGHTS = [draw(OUTPUTS, INPUTS, seed=step) for step in range(STEP + 1)]  # of each step
WEIGHT, BIAS = WEIGHTS[STEP], draw(OUTPUTS, seed=8)
X = draw(4, 3, INPUTS, seed=9)
Y = FIELD.canonical(times(X, WEIGHT.T) + BIAS)
Y_GRADIENT = draw(4, 3, OUTPUTS, seed=10)
X_GRADIENT = times(Y_GRADIENT, WEIGHT)


def turned(tensor):
    return tensor.transpose(0, 1).contiguous()


def explain(wrong, changes, *, reference=None, swapped=False, starts=True, cut=ROWS, field=FIELD, conv=False, own=None):
    """A layer whose rows two ranks share out; `changes` are what each rank holds of the wrong tensor."""
    order = turned if swapped else (lambda tensor: tensor)
    whole = {NORM: X, HEAD: order(Y), OF_HEAD: order(Y_GRADIENT)} | (reference or {})
    whole[OF_NORM] = whole.pop(OF_NORM, X_GRADIENT)  # the last one
    state = {"w": torch.arange(1.0, 31).double().view(OUTPUTS, INPUTS)}
    kept = {"w": state["w"].T.contiguous()} if conv else state
    held = {rank: state["w"][rows].T.contiguous() if conv else state["w"][rows] for rank, rows in enumerate(cut)}
    layout = find_layout(kept, {"w": held})
    ranks = []
    for rows, change in zip(cut, changes, strict=True):
        held_whole = {one: values[..., rows] if one in (HEAD, OF_HEAD) else values for one, values in whole.items()}
        ranks.append(held_whole | {wrong: change})
    for rank, tensors in enumerate(ranks):
        tensors |= {one: values[rank] for one, values in (own or {}).items()}

    def records(tensors, first=False):
        before = {key(Phase.UPDATE, "w", step): one.T.contiguous() if conv else one for step, one in enumerate(WEIGHTS)}
        recorded = {one: Recorded(stored=values) for one, values in tensors.items()}
        return Records(
            tensors=recorded, starts={one: Recorded(stored=x) for one, x in before.items()} if first and starts else {}
        )

    alignment = Alignment(
        reference=records(whole, first=True),
        ranks=[records(tensors) for tensors in ranks],
        layout=layout,
        axes=Axes(sizes={"tp": 2}),
    )
    return explain_linear(alignment, wrong, alignment.of(wrong), field)


def said(cause):
    return None if cause is None else (cause.kind, cause.parameter)


def one_off(tensor):
    moved = tensor.clone()
    moved.view(-1)[-1] += 1
    return moved


# Stale weights --------------------------------------------------------------------------------------------------------


def stale(weight, rows, order=lambda tensor: tensor):
    return order(FIELD.canonical(times(X, weight.T) + BIAS))[..., rows].contiguous()


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("step", [0, 1])
def test_a_weight_of_an_earlier_step_is_stale(step, swapped, conv):
    order = turned if swapped else (lambda tensor: tensor)
    outputs = [stale(WEIGHTS[step], rows, order) for rows in ROWS]
    found = explain(HEAD, outputs, swapped=swapped, conv=conv)
    assert (found.kind, found.parameter, found.elements) == (CauseKind.STALE_WEIGHT, "w", STEP - step)
    assert found.mend is Mend.COPY_AGAIN


def test_it_may_be_stale_on_one_rank_alone():
    assert said(explain(HEAD, [stale(WEIGHT, ROWS[0]), stale(WEIGHTS[1], ROWS[1])])) == (CauseKind.STALE_WEIGHT, "w")


@pytest.mark.parametrize(
    "outputs",
    [
        [stale(draw(OUTPUTS, INPUTS, seed=77), rows) for rows in ROWS],
        [stale(WEIGHTS[1], ROWS[0]), one_off(stale(WEIGHTS[1], ROWS[1]))],
        [stale(WEIGHTS[0], ROWS[0]), stale(WEIGHTS[1], ROWS[1])],
        [FIELD.canonical(stale(WEIGHTS[1], rows) + 1) for rows in ROWS],
    ],
)
def test_other_weights_are_not(outputs):
    assert explain(HEAD, outputs) is None


def test_without_the_weights_before_or_within_noise_nothing_is_told():
    outputs = [stale(WEIGHTS[1], rows) for rows in ROWS]
    assert explain(HEAD, outputs, starts=False) is None
    assert explain(HEAD, outputs, field=WithinNoise(1e-9)) is None


def test_an_output_that_is_of_no_linear_layer_is_not_stale():
    outputs = [stale(WEIGHTS[1], rows) for rows in ROWS]
    assert explain(HEAD, outputs, reference={HEAD: FIELD.canonical(Y + X[..., :1])}) is None


# Gradients of a layer's input -----------------------------------------------------------------------------------------

OWN = [times(Y_GRADIENT[..., rows], WEIGHT[rows]) for rows in ROWS]
PARTS = [slice(0, 2), slice(2, 4)]  # of the positions


def parts_of(tensors):
    return [tensor[part].contiguous() for tensor, part in zip(tensors, PARTS, strict=True)]


def test_each_rank_keeps_its_part_of_its_own_shards_gradient():
    assert said(explain(OF_NORM, parts_of(OWN))) == (CauseKind.OWN_SHARD_GRADIENT, "w")


def test_with_another_gradient_it_does_not():
    assert explain(OF_NORM, parts_of([OWN[0], one_off(OWN[1])])) is None
    assert explain(OF_NORM, parts_of([OWN[0], FIELD.canonical(2 * OWN[1])])) is None
    assert explain(OF_NORM, parts_of(list(reversed(OWN)))) is None


def test_ranks_that_have_rows_of_their_own_have_no_part_of_a_shards_gradient():
    """Along data axes a rank's own gradient is of its own rows, and so is what its weight makes of it."""
    parts = parts_of(OWN)
    assert explain(OF_NORM, parts, own={OF_HEAD: [Y_GRADIENT[part] for part in PARTS]}, cut=[slice(0, 6)] * 2) is None


def test_where_something_else_uses_the_input_too_the_gradient_is_not_the_layers_alone():
    """What is added is unknown: that each rank holds its own shard's gradient alone would be another fault."""
    assert explain(OF_NORM, parts_of(OWN), reference={OF_NORM: FIELD.canonical(X_GRADIENT + 3)}) is None


@pytest.mark.parametrize("bias", [0, BIAS])
def test_the_output_stands_in_the_place_of_its_gradient(bias):
    instead = times(FIELD.canonical(Y - bias), WEIGHT)
    assert said(explain(OF_NORM, [instead, instead])) == (CauseKind.OUTPUT_FOR_GRADIENT, "w")
    assert explain(OF_NORM, [instead, one_off(instead)]) is None
    assert explain(OF_NORM, [FIELD.canonical(2 * instead)] * 2) is None


# Partial values beside what all ranks compute -------------------------------------------------------------------------

RESIDUAL = draw(4, 3, INPUTS, seed=20)
LATER, OF_LATER = key(Phase.OUTPUT, "last"), key(Phase.OUTPUT_GRADIENT, "last")
PARTIAL = [draw(4, 3, INPUTS, seed=21), draw(4, 3, INPUTS, seed=22)]
REST = FIELD.canonical(PARTIAL[0] + PARTIAL[1])


def beside(alike, *, wrong=0, count=1):
    """All ranks add what they compute alike to their parts of a sum."""
    right = FIELD.canonical(REST + alike)
    actual = [FIELD.canonical(part + alike * count) for part in PARTIAL]
    actual[1] = FIELD.canonical(actual[1] + wrong)
    reference = {LATER: draw(4, 3, INPUTS, seed=23), OF_LATER: RESIDUAL, OF_NORM: right}
    return explain(OF_NORM, actual, reference=reference, cut=[slice(0, 6), slice(0, 6)])


@pytest.mark.parametrize(
    ("alike", "parameter"),
    [(X_GRADIENT, "w"), (FIELD.canonical(X_GRADIENT + RESIDUAL), "w and last"), (RESIDUAL, "last")],
)
def test_partial_values_beside_what_all_ranks_compute_alike(alike, parameter):
    assert said(beside(alike)) == (CauseKind.PARTS_BESIDE_WHOLE, parameter)
    assert beside(alike, wrong=torch.eye(4, 3, dtype=torch.int64)[..., None].expand(4, 3, INPUTS)) is None
    assert beside(alike, count=2) is None


def test_beside_what_nobody_has_recorded_it_is_not_known():
    assert beside(draw(4, 3, INPUTS, seed=30)) is None

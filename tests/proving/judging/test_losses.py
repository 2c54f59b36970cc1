"""Why a loss is wrong, by the gradient of the logits: made-up numbers modulo a prime, and near misses beside them."""

from fractions import Fraction

import pytest
import torch

from shardproof.exact import VOID
from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.closeness import Exact, WithinNoise
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.losses import explain_loss
from shardproof.proving.records import Key, Phase, Recorded, Records

PRIME = 2_097_143
FIELD = Exact(PRIME)
POSITIONS, CLASSES = 6, 11
LOSS = Key(0, Phase.LOSS, "loss")
LOGITS, GRADIENT = Key(0, Phase.OUTPUT, "head"), Key(0, Phase.OUTPUT_GRADIENT, "head")
MAXIMUM, EXPONENTIALS = Key(0, Phase.INPUT, "model/maximum"), Key(0, Phase.OUTPUT, "model/exponentials")
BY_CLASS = [(slice(None), slice(0, 6)), (slice(None), slice(6, 11))]  # 6 and 5 classes
BY_ROW = [(slice(0, 3), slice(None)), (slice(3, 6), slice(None))]
LABELS = torch.tensor([0, 7, 10, 1, 5, 6])


def draw(*shape, seed):
    return FIELD.canonical(torch.randint(1, PRIME, shape, generator=torch.Generator().manual_seed(seed)))


def times(*factors):
    product = factors[0]
    for factor in factors[1:]:
        product = FIELD.canonical(product * factor)
    return product


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, CLASSES)


LOGIT_VALUES = draw(POSITIONS, CLASSES, seed=1)
E = draw(POSITIONS, CLASSES, seed=2)  # the exponentials of one device
WEIGHT = draw(1, seed=3)


def softmax(exponentials):
    return FIELD.quotient(exponentials, FIELD.canonical(exponentials.sum(1, keepdim=True)).expand_as(exponentials))


def gradient_of(probabilities, labels=LABELS, smoothing=12_345):
    return times(FIELD.canonical(probabilities - one_hot(labels) * (1 - smoothing) - smoothing), WEIGHT)


RIGHT = gradient_of(softmax(E))


def explain(gradients, parts, losses, *, more=({}, {}), axes=None, field=FIELD, right=RIGHT, others=None):
    """By rank the gradients of the logits, and losses beside a right one of 1000; `others` are more tensors."""
    reference = {LOGITS: LOGIT_VALUES, LOSS: torch.tensor(1000), GRADIENT: right}
    ranks = []
    for part, gradient, loss, extra in zip(parts, gradients, losses, more, strict=True):
        ranks.append({LOGITS: LOGIT_VALUES[part], **extra, LOSS: torch.tensor(loss), GRADIENT: gradient})
    for key, (expected, *held) in (others or {}).items():
        reference[key] = expected
        for rank, values in zip(ranks, held, strict=True):
            rank[key] = values

    def records(tensors):
        return Records(tensors={one: Recorded(stored=values) for one, values in tensors.items()})

    state = {"w": torch.arange(1.0, 3).double()}
    alignment = Alignment(
        reference=records(reference),
        ranks=[records(tensors) for tensors in ranks],
        layout=find_layout(state, {"w": {0: state["w"], 1: state["w"]}}),
        axes=axes or Axes(sizes={"tp": 2}),
    )
    return explain_loss(alignment, LOSS, alignment.of(LOSS), field)


def kind(*arguments, **settings):
    cause = explain(*arguments, **settings)
    return None if cause is None else cause.kind


# A maximum of each rank's own -----------------------------------------------------------------------------------------


def by_own_maximum(ratios, *, shared=False, off=False, summed=True):
    """Each rank's exponentials are one device's times a number for each position."""
    own = torch.cat([times(E[part], ratio) for part, ratio in zip(BY_CLASS, ratios, strict=True)], 1)
    gradient = gradient_of(softmax(own if summed else E))
    if off:
        gradient[0, 0] += 1
    more = []
    for rank, part in enumerate(BY_CLASS):
        maximum = draw(POSITIONS, seed=50 if shared else 50 + rank)
        more.append({MAXIMUM: maximum, EXPONENTIALS: own[part].contiguous()})
    return kind([gradient[part] for part in BY_CLASS], BY_CLASS, [7, 7], more=more)


RATIOS = [draw(POSITIONS, 1, seed=30), draw(POSITIONS, 1, seed=31)]


def test_exponentials_of_a_maximum_of_each_ranks_own_are_added_up():
    assert by_own_maximum(RATIOS) is CauseKind.OWN_MAXIMUM


def test_with_one_maximum_for_all_ranks_it_is_not_that():
    assert by_own_maximum(RATIOS, shared=True) is None


def test_where_exponentials_of_own_maxima_are_merged_as_they_should_be_another_cause_is_not_that():
    """The gradient is right, with maxima of each rank's own: what is wrong is a constant."""
    assert by_own_maximum(RATIOS, summed=False) is CauseKind.OFF_BY_CONSTANT


def test_one_element_that_is_off_is_no_maximum():
    assert by_own_maximum(RATIOS, off=True) is None


def test_a_sum_that_counts_one_rank_twice_is_no_maximum():
    own = torch.cat([times(E[part], ratio) for part, ratio in zip(BY_CLASS, RATIOS, strict=True)], 1)
    twice = FIELD.canonical(own.sum(1, keepdim=True) + own[:, :6].sum(1, keepdim=True))
    ranks = FIELD.canonical(own.sum(1, keepdim=True))
    gradients = []
    for part, total in zip(BY_CLASS, (twice, ranks), strict=True):
        gradients.append(gradient_of(FIELD.quotient(own, total.expand_as(own)))[part])
    more = [
        {MAXIMUM: draw(POSITIONS, seed=50 + rank), EXPONENTIALS: own[part].contiguous()}
        for rank, part in enumerate(BY_CLASS)
    ]
    assert kind(gradients, BY_CLASS, [7, 7], more=more) is None


# Means ----------------------------------------------------------------------------------------------------------------


def shares(inverses):
    """Each rank's gradient is so many times the right one: the inverses of these residues."""
    return [times(RIGHT[part], pow(one % PRIME, -1, PRIME)) for part, one in zip(BY_ROW, inverses, strict=True)]


HALF = pow(2, -1, PRIME)


@pytest.mark.parametrize(
    ("inverses", "cause"),
    [
        ((3 * HALF, HALF), CauseKind.OWN_COUNT),  # factors 2/3 and 2: the mean of the inverses is 1
        ((1_000_001, 1 - 1_000_001), CauseKind.OWN_COUNT),  # their sum is 1
        ((3 * HALF, HALF + 1), None),
        ((2, 2), None),
    ],
)
def test_means_over_each_ranks_own_count(inverses, cause):
    assert kind(shares(inverses), BY_ROW, [7, 7]) == cause


def test_one_position_that_is_off_is_no_count():
    first, second = shares((3 * HALF, HALF))
    second[0, 3] += 1
    assert kind([first, second], BY_ROW, [7, 7]) is None


@pytest.mark.parametrize(
    ("off", "cause"), [((5, -6), CauseKind.OWN_MEAN), ((5, -5), None), ((6, -5), None), ((1, 1), None)]
)
def test_means_over_each_ranks_own_part_of_the_classes(off, cause):
    """Ranks have 6 and 5 classes."""
    gradients = [FIELD.canonical(RIGHT[part] + 17) for part in BY_CLASS]
    assert kind(gradients, BY_CLASS, [1000 + one for one in off]) == cause


def test_ranks_that_have_rows_have_all_classes():
    assert kind([RIGHT[part] + 1 for part in BY_ROW], BY_ROW, [1005, 994]) is None


# Positions ------------------------------------------------------------------------------------------------------------


def masked(gradient, *positions):
    gradient = gradient.clone()
    gradient[list(positions)] = 0
    return gradient


OTHER = LABELS.clone()
OTHER[2] = 3


@pytest.mark.parametrize(
    ("actual", "right", "cause", "count"),
    [
        (RIGHT, masked(RIGHT, 4), CauseKind.MORE_POSITIONS_COUNT, 1),
        (masked(RIGHT, 0, 5), RIGHT, CauseKind.FEWER_POSITIONS_COUNT, 2),
        (times(masked(RIGHT, 0, 5), 999_999), RIGHT, CauseKind.FEWER_POSITIONS_COUNT, 2),
        (masked(RIGHT, 0), masked(RIGHT, 5), CauseKind.OTHER_LABELS, 2),
        (gradient_of(softmax(E), OTHER), RIGHT, CauseKind.OTHER_LABELS, 1),
        (times(masked(gradient_of(softmax(E), OTHER), 5), 999_999), RIGHT, CauseKind.OTHER_LABELS, 2),
        (times(RIGHT, 999_999), RIGHT, None, None),
        (masked(RIGHT, 0) + torch.eye(POSITIONS, CLASSES, dtype=torch.int64), RIGHT, None, None),
    ],
)
def test_positions_that_count_on_one_side_and_other_labels(actual, right, cause, count):
    found = explain([actual[part] for part in BY_ROW], BY_ROW, [7, 7], right=right)
    assert (found.kind if found else None, found.elements if found else None) == (cause, count)
    assert found is None or found.mend is Mend.SAME_POSITIONS


def test_labels_that_weigh_differently_are_no_other_labels():
    actual = RIGHT.clone()
    actual[0, 0], actual[0, 1] = actual[0, 0] + 5, actual[0, 1] - 5
    actual[1, 0], actual[1, 1] = actual[1, 0] + 6, actual[1, 1] - 6
    assert kind([actual[part] for part in BY_ROW], BY_ROW, [7, 7]) is None


# Other parts of the loss, and constants ------------------------------------------------------------------------------

ROUTER = Key(0, Phase.OUTPUT_GRADIENT, "router")
DP = Axes(sizes={"dp": 2}, data=("dp",))


def test_a_part_of_the_loss_of_each_ranks_own_tokens():
    right, own = draw(4, seed=60), draw(4, seed=61)
    mean = {ROUTER: (right, own, FIELD.canonical(2 * right - own))}
    right_gradients = [RIGHT[part] for part in BY_ROW]
    found = explain(right_gradients, BY_ROW, [7, 7], axes=DP, others=mean)
    assert (found.kind, found.parameter, found.axes) == (CauseKind.OWN_TOKENS, "router", ("dp",))
    spoiled = {ROUTER: (right, own, FIELD.canonical(2 * right - own + torch.eye(4, dtype=torch.int64)[0]))}
    assert explain(right_gradients, BY_ROW, [7, 7], axes=DP, others=spoiled) is None


def test_with_right_gradients_a_loss_is_off_by_a_constant():
    gradients = [RIGHT[part] for part in BY_ROW]
    assert kind(gradients, BY_ROW, [7, 7]) is CauseKind.OFF_BY_CONSTANT
    assert kind(gradients, BY_ROW, [7, 8]) is None
    wrong = {ROUTER: (draw(4, seed=60), draw(4, seed=61), draw(4, seed=62))}
    assert kind(gradients, BY_ROW, [7, 7], others=wrong) is None


def test_nothing_is_told_within_noise_or_of_void_numbers():
    gradients = [RIGHT[part] for part in BY_ROW]
    assert kind(gradients, BY_ROW, [7, 7], field=WithinNoise(1e-9)) is None
    assert kind(gradients, BY_ROW, [VOID, 7]) is None
    void = [gradients[0].clone(), gradients[1]]
    void[0][0, 0] = VOID
    assert kind(void, BY_ROW, [7, 7]) is None


def test_a_quotient_modulo_the_prime():
    assert FIELD.quotient(torch.tensor([6, 5, 0, -4]), torch.tensor([3, 0, 7, 8])).tolist()[:3] == [2, 0, 0]
    assert int(FIELD.quotient(torch.tensor(-4), torch.tensor(8))) == int(FIELD.scaled(torch.tensor(1), Fraction(-1, 2)))

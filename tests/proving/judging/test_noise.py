"""Noise is what rounding does to the reference; differences are measured in it."""

import math
from dataclasses import replace

import pytest
import torch
from tests.proving.judging.made_up import BIAS, DOWN, LOSS, NEW_BIAS, make_sides, native_runs, own_run

from shardproof.proving.axes import Axes
from shardproof.proving.deviation import Deviation
from shardproof.proving.findings import FAR_RATIO, ROUNDING_RATIO, Numbers, Verdict
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.judge import find_candidate_layout
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.noise import OwnRuns, align_own_runs, measure_rounding, settle_parameters
from shardproof.proving.records import Key, Phase, Precision, Recorded, Records, Replay
from shardproof.proving.running.measuring import measure_noise

KEY = Key(0, Phase.LOSS, "loss")
SCORES = Key(0, Phase.INPUT, "attention/softmax")
EPSILON = torch.finfo(torch.float64).eps


def own_runs(change=None):
    both = make_sides(change)
    return align_own_runs(both, find_candidate_layout(both))


def set_values(side, precisions, values):
    """Put values of the bias' gradient in place, on one side, in some precisions."""

    def change(draft):
        for run in native_runs(draft):
            if run.precision in precisions:
                for held in draft.ranks if side == "ranks" else [draft.reference]:
                    if run in held:
                        held[run][BIAS] = torch.as_tensor(values, dtype=held[run][BIAS].dtype)

    return change


def changes(*ones):
    def change(draft):
        for one in ones:
            one(draft)

    return change


ROUNDED = set_values("reference", [Precision.ROUNDED], [1.0, 2.0, 4.0])
SAMPLES = (Precision.OWN, Precision.SHAKEN, Precision.SHAKEN_AGAIN)


def test_the_noise_is_the_largest_of_three_samples():
    measured = own_runs(
        changes(
            ROUNDED,
            set_values("reference", SAMPLES, [1.0, 2.0, 4.0]),
            set_values("reference", [Precision.SHAKEN], [1.0, 2.0, 4.5]),
            set_values("ranks", [Precision.OWN], [1.0, 2.25, 4.0]),
        )
    ).of(BIAS)
    assert (measured.noise, measured.error, measured.scale, measured.ratio) == (0.5, 0.25, 4.0, 0.5)


def test_it_is_at_least_two_epsilons_of_the_largest_element():
    measured = own_runs(
        changes(
            ROUNDED,
            set_values("reference", SAMPLES, [1.0, 2.0, 4.0]),
            set_values("ranks", [Precision.OWN], [1.0, 2.0, 4.0]),
        )
    ).of(BIAS)
    assert measured.noise == 2 * 2.0**-23 * 4.0
    assert (measured.exact, measured.approximate, measured.maxdiff, measured.ratio) == (True, True, 0.0, 0.0)


def test_nan_on_a_rank_is_an_error_that_no_noise_covers():
    measured = own_runs(set_values("ranks", [Precision.OWN], [1.0, math.nan, 4.0])).of(BIAS)
    assert math.isnan(measured.error)
    assert (measured.ratio, measured.far, measured.verdict) == (math.inf, True, Verdict.WRONG)


def test_nan_in_the_reference_is_a_noise_that_says_nothing():
    measured = own_runs(set_values("reference", [Precision.SHAKEN], [1.0, math.nan, 4.0])).of(BIAS)
    assert math.isnan(measured.noise)
    assert not measured.far


def infinite(tensor, *, on_ranks=-math.inf, in_reference=-math.inf):
    """One element is minus infinity in the reference, and on the ranks something of the kind."""

    def change(draft):
        for run in native_runs(draft):
            for held, value in ((draft.reference, in_reference), *((held, on_ranks) for held in draft.ranks)):
                if run in held:
                    held[run][tensor] = held[run][tensor].clone()
                    held[run][tensor].view(-1)[0] = value

    return change


def test_an_activation_may_hold_the_infinities_of_a_mask_and_a_result_may_not():
    measured = own_runs(infinite(DOWN)).of(DOWN)
    assert measured.within
    assert 0 < measured.scale < math.inf
    for other in (math.inf, 0.0):
        assert not own_runs(infinite(DOWN, on_ranks=other)).of(DOWN).within
    assert own_runs(infinite(BIAS)).of(BIAS).no_reference
    assert own_runs(infinite(DOWN, on_ranks=1024.0, in_reference=1024.0)).of(DOWN).scale == 1024.0


def test_exact_is_said_of_the_users_own_dtypes():
    measured = own_runs(lambda draft: draft.spoil(BIAS, runs=own_run(draft), size=1e-6)).of(BIAS)
    assert not measured.exact
    assert measured.approximate
    assert 0 < measured.maxdiff < 1e-5


def test_what_one_side_has_not_has_no_numbers():
    assert own_runs(lambda draft: draft.drop(BIAS, ranks=(), reference=True)).of(BIAS) is None
    assert own_runs().of(Key(0, Phase.GRADIENT, "of the candidate alone")) is None
    own = own_runs(lambda draft: draft.drop(BIAS, ranks=(), reference=True, runs=own_run(draft)))
    assert own.of(BIAS) is None  # of the three that are measured, the reference in its own dtypes has none
    assert own_runs(lambda draft: draft.drop(KEY, ranks=(), reference=True)).of(KEY) is None


def test_in_float64_the_noise_is_that_of_float32_scaled():
    def only_float64(draft):
        for run in list(native_runs(draft)):
            if run.precision not in (Precision.FLOAT64, Precision.FLOAT32):
                draft.runs.remove(run)
        set_values("reference", [Precision.FLOAT64], [1.0, 2.0, 4.0])(draft)
        set_values("ranks", [Precision.FLOAT64], [1.0, 2.0, 4.0])(draft)
        set_values("reference", [Precision.FLOAT32], [1.0, 2.0, 4.5])(draft)

    both = make_sides(only_float64)
    assert both.own_precision is Precision.FLOAT64
    assert align_own_runs(both, find_candidate_layout(both)).of(BIAS).noise == 0.5 * 2.0**-29


FLOAT32_LEAST, FLOAT64_LEAST = (torch.finfo(one).min for one in (torch.float32, torch.float64))


@pytest.mark.parametrize("masked", [-1e9, FLOAT32_LEAST])
def test_a_masked_score_does_not_hide_the_noise_of_those_beside_it(masked):
    plain = own_runs(infinite(DOWN, on_ranks=0.0, in_reference=0.0)).of(DOWN)
    measured = own_runs(infinite(DOWN, on_ranks=masked, in_reference=masked)).of(DOWN)
    assert measured.within
    assert (measured.scale, measured.noise) == (plain.scale, plain.noise)
    for other in (0.0, 0.99 * masked if masked == -1e9 else -1e9, -math.inf, -masked):
        assert not own_runs(infinite(DOWN, on_ranks=other, in_reference=masked)).of(DOWN).within


# In float64, beside a proof -------------------------------------------------------------------------------------------


def rounding(actual, expected, float32, key=KEY):
    layout = find_layout({"w": torch.ones(1)}, {"w": {0: torch.ones(1)}})

    actual, expected = (torch.tensor(values, dtype=torch.float64) for values in (actual, expected))
    reference = Records(tensors={key: Recorded(stored=expected)})
    ranks = [Records(tensors={key: Recorded(stored=actual)})]
    candidate = Alignment(reference=reference, ranks=ranks, layout=layout, axes=Axes())
    return measure_rounding(key, candidate, {key: measure_noise(key, torch.tensor(float32), expected)})


@pytest.mark.parametrize(("times", "agrees"), [(1.0, True), (64.0, True), (64.5, False)])
def test_a_difference_agrees_up_to_64_times_the_noise(times, agrees):
    noise = 0.5 * 2.0**-29
    found = rounding([1.0 + times * noise], [1.0], [1.5])
    assert found.noise == noise
    assert found.maxdiff == pytest.approx(times * noise, rel=1e-6)
    assert found.agrees is agrees


@pytest.mark.parametrize("size", [1.0, 256.0, 2.0**-8])
@pytest.mark.parametrize(("epsilons", "agrees"), [(64, True), (66, False)])
def test_where_float32_does_not_round_64_epsilons_of_the_largest_element_are_allowed(epsilons, agrees, size):
    assert rounding([size * (1.0 + epsilons * EPSILON)], [size], [size]).agrees is agrees


@pytest.mark.parametrize(
    ("masked", "in_float32"), [(FLOAT64_LEAST, FLOAT32_LEAST), (-1e9, -1e9), (-math.inf, -math.inf)]
)
def test_what_is_masked_has_no_part_in_the_rounding(masked, in_float32):
    beside = [[masked, 1.0 + 1e-8], [masked, 1.0], [in_float32, 1.0]]
    assert not rounding(*beside, SCORES).agrees
    assert rounding(*beside, SCORES) == rounding([0.0, 1.0 + 1e-8], [0.0, 1.0], [0.0, 1.0])
    assert not rounding([0.0, 1.0], [masked, 1.0], [in_float32, 1.0], SCORES).agrees  # masked on one side alone


def test_nan_agrees_with_nothing():
    assert not rounding([math.nan], [1.0], [1.0]).agrees
    nothing = rounding([], [], [])
    assert (nothing.agrees, nothing.maxdiff, nothing.noise) == (True, 0.0, 0.0)


@pytest.mark.parametrize("actual", [[1.0, 1.0], 1.0])
def test_another_shape_is_not_measured(actual):
    assert rounding(actual, [1.0], [1.0]) is None


# Ratios ---------------------------------------------------------------------------------------------------------------


def numbers(**settings):
    given = {"exact": False, "approximate": False, "maxdiff": 1.0, "error": 1.0, "noise": 1.0, "scale": 1.0}
    return Numbers(**(given | settings))


@pytest.mark.parametrize(
    ("settings", "within", "far"),
    [
        ({"error": ROUNDING_RATIO}, True, False),
        ({"error": ROUNDING_RATIO * 1.01}, False, False),
        ({"error": FAR_RATIO}, False, False),
        ({"error": FAR_RATIO * 1.01}, False, True),
        ({"error": 0.0, "noise": 0.0}, True, False),
        ({"noise": 0.0}, False, False),
    ],
)
def test_between_8_and_16_times_the_noise_nothing_is_said(settings, within, far):
    assert (numbers(**settings).within, numbers(**settings).far) == (within, far)


@pytest.mark.parametrize(
    "settings", [{"noise": math.nan}, {"noise": math.inf}, {"scale": math.nan}, {"scale": math.inf}]
)
def test_a_reference_without_numbers_says_nothing_of_any_error(settings):
    for error in (0.0, 1.0, math.nan):
        found = numbers(error=error, **settings)
        assert found.no_reference
        assert not found.within
        assert not found.far
        assert found.verdict is Verdict.VACUOUS
    assert not numbers().no_reference
    assert not numbers(error=math.nan).no_reference


def test_what_overflows_float32_alone_leaves_float64_its_least_noise():
    def only_float64(draft):
        for run in list(native_runs(draft)):
            if run.precision not in (Precision.FLOAT64, Precision.FLOAT32):
                draft.runs.remove(run)
        set_values("reference", [Precision.FLOAT64], [1.0, 2.0, 1e300])(draft)
        set_values("ranks", [Precision.FLOAT64], [1.0, 2.0, 1e300])(draft)
        set_values("reference", [Precision.FLOAT32], [1.0, 2.0, math.inf])(draft)

    both = make_sides(only_float64)
    found = align_own_runs(both, find_candidate_layout(both)).of(BIAS)
    assert found.noise == pytest.approx(2 * 2.0**-52 * 1e300)
    assert found.within


def test_a_tensor_is_lacking_where_one_side_alone_computes_it():
    right, dropped = own_runs(), own_runs(lambda draft: draft.drop(BIAS, runs=own_run(draft)))
    neither = own_runs(lambda draft: draft.drop(BIAS, runs=own_run(draft), reference=True))
    reference = own_runs(lambda draft: draft.drop(BIAS, runs=own_run(draft), ranks=(), reference=True))
    misshapen = own_runs(lambda draft: draft.change(LOSS, lambda values, *_: values.expand(2), runs=own_run(draft)))
    found = [one.lacks(BIAS) for one in (right, dropped, neither, reference)] + [misshapen.lacks(LOSS)]
    assert found == [False, True, False, True, True]


# Updates --------------------------------------------------------------------------------------------------------------


def measured_beside(rounding, exact, ranks=((0, 1),)):
    """The numbers of an update beside one device's own from the candidate's inputs, given for each group of ranks."""
    both = make_sides()

    found = both.reference.native[Precision.OWN].tensors
    held = both.ranks[0].native[Precision.OWN].tensors[NEW_BIAS].values

    def replay(group, in_float64, in_own):
        return Replay(
            ranks=group,
            own=Records(tensors={**found, NEW_BIAS: Recorded(stored=in_own)}),
            errors={NEW_BIAS: float((held.double() - in_float64).abs().max())},
            deviations={NEW_BIAS: measure_noise(NEW_BIAS, in_own, in_float64)},
        )

    groups = zip(ranks, exact, rounding, strict=True)
    both = replace(both, replays=[replay(group, held.double() + one, held + two) for group, one, two in groups])
    return align_own_runs(both, find_candidate_layout(both)).of(NEW_BIAS)


def test_an_update_is_measured_beside_that_of_its_own_inputs():
    found = measured_beside([0.0], [0.0])
    assert (found.error, found.maxdiff, found.exact) == (0.0, 0.0, True)
    assert measured_beside([0.0], [0.5]).error == pytest.approx(0.5)
    assert measured_beside([0.0], [0.5]).noise == pytest.approx(0.5)  # so far is the replay itself
    assert measured_beside([0.0], [0.5]).maxdiff == 0.0  # beside the replay in the user's own dtypes
    assert measured_beside([0.5], [0.0]).maxdiff == pytest.approx(0.5)
    found = measured_beside([0.5], [0.5])
    assert (found.error, found.maxdiff) == pytest.approx((0.5, 0.5))
    assert found.far


def test_ranks_of_different_inputs_are_measured_beside_their_own_each():
    found = measured_beside([0.0, 0.5], [0.0, 0.5], ranks=((0,), (1,)))
    assert found.error == pytest.approx(0.5)
    assert found.far


def test_an_update_of_another_shape_has_no_numbers():
    def beside(change):
        both = make_sides(change)
        records = both.reference.native[Precision.OWN]
        none = Deviation(difference=0.0, scale=1.0, epsilon=2.0**-23)
        replay = Replay(ranks=(0, 1), own=records, errors={NEW_BIAS: 0.0}, deviations={NEW_BIAS: none})
        both = replace(both, replays=[replay])
        return align_own_runs(both, find_candidate_layout(both)).of(NEW_BIAS)

    def twice(draft):
        draft.change(NEW_BIAS, lambda values, *_: values.expand(2, 3), runs=own_run(draft))

    assert beside(twice) is None
    assert beside(None) is not None


SMALL, LARGE = (torch.tensor(values, dtype=torch.float64) for values in ([1.0, 2.0], [3000.0, 4000.0]))
OF_SMALL, OF_LARGE, OF_PART = (Key(0, Phase.GRADIENT, name) for name in ("small", "large", "part"))
STATE = {"small": torch.tensor([5.0, 6.0]), "large": torch.tensor([7.0, 8.0])}


def aligned_flat(actual, *, noise=(1e-7, 1e-3)):
    """The gradients of two parameters in one flat buffer, in two parts; and the reference's own rounding of each."""

    def records(**values):
        named = {Key(0, Phase.GRADIENT, name): Recorded(stored=one) for name, one in values.items()}
        return Records(tensors=named)

    whole = records(small=SMALL, large=LARGE)
    flat = torch.cat([*STATE.values()])
    ranks = [records(part=part) for part in torch.as_tensor(actual, dtype=torch.float64).split([3, 1])]
    layout = find_layout(STATE, {"part": {0: flat[:3], 1: flat[3:]}})
    candidate = Alignment(reference=whole, ranks=ranks, layout=layout, axes=Axes(sizes={"dp": 2}))
    deviations = {
        OF_SMALL: measure_noise(OF_SMALL, SMALL + noise[0], SMALL),
        OF_LARGE: measure_noise(OF_LARGE, LARGE + noise[1], LARGE),
    }
    return candidate, deviations


@pytest.mark.parametrize(
    ("actual", "far"),
    [
        ([1.0, 2.0, 3000.0, 4000.0], False),
        ([1.0, 2.0 + 2e-7, 3000.0, 4000.0], False),
        ([1.0, 2.0 + 1e-4, 3000.0, 4000.0], True),  # less than the noise of the elements beside it
        ([1.0, 2.0, 3000.0 + 1e-4, 4000.0], False),
        ([1.0, 2.0, 3000.0, 4000.0 + 1.0], True),
    ],
)
def test_each_parameter_in_a_flat_buffer_is_measured_in_its_own_noise(actual, far):
    candidate, noisy = aligned_flat(actual)
    runs = OwnRuns(measured=candidate, beside=candidate, samples=[noisy])
    assert runs.of(OF_PART).far is far
    exact, noisy = aligned_flat(actual, noise=(1e-7 * 2**26, 1e-3 * 2**26))
    assert measure_rounding(OF_PART, exact, noisy).agrees is not far


def test_a_flat_buffer_of_which_one_device_has_no_gradient_has_no_numbers():
    candidate, _ = aligned_flat([1.0, 2.0, 3000.0, 4000.0])
    assert OwnRuns(measured=candidate, beside=candidate, samples=[{}]).of(OF_PART) is None
    assert measure_rounding(OF_PART, candidate, {}) is None


# Settled --------------------------------------------------------------------------------------------------------------


def test_what_is_settled_is_what_was_measured_while_the_reference_was_there():
    both = make_sides(changes(set_values("ranks", [Precision.OWN], [1.0, 2.5, 4.0]), lambda draft: draft.spoil(DOWN)))
    layout = find_candidate_layout(both)
    settled, before = settle_parameters(both, layout), align_own_runs(both, layout)
    less = both.without_settled()
    after, without = align_own_runs(less, layout, settled), align_own_runs(less, layout)
    assert {key.phase for key in settled.numbers} == {Phase.GRADIENT, Phase.UPDATE}
    for key in (BIAS, NEW_BIAS, LOSS, DOWN):
        assert after.of(key) == before.of(key) is not None
        assert after.lacks(key) is before.lacks(key) is False
    assert without.of(BIAS) is None
    assert without.of(LOSS) == before.of(LOSS)


def test_what_one_side_lacks_is_settled_too():
    both = make_sides(lambda draft: draft.drop(BIAS, runs=own_run(draft)))
    layout = find_candidate_layout(both)
    settled = settle_parameters(both, layout)
    assert settled.lacking == {BIAS}
    assert align_own_runs(both.without_settled(), layout, settled).lacks(BIAS)

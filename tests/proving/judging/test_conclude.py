"""Outcomes of all trials to one finding each: verdicts, bounds, weak probes, and activations that do work otherwise."""

import math
from dataclasses import replace
from math import inf

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.exact import NoBound
from shardproof.proving.cause import Cause, CauseKind, Mend, Part
from shardproof.proving.findings import Finding, Rounding, Unbounded, Verdict
from shardproof.proving.judging.conclude import (
    conclude,
    drop_other_ways,
    find_weakness,
    first_cause,
    judge_trials,
)
from shardproof.proving.judging.outcomes import Outcome, VoidHeld
from shardproof.proving.records import Key, Phase

GRADIENT, LOSS, OUTPUT = Key(0, Phase.GRADIENT, "w"), Key(0, Phase.LOSS, "loss"), Key(0, Phase.OUTPUT, "m")
EQUAL, DIFFERS = Outcome(equal=True, chance=2.0**-20), Outcome(equal=False)


def void_outcome(actual, expected, **fields):
    """An outcome of which these elements on rank 0 are void."""
    masks = (torch.tensor(mask, dtype=torch.bool) for mask in (actual, expected))
    return Outcome(equal=True, void={0: VoidHeld(**dict(zip(("actual", "expected"), masks, strict=True)))}, **fields)


BOTH, OTHERS = void_outcome([1, 0], [1, 0]), void_outcome([0, 1], [0, 1])
HERE, THERE = void_outcome([1, 0], [0, 0]), void_outcome([0, 0], [1, 0])
SCALED = Cause(kind=CauseKind.SCALED)
FAR, NEAR = (Rounding(maxdiff=1.0, noise=1e-9, agrees=agrees) for agrees in (False, True))


def concluded(*trials, rounding=None, unreached=frozenset(), **settings):
    found = conclude(trials, lambda _key: rounding, lambda _key, parts: parts & unreached, **settings)
    return {finding.key: finding for finding in found}


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([EQUAL, EQUAL], Verdict.PROVED),
        ([EQUAL, DIFFERS], Verdict.WRONG),
        ([DIFFERS, EQUAL], Verdict.WRONG),
        ([BOTH, BOTH], Verdict.UNSUPPORTED),
        ([BOTH], Verdict.UNSUPPORTED),
        ([BOTH, EQUAL], Verdict.PROVED),
        ([BOTH, DIFFERS], Verdict.WRONG),
        ([BOTH, OTHERS], Verdict.PROVED),
        ([HERE, HERE], Verdict.WRONG),
        ([THERE, THERE], Verdict.WRONG),
        ([HERE], Verdict.UNSUPPORTED),
        ([HERE, THERE], Verdict.UNSUPPORTED),
        ([HERE, BOTH], Verdict.UNSUPPORTED),
        ([HERE, EQUAL], Verdict.PROVED),
        ([HERE, HERE, EQUAL], Verdict.PROVED),
    ],
)
def test_every_element_is_judged_by_the_trials_in_which_it_is_not_void(outcomes, verdict):
    assert judge_trials(outcomes)[0] is verdict


def test_a_void_element_is_no_number_on_one_side_or_divides_by_zero_on_both():
    assert judge_trials([HERE, HERE])[1] == Cause(kind=CauseKind.NO_NUMBER_HERE, ranks=(0,))
    assert judge_trials([THERE, THERE])[1] == Cause(kind=CauseKind.NO_NUMBER_IN_REFERENCE, ranks=(0,))
    assert judge_trials([BOTH, BOTH])[1] == Cause(kind=CauseKind.DIVIDES_BY_ZERO)
    assert concluded({GRADIENT: HERE}, {GRADIENT: HERE}, rounding=NEAR)[GRADIENT].verdict is Verdict.WRONG


def test_the_ranks_on_which_an_element_is_no_number_are_told():
    void = {0: BOTH.void[0], 1: HERE.void[0], 2: HERE.void[0]}
    trials = [Outcome(equal=True, void=void), Outcome(equal=True, void=void | {0: OTHERS.void[0]})]
    assert judge_trials(trials)[1] == Cause(kind=CauseKind.NO_NUMBER_HERE, ranks=(1, 2))


def only_trial(*void, of=64, reference=True):
    """An outcome of which these elements on rank 0 are void on the rank, and perhaps on one device."""
    actual = [int(at in void) for at in range(of)]
    return void_outcome(actual, actual if reference else [0] * of)


CONSTANT = Outcome(equal=False, cause=Cause(kind=CauseKind.OFF_BY_CONSTANT), place=Cause(kind=CauseKind.UNEXPLAINED))


@pytest.mark.parametrize(
    ("maxdiff", "agrees", "verdict", "kind", "factor"),
    [
        (math.log(3), False, Verdict.WRONG, CauseKind.OFF_BY_CONSTANT, 3),
        (math.log(3) + 1e-9, False, Verdict.WRONG, CauseKind.OFF_BY_CONSTANT, None),
        (math.log(65), False, Verdict.WRONG, CauseKind.OFF_BY_CONSTANT, None),
        (1e-15, True, Verdict.UNDECIDED, CauseKind.UNEXPLAINED, None),
    ],
)
def test_a_constant_is_the_logarithm_of_a_small_number_in_float64(maxdiff, agrees, verdict, kind, factor):
    rounding = Rounding(maxdiff=maxdiff, noise=1e-15, agrees=agrees)
    finding = concluded({LOSS: CONSTANT}, rounding=rounding)[LOSS]
    assert (finding.verdict, finding.cause.kind, finding.cause.factor) == (verdict, kind, factor)
    assert (finding.cause.mend is None) is (factor is None)


@pytest.mark.parametrize("reference", [True, False])
def test_a_small_part_void_in_the_only_trial_is_compared_in_float64_alone_and_has_no_bound(reference):
    outcome = only_trial(3, 17, reference=reference)
    finding = concluded({GRADIENT: outcome}, rounding=NEAR)[GRADIENT]
    assert (finding.verdict, finding.uncompared, finding.false_accept, finding.cause) == (Verdict.PROVED, 2, None, None)


@pytest.mark.parametrize(
    ("trials", "rounding"),
    [
        ([only_trial(3, 17, 20)], NEAR),  # no small part
        ([only_trial(3, of=31)], NEAR),
        ([only_trial(3)], FAR),
        ([only_trial(3)], None),
        ([only_trial(3), only_trial(3)], NEAR),  # not by chance
    ],
)
def test_what_may_be_void_in_every_trial_is_not(trials, rounding):
    finding = concluded(*({GRADIENT: outcome} for outcome in trials), rounding=rounding)[GRADIENT]
    assert (finding.verdict, finding.uncompared) == (Verdict.UNSUPPORTED, 0)
    assert finding.cause == Cause(kind=CauseKind.DIVIDES_BY_ZERO)


def test_the_void_elements_of_every_rank_are_a_small_part_of_what_it_holds():
    small, also_small, large = (only_trial(3, of=of).void[0] for of in (64, 32, 16))
    for void, uncompared in (({0: small, 1: also_small}, 2), ({0: small, 1: large}, 0)):
        trial = {GRADIENT: Outcome(equal=True, void=void)}
        assert concluded(trial, rounding=NEAR)[GRADIENT].uncompared == uncompared


def test_void_elements_excuse_no_others():
    differs = replace(only_trial(3), equal=False)
    assert concluded({GRADIENT: differs}, rounding=FAR)[GRADIENT].verdict is Verdict.WRONG
    assert concluded({GRADIENT: only_trial(3)}, {GRADIENT: EQUAL}, rounding=NEAR)[GRADIENT].uncompared == 0


@pytest.mark.parametrize(
    ("rounding", "cause", "verdict"),
    [
        (FAR, None, Verdict.WRONG),
        (NEAR, None, Verdict.UNDECIDED),
        (None, None, Verdict.WRONG),
        (NEAR, SCALED, Verdict.WRONG),
        (NEAR, Cause(kind=CauseKind.ZERO_IN_PART), Verdict.UNDECIDED),
        (FAR, Cause(kind=CauseKind.ZERO_IN_PART), Verdict.WRONG),
    ],
)
def test_what_agrees_in_float64_is_undecided_unless_a_relation_explains_it(rounding, cause, verdict):
    finding = concluded({GRADIENT: Outcome(equal=False, cause=cause)}, rounding=rounding)[GRADIENT]
    assert (finding.verdict, finding.cause, finding.rounding) == (verdict, cause, rounding)


def test_the_bound_is_the_product_of_all_trials_and_none_if_nothing_is_derived():
    assert concluded({GRADIENT: EQUAL}, {GRADIENT: EQUAL})[GRADIENT].false_accept == 2.0**-40
    assert concluded({GRADIENT: EQUAL}, {GRADIENT: Outcome(equal=True)})[GRADIENT].false_accept == 2.0**-20
    assert concluded({GRADIENT: Outcome(equal=True)})[GRADIENT].false_accept is None
    assert concluded({GRADIENT: Outcome(equal=False, chance=0.5)})[GRADIENT].false_accept is None


def test_why_nothing_is_derived_is_told_of_what_is_proved_without_a_bound():
    why = Unbounded(reason=NoBound.DEPTH, at=OUTPUT)
    unbounded = Outcome(equal=True, unbounded=why)
    assert concluded({GRADIENT: unbounded})[GRADIENT].unbounded == why
    assert concluded({GRADIENT: unbounded}, {GRADIENT: EQUAL})[GRADIENT].unbounded is None
    assert concluded({GRADIENT: replace(unbounded, equal=False)})[GRADIENT].unbounded is None


@pytest.mark.parametrize(("rounding", "largest"), [(FAR, 1.0), (None, None), (replace(FAR, maxdiff=inf), None)])
def test_the_place_of_a_difference_has_the_largest_in_float64_if_it_is_a_number(rounding, largest):
    place = Cause(kind=CauseKind.UNEXPLAINED, ranks=(1,), elements=3)
    finding = concluded({GRADIENT: Outcome(equal=False, place=place)}, rounding=rounding)[GRADIENT]
    assert finding.cause == place
    assert finding.cause.largest == largest


def test_the_first_trial_that_differs_is_told():
    second = Outcome(equal=False, ranks=(1,), differing=3, elements=8, informative=8, cause=SCALED)
    first = Outcome(equal=True, elements=8, informative=7)
    finding = concluded({GRADIENT: first}, {GRADIENT: second})[GRADIENT]
    assert (finding.ranks, finding.differing, finding.elements, finding.probed) == ((1,), 3, 8, 8)
    assert first_cause([DIFFERS, second]) == SCALED
    assert first_cause([DIFFERS]) is None


# Weak probes ----------------------------------------------------------------------------------------------------------

ONE, TWO = frozenset({Part(rank=0)}), frozenset({Part(rank=0), Part(rank=1, index=2)})


@pytest.mark.parametrize(
    ("unreached", "trials", "parts"),
    [
        (ONE, [ONE], (Part(rank=0),)),
        (ONE, [TWO, ONE], (Part(rank=0),)),
        (frozenset(), [ONE], None),
        (ONE, [frozenset()], None),
        (ONE, [ONE, frozenset()], None),
        (TWO, [TWO], (Part(rank=0), Part(rank=1, index=2))),
    ],
)
def test_a_part_is_unreached_if_it_is_zero_in_every_run(unreached, trials, parts):
    found = find_weakness([Outcome(equal=True, blind=one) for one in trials], lambda zero: zero & unreached)
    assert found == (None if parts is None else Cause(kind=CauseKind.NEVER_REACHED, parts=parts))


def test_constants_are_vacuous_whatever_is_reached():
    assert find_weakness([Outcome(equal=True, constant=True)], lambda zero: zero) == Cause(kind=CauseKind.CONSTANT)


def test_whole_ranks_come_before_slices():
    parts = frozenset({Part(rank=0, index=1), Part(rank=2), Part(rank=0, index=0), Part(rank=1)})
    found = find_weakness([Outcome(equal=True, blind=parts)], lambda zero: zero)
    assert found.parts == (Part(rank=1), Part(rank=2), Part(rank=0, index=0), Part(rank=0, index=1))


@pytest.mark.parametrize(("phase", "verdict"), [(Phase.GRADIENT, Verdict.VACUOUS), (Phase.BUFFER, Verdict.PROVED)])
def test_a_buffer_may_be_a_table_of_constants(phase, verdict):
    key = Key(0, phase, "w")
    assert concluded({key: Outcome(equal=True, constant=True)})[key].verdict is verdict


def test_what_is_vacuous_is_not_measured_in_float64():
    assert concluded({GRADIENT: Outcome(equal=True, constant=True)}, rounding=NEAR)[GRADIENT].rounding is None


def test_a_right_activation_is_no_finding_although_it_is_constant():
    assert OUTPUT not in concluded({OUTPUT: Outcome(equal=True, constant=True), LOSS: DIFFERS})


def test_a_wrong_tensor_is_wrong_before_it_is_weak():
    assert concluded({GRADIENT: Outcome(equal=False, constant=True)})[GRADIENT].verdict is Verdict.WRONG


# Activations ----------------------------------------------------------------------------------------------------------

PARTIAL = Outcome(equal=True, partial_over=("tp",), elements=6)


def finding(key, verdict):
    return Finding(key=key, verdict=verdict)


@pytest.mark.parametrize(
    ("verdict_of_result", "kept"),
    [(Verdict.PROVED, set()), (Verdict.UNDECIDED, {"undecided"}), (Verdict.WRONG, {"wrong", "undecided"})],
)
def test_activations_are_kept_where_a_result_is_wrong(verdict_of_result, kept):
    wrong, undecided = Key(0, Phase.OUTPUT, "wrong"), Key(0, Phase.OUTPUT, "undecided")
    findings = [
        finding(wrong, Verdict.WRONG),
        finding(undecided, Verdict.UNDECIDED),
        finding(GRADIENT, verdict_of_result),
    ]
    left = drop_other_ways(findings)
    assert {one.key.name for one in left if one.key.phase is Phase.OUTPUT} == kept
    assert left[-1].key == GRADIENT


def test_a_partial_activation_before_the_first_wrong_one_is_the_cause():
    found = concluded({OUTPUT: PARTIAL, LOSS: DIFFERS})
    assert found[OUTPUT] == Finding(
        key=OUTPUT,
        verdict=Verdict.WRONG,
        cause=Cause(kind=CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_FORWARD),
        elements=6,
        root=True,
    )
    assert not found[LOSS].root


def test_the_first_of_several_partial_activations_is_named():
    again = Key(0, Phase.OUTPUT, "after it")
    found = concluded({OUTPUT: PARTIAL, again: PARTIAL, LOSS: DIFFERS})
    assert OUTPUT in found
    assert again not in found


def test_one_that_something_right_was_computed_from_is_not():
    right = Key(0, Phase.OUTPUT, "after it")
    assert OUTPUT not in concluded({OUTPUT: PARTIAL, right: EQUAL, LOSS: DIFFERS})


def test_one_that_is_partial_in_one_trial_alone_is_not():
    assert OUTPUT not in concluded({OUTPUT: PARTIAL, LOSS: DIFFERS}, {OUTPUT: EQUAL, LOSS: DIFFERS})


def test_a_wrong_gradient_does_not_make_it_one():
    assert OUTPUT not in concluded({OUTPUT: PARTIAL, GRADIENT: DIFFERS})


@pytest.mark.parametrize(("own_training", "kept"), [(True, False), (False, True)])
def test_a_scaled_activation_of_the_users_own_training_is_its_own_scale(own_training, kept):
    trial = {OUTPUT: Outcome(equal=False, cause=SCALED), LOSS: DIFFERS}
    assert (OUTPUT in concluded(trial, own_training=own_training)) is kept
    zero = {OUTPUT: Outcome(equal=False, cause=Cause(kind=CauseKind.ZERO_EVERYWHERE)), LOSS: DIFFERS}
    assert OUTPUT in concluded(zero, own_training=own_training)


def test_the_training_is_not_the_users_own_unless_it_is_said():
    assert OUTPUT in concluded({OUTPUT: Outcome(equal=False, cause=SCALED), LOSS: DIFFERS})


def test_nothing_compared_is_an_error():
    with pytest.raises(CannotRunError, match="nothing was compared"):
        concluded({})
    with pytest.raises(CannotRunError, match="nothing was compared"):
        concluded({}, {GRADIENT: EQUAL})
    assert concluded({GRADIENT: EQUAL}, {}).keys() == {GRADIENT}

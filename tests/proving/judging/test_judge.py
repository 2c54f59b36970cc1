"""From made-up records to verdicts, causes and first causes: a row for each, and nearly the same input beside it."""

from dataclasses import replace

import pytest
import torch
from tests.proving.judging.cases import causes, draws, native, norms, roots, verdicts
from tests.proving.judging.cases.case import (
    NOTHING,
    change,
    of,
    off_by_one_element,
)
from tests.proving.judging.cases.draws import drawn, start
from tests.proving.judging.made_up import (
    BIAS,
    DOWN,
    EXPERTS,
    NORM,
    UP,
    WEIGHT,
    judged,
    judged_numerically,
    make_sides,
    native_runs,
    parameters,
)

from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.judge import (
    compare_trials,
    find_candidate_layout,
    judge_drawn,
    judge_numerically,
    judge_without_layout,
    measure_in_float64,
    needs_another_trial,
    needs_float64,
)
from shardproof.proving.records import Key, Phase, Precision

TABLE = verdicts.VERDICTS | causes.CAUSES | norms.NORMS | native.NATIVE | draws.DRAWN | roots.ROOTS


# By tensors of which the made-up step has none, and what would mend it: see the tests of losses, fused, linear, tables.
TOLD_BY_OTHER_TENSORS = {
    CauseKind.OTHER_CONSTANTS: Mend.COUNT_FROM_PART,
    CauseKind.STALE_WEIGHT: Mend.COPY_AGAIN,
    CauseKind.OWN_SHARD_GRADIENT: Mend.REDUCE_SCATTER_IN_BACKWARD,
    CauseKind.OUTPUT_FOR_GRADIENT: Mend.GRADIENT_IN_BACKWARD,
    CauseKind.PARTS_BESIDE_WHOLE: Mend.ALL_REDUCE_IN_BACKWARD,
    CauseKind.FUSED_CUT: Mend.CUT_EACH,
    CauseKind.OWN_MAXIMUM: Mend.MAXIMUM_OVER_RANKS,
    CauseKind.OWN_COUNT: Mend.COUNT_OVER_RANKS,
    CauseKind.OWN_MEAN: Mend.MEAN_OVER_RANKS,
    CauseKind.MORE_POSITIONS_COUNT: Mend.SAME_POSITIONS,
    CauseKind.FEWER_POSITIONS_COUNT: Mend.SAME_POSITIONS,
    CauseKind.OTHER_LABELS: Mend.SAME_POSITIONS,
    CauseKind.OWN_TOKENS: Mend.REDUCE_FIRST,
    CauseKind.OFF_BY_CONSTANT: Mend.SUM_ONCE,
    CauseKind.ONE_SIDED: None,  # of a line of the program, by judging/one_sided.py
}


def said(findings, tensor):
    """The verdict and the cause of a tensor; None where no known relation explains it."""
    finding = findings.get(tensor)
    if finding is None:
        return NOTHING, None
    explained = finding.cause is None or finding.cause.kind is not CauseKind.UNEXPLAINED
    return finding.verdict, finding.cause if explained else None


@pytest.mark.parametrize("name", TABLE)
def test_a_change_has_its_verdict_its_cause_and_its_first_causes(name):
    case = TABLE[name]
    findings = case.judge(case.change, axes=case.axes)
    assert said(findings, case.key) == (case.verdict, case.cause)
    ok = case.verdict == NOTHING or case.verdict.ok
    roots = ({case.key} if not ok else set()) if case.roots is None else case.roots
    assert {tensor for tensor, finding in findings.items() if finding.root} == roots


@pytest.mark.parametrize("name", TABLE)
def test_nearly_the_same_change_has_not(name):
    case = TABLE[name]
    tensor = case.twin_key or case.key
    findings = case.judge(case.twin, axes=case.axes)
    assert said(findings, tensor) == (case.twin_verdict, case.twin_cause)
    assert said(findings, tensor) != (case.verdict, case.cause) or tensor != case.key


def test_every_verdict_and_every_kind_of_cause_has_a_row():
    assert {case.verdict for case in TABLE.values()} - {NOTHING} == set(Verdict)
    kinds = {case.cause.kind for case in TABLE.values() if case.cause}
    assert kinds | TOLD_BY_OTHER_TENSORS.keys() == set(CauseKind) - {CauseKind.UNEXPLAINED}
    assert not kinds & TOLD_BY_OTHER_TENSORS.keys()
    mends = {case.cause.mend for case in TABLE.values() if case.cause}
    assert mends | {mend for mend in TOLD_BY_OTHER_TENSORS.values() if mend} >= set(Mend) - {
        Mend.ALL_REDUCE_IN_BACKWARD
    }


# The door itself -----------------------------------------------------------------------------------------------------


def test_a_right_sharding_is_proved_with_the_chance_of_both_trials():
    findings = judged()
    assert {finding.verdict for finding in findings.values()} == {Verdict.PROVED}
    assert findings[WEIGHT].false_accept == pytest.approx(1e-10)
    assert findings[WEIGHT].elements == findings[WEIGHT].probed == 12


def test_a_difference_has_its_ranks_and_its_count():
    finding = judged(change("spoil", WEIGHT, ranks=(1,)))[WEIGHT]
    assert (finding.ranks, finding.differing, finding.elements) == ((1,), 6, 12)
    assert finding.rounding is not None
    assert not finding.rounding.agrees


def test_where_no_relation_explains_a_difference_its_place_and_the_largest_are_told():
    cause = judged(change("spoil", WEIGHT, ranks=(1,)))[WEIGHT].cause
    assert (cause.kind, cause.ranks, cause.elements, cause.dim) == (CauseKind.UNEXPLAINED, (1,), 6, None)
    assert cause.largest == pytest.approx(judged(change("spoil", WEIGHT, ranks=(1,)))[WEIGHT].rounding.maxdiff)
    one_row = judged(off_by_one_element(WEIGHT, ranks=(0,)))[WEIGHT].cause
    assert (one_row.ranks, one_row.elements, one_row.dim, one_row.indices) == ((0,), 1, 1, (0,))
    assert judged(change("scale", WEIGHT, 2))[WEIGHT].cause.kind is CauseKind.SCALED


def test_in_numbers_alone_too():
    cause = judged_numerically(change("spoil", WEIGHT, ranks=(1,)))[WEIGHT].cause
    assert (cause.kind, cause.ranks, cause.elements, cause.approximate) == (CauseKind.UNEXPLAINED, (1,), 6, True)
    assert cause.largest > 0


def test_without_a_run_in_the_users_dtypes_there_are_no_numbers_and_no_numeric_report():
    def fails(draft):
        draft.failed = "NotImplementedError: no kernel"

    findings = judged(fails)
    assert all(finding.numbers is None for finding in findings.values())
    sides = make_sides(fails)
    with pytest.raises(CannotRunError, match="does not run in float32 on one device: NotImplementedError: no kernel"):
        judge_numerically(sides, find_candidate_layout(sides))


def test_a_sharding_that_draws_its_own_values_is_only_told_of_shards_that_start_alike():
    alike = start("up.weight", drawn(2, 3, seed=1), drawn(2, 3, seed=1))
    assert [finding.cause for finding in judge_without_layout(make_sides(alike))] == [of(CauseKind.INITIAL_REPEATED)]
    assert judge_without_layout(make_sides(start("up.weight", drawn(2, 3, seed=1), drawn(2, 3, seed=2)))) == ()


def test_precisions_of_the_made_up_runs_are_those_of_a_proof():
    assert set(make_sides().reference.native) == set(Precision)


def needs_second(change, trials=1):
    """Whether another trial is asked for after the first ones of records that are changed."""
    both = make_sides(change)
    layout = find_candidate_layout(both)
    outcomes = compare_trials(both, layout)[:trials]
    return needs_another_trial(measure_in_float64(both, layout, outcomes), outcomes)


def void_at(key, *elements):
    def change(draft):
        for at in elements:
            draft.divide_by_zero(key, at)

    return change


def one_void_of_many(draft):
    """An element of a buffer so large that a single one is a small part of it."""
    many = Key(0, Phase.BUFFER, "many")
    for held in (draft.reference, *draft.ranks):
        for tensors in held.values():
            tensors[many] = torch.ones(10_000, dtype=tensors[BIAS].dtype)
    draft.divide_by_zero(many, 0)


def one_void_of_many_and_one_of_few(draft):
    one_void_of_many(draft)
    draft.divide_by_zero(BIAS, 0)


def zero_in_part(draft):
    """Rank 1 and the reference hold zeros for an expert, which nothing has reached."""

    def without_first(values, _run):
        return torch.cat([torch.zeros_like(values[:1]), values[1:]])

    draft.change_both(EXPERTS, without_first)


FLOAT64_NEEDED = {
    "nothing": (lambda _draft: None, False),
    "a difference": (lambda draft: draft.spoil(BIAS), True),
    "a difference of an activation alone": (lambda draft: draft.spoil(UP), True),
    "a void element": (void_at(BIAS, 0), True),
    "a part that is zero everywhere": (zero_in_part, True),
    "parts of a sum, which are right together": (lambda draft: draft.part(DOWN), False),
}


@pytest.mark.parametrize("name", FLOAT64_NEEDED)
def test_runs_in_float64_are_needed_where_exact_ones_do_not_tell_all(name):
    change, needed = FLOAT64_NEEDED[name]
    both = make_sides(change)
    assert needs_float64(compare_trials(both, find_candidate_layout(both))) is needed


SECOND_TRIALS = {
    "a small part of a tensor that agrees in float64": (one_void_of_many, False),
    "a small part of one tensor, and no small part of another": (one_void_of_many_and_one_of_few, True),
    "nothing is void": (lambda _draft: None, False),
    "one of three elements, which is no small part": (void_at(BIAS, 0), True),
    "a norm": (void_at(NORM, 0), True),
    "an activation, which is judged by what comes of it": (void_at(UP, 0), False),
}


@pytest.mark.parametrize("name", SECOND_TRIALS)
def test_a_second_trial_is_asked_for_what_the_only_one_does_not_judge(name):
    change, asked = SECOND_TRIALS[name]
    assert needs_second(change) is asked
    assert needs_second(change, trials=2) is False


@pytest.mark.parametrize("by_a_gradient", [False, True])
@pytest.mark.parametrize("otherwise", [False, True])
def test_an_element_is_reached_by_a_gradient_or_as_one_of_a_frozen_parameter(by_a_gradient, otherwise):
    """An element that two ranks hold is held twice where nothing reaches it."""

    def overlap(draft):
        bias = parameters()["down.bias"]
        draft.start["down.bias"] = [bias[:2], bias[1:]]
        gradient = torch.tensor([1.0, by_a_gradient, 1.0], dtype=torch.float64)
        for run in native_runs(draft):
            draft.reference[run][BIAS] = gradient.to(draft.reference[run][BIAS].dtype)

    both = make_sides(overlap)
    reached = {"down.bias": torch.tensor([True, otherwise, True])}
    both = replace(both, reference=replace(both.reference, reached=reached))
    initial, _ = judge_drawn(both, find_candidate_layout(both))
    kinds = {finding.cause.kind for finding in initial if finding.key.name == "down.bias" and finding.cause is not None}
    assert (CauseKind.HELD_TWICE in kinds) is not (by_a_gradient or otherwise)

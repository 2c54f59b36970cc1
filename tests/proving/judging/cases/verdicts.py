"""Cases of every verdict."""

from fractions import Fraction

from tests.proving.judging.cases.case import Case, assign, both, change, in_runs, nothing, of
from tests.proving.judging.made_up import (
    BIAS,
    COUNT,
    EXPERTS,
    LOSS,
    NEW_BIAS,
    NEW_WEIGHT,
    NORM,
    WEIGHT,
    exact_runs,
    judged_numerically,
    key,
    native_runs,
)

from shardproof.proving.cause import CauseKind, Part
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase


def first_trial(draft):
    return exact_runs(draft)[:1]


def second_trial(draft):
    return exact_runs(draft)[1:2]


def zero_where(tensor_key, chosen, runs=None, tiny=0.0):
    """Zero on both sides, or in ordinary arithmetic as good as."""

    def how(values, run):
        zeroed = values.clone()
        zeroed[chosen] = 0 if run.prime else tiny * values[chosen]
        return zeroed

    return lambda draft: draft.change_both(tensor_key, how, runs=runs and runs(draft))


def zero_rows_of_rank_1(draft, tiny=0.0):
    zero = lambda values, run: values * (0 if run.prime else tiny)  # noqa: E731
    for run in draft.runs:
        whole = draft.reference[run][WEIGHT]
        whole[2:] = zero(whole[2:], run).to(whole.dtype)
        if run in draft.ranks[1]:
            draft.ranks[1][run][WEIGHT] = zero(draft.ranks[1][run][WEIGHT], run).to(whole.dtype)


def undecided_by_numbers(draft):
    """Off by 12 times the noise, which is 2 epsilons of the largest element."""
    largest = draft.reference[native_runs(draft)[0]][NEW_BIAS].abs().max()
    draft.change(NEW_BIAS, lambda values, _run, _rank: values + 12 * 2 * 2**-23 * float(largest))


VERDICTS = {
    "proved": Case(
        change=nothing, key=WEIGHT, verdict=Verdict.PROVED, roots=set(),
        twin=change("spoil", WEIGHT), twin_verdict=Verdict.WRONG,
    ),
    "wrong, and nothing explains it": Case(
        change=change("spoil", BIAS), key=BIAS, verdict=Verdict.WRONG,
        twin=in_runs(native_runs, "spoil", BIAS, size=1e-12),
    ),
    "undecided: differs exactly, agrees in float64": Case(
        change=in_runs(exact_runs, "spoil", BIAS), key=BIAS, verdict=Verdict.UNDECIDED,
        twin=change("spoil", BIAS), twin_verdict=Verdict.WRONG,
    ),
    "wrong in digits for a known reason is wrong although float64 agrees": Case(
        change=in_runs(exact_runs, "scale", BIAS, 2), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.SCALED, factor=Fraction(2)),
        twin=in_runs(exact_runs, "spoil", BIAS), twin_verdict=Verdict.UNDECIDED,
    ),
    "vacuous: no slice of an expert was reached": Case(
        change=zero_where(EXPERTS, 2), key=EXPERTS, verdict=Verdict.VACUOUS,
        cause=of(CauseKind.NEVER_REACHED, parts=(Part(rank=0, index=2), Part(rank=1, index=2))),
        twin=zero_where(EXPERTS, 2, tiny=1e-16),  # zero as a function, which float64 only nearly finds
    ),
    "vacuous: a rank's rows were never reached": Case(
        change=zero_rows_of_rank_1, key=WEIGHT, verdict=Verdict.VACUOUS,
        cause=of(CauseKind.NEVER_REACHED, parts=(Part(rank=1),)),
        twin=lambda draft: zero_rows_of_rank_1(draft, tiny=1e-16),
    ),
    "zero in one trial alone was reached": Case(
        change=zero_where(EXPERTS, 2, runs=lambda draft: exact_runs(draft)[:1]), key=EXPERTS, verdict=Verdict.PROVED,
        roots=set(),
        twin=zero_where(EXPERTS, 2), twin_verdict=Verdict.VACUOUS,
        twin_cause=of(CauseKind.NEVER_REACHED, parts=(Part(rank=0, index=2), Part(rank=1, index=2))),
    ),
    "vacuous: the same numbers whatever the parameters are": Case(
        change=assign(chance=0.0), key=BIAS, verdict=Verdict.VACUOUS, cause=of(CauseKind.CONSTANT),
        roots={LOSS, WEIGHT, BIAS, EXPERTS, NORM, NEW_WEIGHT, NEW_BIAS, key(Phase.UPDATE, "experts")} - {
            # the constant loss comes first, and all the rest of the step follows from it
            WEIGHT, BIAS, EXPERTS, NORM, NEW_WEIGHT, NEW_BIAS, key(Phase.UPDATE, "experts"),
        },
        twin=assign(chance=1e-30),
    ),
    "a buffer may be constant": Case(
        change=assign(chance=0.0), key=COUNT, verdict=Verdict.PROVED, roots={LOSS},
        twin=both(assign(chance=0.0), change("spoil", COUNT)), twin_verdict=Verdict.WRONG,
    ),
    "unsupported: an element that no trial judges": Case(
        change=change("divide_by_zero", BIAS, 1), key=BIAS, verdict=Verdict.UNSUPPORTED,
        cause=of(CauseKind.DIVIDES_BY_ZERO),
        twin=in_runs(first_trial, "divide_by_zero", BIAS, 1),
    ),
    "an element that is void in turn on each side is judged by no trial": Case(
        change=both(
            in_runs(first_trial, "divide_by_zero", BIAS, 1, reference=False),
            in_runs(second_trial, "divide_by_zero", BIAS, 1, ranks=()),
        ),
        key=BIAS, verdict=Verdict.UNSUPPORTED, cause=of(CauseKind.DIVIDES_BY_ZERO),
        twin=in_runs(second_trial, "divide_by_zero", BIAS, 1, ranks=()),
    ),
    "a void element is no excuse for another": Case(
        change=both(change("spoil", BIAS), change("divide_by_zero", BIAS, 1)), key=BIAS, verdict=Verdict.WRONG,
        twin=both(in_runs(first_trial, "divide_by_zero", BIAS, 1), change("divide_by_zero", BIAS, 2, runs=None)),
        twin_verdict=Verdict.UNSUPPORTED, twin_cause=of(CauseKind.DIVIDES_BY_ZERO),
    ),
    "a relation is one of the elements that are not void": Case(
        change=both(change("scale", BIAS, 2), change("divide_by_zero", BIAS, 1)), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.SCALED, factor=Fraction(2)),
        twin=both(change("scale", BIAS, 2), change("spoil", BIAS)),  twin_verdict=Verdict.WRONG,
    ),
    "no number on a rank": Case(
        change=change("divide_by_zero", BIAS, 1, ranks=(1,), reference=False), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.NO_NUMBER_HERE, ranks=(1,)),
        twin=in_runs(first_trial, "divide_by_zero", BIAS, 1, ranks=(1,), reference=False),
    ),
    "no number on one device": Case(
        change=change("divide_by_zero", BIAS, 1, ranks=()), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.NO_NUMBER_IN_REFERENCE, ranks=(0, 1)),
        twin=in_runs(first_trial, "divide_by_zero", BIAS, 1, ranks=()),
    ),
    "rounding": Case(
        change=nothing, key=BIAS, verdict=Verdict.ROUNDING, roots=set(), judge=judged_numerically,
        twin=change("spoil", BIAS), twin_verdict=Verdict.WRONG,
    ),
    "undecided by numbers: between 8 and 16 times the noise": Case(
        change=undecided_by_numbers, key=NEW_BIAS, verdict=Verdict.UNDECIDED, judge=judged_numerically,
        twin=nothing, twin_verdict=Verdict.ROUNDING,
    ),
    "vacuous by numbers: all zeros": Case(
        change=zero_where(BIAS, slice(None)), key=BIAS, verdict=Verdict.VACUOUS, judge=judged_numerically,
        twin=zero_where(BIAS, 0), twin_verdict=Verdict.ROUNDING,
    ),
}  # fmt: skip

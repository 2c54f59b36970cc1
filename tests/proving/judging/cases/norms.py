"""Cases of wrong gradient norms, made of the wrong squares, and of clipping that does nothing."""

from fractions import Fraction

from tests.proving.judging.cases.case import Case, about, both, of, off_by_one_element
from tests.proving.judging.made_up import BIAS, EXPERTS, NORM, WEIGHT, judged_numerically, key

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase

CLIPPED = key(Phase.CLIPPED, "down.bias")
ALL = (WEIGHT, BIAS, EXPERTS)


def sum_squares(run, held, keys=ALL):
    squares = [(held[one] ** 2).sum() if run.prime is None else (held[one] ** 2 % run.prime).sum() for one in keys]
    return run.residues(sum(squares))


def norm_of(*, rank0, rank1=None, spoiled=True):
    """The square of the norm on each rank, from its run and both ranks' gradients; the norm itself is spoiled."""

    def change(draft):
        def at(how):
            return lambda run, _own: run.residues(how(run, *(rank[run] for rank in draft.ranks)))

        draft.squares = {None: sum_squares, 0: at(rank0), 1: at(rank1 or rank0)}
        if spoiled:
            draft.spoil(NORM)

    return change


def in_numbers(change):
    """The norms of all runs are the roots of the squares, for a report of numbers alone."""

    def changed(draft):
        change(draft)
        for run in [run for run in draft.runs if run.prime is None]:
            draft.reference[run][NORM] = sum_squares(run, draft.reference[run]).sqrt()
            for rank, held in enumerate(draft.ranks):
                if run in held:
                    held[run][NORM] = draft.squares[rank](run, held[run]).sqrt()

    return changed


def own(number):
    return lambda run, *ranks: sum_squares(run, ranks[number])


def counted(**times):
    """Each of the parameters so many times, and both shards of the weight; `other` is added."""
    weight, bias, experts = (times.get(name, 1) for name in ("weight", "bias", "experts"))

    def square(run, first, second):
        parts = [sum_squares(run, one, (WEIGHT,)) * weight for one in (first, second)]
        parts += [sum_squares(run, first, (BIAS,)) * bias, sum_squares(run, first, (EXPERTS,)) * experts]
        return sum(parts) + times.get("other", 0)

    return square


def clipped(factor):
    """Clipped gradients of one parameter on both sides, on the ranks by another factor."""

    def change(draft):
        for held in (draft.reference, *draft.ranks):
            for run in held:
                held[run][CLIPPED] = run.times(held[run][BIAS], Fraction(factor if held is not draft.reference else 3))

    return change


WRONG_BY_ANYTHING = norm_of(rank0=counted(other=1))

NORMS = {
    "each rank's own norm": Case(
        change=norm_of(rank0=own(0), rank1=own(1)), key=NORM, verdict=Verdict.WRONG, cause=of(CauseKind.NORM_OF_PART),
        twin=norm_of(rank0=own(0), rank1=own(0)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.NORM_MISSES_SHARD, ranks=(1,)),
    ),
    "a norm that counts replicas": Case(
        change=norm_of(rank0=counted(bias=2, experts=2)), key=NORM, verdict=Verdict.WRONG,
        cause=of(CauseKind.NORM_COUNTS_REPLICAS, axes=("tp",)),
        twin=norm_of(rank0=counted(bias=2, experts=3)), twin_verdict=Verdict.WRONG,
    ),
    "a norm that misses a shard": Case(
        change=norm_of(rank0=own(1)), key=NORM, verdict=Verdict.WRONG,
        cause=of(CauseKind.NORM_MISSES_SHARD, ranks=(0,)), twin=WRONG_BY_ANYTHING, twin_verdict=Verdict.WRONG,
    ),
    "a norm that counts a parameter twice": Case(
        change=norm_of(rank0=counted(experts=2)), key=NORM, verdict=Verdict.WRONG,
        cause=of(CauseKind.NORM_COUNTS_PARAMETER, parameter="experts", factor=Fraction(2)),
        twin=norm_of(rank0=counted(experts=2), rank1=counted()), twin_verdict=Verdict.WRONG,
    ),
    "a norm that misses a parameter": Case(
        change=norm_of(rank0=counted(bias=0)), key=NORM, verdict=Verdict.WRONG,
        cause=of(CauseKind.NORM_MISSES_PARAMETER, parameter="down.bias"),
        twin=both(norm_of(rank0=counted(bias=0)), off_by_one_element(BIAS)), roots={NORM}, twin_verdict=Verdict.WRONG,
    ),
    "a norm of right squares": Case(
        change=norm_of(rank0=counted(), spoiled=False), key=NORM, verdict=Verdict.PROVED,
        twin=norm_of(rank0=counted()), twin_verdict=Verdict.WRONG,
    ),
    **{
        f"{name}, in numbers": Case(
            change=in_numbers(norm_of(**right, spoiled=False)), key=NORM, verdict=Verdict.WRONG, cause=cause,
            twin=in_numbers(norm_of(**twin, spoiled=False)), twin_verdict=verdict, twin_cause=twin_cause,
            judge=judged_numerically,
        )
        for name, right, cause, twin, verdict, twin_cause in (
            (
                "each rank's own norm", {"rank0": own(0), "rank1": own(1)}, about(CauseKind.NORM_OF_PART),
                {"rank0": counted()}, Verdict.ROUNDING, None,
            ),
            (
                "a norm that counts replicas", {"rank0": counted(bias=2, experts=2)},
                about(CauseKind.NORM_COUNTS_REPLICAS, axes=("tp",)),
                {"rank0": counted(bias=2, experts=3)}, Verdict.WRONG, None,
            ),
            (
                "a norm that misses a shard", {"rank0": own(1)}, about(CauseKind.NORM_MISSES_SHARD, ranks=(0,)),
                {"rank0": counted(other=1)}, Verdict.WRONG, None,
            ),
            (
                "a norm that counts a parameter twice", {"rank0": counted(experts=2)},
                about(CauseKind.NORM_COUNTS_PARAMETER, parameter="experts", factor=Fraction(2)),
                {"rank0": counted(experts=2.01)}, Verdict.WRONG, None,
            ),
            (
                "a norm that misses a parameter", {"rank0": counted(bias=0)},
                about(CauseKind.NORM_MISSES_PARAMETER, parameter="down.bias"),
                {"rank0": counted(bias=0.01)}, Verdict.WRONG, None,
            ),
        )
    },
    "a gradient that is not clipped, in numbers": Case(
        change=clipped(1), key=CLIPPED, verdict=Verdict.WRONG,
        cause=about(CauseKind.NOT_CLIPPED, mend=Mend.CLIP_WHAT_IS_APPLIED),
        twin=clipped(2), twin_verdict=Verdict.WRONG, judge=judged_numerically,
    ),
    "a gradient that is not clipped": Case(
        change=clipped(1), key=CLIPPED, verdict=Verdict.WRONG,
        cause=of(CauseKind.NOT_CLIPPED, mend=Mend.CLIP_WHAT_IS_APPLIED),
        twin=clipped(2), twin_verdict=Verdict.WRONG, twin_cause=of(CauseKind.SCALED, factor=Fraction(2, 3)),
    ),
    "clipping that does not report its norm": Case(
        change=both(clipped(3), lambda draft: draft.drop(NORM)), key=CLIPPED, verdict=Verdict.PROVED,
        twin=lambda draft: draft.drop(NORM), twin_key=NORM, twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.NOT_COMPUTED),
    ),
}  # fmt: skip

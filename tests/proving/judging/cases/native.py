"""Cases of the user's own dtypes: paths that only they take, collectives, and numbers alone."""

from fractions import Fraction

from tests.proving.judging.cases.case import (
    NOTHING,
    Case,
    about,
    both,
    change,
    in_runs,
    nothing,
    of,
    off_by_one_element,
)
from tests.proving.judging.made_up import BIAS, COUNT, DOWN, LOSS, WEIGHT, exact_runs, judged_numerically, key, own_run

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.records import SAMPLES, CollectiveCall, Phase

COLLECTIVES = key(Phase.COLLECTIVES, "in up")
MISSING_SUM = {"axes": ("tp",), "mend": Mend.ALL_REDUCE_GRADIENT}


def call(**changes):
    settings = {"kind": "AllReduce SUM", "ranks": (0, 1), "shapes": ((2, 3),)} | changes
    return CollectiveCall(step=0, location="in up", **settings)


def sequences(exact, native):
    def change(draft):
        for run in exact_runs(draft):
            draft.collectives[run] = exact
        for run in own_run(draft):
            draft.collectives[run] = native

    return change


def lacks_noise(draft):
    for run in draft.runs:
        if run.precision in SAMPLES:
            draft.reference[run].pop(COUNT)


NATIVE = {
    "wrong only in the native dtype": Case(
        change=in_runs(own_run, "spoil", WEIGHT), key=WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float32"),
        twin=in_runs(own_run, "spoil", WEIGHT, size=1e-9),
    ),
    "the first activation that is wrong only there is the first cause": Case(
        change=both(in_runs(own_run, "spoil", DOWN), in_runs(own_run, "spoil", LOSS)), key=DOWN, verdict=Verdict.WRONG,
        cause=of(CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float32"),
        twin=in_runs(own_run, "spoil", DOWN), twin_verdict=NOTHING,
    ),
    "collectives diverge": Case(
        change=sequences([call()], []), key=COLLECTIVES, verdict=Verdict.WRONG,
        cause=of(CauseKind.COLLECTIVES_DIVERGE, exact_collective=call(), dtype="float32"),
        twin=sequences([call()], [call(kind="AllReduce AVG")]), twin_verdict=NOTHING,
    ),
    "collectives diverge in shape alone": Case(
        change=sequences([call()], [call(shapes=((3, 2),))]), key=COLLECTIVES, verdict=Verdict.UNDECIDED,
        cause=of(
            CauseKind.COLLECTIVES_DIVERGE, exact_collective=call(), dtype="float32",
            native_collective=call(shapes=((3, 2),)),
        ),
        twin=sequences([call()], [call()]), twin_verdict=NOTHING,
    ),
    "diverged collectives are the cause of numbers that are wrong only there": Case(
        change=both(sequences([call()], []), in_runs(own_run, "spoil", LOSS)), key=LOSS, verdict=Verdict.WRONG,
        cause=of(CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float32"), roots={COLLECTIVES},
        twin=sequences([call()], []),
    ),
    "no noise to measure": Case(
        change=lacks_noise, key=COUNT, verdict=Verdict.UNDECIDED, cause=of(CauseKind.NO_NOISE),
        judge=judged_numerically,
        twin=nothing, twin_verdict=Verdict.ROUNDING,
    ),
    "scaled, by numbers": Case(
        change=change("scale", WEIGHT, 2), key=WEIGHT, verdict=Verdict.WRONG, judge=judged_numerically,
        cause=about(CauseKind.SCALED, factor=Fraction(2)),
        twin=change("scale", WEIGHT, Fraction(201, 100)), twin_verdict=Verdict.WRONG,
    ),
    "missing all-reduce, by numbers": Case(
        change=change("part", BIAS), key=BIAS, verdict=Verdict.WRONG, judge=judged_numerically,
        cause=about(CauseKind.MISSING_ALL_REDUCE, **MISSING_SUM),
        twin=both(change("part", BIAS), off_by_one_element(BIAS)), twin_verdict=Verdict.WRONG,
    ),
    "replicas differ, by numbers": Case(
        change=change("spoil", BIAS, ranks=(1,)), key=BIAS, verdict=Verdict.WRONG, judge=judged_numerically,
        cause=about(CauseKind.REPLICAS_DIFFER, ranks=(1,)),
        twin=change("spoil", BIAS), twin_verdict=Verdict.WRONG,
    ),
    "a partial activation, by numbers": Case(
        change=both(change("part", DOWN), change("spoil", BIAS)), key=BIAS, verdict=Verdict.WRONG,
        judge=judged_numerically,
        twin=both(change("spoil", DOWN), change("spoil", BIAS)), twin_key=DOWN, twin_verdict=Verdict.WRONG,
    ),
}  # fmt: skip

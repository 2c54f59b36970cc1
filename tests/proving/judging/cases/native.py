"""Cases of the user's own dtypes: paths that only they take, collectives, and numbers alone."""

import math
from fractions import Fraction

from tests.proving.judging.cases.case import (
    NOTHING,
    Case,
    about,
    assign,
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
from shardproof.proving.records import SAMPLES, CollectiveCall, Phase, Precision
from shardproof.worlds.early_access import EarlyAccess

COLLECTIVES = key(Phase.COLLECTIVES, "in up")
RECOMPUTED = key(Phase.COLLECTIVES, "in up (recomputed)")
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


def in_reference(tensor_key, value, precisions=SAMPLES):
    """Put a value in place of the first element in some of the reference's runs."""

    def change(draft):
        for run in draft.runs:
            if run.precision in precisions:
                values = draft.reference[run][tensor_key].clone()
                values.view(-1)[0] = value
                draft.reference[run][tensor_key] = values

    return change


def on_ranks(tensor_key, value):
    """Put a value in place of the first element of what the ranks hold in the user's own dtypes."""

    def change(draft):
        for held in draft.ranks:
            for run in own_run(draft):
                held[run][tensor_key] = held[run][tensor_key].clone()
                held[run][tensor_key].view(-1)[0] = value

    return change


MASKED = both(
    in_reference(COUNT, -math.inf, (*SAMPLES, Precision.ROUNDED)),
    on_ranks(COUNT, -math.inf),
)
LOWER = call(dtype="bfloat16")
NO_NUMBERS = of(CauseKind.NO_NUMBERS_IN_REFERENCE, dtype="float32")


def early(**changes):
    settings = {"call": "AllReduce of float32 [3]", "call_line": "a.py:3 in f", "access": "mul"} | changes
    return EarlyAccess(**({"access_line": "a.py:5 in f", "of_input": False} | settings))


def accesses(*found):
    return assign(early_accesses=[(0, access) for access in found])


EARLY = key(Phase.COLLECTIVES, early().call)

NATIVE = {
    "NaN in the reference in the user's dtypes": Case(
        change=both(in_reference(BIAS, math.nan), on_ranks(BIAS, math.nan)), key=BIAS, verdict=Verdict.VACUOUS,
        cause=NO_NUMBERS, twin=nothing,
    ),
    "infinity in the reference in the user's dtypes, and numbers on the ranks": Case(
        change=in_reference(LOSS, math.inf), key=LOSS, verdict=Verdict.VACUOUS, cause=NO_NUMBERS,
        twin=on_ranks(LOSS, math.inf), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float32"),
    ),
    "NaN in the reference in float64 too": Case(
        change=both(in_reference(LOSS, math.nan, tuple(Precision)), on_ranks(LOSS, math.nan)), key=LOSS,
        verdict=Verdict.VACUOUS, cause=NO_NUMBERS, twin=nothing,
    ),
    "the first activation without numbers is the first cause": Case(
        change=both(in_reference(DOWN, math.nan), in_reference(LOSS, math.nan)), key=DOWN, verdict=Verdict.VACUOUS,
        cause=NO_NUMBERS, twin=in_reference(DOWN, math.nan), twin_verdict=NOTHING,
    ),
    "NaN in the reference, by numbers": Case(
        change=both(in_reference(BIAS, math.nan), on_ranks(BIAS, math.nan)), key=BIAS, verdict=Verdict.VACUOUS,
        cause=NO_NUMBERS, judge=judged_numerically, twin=nothing, twin_verdict=Verdict.ROUNDING,
    ),
    "a mask of minus infinity is no overflow, unless the ranks hold another": Case(
        change=both(MASKED, on_ranks(COUNT, 1.0)), key=COUNT, verdict=Verdict.WRONG,
        cause=of(CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float32"), twin=MASKED,
    ),
    "a tensor that the ranks do not compute in the user's dtypes": Case(
        change=in_runs(own_run, "drop", BIAS), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float32"),
        twin=in_runs(own_run, "drop", BIAS, reference=True),
    ),
    "a collective in a lower dtype": Case(
        change=both(sequences([call()], [LOWER]), in_runs(own_run, "spoil", WEIGHT)), key=WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.LOWER_DTYPE_COLLECTIVE, native_collective=LOWER, dtype="float32"),
        twin=both(sequences([call()], [call(dtype="float32")]), in_runs(own_run, "spoil", WEIGHT)),
        twin_verdict=Verdict.WRONG, twin_cause=of(CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float32"),
    ),
    "a collective in a lower dtype whose numbers are rounding": Case(
        change=both(sequences([call()], [LOWER]), in_runs(own_run, "spoil", WEIGHT)), key=WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.LOWER_DTYPE_COLLECTIVE, native_collective=LOWER, dtype="float32"),
        twin=sequences([call()], [LOWER]),
    ),
    "the result of an asynchronous collective is used before the wait": Case(
        change=accesses(early()), key=EARLY, verdict=Verdict.WRONG,
        cause=of(CauseKind.USED_BEFORE_WAIT, mend=Mend.WAIT, early_access=early()),
        twin=accesses(), twin_verdict=NOTHING,
    ),
    "the input of an asynchronous collective is changed before the wait": Case(
        change=accesses(early(of_input=True)), key=EARLY, verdict=Verdict.WRONG,
        cause=of(CauseKind.CHANGED_BEFORE_WAIT, mend=Mend.WAIT, early_access=early(of_input=True)),
        twin=accesses(early()), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.USED_BEFORE_WAIT, mend=Mend.WAIT, early_access=early()),
    ),
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
    "recomputed over other ranks": Case(
        change=sequences(*2 * [[call(), call(ranks=(0,), recomputed=True)]]), key=RECOMPUTED, verdict=Verdict.WRONG,
        cause=of(
            CauseKind.RECOMPUTED_COLLECTIVE, forward_collective=call(),
            recomputed_collective=call(ranks=(0,), recomputed=True),
        ),
        twin=sequences(*2 * [[call(), call(recomputed=True)]]), twin_verdict=NOTHING,
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

"""Cases of first causes, and of what follows from them."""

from fractions import Fraction

from tests.proving.judging.cases.case import NOTHING, Case, about, assign, both, change, in_runs, of, wrong_loss
from tests.proving.judging.made_up import (
    BIAS,
    DOWN,
    DOWN_GRADIENT,
    LOSS,
    NEW_BIAS,
    NORM,
    UP,
    WEIGHT,
    exact_runs,
    judged_numerically,
)

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.findings import Verdict

ROOTS = {
    "a wrong loss has no cause before it": Case(
        change=both(wrong_loss, change("spoil", BIAS), change("spoil", NEW_BIAS)), key=NEW_BIAS, verdict=Verdict.WRONG,
        roots={LOSS}, twin=wrong_loss,
    ),
    "an update follows from its own gradient": Case(
        change=both(change("spoil", BIAS), change("spoil", NEW_BIAS), change("spoil", NORM)), key=NORM,
        verdict=Verdict.WRONG, roots={BIAS}, twin=change("spoil", BIAS),
    ),
    "an activation that is wrong where nothing else is is another way of working": Case(
        change=change("spoil", UP), key=UP, verdict=NOTHING, roots=set(),
        twin=both(change("spoil", UP), wrong_loss), twin_verdict=Verdict.WRONG,
    ),
    "beside what is undecided a wrong activation is none either": Case(
        change=both(change("spoil", UP), in_runs(exact_runs, "spoil", BIAS)), key=UP, verdict=NOTHING, roots={BIAS},
        twin=both(change("spoil", UP), change("spoil", BIAS)), twin_verdict=Verdict.WRONG,
    ),
    "a training of the user's own may scale an activation": Case(
        change=both(assign(own_training=True), change("scale", DOWN, 2), wrong_loss), key=DOWN, verdict=NOTHING,
        roots={LOSS},
        twin=both(change("scale", DOWN, 2), wrong_loss), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.SCALED, factor=Fraction(2)),
    ),
    "it may not zero one": Case(
        change=both(assign(own_training=True), change("scale", DOWN, 0), wrong_loss), key=DOWN, verdict=Verdict.WRONG,
        cause=of(CauseKind.ZERO_EVERYWHERE),
        twin=both(assign(own_training=True), change("scale", DOWN, 2), wrong_loss), twin_verdict=NOTHING,
    ),
    "partial values of which something right is computed are no cause": Case(
        change=both(change("part", DOWN), change("spoil", BIAS)), key=DOWN, verdict=NOTHING, roots={BIAS},
        twin=both(change("part", DOWN), wrong_loss, change("spoil", BIAS)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_FORWARD),
    ),
    "a partial gradient of an activation comes before the gradients of its module's parameters": Case(
        change=both(change("part", DOWN_GRADIENT), change("part", BIAS)), key=DOWN_GRADIENT, verdict=Verdict.WRONG,
        cause=of(CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_BACKWARD),
        twin=both(change("part", DOWN_GRADIENT), change("spoil", WEIGHT)), twin_verdict=NOTHING,
    ),
    "a partial gradient of an activation, in numbers": Case(
        change=both(change("part", DOWN_GRADIENT), change("part", BIAS)), key=DOWN_GRADIENT, verdict=Verdict.WRONG,
        cause=about(CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_BACKWARD),
        twin=change("part", DOWN_GRADIENT), twin_verdict=NOTHING, judge=judged_numerically,
    ),
    "what is undecided hides no partial values": Case(
        change=both(in_runs(exact_runs, "spoil", UP), change("part", DOWN), wrong_loss), key=DOWN,
        verdict=Verdict.WRONG, roots={UP, DOWN},
        cause=of(CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_FORWARD),
        twin=both(change("spoil", UP), change("part", DOWN), wrong_loss), twin_verdict=NOTHING,
    ),
    "partial values behind something wrong are no first cause": Case(
        change=both(change("spoil", UP), change("part", DOWN), wrong_loss), key=DOWN, verdict=NOTHING, roots={UP},
        twin=both(change("part", DOWN), wrong_loss), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_FORWARD),
    ),
}  # fmt: skip

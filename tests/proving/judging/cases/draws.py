"""Cases of what is drawn at random: initial values and dropout masks."""

from fractions import Fraction

import torch
from tests.proving.judging.cases.case import (
    Case,
    assign,
    both,
    nothing,
    of,
)
from tests.proving.judging.made_up import (
    DP,
    MASK,
    MASK_AGAIN,
    key,
)

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.records import DrawnMask, Phase

PARAMETERS = key(Phase.INITIAL, "all parameters")
INITIAL_WEIGHT, INITIAL_BIAS = (key(Phase.INITIAL, name) for name in ("up.weight", "down.bias"))


def drawn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def start(name, *values):
    return lambda draft: draft.initial.update({name: list(values)})


def masks(*held, count=128, by_dtensor=False):
    """Masks of the one device, which has values 1 to `count`, and of the ranks, as (values, seed of the mask)."""
    whole = torch.arange(1.0, count + 1, dtype=torch.float64)

    def mask(values, seed):
        if seed is None:
            return drawn(count, seed=0)[(values - 1).long()] > 0
        return drawn(len(values), seed=seed) > 0

    def change(draft):
        draft.masks.append(DrawnMask(values=whole, mask=mask(whole, None)))
        for values, seed in held:
            draft.masks.append(DrawnMask(values=values, mask=mask(values, seed), by_dtensor=by_dtensor))

    return change


def masks_again(*held):
    """Right masks of both ranks, and what they draw when the forward is computed again: (values, seed of the mask)."""

    def change(draft):
        masks((FIRST, 1), (SECOND, 2))(draft)
        for values, seed in held:
            again = DrawnMask(values=values, mask=drawn(len(values), seed=seed) > 0, recomputed=True)
            draft.masks_again.append(again)

    return change


WHOLE = torch.arange(1.0, 129, dtype=torch.float64)
FIRST, SECOND = WHOLE[:64], WHOLE[64:]

DRAWN = {
    "own initial values": Case(
        change=start("down.bias", 14 + drawn(3, seed=1), 14 + drawn(3, seed=1)), key=INITIAL_BIAS,
        verdict=Verdict.DRAWN,
        cause=of(CauseKind.INITIAL_OWN), twin=nothing, twin_key=PARAMETERS,
    ),
    "initial values of another mean": Case(
        change=start("down.bias", drawn(3, seed=1), drawn(3, seed=1)), key=INITIAL_BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.INITIAL_MEAN),
        twin=start("down.bias", 14 + drawn(3, seed=1), 14 + drawn(3, seed=1)), twin_verdict=Verdict.DRAWN,
        twin_cause=of(CauseKind.INITIAL_OWN),
    ),
    "initial values that spread otherwise": Case(
        change=start("up.weight", *((-1.0) ** torch.arange(6).view(2, 3) * 100 + rank for rank in range(2))),
        key=INITIAL_WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.INITIAL_SPREAD, factor=Fraction(927, 32)),
        twin=start("up.weight", 6 + drawn(2, 3, seed=1), 6 + drawn(2, 3, seed=2)), twin_verdict=Verdict.DRAWN,
        twin_cause=of(CauseKind.INITIAL_OWN),
    ),
    "shards start alike": Case(
        change=start("up.weight", drawn(2, 3, seed=1), drawn(2, 3, seed=1)), key=INITIAL_WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.INITIAL_REPEATED),
        twin=start("up.weight", drawn(2, 3, seed=1), drawn(2, 3, seed=2)), twin_verdict=Verdict.DRAWN,
        twin_cause=of(CauseKind.INITIAL_OWN),
    ),
    "initial values drawn by DTensor": Case(
        change=both(
            start("up.weight", drawn(2, 3, seed=1), drawn(2, 3, seed=1)), assign(drawn_by_dtensor=("up.weight",))
        ),
        key=INITIAL_WEIGHT, verdict=Verdict.DRAWN, cause=of(CauseKind.INITIAL_BY_DTENSOR),
        twin=start("up.weight", drawn(2, 3, seed=1), drawn(2, 3, seed=1)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.INITIAL_REPEATED),
    ),
    "constant shards of a parameter that one device draws": Case(
        change=start("up.weight", torch.ones(2, 3), torch.ones(2, 3)), key=INITIAL_WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.INITIAL_CONSTANT),
        twin=start("up.weight", drawn(2, 3, seed=1), drawn(2, 3, seed=1)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.INITIAL_REPEATED),
    ),
    "replicas start differently": Case(
        change=start("down.bias", 14 + drawn(3, seed=1), drawn(3, seed=2)), key=INITIAL_BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.INITIAL_REPLICAS_DIFFER),
        twin=start("down.bias", 14 + drawn(3, seed=1), 14 + drawn(3, seed=1)), twin_verdict=Verdict.DRAWN,
        twin_cause=of(CauseKind.INITIAL_OWN),
    ),
    "initial shape differs": Case(
        change=start("down.bias", drawn(4, seed=1), drawn(4, seed=1)), key=INITIAL_BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.INITIAL_MISSHAPEN), twin=nothing, twin_key=PARAMETERS,
    ),
    "masks of one device": Case(
        change=masks((FIRST, None), (SECOND, None)), key=MASK, verdict=Verdict.PROVED, roots=set(),
        twin=masks((FIRST, None), (SECOND, 1)), twin_verdict=Verdict.DRAWN, twin_cause=of(CauseKind.MASK_OWN),
    ),
    "own dropout mask": Case(
        change=masks((FIRST, 1), (SECOND, 2)), key=MASK, verdict=Verdict.DRAWN, cause=of(CauseKind.MASK_OWN),
        twin=masks((FIRST, None), (SECOND, None)),
    ),
    "replicas drop different elements": Case(
        change=masks((WHOLE, 1), (WHOLE, 2)), key=MASK, verdict=Verdict.WRONG,
        cause=of(CauseKind.MASK_REPLICAS_DIFFER),
        twin=masks((WHOLE, 1), (WHOLE, 1)), twin_verdict=Verdict.DRAWN, twin_cause=of(CauseKind.MASK_OWN),
    ),
    "mask shared by shards": Case(
        change=masks((FIRST, 1), (SECOND, 1)), key=MASK, verdict=Verdict.WRONG,
        cause=of(CauseKind.MASK_SHARED, mend=Mend.GENERATOR_FOR_EACH_SHARD),
        twin=masks((FIRST, 1), (SECOND, 2)), twin_verdict=Verdict.DRAWN, twin_cause=of(CauseKind.MASK_OWN),
    ),
    "mask too small to tell": Case(
        change=masks((FIRST[:31], 1), (SECOND[:31], 1)), key=MASK, verdict=Verdict.VACUOUS,
        cause=of(CauseKind.MASK_TOO_SMALL, elements=31, mend=Mend.MORE_ELEMENTS),
        twin=masks((FIRST[:32], 1), (SECOND[:32], 1)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.MASK_SHARED, mend=Mend.GENERATOR_FOR_EACH_SHARD),
    ),
    "mask shared along data axes": Case(
        change=masks((FIRST, 1), (SECOND, 1)), key=MASK, verdict=Verdict.DRAWN, axes=DP,
        cause=of(CauseKind.MASK_SHARED_ALONG_DATA),
        twin=masks((FIRST, 1), (FIRST, 2)), twin_verdict=Verdict.WRONG, twin_cause=of(CauseKind.MASK_REPLICAS_DIFFER),
    ),
    "mask shared on other values": Case(
        change=masks((WHOLE + 0.5, 1), (WHOLE + 0.25, 1)), key=MASK, verdict=Verdict.DRAWN,
        cause=of(CauseKind.MASK_SHARED_ON_OTHER_VALUES),
        twin=masks((FIRST + 0.5, 1), (FIRST + 0.25, 1)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.MASK_SHARED, mend=Mend.GENERATOR_FOR_EACH_SHARD),
    ),
    "mask drawn by DTensor": Case(
        change=masks((FIRST, 1), (SECOND, 1), by_dtensor=True), key=MASK, verdict=Verdict.DRAWN,
        cause=of(CauseKind.MASK_BY_DTENSOR),
        twin=masks((FIRST, 1), (SECOND, 1)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.MASK_SHARED, mend=Mend.GENERATOR_FOR_EACH_SHARD),
    ),
    "recomputed with the forward's mask": Case(
        change=masks_again((FIRST, 1), (SECOND, 2)), key=MASK_AGAIN, verdict=Verdict.PROVED, roots=set(),
        twin=masks_again((FIRST, 1), (SECOND, 1)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.RECOMPUTED_MASK, mend=Mend.RESTORE_GENERATOR),
    ),
    "recomputed with another mask": Case(
        change=masks_again((FIRST, 3), (SECOND, 4)), key=MASK_AGAIN, verdict=Verdict.WRONG,
        cause=of(CauseKind.RECOMPUTED_MASK, mend=Mend.RESTORE_GENERATOR),
        twin=masks_again((FIRST + 0.5, 3), (SECOND + 0.5, 4)), twin_verdict=Verdict.DRAWN,
        twin_cause=of(CauseKind.MASK_OWN),
    ),
}  # fmt: skip

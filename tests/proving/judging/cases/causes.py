"""Cases of relations between what ranks hold and what they should, and of what one side lacks."""

from dataclasses import replace
from fractions import Fraction

import torch
from tests.proving.judging.cases.case import (
    NOTHING,
    Case,
    about,
    assign,
    both,
    change,
    nothing,
    of,
    off_by_one_element,
    wrong_loss,
)
from tests.proving.judging.made_up import (
    BIAS,
    COUNT,
    DOWN,
    DP,
    EXPERTS,
    LOSS,
    NEW_BIAS,
    NEW_EXPERTS,
    NEW_WEIGHT,
    NORM,
    SHAPES,
    WEIGHT,
    judged_numerically,
    key,
    parameters,
    start_of,
)

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase

LONG = key(Phase.OUTPUT, "long")
EXTRA, EXTRA_OUTPUT = key(Phase.BUFFER, "extra"), key(Phase.OUTPUT, "extra")


def with_zeros(values, row):
    changed = values.clone()
    changed[row] = 0
    return changed


def whole_everywhere(draft):
    for rank in draft.ranks:
        for run, held in rank.items():
            held.update({one: values.clone() for one, values in draft.reference[run].items()})
    draft.start = draft.initial = {"up.weight": [ROWS, ROWS]}


def own_values_along_dp(draft):
    """Each rank's own gradient, whose mean is right."""
    draft.change(
        BIAS, lambda v, run, rank: run.noise(v.shape, seed=5) if rank == 0 else 2 * v - run.noise(v.shape, seed=5)
    )


def add_vector(draft):
    draft.change(DOWN, lambda values, run, _rank: values + run.noise((3,), seed=6))


def add_vector_at_one_position(draft):
    def how(values, run, _rank):
        moved = values.clone()
        moved[0, 0] += run.noise((3,), seed=6).to(moved.dtype)
        return moved

    draft.change(DOWN, how)


def add_vectors(count):
    """At each of nine positions one of so many vectors, on both ranks."""

    def change(draft):
        for run in draft.runs:
            right = run.noise((9, 3), seed=7)
            off = torch.stack([run.noise((3,), seed=20 + number) for number in range(count)])
            draft.reference[run][LONG] = right
            for rank in draft.ranks:
                if run in rank:
                    rank[run] = {LONG: run.residues(right + off[torch.arange(9) % count])} | rank[run]

    return change


def scale_features(groups):
    """At nine positions, three features times and plus numbers of their own: of each rank, and of so many groups."""

    def change(draft):
        for run in draft.runs:
            right = run.noise((9, 3), seed=7)
            draft.reference[run][LONG] = right
            for number, rank in enumerate(draft.ranks):
                own = [run.noise((groups, 3), seed=seed + number) for seed in (40, 50)]
                factor, shift = (one[torch.arange(9) % groups] for one in own)
                if run in rank:
                    rank[run] = {LONG: run.residues(right * factor + shift)} | rank[run]

    return change


def zero_at(tensor_key, row):
    return lambda draft: draft.change(tensor_key, lambda values, _run, _rank: with_zeros(values, row))


def swap_shards(draft):
    for run in draft.ranks[0]:
        first, second = (draft.ranks[rank][run] for rank in (0, 1))
        first[WEIGHT], second[WEIGHT] = second[WEIGHT], first[WEIGHT]


def tied_to_experts(draft):
    """A second parameter that holds the experts' elements, with their gradient."""
    draft.start["tied"] = [EACH, EACH]
    for rank in draft.ranks:
        for held in rank.values():
            held[key(Phase.GRADIENT, "tied")] = held[EXPERTS].clone()


def part_of_tied(draft):
    """Each of the two has a part of the gradient of the one."""
    for run in draft.ranks[0]:
        for rank in draft.ranks:
            part = run.noise(SHAPES["experts"], seed=21).to(rank[run][EXPERTS].dtype)
            rank[run][key(Phase.GRADIENT, "tied")] = part
            rank[run][EXPERTS] = run.residues(rank[run][EXPERTS] - part)


def step_by(factor, ranks=(0, 1), of=NEW_BIAS):
    """An update whose step is so many times one device's."""

    def how(values, run, rank):
        start = own_start(run, of, rank)
        return start + run.times(values - start, Fraction(factor))

    return change("change", of, how, ranks=ranks)


def own_start(run, of, rank):
    start = start_of(run, of)
    return start if rank is None or of != NEW_WEIGHT else start[2 * rank : 2 * rank + 2]


def clip_and_apply(factor):
    """Gradients clipped by a number, and one parameter's step of so many times its gradient before."""

    def change(draft):
        for run in draft.runs:
            for rank, held in ((None, draft.reference), *enumerate(draft.ranks)):
                for after in (NEW_WEIGHT, NEW_BIAS, NEW_EXPERTS) if run in held else ():
                    gradient = held[run][replace(after, phase=Phase.GRADIENT)]
                    clipped = run.times(gradient, Fraction(1, 1009))
                    held[run][replace(after, phase=Phase.CLIPPED)] = clipped
                    wrong = rank is not None and after == NEW_WEIGHT
                    step = run.times(gradient, factor) if wrong else clipped
                    held[run][after] = run.residues(own_start(run, after, rank) - step).to(gradient.dtype)

    return change


ROWS, THREE, EACH = parameters().values()
WEIGHT_BEFORE, BIAS_BEFORE, EXPERTS_BEFORE = (key(Phase.INITIAL, name) for name in SHAPES)
ON_BOTH_SIDES = {None: {BIAS}, 0: {BIAS}, 1: {BIAS}}
MISSING_SUM = {"axes": ("tp",), "mend": Mend.ALL_REDUCE_GRADIENT}

CAUSES = {
    "missing all-reduce": Case(
        change=change("part", BIAS), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.MISSING_ALL_REDUCE, **MISSING_SUM),
        twin=both(change("part", BIAS), off_by_one_element(BIAS)), twin_verdict=Verdict.WRONG,
    ),
    "missing average": Case(
        change=own_values_along_dp, key=BIAS, verdict=Verdict.WRONG, axes=DP,
        cause=of(CauseKind.MISSING_AVERAGE, axes=("dp",), mend=Mend.AVERAGE_GRADIENT),
        twin=change("part", BIAS), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.MISSING_ALL_REDUCE, axes=("dp",), mend=Mend.ALL_REDUCE_GRADIENT),
    ),
    "partial values used unreduced": Case(
        change=both(change("part", DOWN), wrong_loss), key=DOWN, verdict=Verdict.WRONG,
        cause=of(CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_FORWARD),
        twin=change("part", DOWN), twin_verdict=NOTHING,
    ),
    "replicas differ": Case(
        change=change("spoil", BIAS, ranks=(1,)), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.REPLICAS_DIFFER, ranks=(1,)),
        twin=change("spoil", BIAS), twin_verdict=Verdict.WRONG,
    ),
    "scaled": Case(
        change=change("scale", WEIGHT, Fraction(3, 2)), key=WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.SCALED, factor=Fraction(3, 2)),
        twin=both(change("scale", WEIGHT, 2, ranks=(0,)), change("scale", WEIGHT, 3, ranks=(1,))),
        twin_verdict=Verdict.WRONG,
    ),
    "zero everywhere": Case(
        change=change("scale", WEIGHT, 0), key=WEIGHT, verdict=Verdict.WRONG, cause=of(CauseKind.ZERO_EVERYWHERE),
        twin=both(change("scale", WEIGHT, 0), off_by_one_element(WEIGHT)), twin_verdict=Verdict.WRONG,
    ),
    "same vector off everywhere": Case(
        change=both(add_vector, wrong_loss), key=DOWN, verdict=Verdict.WRONG, cause=of(CauseKind.SAME_VECTOR_OFF),
        twin=both(add_vector_at_one_position, wrong_loss), twin_verdict=Verdict.WRONG,
    ),
    "a bias in each partial value": Case(
        change=both(change("part", DOWN), add_vector, wrong_loss), key=DOWN, verdict=Verdict.WRONG,
        cause=of(CauseKind.PARTS_WITH_BIAS, axes=("tp",)),
        twin=both(change("part", DOWN), add_vector_at_one_position, wrong_loss), twin_verdict=Verdict.WRONG,
    ),
    "one of a few vectors off everywhere": Case(
        change=both(add_vectors(2), wrong_loss), key=LONG, verdict=Verdict.WRONG,
        cause=of(CauseKind.FEW_VECTORS_OFF, elements=2),
        twin=both(add_vectors(3), wrong_loss), twin_verdict=Verdict.WRONG,
    ),
    "zero in part": Case(
        change=both(zero_at(DOWN, 1), wrong_loss), key=DOWN, verdict=Verdict.WRONG,
        cause=of(CauseKind.ZERO_IN_PART, ranks=(0, 1), elements=12, dim=0, indices=(1,)),
        twin=both(zero_at(DOWN, 1), off_by_one_element(DOWN), wrong_loss), twin_verdict=Verdict.WRONG,
    ),
    "features scaled and shifted": Case(
        change=both(scale_features(1), wrong_loss), key=LONG, verdict=Verdict.WRONG,
        cause=of(CauseKind.FEATURES_SCALED, mend=Mend.STATISTICS_OF_ALL),
        twin=both(scale_features(2), wrong_loss), twin_verdict=Verdict.WRONG,
    ),
    "shards in another order": Case(
        change=swap_shards, key=WEIGHT, verdict=Verdict.WRONG, cause=of(CauseKind.SHARD_ORDER, ranks=(1, 0)),
        twin=both(swap_shards, off_by_one_element(WEIGHT)), twin_verdict=Verdict.WRONG,
    ),
    "not tied": Case(
        change=both(tied_to_experts, part_of_tied), key=EXPERTS, verdict=Verdict.WRONG,
        cause=of(CauseKind.UNTIED, parameter="tied", mend=Mend.TIE), roots={EXPERTS, key(Phase.GRADIENT, "tied")},
        twin=tied_to_experts,
    ),
    "not tied, in numbers": Case(
        change=both(tied_to_experts, part_of_tied), key=EXPERTS, verdict=Verdict.WRONG,
        cause=of(CauseKind.UNTIED, parameter="tied", mend=Mend.TIE), roots={EXPERTS, key(Phase.GRADIENT, "tied")},
        twin=tied_to_experts, twin_verdict=Verdict.ROUNDING, judge=judged_numerically,
    ),
    "never stepped": Case(
        change=step_by(0), key=NEW_BIAS, verdict=Verdict.WRONG, cause=of(CauseKind.NEVER_STEPPED, mend=Mend.STEP_ALL),
        twin=both(step_by(0), off_by_one_element(NEW_BIAS)), twin_verdict=Verdict.WRONG,
    ),
    "never stepped on one rank": Case(
        change=step_by(0, ranks=(1,)), key=NEW_BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.NEVER_STEPPED, mend=Mend.STEP_ALL),
        twin=change("spoil", NEW_BIAS, ranks=(1,)), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.REPLICAS_DIFFER, ranks=(1,)),
    ),
    "never stepped, in numbers": Case(
        change=step_by(0), key=NEW_BIAS, verdict=Verdict.WRONG,
        cause=about(CauseKind.NEVER_STEPPED, mend=Mend.STEP_ALL),
        twin=both(step_by(0), off_by_one_element(NEW_BIAS)), twin_verdict=Verdict.WRONG, judge=judged_numerically,
    ),
    "step scaled": Case(
        change=step_by(Fraction(3, 2), of=NEW_WEIGHT), key=NEW_WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.STEP_SCALED, factor=Fraction(3, 2), mend=Mend.STEP_ALIKE),
        twin=both(step_by(2, (0,), NEW_WEIGHT), step_by(3, (1,), NEW_WEIGHT)), twin_verdict=Verdict.WRONG,
    ),
    "updated by the gradient before clipping": Case(
        change=clip_and_apply(Fraction(1)), key=NEW_WEIGHT, verdict=Verdict.WRONG,
        cause=of(CauseKind.NOT_CLIPPED, mend=Mend.CLIP_WHAT_IS_APPLIED),
        twin=clip_and_apply(Fraction(5, 2003)), twin_verdict=Verdict.WRONG,
    ),
    "misshapen": Case(
        change=lambda draft: draft.change(NORM, lambda values, _run, _rank: values.reshape(1)), key=NORM,
        verdict=Verdict.WRONG, cause=of(CauseKind.MISSHAPEN, shapes=((1,), ())),
        twin=lambda draft: draft.change(NORM, lambda values, _run, _rank: values.reshape(())),
    ),
    "missing gradient": Case(
        change=assign(missing={0: {BIAS}, 1: {BIAS}}), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.MISSING_GRADIENT),
        twin=assign(missing=ON_BOTH_SIDES), twin_verdict=Verdict.VACUOUS, twin_cause=of(CauseKind.NO_GRADIENT),
    ),
    "no gradient": Case(
        change=assign(missing=ON_BOTH_SIDES), key=BIAS, verdict=Verdict.VACUOUS, cause=of(CauseKind.NO_GRADIENT),
        twin=assign(frozen=ON_BOTH_SIDES), twin_verdict=NOTHING,
    ),
    "no gradient, in numbers": Case(
        change=assign(missing=ON_BOTH_SIDES), key=BIAS, verdict=Verdict.VACUOUS, cause=of(CauseKind.NO_GRADIENT),
        twin=assign(frozen=ON_BOTH_SIDES), twin_verdict=NOTHING, judge=judged_numerically,
    ),
    "frozen on the ranks alone": Case(
        change=assign(frozen={0: {BIAS}, 1: {BIAS}}), key=BIAS, verdict=Verdict.WRONG, cause=of(CauseKind.FROZEN),
        twin=assign(frozen=ON_BOTH_SIDES), twin_verdict=NOTHING,
    ),
    "frozen on a rank, where no gradient reaches the one device's": Case(
        change=assign(frozen={1: {BIAS}}, missing={None: {BIAS}, 0: {BIAS}}), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.FROZEN),
        twin=assign(missing=ON_BOTH_SIDES), twin_verdict=Verdict.VACUOUS, twin_cause=of(CauseKind.NO_GRADIENT),
    ),
    "frozen on one device alone, with a gradient on the ranks": Case(
        change=assign(frozen={None: {BIAS}}), key=BIAS, verdict=Verdict.WRONG, cause=of(CauseKind.UNFROZEN),
        twin=assign(missing={None: {BIAS}}), twin_verdict=Verdict.WRONG, twin_cause=of(CauseKind.EXTRA_GRADIENT),
    ),
    "frozen on one device alone, without a gradient on the ranks": Case(
        change=assign(frozen={None: {BIAS}}, missing={0: {BIAS}, 1: {BIAS}}), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.UNFROZEN), twin=assign(frozen=ON_BOTH_SIDES), twin_verdict=NOTHING,
    ),
    "lost elements": Case(
        change=assign(start={"up.weight": [ROWS[:2], with_zeros(ROWS[2:], 1)]}), key=WEIGHT_BEFORE,
        verdict=Verdict.WRONG, cause=of(CauseKind.LOST, elements=3),
        twin=assign(start={"up.weight": [ROWS[:2], ROWS[2:]]}), twin_verdict=NOTHING,
    ),
    "the same shard on all ranks": Case(
        change=assign(start={"up.weight": [ROWS[:2], ROWS[:2]]}), key=WEIGHT_BEFORE, verdict=Verdict.WRONG,
        cause=of(CauseKind.SAME_SHARD, elements=6, axes=("tp",), mend=Mend.OWN_SHARD),
        twin=assign(start={"up.weight": [ROWS[:2], with_zeros(ROWS[2:], 1)]}), twin_verdict=Verdict.WRONG,
        twin_cause=of(CauseKind.LOST, elements=3),
    ),
    "shards at wrong offsets": Case(
        change=assign(start={"up.weight": [ROWS[:2], ROWS[1:3]]}), key=WEIGHT_BEFORE, verdict=Verdict.WRONG,
        cause=of(CauseKind.SHARD_OFFSETS, elements=3, dim=0, ranges=((0, 1), (1, 2)), mend=Mend.OFFSETS),
        twin=assign(start={"up.weight": [ROWS[:2], ROWS[2:]]}), twin_verdict=NOTHING,
    ),
    "zeros for elements": Case(
        change=assign(start={"down.bias": [THREE, with_zeros(THREE, 2)]}), key=BIAS_BEFORE, verdict=Verdict.WRONG,
        cause=of(CauseKind.ZEROED, ranks=(1,), elements=1),
        twin=assign(start={"down.bias": [THREE, THREE]}), twin_verdict=NOTHING,
    ),
    "held twice where no gradient reaches": Case(
        change=both(
            assign(start={"experts": [EACH[[0, 1, 1]], EACH[[2, 1, 2]]]}),
            change("change_both", EXPERTS, lambda values, _run: 0 * values),
        ),
        key=EXPERTS_BEFORE,
        verdict=Verdict.WRONG, cause=of(CauseKind.HELD_TWICE, ranks=(0, 1), elements=4),
        twin=assign(start={"experts": [EACH, EACH]}), twin_verdict=NOTHING,
    ),
    "unused elements out of place": Case(
        change=both(
            assign(start={"experts": [EACH, EACH[[0, 2, 1]]]}),
            change("change_both", EXPERTS, lambda values, _run: values * torch.tensor([1, 0, 0])[:, None, None]),
        ),
        key=EXPERTS_BEFORE,
        verdict=Verdict.WRONG, cause=of(CauseKind.OUT_OF_PLACE, ranks=(1,), elements=8),
        twin=both(
            assign(start={"experts": [EACH, EACH]}),
            change("change_both", EXPERTS, lambda values, _run: values * torch.tensor([1, 0, 0])[:, None, None]),
        ),
        twin_verdict=NOTHING,
    ),
    "padding used": Case(
        change=assign(start={"down.bias": [THREE, 0 * THREE]}), key=BIAS, verdict=Verdict.WRONG,
        cause=of(CauseKind.PADDING_USED, ranks=(1,), elements=3), roots={BIAS_BEFORE},
        twin=both(
            assign(start={"down.bias": [THREE, 0 * THREE]}, frozen={1: {BIAS}}),
            change("scale", NEW_BIAS, 0, ranks=(1,)),
        ),
    ),
    "padding updated, without a gradient": Case(
        change=assign(start={"down.bias": [THREE, 0 * THREE]}, frozen={1: {BIAS}}), key=NEW_BIAS,
        verdict=Verdict.WRONG, cause=of(CauseKind.PADDING_USED, ranks=(1,), elements=3),
        twin=both(
            assign(start={"down.bias": [THREE, 0 * THREE]}, frozen={1: {BIAS}}),
            change("scale", NEW_BIAS, 0, ranks=(1,)),
        ),
    ),
    "nothing split": Case(
        change=whole_everywhere, key=key(Phase.SHARDING, "tp"), verdict=Verdict.VACUOUS,
        cause=of(CauseKind.NOTHING_SPLIT, axes=("tp",)),
        twin=nothing, twin_verdict=NOTHING,
    ),
    "buffer gone": Case(
        change=change("drop", COUNT, ranks=(1,)), key=COUNT, verdict=Verdict.WRONG,
        cause=of(CauseKind.BUFFER_GONE, ranks=(1,)),
        twin=change("drop", COUNT, reference=True), twin_verdict=NOTHING,
    ),
    "missing gradient on one rank alone, where the others have it right": Case(
        change=assign(missing={1: {BIAS}}), key=BIAS, verdict=Verdict.WRONG, cause=of(CauseKind.MISSING_GRADIENT),
        twin=change("drop", BIAS, ranks=(1,)),  # not recorded, and yet all of it is on rank 0
    ),
    "extra gradient": Case(
        change=assign(missing={None: {BIAS}}), key=BIAS, verdict=Verdict.WRONG, cause=of(CauseKind.EXTRA_GRADIENT),
        twin=assign(missing=ON_BOTH_SIDES), twin_verdict=Verdict.VACUOUS, twin_cause=of(CauseKind.NO_GRADIENT),
    ),
    "not computed": Case(
        change=change("drop", LOSS), key=LOSS, verdict=Verdict.WRONG, cause=of(CauseKind.NOT_COMPUTED),
        twin=change("drop", LOSS, ranks=(1,)),
    ),
    "not covered": Case(
        change=change("drop", NEW_WEIGHT), key=NEW_WEIGHT, verdict=Verdict.WRONG, cause=of(CauseKind.NOT_COVERED),
        twin=change("drop", NEW_BIAS, ranks=(0,)), twin_key=NEW_BIAS,
    ),
    "covered in part, where that part is right": Case(
        change=change("drop", WEIGHT, ranks=(1,)), key=WEIGHT, verdict=Verdict.WRONG, cause=of(CauseKind.NOT_COVERED),
        twin=nothing,
    ),
    "not in the reference": Case(
        change=change("drop", NORM, ranks=(), reference=True), key=NORM, verdict=Verdict.WRONG,
        cause=of(CauseKind.NOT_IN_REFERENCE),
        twin=lambda draft: [
            held.update({EXTRA_OUTPUT: torch.ones(2)}) for rank in draft.ranks for held in rank.values()
        ],
        twin_key=EXTRA_OUTPUT, twin_verdict=NOTHING,
    ),
    "a buffer of the ranks alone, which is listed": Case(
        change=lambda draft: [held.update({EXTRA: torch.ones(2)}) for rank in draft.ranks for held in rank.values()],
        key=EXTRA, verdict=NOTHING,
        twin=both(
            change("drop", COUNT),
            lambda draft: [held.update({EXTRA: torch.ones(2)}) for rank in draft.ranks for held in rank.values()],
        ),
        twin_key=COUNT, twin_verdict=Verdict.WRONG, twin_cause=of(CauseKind.BUFFER_GONE, ranks=(0, 1)),
    ),
}  # fmt: skip

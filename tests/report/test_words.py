"""Every kind of cause and every mend has its words; they name the parameters that they need, and nothing else."""

from dataclasses import replace
from fractions import Fraction

import pytest

from shardproof.proving.cause import Cause, CauseKind, Mend, Part
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import CollectiveCall, Key, Phase
from shardproof.report.words import describe, describe_cause, describe_collective, describe_mend

GATHER = CollectiveCall(
    step=0, kind="Gather", ranks=(0, 2), shapes=((2, 3), (4,), (5,)), location="in up", placement="S(0) to R"
)
GATHERED = describe_collective(GATHER)


@pytest.mark.parametrize("kind", CauseKind)
def test_every_kind_has_words_without_a_full_stop(kind):
    told = describe_cause(Cause(kind=kind, factor=Fraction(2)))
    assert told
    assert "{" not in told
    assert not told.endswith(".")


def test_no_two_kinds_have_the_same_words():
    told = {describe_cause(Cause(kind=kind, factor=Fraction(2), ranks=(1,))) for kind in CauseKind}
    assert len(told) == len(CauseKind)


@pytest.mark.parametrize("mend", Mend)
def test_every_mend_is_a_sentence(mend):
    told = describe_mend(Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("dp", "tp"), mend=mend))
    assert told.endswith(".")
    assert "{" not in told


def test_without_a_mend_nothing_is_advised():
    assert describe_mend(Cause(kind=CauseKind.UNEXPLAINED)) == ""
    assert describe_mend(Cause(kind=CauseKind.SCALED, factor=Fraction(-1))) == ""


@pytest.mark.parametrize("kind", CauseKind)
def test_what_a_kind_alone_says_of_its_mend_is_a_sentence(kind):
    for factor in (Fraction(2), Fraction(1, 3)):
        told = describe_mend(Cause(kind=kind, factor=factor, ranks=(1,), parameter="head.weight", dtype="float32"))
        assert "{" not in told
        assert not told or told.endswith(".")


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (Cause(kind=CauseKind.SCALED, factor=Fraction(2)), "divide it by 2"),
        (Cause(kind=CauseKind.SCALED, factor=Fraction(1, 4)), "multiply it by 4"),
        (Cause(kind=CauseKind.NORM_COUNTS_PARAMETER, parameter="head.weight"), "Count head.weight once."),
        (Cause(kind=CauseKind.REPLICAS_DIFFER, ranks=(1, 3)), "on ranks 1, 3 as on the others"),
        (Cause(kind=CauseKind.LOWER_DTYPE_COLLECTIVE, dtype="float32"), "Communicate in float32"),
    ],
)
def test_the_mend_names_what_it_needs(cause, told):
    assert told in describe_mend(cause)


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"factor": Fraction(2)}, "2 times too large"),
        ({"factor": Fraction(3, 2)}, "3/2 times too large"),
        ({"factor": Fraction(1, 2)}, "2 times too small"),
        ({"factor": Fraction(2, 3)}, "3/2 times too small"),
        ({"factor": Fraction(-2)}, "-2 times what it should be"),
        ({"factor": Fraction(2), "approximate": True}, "about 2 times too large"),
    ],
)
def test_a_factor_is_above_or_below_one(parameters, told):
    assert describe_cause(Cause(kind=CauseKind.SCALED, **parameters)) == told


@pytest.mark.parametrize(
    ("mesh", "told"),
    [
        ({"tp": 2}, "ranks hold partial values whose sum is right: an all-reduce is missing"),
        ({"dp": 1, "tp": 2}, "ranks hold partial values whose sum is right: an all-reduce is missing"),
        ({"dp": 2, "tp": 2}, "ranks hold partial values whose sum over tp is right: an all-reduce is missing"),
        (None, "ranks hold partial values whose sum over tp is right: an all-reduce is missing"),
    ],
)
def test_an_axis_is_named_where_there_are_several(mesh, told):
    cause = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
    assert describe_cause(cause, mesh=mesh) == told
    assert describe_mend(cause) == "An all-reduce of the gradient over tp is missing in the backward."


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (
            Cause(kind=CauseKind.MISSING_AVERAGE, axes=("dp", "cp"), approximate=True),
            "ranks hold values of their own whose mean over dp and cp is about right: an average is missing",
        ),
        (
            Cause(kind=CauseKind.NO_NUMBERS_IN_REFERENCE, dtype="float16"),
            "in float16 one device computes NaN or infinity here, so that no numbers could be compared with it",
        ),
        (
            Cause(
                kind=CauseKind.LOWER_DTYPE_COLLECTIVE,
                dtype="float32",
                native_collective=replace(GATHER, dtype="float16"),
            ),
            f"proved in exact arithmetic, and not what float32 computes: float16 is communicated, by {GATHERED}",
        ),
        (
            Cause(kind=CauseKind.REPLICAS_DIFFER, ranks=(1,)),
            "replicas differ: rank 1 is wrong, the others right",
        ),
        (
            Cause(kind=CauseKind.REPLICAS_DIFFER, ranks=(1, 3)),
            "replicas differ: ranks 1, 3 are wrong, the others right",
        ),
        (
            Cause(kind=CauseKind.SHARD_ORDER, ranks=(1, 0)),
            "shards in another order: ranks hold the shards of 1, 0",
        ),
        (
            Cause(kind=CauseKind.PARTS_WITH_BIAS, axes=("tp",)),
            (
                "ranks hold partial values whose sum over tp is right but for the same vector at every position: "
                "each rank adds the bias before they are summed up, or they never are"
            ),
        ),
        (
            Cause(kind=CauseKind.FEW_VECTORS_OFF, elements=4),
            (
                "off by one of 4 vectors at every position: what a rank looks up in place of other ranks' rows "
                "is not masked"
            ),
        ),
        (
            Cause(kind=CauseKind.ZERO_IN_PART, ranks=(1,), elements=6, dim=0, indices=(2,)),
            "6 elements differ, all at index 2 of dim 0, on rank 1: zero there, and not on one device",
        ),
        (
            Cause(kind=CauseKind.UNEXPLAINED, ranks=(1,), elements=6, dim=0, indices=(2,), largest=0.125),
            "6 elements differ, all at index 2 of dim 0, on rank 1, at most 0.12 off; no known relation explains it",
        ),
        (
            Cause(kind=CauseKind.UNEXPLAINED, ranks=(0, 1), elements=1),
            "1 element differs on ranks 0, 1; no known relation explains it",
        ),
        (
            Cause(kind=CauseKind.FUSED_CUT, parameter="qkv.weight", ranks=(1,), ranges=((0, 7), (8, 11), (12, 12))),
            (
                "rows 0 to 7, 8 to 11 and 12 of qkv.weight are projections of their own, and it is cut as one: "
                "rank 1 lacks rows of the features computed there"
            ),
        ),
        (
            Cause(kind=CauseKind.OFF_BY_CONSTANT, factor=Fraction(4)),
            "off by a constant, the logarithm of 4: every gradient of the step is right",
        ),
        (Cause(kind=CauseKind.NORM_OF_PART), "each rank's own norm: the squares are not summed over all ranks"),
        (
            Cause(kind=CauseKind.NORM_OF_PART, axes=("tp",)),
            "the norm over tp alone: the squares are not summed over all ranks",
        ),
        (
            Cause(kind=CauseKind.NORM_COUNTS_PARAMETER, parameter="head.weight", factor=Fraction(2)),
            "the norm counts head.weight 2 times",
        ),
        (Cause(kind=CauseKind.MISSHAPEN, shapes=((2, 3), (3, 2))), "of shape (2, 3) instead of (3, 2)"),
        (
            Cause(kind=CauseKind.NEVER_REACHED, parts=(Part(rank=1), Part(rank=0, index=2))),
            "zero in every run on rank 1, slice 2 of rank 0: nothing in the batch reaches it",
        ),
        (
            Cause(kind=CauseKind.NEVER_REACHED, parts=tuple(Part(rank=rank) for rank in range(6))),
            "zero in every run on rank 0, rank 1, rank 2, rank 3 and 2 more: nothing in the batch reaches it",
        ),
        (
            Cause(kind=CauseKind.COLLECTIVES_DIVERGE, dtype="bfloat16", native_collective=GATHER),
            "in exact arithmetic none; in bfloat16 Gather of [2, 3] and [4] over ranks 0, 2, S(0) to R, in up",
        ),
        (
            Cause(kind=CauseKind.MASK_TOO_SMALL, elements=24),
            "only 24 elements, of which two masks may agree by chance",
        ),
        (
            Cause(kind=CauseKind.ONLY_IN_NATIVE_DTYPE, dtype="float16"),
            (
                "proved in exact arithmetic, and not what float16 computes: a path that only float16 takes, "
                "or a choice that rounding turns"
            ),
        ),
    ],
)
def test_the_words_name_the_parameters(cause, told):
    assert describe_cause(cause) == told


def test_a_finding_is_one_line():
    cause = Cause(kind=CauseKind.SCALED, factor=Fraction(2))
    finding = Finding(key=Key(0, Phase.GRADIENT, "0.weight"), verdict=Verdict.WRONG, cause=cause)
    assert describe(finding) == "step 1, gradient 0.weight WRONG - 2 times too large"
    right = Finding(key=Key(1, Phase.UPDATE, "0.weight", 1), verdict=Verdict.PROVED)
    assert describe(right) == "step 2, updated parameter 0.weight (call 2) PROVED"

"""Two sequences of collectives: where they diverge first on any rank, and what is said of it."""

import pytest

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.collectives import conclude_divergence, find_divergence, find_lower_dtype
from shardproof.proving.records import CollectiveCall, Key, Phase, Records


def collective(*, kind="AllReduce SUM", shapes=((2, 3),), ranks=(0, 1), location="in up", step=0, **others):
    return CollectiveCall(step=step, location=location, kind=kind, ranks=ranks, shapes=shapes, **others)


def divergence_of(exact, native):
    return find_divergence([Records(collectives=exact)], [Records(collectives=native)])


@pytest.mark.parametrize(
    ("change", "only_shapes"),
    [
        ({"kind": "AllReduce MAX"}, False),
        ({"ranks": (0, 2)}, False),
        ({"location": "in down"}, False),
        ({"step": 1}, False),
        ({"placement": "P(sum) to R"}, False),
        ({"shapes": ((2, 4),)}, True),
    ],
)
def test_any_difference_is_one_and_a_shape_alone_may_depend_on_values(change, only_shapes):
    divergence = divergence_of([collective(), collective()], [collective(), collective(**change)])
    assert divergence.only_shapes is only_shapes
    assert divergence_of([collective()], [collective()]) is None


def test_the_earliest_divergence_of_any_rank_is_told():
    same, other = collective(), collective(kind="Broadcast")
    exact = [Records(collectives=[same, same]) for _ in range(2)]
    native = [Records(collectives=one) for one in ([same], [other, same])]
    divergence = find_divergence(exact, native)
    assert (divergence.exact, divergence.native, divergence.ranks) == (same, other, (0, 1))


@pytest.mark.parametrize("kind", ["AllReduce AVG", "AllReduce PREMUL_SUM"])
def test_an_average_by_a_sum_and_a_division_is_the_same(kind):
    assert divergence_of([collective(kind=kind)], [collective()]) is None
    assert divergence_of([collective(kind=kind)], [collective(kind="AllReduce MAX")]) is not None


def test_a_sequence_that_ends_early_diverges_at_its_end():
    divergence = divergence_of([collective()], [collective(), collective(location="in down", step=1)])
    assert (divergence.exact, divergence.only_shapes) == (None, False)
    finding = conclude_divergence(divergence, "bfloat16")
    assert (finding.key, finding.verdict, finding.ranks) == (Key(1, Phase.COLLECTIVES, "in down"), Verdict.WRONG, (0,))
    assert finding.cause == Cause(
        kind=CauseKind.COLLECTIVES_DIVERGE, native_collective=divergence.native, dtype="bfloat16"
    )


def test_shapes_alone_are_undecided():
    divergence = divergence_of([collective()], [collective(shapes=((2, 4),))])
    assert conclude_divergence(divergence, "float32").verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("dtype", "model", "lower"),
    [
        ("bfloat16", "float32", True),
        ("float16", "float32", True),
        ("float32", "float64", True),
        ("bfloat16", "float16", True),
        ("float16", "bfloat16", False),
        ("bfloat16", "bfloat16 and float32", False),
        ("float32", "float32", False),
        ("float64", "float32", False),
        ("int64", "float32", False),
        ("bool", "float32", False),
        ("", "float32", False),
    ],
)
def test_a_collective_in_a_lower_dtype_than_any_of_the_model_is_found(dtype, model, lower):
    right, suspect = collective(dtype=model.partition(" ")[0]), collective(dtype=dtype)
    native = [Records(collectives=[right]), Records(collectives=[right, suspect])]
    assert find_lower_dtype(native, model) is (suspect if lower else None)


def test_a_dtype_is_no_divergence_as_exact_arithmetic_has_but_one():
    assert divergence_of([collective(dtype="float64")], [collective(dtype="bfloat16")]) is None

"""Two sequences of collectives: where they diverge, and what is said of it."""

import pytest

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.collectives import conclude_divergences, find_divergences, find_lower_dtype
from shardproof.proving.records import CollectiveCall, Key, Phase, Records


def collective(*, kind="AllReduce SUM", shapes=((2, 3),), ranks=(0, 1), location="in up", step=0, **others):
    return CollectiveCall(step=step, location=location, kind=kind, ranks=ranks, shapes=shapes, **others)


def diverge(exact, native):
    """The divergences on one rank."""
    return find_divergences([Records(collectives=exact)], [Records(collectives=native)])


def sides(divergences):
    return [(one.exact, one.native) for one in divergences]


@pytest.mark.parametrize(
    ("change", "only_shapes"),
    [
        ({"kind": "AllReduce MAX"}, [False]),
        ({"kind": "Broadcast"}, [False]),
        ({"dtype": "int64"}, [False]),
        ({"dtype": "complex64"}, [False]),
        ({"dtype": "tensor"}, [False]),  # of PyTorch's names, and no dtype
        ({"ranks": (0, 2)}, [False, False]),
        ({"step": 1}, [False, False]),
        ({"shapes": ((2, 4),)}, [True]),
    ],
)
def test_kind_reduction_dtype_ranks_step_and_shapes_are_compared(change, only_shapes):
    divergences = diverge([collective(), collective()], [collective(), collective(**change)])
    assert [one.only_shapes for one in divergences] == only_shapes


@pytest.mark.parametrize("change", [{"location": "in down"}, {"placement": "P(sum) to R"}, {"dtype": "bfloat16"}])
def test_where_it_is_called_and_which_floating_dtype_it_has_is_not(change):
    assert diverge([collective(dtype="float64"), collective()], [collective(), collective(**change)]) == []


def test_which_complex_dtype_it_has_is_not_compared_either():
    assert diverge([collective(dtype="complex128")], [collective(dtype="complex64")]) == []


def test_the_order_of_hooks_is_no_divergence_and_a_call_in_the_place_of_another_is():
    first, second, third = collective(), collective(shapes=((4,),)), collective(kind="Broadcast")
    assert diverge([first, second, third], [second, third, first]) == []
    assert sides(diverge([first, second, third], [second, third, second])) == [(first, second)]


def test_one_collective_that_is_inserted_is_one_divergence():
    calls = [collective(shapes=((rows, 3),)) for rows in (1, 2, 3, 4)]
    extra = collective(kind="Gather", location="in head")
    assert sides(diverge(calls, [calls[0], extra, *calls[1:]])) == [(None, extra)]
    assert sides(diverge([calls[0], extra, *calls[1:]], calls)) == [(extra, None)]
    assert sides(diverge(calls, [*calls, calls[0]])) == [(None, calls[0])]


def test_the_one_that_is_inserted_in_a_long_sequence_is_found_where_it_is():
    kinds = ("AllReduce SUM", "Broadcast", "Gather")
    calls = [collective(kind=kinds[number % 3], location=f"in {number}") for number in range(300)]
    extra = collective(kind=kinds[1], location="in the middle")
    assert sides(diverge(calls, [*calls[:150], extra, *calls[150:]])) == [(None, extra)]


def test_divergences_of_all_ranks_are_in_the_order_of_the_steps():
    early, late = collective(step=1), collective(step=2)
    divergences = find_divergences([Records()] * 2, [Records(collectives=[one]) for one in (late, early)])
    assert sides(divergences) == [(None, early), (None, late)]


def test_all_divergences_are_told_and_those_of_several_ranks_as_one():
    same, extra, other = collective(), collective(kind="Gather", step=1), collective(kind="Broadcast", step=2)
    exact = [Records(collectives=[same]) for _ in range(3)]
    native = [Records(collectives=one) for one in ([same, extra, other], [same, extra], [same, extra])]
    divergences = find_divergences(exact, native)
    assert [(one.native, one.ranks) for one in divergences] == [(extra, (0, 1, 2)), (other, (0,))]


def test_two_groups_of_ranks_that_insert_the_same_are_one_divergence():
    extra = [collective(ranks=(0, 1)), collective(ranks=(2, 3))]
    native = [Records(collectives=[extra[rank // 2]]) for rank in range(4)]
    divergences = find_divergences([Records()] * 4, native)
    assert [(one.native, one.ranks) for one in divergences] == [(extra[0], (0, 1, 2, 3))]


def exchange(own, others, **settings):
    """Rows of 6 features, to other ranks and from them."""
    return collective(kind="AllToAllBase", shapes=((own, 6), (others, 6)), **settings)


def on_two_ranks(first, second):
    return [Records(collectives=calls) for calls in (first, second)]


def test_rows_that_a_routing_sends_elsewhere_are_no_divergence():
    exact = on_two_ranks([exchange(5, 8), exchange(8, 5)], [exchange(11, 8), exchange(8, 11)])
    native = on_two_ranks([exchange(9, 8), exchange(8, 9)], [exchange(7, 8), exchange(8, 7)])
    assert find_divergences(exact, native) == []


@pytest.mark.parametrize(
    "second",
    [
        [exchange(8, 8), exchange(8, 7)],  # a row more than there are
        [exchange(7, 8)],  # one exchange less
        [exchange(7, 8), collective(kind="AllToAllBase", shapes=((8, 5), (7, 5)))],  # a feature less
    ],
)
def test_rows_that_are_lost_or_of_other_features_are_divergences(second):
    exact = on_two_ranks([exchange(5, 8), exchange(8, 5)], [exchange(11, 8), exchange(8, 11)])
    native = on_two_ranks([exchange(9, 8), exchange(8, 9)], second)
    assert find_divergences(exact, native)


@pytest.mark.parametrize(
    ("exact", "native"),
    [
        ([[(5, 6), (8, 4)]], [[(6, 6), (7, 4)]]),  # of other features
        ([[(5, 6)], [(5, 6)]], [[(6, 6)], [(4, 6)]]),  # of another step
        ([[()]], [[(1,)]]),  # a scalar has no rows
        ([[(1,)]], [[()]]),
    ],
)
def test_rows_are_not_made_up_for_by_others(exact, native):
    """The calls' shapes, by step."""
    runs = [
        [Records(collectives=[collective(shapes=tuple(shapes), step=step) for step, shapes in enumerate(steps)])]
        for steps in (exact, native)
    ]
    assert [one.only_shapes for one in find_divergences(*runs)] == [True] * len(exact)


def buckets(*sizes, **others):
    return [collective(shapes=((size,),), **others) for size in sizes]


def test_buckets_that_are_filled_otherwise_are_no_divergence():
    assert diverge(buckets(18, 4, 9), buckets(11, 7, 13)) == []
    assert diverge(buckets(18, 4, 9), buckets(22, 9)) == []
    assert diverge([collective(), *buckets(3, 5)], [collective(), *buckets(8)]) == []


def told(length, **others):
    """The integers by which rank 0 tells the sizes of its buckets."""
    return collective(**{"kind": "Broadcast", "shapes": ((length,),), "dtype": "int32"} | others)


def test_so_is_what_tells_their_sizes():
    exact, native = buckets(18, 4, 9, dtype="float64"), buckets(22, 9, dtype="float32")
    assert diverge([told(9), *exact], [told(8), *native]) == []
    assert diverge([told(9), *exact], [told(7), *native])
    assert diverge([told(9), *exact], [told(8, dtype="float32"), *native])
    assert diverge([told(9), *exact], [told(8, shapes=((8, 1),)), *native])
    assert diverge([told(9)], [told(8)])  # no buckets


@pytest.mark.parametrize(
    "native",
    [
        buckets(18, 3),  # one element is not handed over
        [*buckets(18), collective(shapes=((2, 2),))],  # no bucket
        buckets(18, 4, kind="Broadcast"),
        buckets(18, 4, ranks=(0, 2)),
        buckets(18, 4, step=1),
        [],
    ],
)
def test_a_bucket_with_another_number_of_elements_or_of_another_kind_is_one(native):
    assert diverge(buckets(11, 11), native)


@pytest.mark.parametrize(
    ("kind", "after_choices", "shapes", "told"),
    [
        ("AllToAllBase", True, ((5, 3), (4, 3)), 0),
        ("all_to_all_single", True, ((5, 3), (4, 3)), 0),
        ("AllToAllBase", False, ((5, 3), (4, 3)), 1),
        ("AllGather", True, ((5, 3), (4, 3)), 1),
        ("AllToAllBase", True, ((5, 4), (4, 4)), 1),
    ],
)
def test_rows_that_a_routing_drops_are_no_divergence(kind, after_choices, shapes, told):
    """Experts that have room for so many tokens keep other numbers of them in each run."""
    exact = [collective(kind=kind, shapes=shapes, after_choices=after_choices)]
    assert len(diverge(exact, [collective(kind=kind, shapes=((7, 3), (3, 3)))])) == told


def test_a_divergence_beside_a_routing_is_told():
    extra = collective(kind="Broadcast")
    exact = on_two_ranks([exchange(5, 8)], [exchange(11, 8)])
    native = on_two_ranks([exchange(9, 8), extra], [exchange(7, 8), extra])
    assert sides(find_divergences(exact, native)) == [(None, extra)]


@pytest.mark.parametrize("kind", ["AllReduce AVG", "AllReduce PREMUL_SUM"])
def test_an_average_by_a_sum_and_a_division_is_the_same(kind):
    assert diverge([collective(kind=kind)], [collective()]) == []
    assert diverge([collective(kind=kind)], [collective(kind="AllReduce MAX")]) != []


def test_each_divergence_is_a_finding_of_its_own():
    extra, shape = collective(location="in down", step=1), collective(shapes=((2, 4),))
    divergences = diverge([collective()], [shape, extra, extra])
    findings = conclude_divergences(divergences, "bfloat16")
    assert [(one.key, one.verdict, one.ranks) for one in findings] == [
        (Key(0, Phase.COLLECTIVES, "in up"), Verdict.UNDECIDED, (0,)),
        (Key(1, Phase.COLLECTIVES, "in down"), Verdict.WRONG, (0,)),
        (Key(1, Phase.COLLECTIVES, "in down", 1), Verdict.WRONG, (0,)),
    ]
    assert findings[1].cause == Cause(kind=CauseKind.COLLECTIVES_DIVERGE, native_collective=extra, dtype="bfloat16")


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
        ("tensor", "float32", False),
        ("", "float32", False),
    ],
)
def test_a_collective_in_a_lower_dtype_than_any_of_the_model_is_found(dtype, model, lower):
    right, suspect = collective(dtype=model.partition(" ")[0]), collective(dtype=dtype)
    native = [Records(collectives=[right]), Records(collectives=[right, suspect])]
    assert find_lower_dtype(native, model) is (suspect if lower else None)

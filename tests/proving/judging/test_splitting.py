"""What the ranks share out: parameters or activations; an axis where they share out nothing is a finding."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import Sharding, Verdict
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.splitting import describe_sharding, judge_splitting
from shardproof.proving.records import CollectiveCall, Key, Phase, Recorded, Records

W = torch.arange(1.0, 13.0, dtype=torch.float64).view(6, 2)
B = torch.tensor([20.0, 21.0, 22.0], dtype=torch.float64)
PAIR = Axes(sizes={"tp": 2})
SQUARE = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))
OUTPUT = Key(0, Phase.OUTPUT, "m")


def make_layout(w, b):
    held = {"w": dict(enumerate(w)), "b": dict(enumerate(b))}
    return find_layout(
        {"w": W, "b": B},
        {name: {rank: one for rank, one in ranks.items() if one is not None} for name, ranks in held.items()},
    )


def records(*values, collectives=()):
    return [
        Records(
            tensors={} if one is None else {OUTPUT: Recorded(stored=torch.tensor(one))}, collectives=list(collectives)
        )
        for one in values
    ]


WHOLE = make_layout([W, W], [B, B])
HALVES = make_layout([W[:3], W[3:]], [B, B])
ON_ONE_RANK = make_layout([W, W], [B, None])
BIAS_ON_ONE = make_layout([W, W], [B, 0 * B])
BIAS_ON_THE_OTHER = make_layout([W, W], [0 * B, B])
UNEVEN = make_layout([W[:4], W[4:]], [B, B])
ROW_ON_ONE = make_layout([W, torch.cat([W[:5], 0 * W[:1]])], [B, B])


def described(layout, ranks, axes=PAIR, **settings):
    return describe_sharding(layout, axes, ranks, **settings)


@pytest.mark.parametrize(("layout", "split"), [(WHOLE, 0), (HALVES, 1), (BIAS_ON_ONE, 1)])
def test_a_parameter_is_split_if_it_is_not_whole_on_every_rank(layout, split):
    sharding = described(layout, records([1, 2], [3, 4]), unmatched=["a.*"])
    assert sharding == Sharding(parameters=2, split=split, unmatched=("a.*",))


@pytest.mark.parametrize(
    ("layout", "ranks", "idle"),
    [
        (WHOLE, records([1, 2], [1, 2]), True),
        (WHOLE, records([1, 2], [3, 4]), False),  # each rank has rows of its own
        (WHOLE, records([1.0, torch.nan], [1.0, torch.nan]), True),
        (WHOLE, records([1, 2], [1]), False),
        (WHOLE, records([1, 2], None), False),
        (WHOLE, records(None, None), True),
        (HALVES, records([1, 2], [1, 2]), False),
        (ON_ONE_RANK, records([1, 2], [1, 2]), False),
        (UNEVEN, records([1, 2], [1, 2]), False),
        (BIAS_ON_ONE, records([1, 2], [1, 2]), True),
        (BIAS_ON_THE_OTHER, records([1, 2], [1, 2]), True),
        (ROW_ON_ONE, records([1, 2], [1, 2]), True),
        (BIAS_ON_ONE, records([1, 2], [3, 2]), False),
    ],
)
def test_an_axis_is_idle_if_nothing_differs_along_it(layout, ranks, idle):
    assert described(layout, ranks).idle == (("tp",) if idle else ())


@pytest.mark.parametrize(
    ("change", "idle"),
    [
        ({}, False),
        ({"kind": "allgather_into_tensor_"}, False),
        ({"kind": "Send", "ranks": (1, 0)}, False),
        ({"kind": "AllReduce SUM"}, True),
        ({"kind": "broadcast_"}, True),
        ({"shapes": ((), (2,))}, True),  # one number of each rank, as for a log
        ({"shapes": ((1,), (2,))}, True),
        ({"shapes": ((1,), (1, 3))}, False),
        ({"shapes": ()}, True),
        ({"ranks": (0, 1, 2, 3), "shapes": ((2,), (8,))}, False),
        ({"ranks": (0, 1, 2, 3), "shapes": ((1,), (4,))}, True),
        ({"ranks": (1,)}, True),
        ({"dtype": "int64"}, True),
        ({"ranks": (0, 2)}, True),
    ],
)
def test_ranks_that_send_each_other_parts_of_tensors_share_work_out(change, idle):
    call = CollectiveCall(
        **{"step": 0, "location": "", "kind": "AllGather", "ranks": (0, 1), "shapes": ((3,), (6,)), "dtype": "float64"}
        | change
    )
    assert described(WHOLE, records([1, 2], [1, 2], collectives=[call])).idle == (("tp",) if idle else ())


def test_each_axis_counts_for_itself_and_along_a_data_axis_the_prover_splits_the_batch():
    fully = make_layout([W[:3], W[:3], W[3:], W[3:]], [B] * 4)  # over dp alone
    same = records(*[[1, 2]] * 4)
    assert described(fully, same, SQUARE).idle == ("tp",)
    assert described(make_layout([W] * 4, [B] * 4), same, SQUARE).idle == ("tp",)
    assert described(make_layout([W] * 4, [B] * 4), same, SQUARE, own_training=True).idle == ("dp", "tp")
    assert described(make_layout([W[:3], W[3:]] * 2, [B] * 4), same, SQUARE).idle == ()
    by_rows = records([1, 2], [3, 4], [1, 2], [3, 4])  # along tp
    assert described(make_layout([W] * 4, [B] * 4), by_rows, SQUARE).idle == ()


def test_a_call_of_one_rank_alone_is_of_both():
    call = CollectiveCall(step=0, location="", kind="AllGather", ranks=(0, 1), shapes=((3,), (6,)), dtype="float64")
    for calling in ([1, 2], [2, 1]):
        ranks = [records([1, 2], collectives=[call] * (one - 1))[0] for one in calling]
        assert described(WHOLE, ranks).idle == ()


def test_stages_that_hold_other_parameters_are_not_split_along_the_other_axis():
    stages = Axes(sizes={"pp": 2, "tp": 2})
    same = records(*[[1, 2]] * 4)
    found = described(make_layout([W, W, None, None], [None, None, B, B]), same, stages)
    assert (found.idle, found.split) == (("tp",), 2)
    assert described(make_layout([W, W, None, None], [None, None, None, B]), same, stages).idle == ()


@pytest.mark.parametrize(
    ("held", "split"),
    [
        ({"upper": W[:3], "lower": W[3:], "b": B}, 0),
        ({"upper": W[:3], "lower": W[4:], "b": B}, 1),
        ({"w": W[[0, 0, 1, 2, 3, 4]], "b": B}, 1),  # as many elements, one row twice
        ({"wb": torch.cat([W.reshape(-1), B])}, 0),
        ({"wb": torch.cat([W.reshape(-1)[:-1], B])}, 1),
        ({"wb": torch.cat([W.reshape(-1), B[1:]])}, 1),
        ({"w": W}, 1),
    ],
)
def test_different_elements_are_counted_whichever_parameters_hold_them(held, split):
    layout = find_layout({"w": W, "b": B}, {name: dict.fromkeys((0, 1), one) for name, one in held.items()})
    assert described(layout, records([1, 2], [1, 2])).split == split


def test_an_axis_of_one_rank_is_not_idle():
    assert described(WHOLE, records([1, 2], [1, 2]), Axes(sizes={"pp": 1, "tp": 2})).idle == ("tp",)


@pytest.mark.parametrize(
    ("sizes", "idle", "unmatched", "names"),
    [
        ({"tp": 2}, ["tp"], (), ["tp"]),
        ({"tp": 2}, [], ("up.*",), []),
        ({"pp": 1, "tp": 2}, ["tp"], (), ["tp"]),
        ({"rep": 2, "tp": 2}, ["rep", "tp"], (), ["rep", "tp"]),
        ({"rep": 2, "tp": 2}, ["rep"], (), []),  # replicas alone
        ({"rep": 2, "tp": 2}, ["rep"], ("experts.*",), []),
        ({"dp": 2, "tp": 2}, ["tp"], (), []),
        ({"dp": 2, "tp": 2}, ["tp"], ("up.*",), ["tp"]),
        ({"dp": 2, "tp": 2}, ["dp", "tp"], (), ["dp", "tp"]),  # a training that splits no batch
        ({"dp": 2}, [], ("up.*",), []),
    ],
)
def test_where_nothing_is_split_at_all_or_by_the_plan_idle_axes_are_findings(sizes, idle, unmatched, names):
    axes = Axes(sizes=sizes, data=tuple(name for name in sizes if name == "dp"))
    sharding = Sharding(parameters=2, split=0, idle=tuple(idle), unmatched=unmatched)
    findings = judge_splitting(sharding, axes)
    assert [one.key for one in findings] == [Key(0, Phase.SHARDING, name) for name in names]
    for one in findings:
        assert one.verdict is Verdict.VACUOUS
        assert one.cause == Cause(kind=CauseKind.NOTHING_SPLIT, axes=(one.key.name,), entries=unmatched)
        assert one.root

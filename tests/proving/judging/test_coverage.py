"""Every element is held, by replicas alike and by shards once; a zero is padding where there is no element."""

from itertools import combinations
from types import MappingProxyType

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.judging import coverage
from shardproof.proving.judging.coverage import judge_coverage
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.records import Key, Phase

W = torch.arange(1.0, 13.0, dtype=torch.float64).view(6, 2)
B = torch.tensor([20.0, 21.0, 22.0], dtype=torch.float64)
ZEROS = torch.zeros(3, 2, dtype=torch.float64)
PAIR = Axes(sizes={"tp": 2})
FOUR = Axes(sizes={"tp": 4})
EIGHT = Axes(sizes={"dp": 2, "tp": 4}, data=("dp",))
SQUARE = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))
EMPTY = B[:0]


def pad(values, rows):
    return torch.cat([values, ZEROS[: rows - len(values)].reshape(rows - len(values), *values.shape[1:])])


def judged(full, candidate, axes, frozen=(), reached=MappingProxyType({})):
    layout = find_layout(full, {name: dict(enumerate(ranks)) for name, ranks in candidate.items()})
    return {finding.key.name: finding.cause for finding in judge_coverage(layout, axes, frozen, reached)}


RIGHT = {
    "halves": ({"w": [W[:3], W[3:]]}, PAIR),
    "columns": ({"w": [W[:, :1], W[:, 1:]]}, PAIR),
    "replicas": ({"w": [W, W]}, PAIR),
    "uneven": ({"w": [W[:4], W[4:]]}, PAIR),
    "padded": ({"w": [W[:4], pad(W[4:], 4)]}, PAIR),
    "a rank of padding alone": ({"w": [W[:2], W[2:4], W[4:], ZEROS[:2]]}, FOUR),
    "a rank of padding alone, in both replicas": ({"w": [W[:2], W[2:4], W[4:], ZEROS[:2]] * 2}, EIGHT),
    "nothing on one rank": ({"w": [W, W[:0]]}, PAIR),
    "replicas of halves": ({"w": [W[:3], W[3:], W[:3], W[3:]]}, SQUARE),
    "quarters": ({"w": [W[:2], W[3:5], W[2:3], W[5:]]}, SQUARE),
    "replicas side by side": ({"w": [W[:3], W[:3], W[3:], W[3:]]}, FOUR),
    "more replicas of the last": ({"w": [W[:2], W[2:4], W[4:], W[4:]]}, FOUR),
    "in another order": ({"w": [W[[4, 2, 0]], W[[1, 3, 5]]]}, PAIR),
    "in two tensors": ({"upper": [W[:3], W[:3]], "lower": [W[3:], W[3:]]}, PAIR),
    "flat": ({"wb": [torch.cat([W.reshape(-1), B])[part] for part in (slice(8), slice(8, None))]}, PAIR),
    "fused": ({"wb": [torch.cat([W[:3].reshape(-1), B]), torch.cat([W[3:].reshape(-1), B])]}, PAIR),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_shardings_are_covered(name):
    candidate, axes = RIGHT[name]
    full = {"w": W, "b": B} if "wb" in candidate else {"w": W}
    assert judged(full, candidate, axes) == {}


WRONG = {
    "a lost row": ({"w": [W[:3], pad(W[3:5], 3)]}, PAIR, CauseKind.LOST, (), 2),
    "a lost row that leaves no zero": ({"w": [W[:3], W[3:5]]}, PAIR, CauseKind.LOST, (), 2),
    "a lost column": ({"w": [W[:, :1], ZEROS[:1].new_zeros(6, 1)]}, PAIR, CauseKind.LOST, (), 6),
    "zeros everywhere": ({"w": [0 * W, 0 * W]}, PAIR, CauseKind.ZEROED, (0, 1), 12),
    "zeros in both halves": ({"w": [ZEROS, ZEROS]}, PAIR, CauseKind.LOST, (), 12),
    "a lost row beside a replica of zeros": ({"w": [pad(W[:5], 6), 0 * W]}, PAIR, CauseKind.LOST, (), 2),
    "one replica is zeros": ({"w": [W, 0 * W]}, PAIR, CauseKind.ZEROED, (1,), 12),
    "a row of one replica is zeros": ({"w": [pad(W[:5], 6), W]}, PAIR, CauseKind.ZEROED, (0,), 2),
    "a row is held twice": ({"w": [W[:4], W[3:]]}, PAIR, CauseKind.HELD_TWICE, (0, 1), 2),
    "a row is held twice on one rank": ({"w": [W[[0, 1, 1]], W[2:]]}, PAIR, CauseKind.HELD_TWICE, (0,), 2),
    "the first row is held twice on one rank": ({"w": [W[[0, 0, 1]], W[2:]]}, PAIR, CauseKind.HELD_TWICE, (0,), 2),
    "a row is held three times on one rank": ({"w": [W[[0, 1, 1, 1]], W[2:]]}, PAIR, CauseKind.HELD_TWICE, (0,), 4),
    "a row is lost on one axis": (
        {"w": [W[:3], W[3:], W[:3], pad(W[3:5], 3)]}, SQUARE, CauseKind.ZEROED, (3,), 2,
    ),
    "a shard is lost on one axis": ({"w": [W[:3], W[3:], W[:3], ZEROS]}, SQUARE, CauseKind.ZEROED, (3,), 6),
    "a shard is lost on the second axis": (
        {"w": [W[:3], W[:3], W[3:], ZEROS]}, Axes(sizes={"tp": 2, "dp": 2}, data=("dp",)), CauseKind.ZEROED, (3,), 6,
    ),
    "all shards are lost on one axis": ({"w": [W[:3], W[3:], ZEROS, ZEROS]}, SQUARE, CauseKind.ZEROED, (2, 3), 6),
}  # fmt: skip


SAME = {"kind": CauseKind.SAME_SHARD, "mend": Mend.OWN_SHARD}
OFFSETS = {"kind": CauseKind.SHARD_OFFSETS, "mend": Mend.OFFSETS, "dim": 0}
SHARDS = {
    "the first half on both ranks": ([W[:3], W[:3]], PAIR, Cause(**SAME, axes=("tp",), elements=6)),
    "the second column on both ranks": ([W[:, 1:]] * 2, PAIR, Cause(**SAME, axes=("tp",), elements=6)),
    "rounded up": ([W[2:4]] * 4, FOUR, Cause(**SAME, axes=("tp",), elements=8)),
    "along one of two axes": ([W[:3], W[:3], W[3:], W[3:]], SQUARE, None),
    "along one axis, replicas along the other": ([W[:3]] * 4, SQUARE, Cause(**SAME, axes=("tp",), elements=6)),
    "more than a half": ([W[:4], W[:4]], PAIR, Cause(kind=CauseKind.LOST, elements=4)),
    "less than a half": ([W[:2], W[:2]], PAIR, Cause(kind=CauseKind.LOST, elements=8)),
    "another half in part": ([W[:3], W[1:4]], PAIR, Cause(**OFFSETS, ranges=((0, 2), (1, 3)), elements=4)),
    "an offset that is rounded down": ([W[:4], W[3:5]], PAIR, Cause(**OFFSETS, ranges=((0, 3), (3, 4)), elements=2)),
    "shards that are too short": ([W[:4], W[3:4]], PAIR, Cause(kind=CauseKind.LOST, elements=4)),
    "rows here and there": ([W[[0, 2, 4]], W[[0, 1, 3]]], PAIR, Cause(kind=CauseKind.LOST, elements=2)),
}


@pytest.mark.parametrize("name", SHARDS)
def test_lost_elements_are_of_shards_that_are_alike_or_at_wrong_offsets(name):
    shards, axes, cause = SHARDS[name]
    assert judged({"w": W}, {"w": shards}, axes) == ({} if cause is None else {"w": cause})


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ones_are_not(name):
    candidate, axes, kind, ranks, elements = WRONG[name]
    assert judged({"w": W}, candidate, axes) == {"w": Cause(kind=kind, ranks=ranks, elements=elements)}


def test_a_fault_is_a_first_cause_on_its_ranks():
    layout = find_layout({"w": W, "b": B}, {"w": {0: W, 1: 0 * W}, "b": {0: B, 1: B}})
    (found,) = judge_coverage(layout, PAIR)
    assert (found.key, found.verdict, found.root) == (Key(0, Phase.INITIAL, "w"), Verdict.WRONG, True)
    assert found.ranks == found.cause.ranks == (1,)


def test_one_element_may_be_zeroed_too():
    one = B[:1]
    found = judged({"b": one}, {"b": [0 * one, 0 * one]}, PAIR)
    assert found == {"b": Cause(kind=CauseKind.ZEROED, ranks=(0, 1), elements=1)}


def test_a_parameter_that_no_rank_has_is_lost():
    assert judged({"w": W, "b": B}, {"w": [W, W]}, PAIR) == {"b": Cause(kind=CauseKind.LOST, elements=3)}
    assert judged({"w": W, "none": EMPTY}, {"w": [W, W]}, PAIR) == {}


@pytest.mark.parametrize(
    "held", [[W[:4], W[3:]], [W[[0, 1, 1, 3]], W[[2, 3, 4, 5]]]], ids=["two ranks", "one rank too"]
)
def test_shards_may_overlap_where_a_gradient_reaches(held):
    everywhere = torch.ones(6, 2, dtype=torch.bool)
    assert judged({"w": W}, {"w": held}, PAIR, reached={"w": everywhere}) == {}
    for row in (1, 3):
        partly = everywhere.clone()
        partly[row, 0] = False
        overlaps = row == 3 or len(held[0].unique(dim=0)) < 4
        found = judged({"w": W}, {"w": held}, PAIR, reached={"w": partly})
        assert [one.kind for one in found.values()] == [CauseKind.HELD_TWICE] * overlaps


def test_zeros_beside_values_are_right_where_they_do_not_train():
    held = {"b": [B, 0 * B]}
    assert judged({"b": B}, held, PAIR, frozen={(1, "b")}) == {}
    assert judged({"b": B}, held, PAIR, frozen={(0, "b"), (1, "w")})["b"].kind is CauseKind.ZEROED


@pytest.mark.parametrize("full", [{"b": B, "w": W}, {"w": W, "b": B}], ids=["last", "first"])
@pytest.mark.parametrize("row", [0, 5])
def test_a_row_that_a_rank_holds_twice_is_told_wherever_the_parameter_stands(full, row):
    others = [one for one in range(6) if one != row]
    twice = {"w": [W[[row, row, others[0]]], W[others[1:]]], "b": [B, B]}
    assert judged(full, twice, PAIR) == {"w": Cause(kind=CauseKind.HELD_TWICE, ranks=(0,), elements=2)}


def test_many_ranks_are_not_compared_pair_by_pair(monkeypatch):
    """As many passes over the parameter as there are ranks, whatever the pairs."""
    seen = []
    monkeypatch.setattr(
        coverage, "combinations", lambda sets, count: seen.append(len(sets)) or combinations(sets, count)
    )
    rows = torch.arange(1.0, 65.0, dtype=torch.float64).view(64, 1)
    ranks = [rows[rank : rank + 1] for rank in range(64)] * 2
    assert judged({"w": rows}, {"w": ranks}, Axes(sizes={"dp": 2, "tp": 64}, data=("dp",))) == {}
    assert seen == [0]
    shifted = [*ranks[:64], rows[0:2], *ranks[65:]]
    assert judged({"w": rows}, {"w": shifted}, Axes(sizes={"dp": 2, "tp": 64}, data=("dp",)))
    assert seen[1] == 3

"""Unused elements lie where the used ones say: right shardings of every kind, and each with two of them exchanged."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.order import judge_order
from shardproof.proving.records import Key, Phase

ROWS, COLUMNS = 12, 4
W = torch.arange(1.0, ROWS * COLUMNS + 1, dtype=torch.float64).view(ROWS, COLUMNS)
UNUSED = [2, 3, 8, 9]  # rows; in halves, two of each rank
USED = torch.ones(ROWS, COLUMNS, dtype=torch.bool)
USED[UNUSED] = False
PAIR, THREE = Axes(sizes={"tp": 2}), Axes(sizes={"tp": 3})
SQUARE = Axes(sizes={"dp": 2, "tp": 2}, data=("dp",))


def pad(values, rows):
    return torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])


def packed(w):
    """Rows of a fused matrix of two blocks, half of each on a rank."""
    first, second = w.chunk(2)
    return [torch.cat([first.chunk(2)[rank], second.chunk(2)[rank]]) for rank in range(2)]


SHARDINGS = {
    "replicas": (lambda w: [w, w], PAIR),
    "halves": (lambda w: list(w.chunk(2)), PAIR),
    "uneven": (lambda w: [w[:5], w[5:]], PAIR),
    "padded": (lambda w: [w[:7], pad(w[7:], 7)], PAIR),
    "columns": (lambda w: list(w.chunk(2, 1)), PAIR),
    "transposed": (lambda w: [part.T for part in w.chunk(2)], PAIR),
    "dealt out": (lambda w: [w[0::3], w[1::3], w[2::3]], THREE),
    "over two axes": (lambda w: list(w.chunk(4)), SQUARE),
    "the second axis first": (lambda w: [w[:3], w[6:9], w[3:6], w[9:]], SQUARE),
    "replicas of halves": (lambda w: [*w.chunk(2)] * 2, SQUARE),
    "rows and columns": (lambda w: [one for rows in w.chunk(2) for one in rows.chunk(2, 1)], SQUARE),
    "flat": (lambda w: list(w.reshape(-1).chunk(2)), PAIR),
    "an empty part": (lambda w: [w[:6], w[6:], w[:0]], THREE),
}


def judged(ranks, axes, used=USED):
    layout = find_layout({"w": W}, {"w": dict(enumerate(ranks))})
    return [
        (finding.cause.kind, finding.cause.ranks, finding.cause.elements)
        for finding in judge_order(layout, axes, {"w": used})
    ]


@pytest.mark.parametrize("name", SHARDINGS)
def test_a_right_sharding_has_every_element_in_place(name):
    cut, axes = SHARDINGS[name]
    assert judged(cut(W), axes) == []


@pytest.mark.parametrize("one_rank_alone", [False, True])
@pytest.mark.parametrize("name", SHARDINGS)
def test_unused_rows_exchanged_are_out_of_place(name, one_rank_alone):
    """On all ranks, or on the first that holds one of them."""
    cut, axes = SHARDINGS[name]
    exchanged = W.clone()
    exchanged[[2, 3]] = W[[3, 2]]
    ranks, right = cut(exchanged), cut(W)
    changed = [rank for rank, part in enumerate(ranks) if not torch.equal(part, right[rank])]
    if one_rank_alone:
        changed = changed[:1]
        ranks = [ranks[rank] if rank in changed else part for rank, part in enumerate(right)]
    elements = sum(int((part != right[rank]).sum()) for rank, part in enumerate(ranks))
    assert judged(ranks, axes) == [(CauseKind.OUT_OF_PLACE, tuple(changed), elements)]


def test_rows_exchanged_between_ranks_are_out_of_place():
    exchanged = W.clone()
    exchanged[[2, 9]] = W[[9, 2]]
    assert judged(exchanged.chunk(2), PAIR) == [(CauseKind.OUT_OF_PLACE, (0, 1), 8)]


def test_what_the_used_elements_do_not_tell_is_not_judged():
    assert judged(packed(W), PAIR) == []  # another sharding by intent, used rightly
    exchanged = W.clone()
    exchanged[[2, 4]] = W[[4, 2]]  # one of them is used: the comparison tells
    assert judged(exchanged.chunk(2), PAIR) == []
    exchanged[[2, 3, 4]] = W[[3, 2, 4]]
    assert judged(exchanged.chunk(2), PAIR, used=torch.zeros_like(USED)) == []
    assert judged(exchanged.chunk(2), PAIR, used=torch.ones_like(USED)) == []
    only_one = torch.zeros_like(USED)
    only_one[0] = True
    assert judged(exchanged.chunk(2), PAIR, used=only_one) == []
    assert judged([W[[0, 2, 4, 6, 8, 10]], W[1::2]], PAIR, used=only_one) == []


@pytest.mark.parametrize("cut", [lambda w: w.chunk(2), lambda w: [w[0::2], w[1::2]]], ids=["halves", "dealt out"])
def test_of_two_shardings_that_the_used_rows_fit_the_closest_tells(cut):
    """The first row is first on rank 0 and the last one last on rank 1, in halves and dealt out in turn."""
    used = torch.zeros_like(USED)
    used[[0, -1]] = True
    exchanged = W.clone()
    exchanged[[4, 6]] = W[[6, 4]]
    ranks = [rank for rank, (one, other) in enumerate(zip(cut(exchanged), cut(W), strict=True)) if (one != other).any()]
    assert judged(cut(exchanged), PAIR, used=used) == [(CauseKind.OUT_OF_PLACE, tuple(ranks), 8)]
    assert judged(cut(W), PAIR, used=used) == []


def test_elements_of_other_parameters_beside_them_are_not_judged():
    v = -W
    layout = find_layout({"w": W, "v": v}, {"wv": {r: torch.cat([W[6 * r : 6 * r + 6], v]) for r in range(2)}})
    assert judge_order(layout, PAIR, {"w": USED, "v": USED}) == ()


def test_two_used_slices_tell_a_sharding():
    used = torch.zeros_like(USED)
    used[[0, 6]] = True
    exchanged = W.clone()
    exchanged[[2, 3]] = W[[3, 2]]
    assert judged(exchanged.chunk(2), PAIR, used=used) == [(CauseKind.OUT_OF_PLACE, (0,), 8)]
    assert judged(W.chunk(2), PAIR, used=used) == []


def test_an_element_that_is_out_of_place_is_a_first_cause():
    exchanged = W.clone()
    exchanged[[2, 9]] = W[[9, 2]]
    layout = find_layout({"w": W}, {"w": dict(enumerate(exchanged.chunk(2)))})
    (found,) = judge_order(layout, PAIR, {"w": USED, "of no rank": USED})
    assert (found.key, found.verdict, found.root) == (Key(0, Phase.INITIAL, "w"), Verdict.WRONG, True)
    assert found.ranks == found.cause.ranks == (0, 1)


def test_a_zero_in_place_of_an_unused_element_is_not_out_of_place():
    """It is not where it should be, and nowhere else: `coverage.py` says so."""
    zeroed = W.clone()
    zeroed[2] = 0
    assert judged([W, zeroed], PAIR) == []
    zeroed[[3, 8]] = W[[8, 3]]
    assert judged([W, zeroed], PAIR) == [(CauseKind.OUT_OF_PLACE, (1,), 8)]

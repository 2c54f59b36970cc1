"""Fused projections that are cut as one: told by value from made-up features and gradients; near misses."""

import pytest
import torch

from shardproof.proving.axes import Axes
from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.closeness import Exact, WithinNoise
from shardproof.proving.judging.fused import explain_fused
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.records import Key, Phase, Recorded, Records

PRIME = 2_097_143
FIELD = Exact(PRIME)
POSITIONS = (3, 2)
FUSED, FUSED_GRADIENT = Key(0, Phase.OUTPUT, "fused"), Key(0, Phase.OUTPUT_GRADIENT, "fused")
NEXT, NEXT_GRADIENT = Key(0, Phase.INPUT, "down"), Key(0, Phase.INPUT_GRADIENT, "down")
NORMED = Key(0, Phase.INPUT, "k_norm")


def draw(*shape, seed):
    return FIELD.canonical(torch.randint(1, PRIME, shape, generator=torch.Generator().manual_seed(seed)))


def times(*factors):
    product = factors[0]
    for factor in factors[1:]:
        product = FIELD.canonical(product * factor)
    return product


def explain(reference, ranks, rows, *, field=FIELD):
    """Ranks hold these rows of the fused weight; all tensors of both sides, by key."""
    weight = torch.arange(1.0, 1 + 3 * sum(len(one) for one in rows)).double().view(-1, 3)
    layout = find_layout({"fused.weight": weight}, {"fused.weight": {r: weight[own] for r, own in enumerate(rows)}})

    def records(tensors):
        return Records(tensors={one: Recorded(stored=values) for one, values in tensors.items()})

    alignment = Alignment(
        reference=records(reference),
        ranks=[records(tensors) for tensors in ranks],
        layout=layout,
        axes=Axes(sizes={"tp": len(rows)}),
    )
    cause = explain_fused(alignment, NEXT, alignment.of(NEXT), field)
    return None if cause is None else (cause.kind, cause.ranks, cause.ranges, cause.parameter, cause.mend)


def named(ranks, ranges):
    return (CauseKind.FUSED_CUT, ranks, ranges, "fused.weight", Mend.CUT_EACH)


# [gate; up] -----------------------------------------------------------------------------------------------------------

WIDTH = 6
FEATURES = draw(*POSITIONS, 2 * WIDTH, seed=1)
CONTIGUOUS = [torch.arange(12).chunk(2)[rank] for rank in range(2)]
EACH = [torch.cat([torch.arange(6).chunk(2)[rank], 6 + torch.arange(6).chunk(2)[rank]]) for rank in range(2)]


def gate(features):
    """A function of a gate, which differs for each of its values, and what stands for its derivative."""
    return times(features, features, features), times(features, features, FIELD.canonical(features + 3))


def gated(features, *, seed, second=None):
    """What a gated layer computes of the features it has, and the gradients of both."""
    first, up = features.chunk(2, -1)
    up = up if second is None else features[..., second]
    factor, slope = gate(first)
    incoming = draw(*first.shape, seed=seed)
    of_up = times(incoming, factor)
    gradient = torch.cat([times(incoming, slope, up), of_up], -1)
    if second is not None:
        gradient = torch.zeros_like(features)
        gradient[..., : first.shape[-1]] = times(incoming, slope, up)
        gradient[..., second] = of_up
    return {FUSED: features, NEXT: times(factor, up), NEXT_GRADIENT: incoming, FUSED_GRADIENT: gradient}


def gated_ranks(rows, **settings):
    return [gated(FEATURES[..., own].contiguous(), seed=10 + rank, **settings) for rank, own in enumerate(rows)]


REFERENCE = gated(FEATURES, seed=9)


def test_gate_and_up_cut_as_one_are_named_with_their_rows():
    assert explain(REFERENCE, gated_ranks(CONTIGUOUS), CONTIGUOUS) == named((0, 1), ((0, 5), (6, 11)))


def test_three_ranks_lack_rows_too():
    thirds = [torch.arange(12).chunk(3)[rank] for rank in range(3)]
    assert explain(REFERENCE, gated_ranks(thirds), thirds) == named((0, 1, 2), ((0, 5), (6, 11)))


def test_each_cut_by_itself_but_combined_wrongly_is_no_cut():
    """Every rank has the rows that it needs, and takes the features of up in another order."""
    ranks = gated_ranks(EACH, second=[4, 5, 3])
    assert explain(REFERENCE, ranks, EACH) is None


def test_another_fault_behind_a_cut_as_one_is_not_explained_by_it():
    ranks = gated_ranks(CONTIGUOUS)
    ranks[0][NEXT] = FIELD.canonical(ranks[0][NEXT] + 1)
    assert explain(REFERENCE, ranks, CONTIGUOUS) is None


def test_a_right_layer_whose_rows_are_pairs_of_neighbours_may_be_cut_as_one():
    """[gate_0; up_0; gate_1; ...]: what is wrong behind it is not the cut."""
    order = torch.tensor([0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11])

    def interleaved(features, seed):
        own = [one for one in order.tolist() if one < features.shape[-1]]
        found = gated(features[..., own].contiguous(), seed=seed)
        back = torch.tensor(own).argsort()
        return found | {FUSED: features, FUSED_GRADIENT: found[FUSED_GRADIENT][..., back].contiguous()}

    reference = interleaved(FEATURES, 9)
    ranks = [interleaved(FEATURES[..., own].contiguous(), 10 + rank) for rank, own in enumerate(CONTIGUOUS)]
    ranks[1][NEXT] = FIELD.canonical(ranks[1][NEXT] + 1)
    assert explain(reference, ranks, CONTIGUOUS) is None


@pytest.mark.parametrize("lost", [NEXT_GRADIENT, FUSED_GRADIENT])
def test_without_gradients_nothing_is_told(lost):
    ranks = gated_ranks(CONTIGUOUS)
    del ranks[1][lost]
    assert explain(REFERENCE, ranks, CONTIGUOUS) is None


def test_nothing_is_told_within_noise():
    assert explain(REFERENCE, gated_ranks(CONTIGUOUS), CONTIGUOUS, field=WithinNoise(1e-6)) is None


def test_a_projection_whose_output_is_wrong_explains_nothing():
    ranks = gated_ranks(CONTIGUOUS)
    ranks[0] = gated(FIELD.canonical(ranks[0][FUSED] + 1), seed=10)
    assert explain(REFERENCE, ranks, CONTIGUOUS) is None


# [Q; K; V] ------------------------------------------------------------------------------------------------------------

HEADS = (4, 2, 2)  # of queries, keys and values, with two features each
QKV = draw(*POSITIONS, 16, seed=2)
AS_ONE = [torch.arange(16).chunk(2)[rank] for rank in range(2)]


def split(features, sizes):
    """Queries before their norm, then the keys, by head."""
    queries, keys, _ = features.unflatten(-1, (-1, 2)).split(sizes, dim=-2)
    return {FUSED: features, NEXT: queries.contiguous(), NORMED: keys.contiguous()}


def test_queries_keys_and_values_cut_as_one_are_named_with_their_rows():
    """Rank 0 has the queries of all heads, and needs those of the first two, which it has."""
    ranks = [split(QKV[..., own].contiguous(), (2, 1, 1)) for own in AS_ONE]
    assert explain(split(QKV, HEADS), ranks, AS_ONE) == named((1,), ((0, 7), (8, 11), (12, 15)))


def test_queries_read_at_another_place_are_no_cut():
    by_head = [torch.tensor([0, 1, 2, 3, 8, 9, 12, 13]), torch.tensor([4, 5, 6, 7, 10, 11, 14, 15])]
    ranks = [split(QKV[..., own].contiguous(), (2, 1, 1)) for own in by_head]
    ranks[1][NEXT] = ranks[1][NEXT].flip(-2)
    assert explain(split(QKV, HEADS), ranks, by_head) is None


def test_queries_that_are_none_of_the_features_are_no_cut():
    ranks = [split(QKV[..., own].contiguous(), (2, 1, 1)) for own in AS_ONE]
    ranks[1][NEXT][0, 0, 0, 0] += 1
    assert explain(split(QKV, HEADS), ranks, AS_ONE) is None

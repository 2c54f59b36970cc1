"""Shards drawn and told: along which dim, and which indices each rank holds."""

from tests.report.page.shown import ROWS, WHOLE

from shardproof.proving.evidence import ShardMap
from shardproof.report.page.description import Rectangle
from shardproof.report.page.shards import HEIGHT, WIDTH, describe_shards, draw_shards, find_split_dims


def test_words_name_the_dim_and_the_indices():
    assert describe_shards(ROWS) == "split along dim 0: rank 0 holds 0 to 1, rank 1 holds 2 to 3"
    assert describe_shards(WHOLE) == "whole on each of 2 ranks"
    fused = ShardMap(shape=(6,), boxes={0: (((0, 1), (3, 4)),), 1: (((1, 3), (4, 6)),)})
    assert describe_shards(fused) == "split along dim 0: rank 0 holds 0 and 3, rank 1 holds 1 to 2 and 4 to 5"


def test_a_part_is_drawn_where_it_is():
    drawing = draw_shards(ROWS)
    assert [one.parts for one in drawing.ranks] == [
        (Rectangle(x=0, y=0, width=WIDTH / 2, height=HEIGHT),),
        (Rectangle(x=WIDTH / 2, y=0, width=WIDTH / 2, height=HEIGHT),),
    ]
    assert {one.parts for one in draw_shards(WHOLE).ranks} == {(Rectangle(x=0, y=0, width=WIDTH, height=HEIGHT),)}


def test_two_split_dims_are_drawn_down_and_across():
    both = ShardMap(shape=(2, 4), boxes={3: (((1, 2),), ((2, 4),))})
    assert find_split_dims(both) == (0, 1)
    (rank,) = draw_shards(both).ranks
    assert rank.parts == (Rectangle(x=WIDTH / 2, y=HEIGHT / 2, width=WIDTH / 2, height=HEIGHT / 2),)


def test_many_ranks_are_counted_and_unknown_ones_not_drawn():
    many = ShardMap(shape=(20,), boxes={rank: (((rank, rank + 1),),) for rank in range(20)})
    assert (len(draw_shards(many).ranks), draw_shards(many).more) == (8, 12)
    assert draw_shards(ShardMap(shape=(3,))) is None
    assert draw_shards(None) is None

"""Which rank a file is of, by its name; ranks that are not all there are refused."""

from pathlib import Path

import pytest

from shardproof.checkpoints.checkpoint import Rank
from shardproof.checkpoints.ranks import check_grid, find_coordinates, find_own_names, group_ranks, pattern_of
from shardproof.errors import CannotRunError

FOLDER = Path("folder")


@pytest.mark.parametrize(
    ("name", "coordinates"),
    [
        ("mp_rank_01", {"tp": 1}),
        ("mp_rank_01_003", {"tp": 1, "pp": 3}),
        ("mp_rank_01_003_002", {"tp": 1, "pp": 3, "ep": 2}),
        ("mp_rank_02_model_states", {"tp": 2}),
        ("model-tp1-pp0", {"tp": 1, "pp": 0}),
        ("tp_rank_03_pp_rank_01", {"tp": 3, "pp": 1}),
        ("TP1.PP2", {"tp": 1, "pp": 2}),
        ("rank_7", {"rank": 7}),
        ("rank-7-of-8", {"rank": 7}),
        ("model_world_size_4_rank_3", {"rank": 3}),
        ("consolidated.05", {"rank": 5}),
        ("shard_2", {"rank": 2}),
        ("model", {}),
        ("model-00001-of-00002", {}),
        ("http2", {}),
        ("franktp", {}),
    ],
)
def test_names_say_the_rank(name, coordinates):
    assert find_coordinates(name) == coordinates


def rank(coordinates, *names):
    return Rank(name=str(coordinates), coordinates=coordinates, tensors=dict.fromkeys(names))


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([{"tp": 0}, {"tp": 2}], "has no file of tp 1"),
        ([{"tp": 1}], "has no file of tp 0"),
        ([{"tp": 0}, {"tp": 999_999_999}], "has no file of tp 1"),
        (
            [{"tp": 0, "pp": 0}, {"tp": 1, "pp": 0}, {"tp": 0, "pp": 1}],
            "has no file of pp 1, tp 1|has no file of tp 1, pp 1",
        ),
        ([{"tp": 0}, {"tp": 0}], "has tp 0 twice"),
        ([{"tp": 0}, {}], "different axes"),
        ([{"tp": 0}, {"rank": 0}], "different axes"),
    ],
)
def test_ranks_that_are_not_all_there_are_refused(ranks, words):
    with pytest.raises(CannotRunError, match=words):
        check_grid([rank(one) for one in ranks], FOLDER)


def test_a_whole_grid_is_taken():
    check_grid([rank({"tp": tp, "pp": pp}) for tp in range(2) for pp in range(3)], FOLDER)


def test_numbered_ranks_are_stages_where_their_names_show_it():
    first, last = ("embed", "l.0", "l.1"), ("l.2", "l.3", "embed")
    ranks = [rank({"rank": number}, *names) for number, names in enumerate((first, first, last, last))]
    assert [one.coordinates for one in group_ranks(ranks)] == [
        {"tp": 0, "pp": 0},
        {"tp": 1, "pp": 0},
        {"tp": 0, "pp": 1},
        {"tp": 1, "pp": 1},
    ]
    same = [rank({"rank": number}, *first[number:]) for number in range(2)]
    assert group_ranks(same) == same
    uneven = [ranks[0], ranks[1], rank({"rank": 2}, *last)]
    assert group_ranks(uneven) == uneven


def test_own_names_are_those_that_not_all_ranks_have():
    ranks = [rank({"tp": 0}, "norm", "e.0.w", "lost"), rank({"tp": 1}, "norm", "e.1.w")]
    assert find_own_names(ranks) == {0: {"e.*.w", "lost"}, 1: {"e.*.w"}}
    assert pattern_of("a.10.b2") == "a.*.b*"

"""Layers of pipeline stages get their numbers in the full model."""

import pytest

from shardproof.checkpoints.checkpoint import Rank
from shardproof.checkpoints.stages import collect, rename_layer
from shardproof.errors import CannotRunError


def rank(tp, pp, *names):
    return Rank(name="", coordinates={"tp": tp, "pp": pp}, tensors={name: f"{name} of {tp} {pp}" for name in names})


STAGES = [(0, ("embed", "l.0.w", "l.1.w")), (1, ("l.0.w", "l.1.w", "l.2.w")), (2, ("l.0.w", "norm"))]


def test_stages_that_count_from_0_follow_one_another():
    held = collect([rank(tp, pp, *names) for pp, names in STAGES for tp in range(2)])
    assert list(held) == ["embed", "l.0.w", "l.1.w", "l.2.w", "l.3.w", "l.4.w", "l.5.w", "norm"]
    assert held["l.4.w"].pieces == {0: ("l.2.w of 0 1",), 1: ("l.2.w of 1 1",)}
    assert held["l.5.w"].pieces[1] == ("l.0.w of 1 2",)


def test_numbers_that_are_the_models_stay():
    held = collect([rank(0, 0, "l.0.w", "l.1.w"), rank(0, 1, "l.2.w")])
    assert list(held) == ["l.0.w", "l.1.w", "l.2.w"]


def test_numbers_that_are_stated_are_taken():
    held = collect([rank(0, 0, "l.0.w", "l.1.w"), rank(0, 1, "l.0.w", "l.1.w")], [[0, 2], [1, 3]])
    assert {name: held[name].pieces[0][0] for name in held} == {
        "l.0.w": "l.0.w of 0 0",
        "l.2.w": "l.1.w of 0 0",
        "l.1.w": "l.0.w of 0 1",
        "l.3.w": "l.1.w of 0 1",
    }


@pytest.mark.parametrize(
    ("layers", "words"), [([[0]], "layers of 1 stages; the checkpoint has 2"), ([[0], [1]], "a stage has a layer 1")]
)
def test_numbers_that_do_not_fit_are_refused(layers, words):
    with pytest.raises(CannotRunError, match=words):
        collect([rank(0, 0, "l.0.w", "l.1.w"), rank(0, 1, "l.0.w", "l.1.w")], layers)


def test_a_tensor_of_two_stages_is_there_twice():
    held = collect([rank(0, 0, "embed", "l.0.w"), rank(0, 1, "embed", "l.0.w")])
    assert held["embed"].pieces == {0: ("embed of 0 0", "embed of 0 1")}


def test_the_first_number_between_dots_is_the_layers():
    assert rename_layer("m.h2.3.experts.5.w", {3: 7}) == "m.h2.7.experts.5.w"
    assert rename_layer("norm.weight", {3: 7}) == "norm.weight"


def test_a_rank_that_lacks_a_tensor_has_lost_it_unless_it_has_its_own():
    held = collect([rank(0, 0, "a", "b", "c", "e.0.w"), rank(1, 0, "a", "b", "e.1.w")])
    assert (held["c"].group, held["c"].lost) == ((0, 1), (1,))
    assert (held["e.0.w"].group, held["e.1.w"].group) == ((0,), (1,))

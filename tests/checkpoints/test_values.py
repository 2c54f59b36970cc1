"""`shardproof.compare`: what it takes, and what `print` says of it."""

import pytest
import torch
from tests.checkpoints.saving import make_model, save_one, save_ranks

import shardproof
from shardproof.errors import CannotRunError

MODEL = make_model(layers=2)
UP = "layers.1.up.weight"


def test_print_says_where_two_tensors_differ():
    expected = torch.arange(1000.0).view(100, 10)
    actual = expected.clone()
    actual[40:60] = 0
    compared = shardproof.compare(actual, expected, name="w")
    assert str(compared) == (
        "w               | exact: False | approximate: False | maxdiff: 599.0\n"
        "    shard missing: rows 40 to 59 are zero, the others are equal; shard 2 of 5 was not written; "
        "largest at [59, 9]: actual 0.0, expected 599.0"
    )
    assert shardproof.compare(actual, expected, name="w", explain=False).told is None
    assert shardproof.compare(expected, expected).told is None
    assert shardproof.compare(expected + 1e-5, expected).told is None


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (torch.arange(6.0).view(2, 3), "transposed"),
        (torch.arange(6.0).view(3, 2).flip(0), "reversed"),
        (torch.tensor(3.0), "shape: shape [] where [3, 2] is expected"),
    ],
    ids=range(3),
)
def test_tensors_of_any_shape_are_explained(actual, words):
    expected = torch.arange(6.0).view(3, 2)
    actual = expected.t().contiguous() if words == "transposed" else actual
    told = shardproof.compare(actual.requires_grad_(), expected).told
    assert told.startswith(words)


def test_a_scalar_and_other_dtypes_are_compared():
    assert "1 of 1" in shardproof.compare(torch.tensor(3), torch.tensor(4)).told
    assert "scaled" in shardproof.compare(torch.tensor(3.0), torch.tensor(1.0)).told
    assert shardproof.compare(torch.ones(2), torch.ones(2).double()).told is None


def test_state_dicts_and_paths_are_compared_in_any_mix(tmp_path):
    path = save_ranks(tmp_path / "e", MODEL, 4)
    for actual in (MODEL, str(path), path):
        for expected in (MODEL, path):
            compared = shardproof.compare(actual, expected)
            assert isinstance(compared, shardproof.CheckpointComparison)
            assert compared.equal
    other = MODEL | {UP: -MODEL[UP]}
    assert "    negated: every element has the other sign" in str(shardproof.compare(other, path)).splitlines()


def test_options_reach_the_comparison(tmp_path):
    path = save_one(tmp_path / "e", MODEL)
    other = {f"m.{name}": tensor.bfloat16() for name, tensor in MODEL.items()}
    assert shardproof.compare(other, path, rename=["m.*=*"], cast=True).equal
    assert not shardproof.compare(other, path, rename=["m.*=*"]).equal
    layout = {"tensors": {"*.up.weight": {"split": 0, "size": 20}}}
    changed = MODEL | {UP: MODEL[UP].clone()}
    changed[UP][20:] = 0
    assert shardproof.compare(changed, path, layout=layout).equal
    assert not shardproof.compare(changed, path).equal


def test_a_nested_state_dict_has_names_with_dots():
    nested = {"model": {"w": torch.ones(2)}, "optimizer": {"state": [{"step": 3, "m": torch.zeros(2)}]}}
    compared = shardproof.compare(nested, {"model.w": torch.ones(2), "optimizer.state.0.m": torch.zeros(2)})
    assert compared.equal
    assert compared.counts["total"] == 2


def test_a_tensor_without_values_is_said_to_be_unreadable():
    compared = shardproof.compare(
        {"w": torch.ones(2, device="meta"), "v": torch.ones(2)}, dict.fromkeys("wv", torch.ones(2))
    )
    rows = {row.name: row for row in compared.rows}
    assert rows["w"].unreadable
    assert "is a meta tensor" in rows["w"].reason
    assert not compared.equal


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, torch.ones(1)), "actual is a int; give a torch.Tensor"),
        (({}, torch.ones(1)), "actual is a dict; give a torch.Tensor"),
        ((torch.ones(1), "path"), "expected is a str; give a torch.Tensor"),
        (("missing", "missing"), "does not exist"),
    ],
    ids=range(4),
)
def test_other_values_are_refused_in_words(arguments, words):
    with pytest.raises(CannotRunError, match=words):
        shardproof.compare(*arguments)


def test_options_of_checkpoints_are_not_for_tensors():
    with pytest.raises(CannotRunError, match="layout, rename and cast are for checkpoints"):
        shardproof.compare(torch.ones(1), torch.ones(1), cast=True)

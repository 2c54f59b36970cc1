"""Patterns OLD=NEW; those that match nothing, or give two tensors one name, are refused."""

import pytest
import torch
from tests.checkpoints.saving import make_model, save_one, save_ranks

from shardproof.checkpoints import Settings, compare_paths
from shardproof.checkpoints.renaming import parse_renaming, rename
from shardproof.errors import CannotRunError


@pytest.mark.parametrize(
    ("text", "name", "new"),
    [
        ("module.*=*", "module.a.b", "a.b"),
        ("*.w=*.weight", "a.b.w", "a.b.weight"),
        ("l.*.m.*=layers.*.mlp.*", "l.3.m.up", "layers.3.mlp.up"),
        ("a=b", "a", "b"),
        ("a=b", "aa", None),
        ("a.b=c", "axb", None),
        ("*=model.*", "x\ny", "model.x\ny"),
    ],
)
def test_a_pattern_renames_what_it_matches(text, name, new):
    assert parse_renaming(text).apply(name) == new


@pytest.mark.parametrize("text", ["a", "=b", "a=", "a=b=c", "a.*=b", "a=b.*", ""])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(CannotRunError, match="--rename"):
        parse_renaming(text)


def test_the_first_pattern_that_matches_counts_and_each_must_match():
    names = {"m.a": 1, "m.b": 2, "c": 3}
    assert rename(names, [parse_renaming("m.a=x"), parse_renaming("m.*=*")]) == {"x": 1, "b": 2, "c": 3}
    with pytest.raises(CannotRunError, match=r"--rename y\.\*=\* matches no tensor of actual"):
        rename(names, [parse_renaming("y.*=*")])
    with pytest.raises(CannotRunError, match="gives two tensors of actual the name c"):
        rename(names, [parse_renaming("m.a=c")])


def test_a_comparison_goes_by_the_new_names(tmp_path):
    model = make_model(layers=2)
    other = {f"module.{name}": tensor for name, tensor in model.items()}
    paths = save_ranks(tmp_path / "a", other, 2), save_one(tmp_path / "e", model)
    assert not compare_paths(*paths).equal
    compared = compare_paths(*paths, Settings(renamings=(parse_renaming("module.*=*"),)))
    assert compared.equal
    assert {row.name for row in compared.rows} == set(model)
    assert torch.equal(model["norm.weight"], other["module.norm.weight"])

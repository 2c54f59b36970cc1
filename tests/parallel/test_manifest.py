"""A manifest comes back as it was written; what does not fit the model or the optimizer is refused."""

from dataclasses import replace

import pytest
import torch

from shardproof.errors import CannotRunError
from shardproof.parallel.manifest import NAME, Manifest
from shardproof.parallel.sharding import replicated
from shardproof.parallel.state import LocalTensor

MANIFEST = Manifest(
    step=3,
    tensors={"model/w": ((2, 3), torch.bfloat16), "optimizer/w/step": ((), torch.float32)},
    settings=[{"params": ["w"], "lr": 0.1}],
    dropout={"drop": 4},
    extra={"tokens": 7},
)


def write(folder, text):
    (folder / NAME).write_text(text)
    (folder / ".metadata").write_bytes(b"")
    return folder


def test_it_comes_back_as_it_was_written(tmp_path):
    assert Manifest.read(write(tmp_path, MANIFEST.to_json())) == MANIFEST


def model(shape=(2, 3), dtype=torch.bfloat16, name="w"):
    return {name: LocalTensor(local=torch.zeros(shape, dtype=dtype), sharding=replicated(shape, rank=0, size=1))}


def test_the_model_that_was_saved_fits_and_others_do_not(tmp_path):
    MANIFEST.check_model(model(), tmp_path)
    for other, said in (
        (model(shape=(3, 2)), r"w was saved as torch.bfloat16 \[2, 3\]; the model's is torch.bfloat16 \[3, 2\]"),
        (model(dtype=torch.float32), "the model's is torch.float32"),
        (model(name="v"), "does not have 1 tensors: v"),
        ({}, "has 1 unexpected tensors: w"),
    ):
        with pytest.raises(CannotRunError, match=said):
            MANIFEST.check_model(other, tmp_path)


def test_the_optimizer_that_was_saved_fits_and_others_do_not(tmp_path):
    MANIFEST.check_settings([{"params": ["w"], "lr": 0.5}], tmp_path)
    for settings, said in (
        ([{"params": ["v"], "lr": 0.5}], "the same ones, in the same order"),
        ([{"params": ["w"]}], "has 1 unexpected settings: lr"),
        ([{"params": ["w"], "lr": 0.5, "eps": 1}], "does not have 1 settings: eps"),
    ):
        with pytest.raises(CannotRunError, match=said):
            MANIFEST.check_settings(settings, tmp_path)
    with pytest.raises(CannotRunError, match="was saved without an optimizer"):
        replace(MANIFEST, settings=None).check_settings([], tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "is damaged: TypeError"),
        ('{"version": 2}', "of version 2; this reads 1"),
        (MANIFEST.to_json().replace("bfloat16", "manual_seed"), "'manual_seed' is no dtype"),
    ],
)
def test_a_damaged_manifest_is_refused(text, said, tmp_path):
    with pytest.raises(CannotRunError, match=said):
        Manifest.read(write(tmp_path, text))


def test_a_negative_step_is_refused():
    with pytest.raises(CannotRunError, match="a checkpoint of step -1"):
        replace(MANIFEST, step=-1)

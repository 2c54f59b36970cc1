"""The full model goes out as one device would save it, from any number of ranks, and comes back."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.parallel import training
from tests.parallel.models import recipe
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.parallel.export import load_model, save_model
from shardproof.worlds.threaded import ThreadedWorld


def run(size, fn, *args):
    return ThreadedWorld(size=size).run(fn, *args)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_exported_model_is_the_single_device_one_and_comes_back(size, tmp_path):
    path = tmp_path / "model.safetensors"
    run(size, training.export, recipe(), path)
    model, _ = training.build(recipe(), None)
    assert training.same(load_file(path), dict(model.state_dict()))
    other_values, _ = training.build(recipe(), None, seed=1)
    other_values.load_state_dict(load_file(path))
    assert all(run({1: 2, 2: 4, 4: 1}[size], training.import_and_compare, recipe(), path))


def test_a_tied_weight_may_be_there_under_one_name_and_must_not_be_two(tmp_path):
    model, _ = training.build(recipe(), None)
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    save_file({name: value for name, value in tensors.items() if name != "embedding.weight"}, tmp_path / "one")
    other_values, _ = training.build(recipe(), None, seed=1)
    load_model(tmp_path / "one", other_values)
    assert training.same(dict(other_values.state_dict()), tensors)
    tensors["embedding.weight"][0, 0] += 1
    save_file(tensors, tmp_path / "two")
    with pytest.raises(CannotRunError, match="differ, and are one tensor in the model"):
        load_model(tmp_path / "two", other_values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("bias"), "has no tensor bias"),
        (lambda tensors: tensors.update(more=torch.ones(1)), "has 1 tensors that the model does not have: more"),
        (lambda tensors: tensors.update(bias=torch.ones(3)), r"bias is torch.float32 \[3\]; the model's is"),
        (lambda tensors: tensors.update(bias=torch.ones(2).half()), r"bias is torch.float16 \[2\]; the model's is"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(change, said, tmp_path):
    model = nn.Linear(2, 2)
    tensors = {name: value.clone() + 1 for name, value in model.state_dict().items()}
    change(tensors)
    save_file(tensors, tmp_path / "file")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CannotRunError, match=said):
        load_model(tmp_path / "file", model)
    assert training.same(dict(model.state_dict()), before)


def test_an_export_that_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(path, nn.Linear(2, 2))
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(CannotRunError, match=r"cannot be written: .*No space left"):
        save_model(path, nn.Linear(2, 2))
    assert path.read_bytes() == before

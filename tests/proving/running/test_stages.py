"""Modules that a rank holds are called as in the whole model, whatever container holds them."""

import pytest
import torch
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.proving.running.stages import Stages, name_modules


def make_model():
    return nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def test_a_slice_keeps_the_names_of_the_model():
    model = make_model()
    stages = Stages([nn.Sequential(model[1], model[2]), nn.Sequential(model[0])], name_modules(model))
    assert [name for name, _ in stages.named_parameters()] == [
        "2.0.weight",
        "2.0.bias",
        "2.1.weight",
        "2.1.bias",
        "0.weight",
        "0.bias",
    ]
    assert [name for name, _ in stages.named_modules()] == ["1", "2", "2.0", "2.1", "0"]  # no containers
    assert "2.1.running_mean" in dict(stages.named_buffers())


def test_a_layer_that_was_replaced_is_named_by_its_place():
    model = make_model()
    names = name_modules(model)
    model[2][0] = nn.Linear(3, 3)
    assert "2.0.weight" in dict(Stages([nn.Sequential(model[2])], names).named_parameters())


def test_modules_without_a_model_have_their_own_names():
    stages = Stages([nn.ModuleDict({"a": nn.Linear(2, 2)}), nn.ModuleDict({"b": nn.Linear(2, 2)})], {})
    assert [name for name, _ in stages.named_parameters()] == ["a.weight", "a.bias", "b.weight", "b.bias"]


def test_a_parameter_of_the_stage_itself_and_a_tied_one_count_once():
    class Scaled(nn.Module):
        def __init__(self, weight):
            super().__init__()
            self.scale, self.inner = nn.Parameter(torch.ones(2)), nn.Linear(2, 2, bias=False)
            self.inner.weight = weight

    first = nn.ModuleDict({"table": nn.Linear(2, 2, bias=False)})
    stages = Stages([first, Scaled(first["table"].weight)], {})
    assert [name for name, _ in stages.named_parameters()] == ["table.weight", "scale"]


def test_two_modules_of_one_name_are_refused():
    with pytest.raises(CannotRunError, match=r"two modules that this rank holds are called 0: give"):
        Stages([make_model(), make_model()], {})


def test_it_is_converted_with_what_it_holds():
    model = make_model()
    assert {p.dtype for p in Stages([model[2]], name_modules(model)).double().parameters()} == {torch.float64}


def test_a_container_of_which_two_stages_have_a_part_is_left_out():
    stages = Stages([nn.ModuleDict({"layers": nn.ModuleDict({str(i): nn.Linear(2, 2)})}) for i in (0, 3)], {})
    assert [name for name, _ in stages.named_modules()] == ["layers.0", "layers.3"]

"""Errors of the user's code: what they raised and where, in both worlds, and what was given by mistake."""

import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import shardproof as sp
from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind

PLAN = {"first": ColwiseParallel(), "second": RowwiseParallel()}


class Net(nn.Module):
    """Two layers; it fails on one device, or where it is sharded."""

    def __init__(self, fails=""):
        super().__init__()
        self.first, self.second, self.fails = nn.Linear(4, 6), nn.Linear(6, 4), fails

    def forward(self, x):
        x = self.first(x)
        if self.fails == "everywhere":
            x = x + self.no_such_thing
        if self.fails == "sharded" and isinstance(self.first.weight, DTensor):
            x = x[:, :2]
        return self.second(x)


def parallelize(model, mesh):
    return parallelize_module(model, mesh, PLAN)


def parallelize_not_at_all(_model, _mesh):
    raise LookupError("no such plan")


def step(fails="", **fields):
    settings = {"model": lambda: Net(fails), "batch": (torch.randn(3, 4), torch.randn(3, 4)), "loss": F.mse_loss}
    return sp.Step(**{**settings, **fields})


def refused(step, parallelize=parallelize, **settings):
    with pytest.raises(CannotRunError) as info:
        sp.prove(step, parallelize=parallelize, devices=2, trials=1, **settings)
    return str(info.value)


def test_an_error_on_one_device_keeps_its_line():
    told = refused(step("everywhere"))
    assert "AttributeError: 'Net' object has no attribute 'no_such_thing' (tests/proving/test_user_errors.py:" in told
    assert "in forward: `x = x + self.no_such_thing`)" in told


def test_an_error_on_a_rank_keeps_its_line(caplog):
    told = refused(step("sharded"))
    assert told.startswith("rank 0: RuntimeError: ")
    assert told.endswith("in forward: `return self.second(x)`)")
    assert caplog.text == ""


@pytest.mark.processes
def test_so_does_one_in_a_process():
    target = sp.Step(model=Net, batch=(torch.randn(3, 4), torch.randn(3, 4)), loss=F.mse_loss)
    told = refused(target, parallelize_not_at_all, spawn=True)
    assert "LookupError: no such plan (tests/proving/test_user_errors.py:" in told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"model": Net()}, "model=...) was given Net; needed is a function"),
        ({"optimizer": torch.optim.SGD(Net().parameters())}, "optimizer=...) was given SGD; needed is a function"),
        ({"loss": "mse"}, "loss=...) was given str; needed is a function: loss(outputs, targets)"),
    ],
)
def test_what_is_no_function_is_said(fields, told):
    with pytest.raises(CannotRunError) as info:
        step(**fields)
    assert told in str(info.value)


def test_a_loss_that_is_no_scalar_is_said():
    assert refused(step(loss=lambda outputs, _targets: outputs)) == (
        "loss(outputs, targets) returned a tensor of shape [3, 4]; it must return a scalar"
    )
    assert "returned tuple; it must return the loss" in refused(step(loss=lambda *both: both))


def test_a_plan_in_place_of_a_function_is_said():
    told = refused(step(), PLAN)
    assert told.startswith("parallelize is dict; needed is a function. For a plan: lambda model, mesh:")


def test_the_hook_for_exceptions_is_the_processs_own():
    hook = sys.excepthook
    assert sp.prove(step(), parallelize=parallelize, devices=2, trials=1).ok
    refused(step("sharded"))
    assert sys.excepthook is hook


def test_compiled_layers_are_proved_eagerly_and_in_silence():
    def parallelize_and_compile(model, mesh):
        model = parallelize(model, mesh)
        model.first.compile()
        return model

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)  # the compiler's own, when it is first imported
        assert sp.prove(step(steps=1), parallelize=parallelize_and_compile, devices=2, trials=1).ok


class Tied(nn.Module):
    """A table and a head of one weight."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids))


def untie_and_shard(model, mesh):
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    return parallelize_module(model, mesh, {"head": ColwiseParallel(output_layouts=Replicate())})


@pytest.mark.parametrize("settings", [{}, {"numeric": True}])
def test_an_untied_weight_is_wrong_and_called_that(settings):
    tied = sp.Step(
        model=Tied,
        batch=(torch.tensor([0, 3, 5]), torch.tensor([1, 2, 4])),
        loss=F.cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )
    wrong = sp.prove(tied, parallelize=untie_and_shard, devices=2, trials=1, **settings)
    named = {finding.key.name: finding.cause.kind for finding in wrong.roots}
    assert named["table.weight"] is CauseKind.UNTIED
    assert settings or named == dict.fromkeys(["table.weight", "head.weight"], CauseKind.UNTIED)
    right = sp.prove(tied, parallelize=lambda model, _mesh: model, devices=2, trials=1, **settings)
    assert not [one for one in right.findings if one.cause is not None and one.cause.kind is CauseKind.UNTIED]

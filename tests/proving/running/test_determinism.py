"""The determinism gate: a step that is not the same twice on one device is refused, and says why; others are not."""

import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn
from torch.utils.checkpoint import checkpoint

from shardproof.errors import CannotRunError
from shardproof.proving.prove import prove
from shardproof.proving.running.determinism import require_deterministic
from shardproof.worlds.randomness import Randomness


class Computing(steps.MLP):
    """The MLP with `function` between its layers."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.down(self.function(self.up(x)))


class Counter:
    """Counts its calls, as a list that a forward appends to would."""

    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return x * self.calls


def scale_by(generator, x):
    return x * generator.random()


def with_forward(make_function):
    function = make_function()
    return steps.make_step(model=lambda: Computing(function))


def with_loss(draw):
    return steps.make_step(loss=lambda outputs, targets: F.mse_loss(outputs, targets) * draw())


def with_buffer(draw):
    def build():
        model = steps.MLP()
        model.register_buffer("scale", torch.tensor(float(draw())))
        return model

    return steps.make_step(model=build)


def with_layers():
    widths = iter([8, 9, 10, 11])
    return steps.make_step(model=lambda: nn.Sequential(nn.Linear(6, next(widths)), nn.LazyLinear(4)))


def with_batch(draw):
    """The batch is made in the step itself, as a data loader would."""
    return steps.make_step(
        loss=None, forward=lambda model, batch: F.mse_loss(model(batch[0] + draw()), batch[1]), batch=steps.make_batch()
    )


REFUSED = {
    "torch.rand in the forward": (lambda: with_forward(lambda: lambda x: x + torch.rand(1)), "draws from PyTorch's"),
    "a mask of one's own": (lambda: with_forward(lambda: lambda x: x * (torch.rand_like(x) > 0.5)), "PyTorch's"),
    "bernoulli_": (lambda: with_forward(lambda: lambda x: x * torch.empty_like(x).bernoulli_(0.5)), "PyTorch's"),
    "dropout of channels": (
        lambda: with_forward(lambda: lambda x: F.alpha_dropout(x, 0.5, training=True)),
        "PyTorch's",
    ),
    "random.random in the forward": (lambda: with_forward(lambda: lambda x: x * random.random()), "Python's random"),
    "a branch that may fall alike": (
        lambda: with_forward(lambda: lambda x: x if random.random() < 0.999 else -x),
        "Python's random",
    ),
    "NumPy in the forward": (lambda: with_forward(lambda: lambda x: x * np.random.rand()), "NumPy's random"),  # noqa: NPY002
    "a generator of NumPy's own": (
        lambda: with_forward(lambda: partial(scale_by, np.random.default_rng(0))),
        "part at step 1, input down",
    ),
    "a counter": (lambda: with_forward(Counter), "part at step 1, input down: .*remembers earlier calls"),
    "random in the loss": (lambda: with_loss(random.random), "Python's random"),
    "torch.rand in the loss": (lambda: with_loss(lambda: torch.rand(())), "PyTorch's generator"),
    "a counter in the loss": (lambda: with_loss(iter([1.0, 2.0, 3.0]).__next__), "part at step 1, loss"),
    "random in the model's building": (lambda: with_buffer(random.random), "another model the second time.*: scale"),
    "NumPy in the model's building": (lambda: with_buffer(np.random.rand), "another model.*: scale differs"),
    "other shapes": (with_layers, "another model the second time"),
    "torch.rand in the batch": (lambda: with_batch(lambda: torch.rand(1)), "PyTorch's generator"),
    "random in the batch": (lambda: with_batch(random.random), "Python's random"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_same_twice_is_refused(name):
    make_step, said = REFUSED[name]
    with pytest.raises(CannotRunError, match=said):
        require_deterministic(make_step(), 0)


def attention(x):
    heads = x[None, None]
    return F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5)[0, 0]


ALLOWED = {
    "nothing random": lambda: steps.make_step(steps=3),
    "torch.rand in the model's building": lambda: with_buffer(lambda: torch.rand(())),
    "seeded in the model's building": lambda: with_buffer(lambda: random.Random(3).random()),
    "dropout": lambda: with_forward(lambda: nn.Dropout(0.5)),
    "dropout in place": lambda: with_forward(lambda: nn.Dropout(0.5, inplace=True)),
    "dropout in a checkpoint": lambda: with_forward(
        lambda: lambda x: checkpoint(lambda x: F.dropout(x, 0.5), x, use_reentrant=False)
    ),
    "attention's dropout": lambda: with_forward(lambda: attention),
    "numbers that are not finite": lambda: with_loss(lambda: float("nan")),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_is_the_same_twice_is_let_through(name):
    require_deterministic(ALLOWED[name](), 0)


def test_the_process_finds_its_generators_as_it_left_them():
    def parallelize(model, mesh):
        random.random()
        torch.rand(3)
        return steps.parallelize(model, mesh)

    before = Randomness.now()
    assert prove(steps.make_step(), parallelize=parallelize, devices=2, trials=1).ok
    assert before.moved() == []
    with pytest.raises(CannotRunError):
        prove(REFUSED["a counter"][0](), parallelize=steps.parallelize, devices=2, trials=1)
    assert before.moved() == []


def test_the_gate_stands_before_the_proof():
    with pytest.raises(CannotRunError, match=r"draws from Python's random .*; draw them before the step"):
        prove(REFUSED["random in the loss"][0](), parallelize=steps.parallelize, devices=2, trials=1)


def test_a_draw_that_the_step_seeds_itself_is_refused_by_exact_arithmetic():
    step = with_forward(lambda: lambda x: (torch.manual_seed(3), x + torch.rand(1))[1])
    require_deterministic(step, 0)
    with pytest.raises(CannotRunError, match=r"on one device: RandomDrawError: rand draws .*test_determinism\.py"):
        prove(step, parallelize=steps.parallelize, devices=2, trials=1)

"""What runs start from: values that tell each element, and values near the model's own."""

import torch
from tests.proving import steps
from torch import nn

from shardproof.proving.running.models import build_model
from shardproof.proving.running.start import start_exact, start_ordinary


class Scaled(steps.MLP):
    """The MLP with a buffer of zeros that is saved, and one that is not."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(4))
        self.register_buffer("scale", torch.ones(4), persistent=False)


def start(draw, seed):
    return draw(build_model(steps.make_step(model=Scaled), seed), seed)


def test_exact_runs_start_from_values_that_are_all_different():
    found = start(start_exact, 3)
    assert list(found.state) == list(Scaled().state_dict())
    values = torch.cat([one.reshape(-1) for one in found.drawn.values()])
    assert len(values.unique()) == len(values)
    assert {*found.drawn} == {*found.state, "scale"}
    assert all(torch.equal(found.drawn[name], found.state[name]) for name in found.state)
    assert torch.equal(start(start_exact, 3).state["up.weight"], found.state["up.weight"])
    assert not torch.equal(start(start_exact, 4).state["up.weight"], found.state["up.weight"])


def test_ordinary_runs_start_near_the_models_own_values():
    found = start(start_ordinary, 3)
    torch.manual_seed(3)
    own = Scaled()
    assert {*found.drawn} == {"shift", "scale"}
    assert torch.equal(found.drawn["shift"], found.state["shift"])
    for name, parameter in own.named_parameters():
        near = nn.functional.l1_loss(found.state[name], parameter.double()) / parameter.abs().mean()
        assert 0.01 < near < 0.2
        assert found.state[name].dtype is torch.float64

"""What runs start from: values that tell each element, and values near the model's own."""

import torch
from tests.proving import steps
from torch import nn

from shardproof.proving.running.start import start_exact, start_ordinary


class Scaled(steps.MLP):
    """The MLP with a buffer of zeros that is saved, and one that is not."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.zeros(4))
        self.register_buffer("scale", torch.ones(4), persistent=False)


STEP = steps.make_step(model=Scaled)


def test_exact_runs_start_from_values_that_are_all_different():
    start = start_exact(STEP, 3)
    assert list(start.state) == list(Scaled().state_dict())
    values = torch.cat([one.reshape(-1) for one in start.drawn.values()])
    assert len(values.unique()) == len(values)
    assert {*start.drawn} == {*start.state, "scale"}
    assert all(torch.equal(start.drawn[name], start.state[name]) for name in start.state)
    assert torch.equal(start_exact(STEP, 3).state["up.weight"], start.state["up.weight"])
    assert not torch.equal(start_exact(STEP, 4).state["up.weight"], start.state["up.weight"])


def test_ordinary_runs_start_near_the_models_own_values():
    start = start_ordinary(STEP, 3)
    torch.manual_seed(3)
    own = Scaled()
    assert {*start.drawn} == {"shift", "scale"}
    assert torch.equal(start.drawn["shift"], start.state["shift"])
    for name, parameter in own.named_parameters():
        near = nn.functional.l1_loss(start.state[name], parameter.double()) / parameter.abs().mean()
        assert 0.01 < near < 0.2
        assert start.state[name].dtype is torch.float64

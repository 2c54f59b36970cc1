"""Which elements of frozen parameters would have a gradient."""

import torch
from tests.proving import steps
from torch import nn

from shardproof.proving.running.models import build_model, tensors_of_state
from shardproof.proving.running.reach import reached_if_trained


class Words(nn.Module):
    """A frozen table, one read without gradients, and a layer that trains."""

    def __init__(self):
        super().__init__()
        self.table, self.other, self.out = nn.Embedding(5, 3), nn.Embedding(5, 3), nn.Linear(3, 4)
        self.table.requires_grad_(False)
        self.other.requires_grad_(False)

    def forward(self, ids):
        with torch.no_grad():
            shift = self.other(ids)
        return self.out(self.table(ids) + shift)


class OnlyFrozen(Words):
    def forward(self, ids):
        if self.table.weight.requires_grad:
            raise RuntimeError("the table is frozen")
        return super().forward(ids)


def reached(model):
    batch = (torch.tensor([0, 3, 3]), torch.randn(3, 4))
    step = steps.make_step(model=model, batch=batch)
    state = {name: one.double() for name, one in tensors_of_state(build_model(step, 0)).items()}
    return reached_if_trained(step, 0, state)


def test_rows_that_are_looked_up_are_reached():
    found = reached(Words)
    assert list(found) == ["table.weight"]
    assert found["table.weight"].all(1).tolist() == [True, False, False, True, False]
    assert found["table.weight"].any(1).tolist() == [True, False, False, True, False]


def test_where_nothing_is_frozen_or_the_step_runs_frozen_alone_nothing_is_told():
    assert reached_if_trained(steps.make_step(), 0, dict(build_model(steps.make_step(), 0).double().state_dict())) == {}
    assert reached(OnlyFrozen) == {}

"""Stages of a pipeline: ranks that hold different parameters, and one tied parameter on the first and the last."""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Key, Phase

ROWS, WIDTH = 7, 5


class Tied(nn.Module):
    """A table, a layer, and a head with the table's weight."""

    def __init__(self):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, ROWS)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(torch.tanh(self.inner(self.table(ids))))


def load(run):
    model = Tied().to(run.state["inner.weight"].dtype)
    model.load_state_dict(dict(run.state))
    return model


def train(run, *, first=0, summed=True, scale=1.0, lost=False):
    """Two stages; `first` is the rank of the first one. `summed`: the table's gradients of both are."""
    whole, stage = load(run), int(run.rank != first)
    modules = {"table": whole.table} if stage == 0 else {"inner": whole.inner, "head": whole.head}
    if lost and stage:
        modules.pop("head")
    part = nn.ModuleDict(modules)
    run.watch(part)
    optimizer = torch.optim.SGD(part.parameters(), lr=0.1)

    def sent(tensor, source):
        dist.broadcast(tensor, source)
        return tensor

    for ids, y in run.batches():
        optimizer.zero_grad()
        if stage == 0:
            h = whole.table(ids)
            sent(h.detach().clone(), first)
            h.backward(scale * sent(torch.empty_like(h), 1 - first))
            loss = torch.zeros((), dtype=h.dtype)
        else:
            h = sent(torch.empty(len(ids), WIDTH, dtype=whole.inner.weight.dtype), first).requires_grad_()
            loss = F.cross_entropy(whole.head(torch.tanh(whole.inner(h))), y)
            loss.backward()
            sent(h.grad.clone(), 1 - first)
            loss = loss.detach().clone()
        dist.all_reduce(loss)
        run.record_loss(loss)
        if summed:
            shared = whole.table.weight if stage == 0 else whole.head.weight
            dist.all_reduce(shared.grad)
        run.record_gradients()
        optimizer.step()
        run.record_update(optimizer)


def run(**settings):
    generator = torch.Generator().manual_seed(4)
    batch = (torch.tensor([0, 1, 3, 6]), torch.randint(ROWS, (4,), generator=generator))
    step = steps.make_step(model=Tied, batch=batch, loss=F.cross_entropy, steps=2)
    return prove(step, candidate=partial(train, **settings), devices=2, trials=1)


@pytest.mark.parametrize("first", [0, 1])
def test_stages_with_parameters_of_their_own_are_proved(first):
    proof = run(first=first)
    assert proof.ok
    assert (proof.sharding.split, proof.sharding.parameters, proof.sharding.idle) == (3, 4, ())


def test_a_gradient_that_is_scaled_between_stages_is_found():
    wrong = [one for one in run(scale=2.0).findings if one.verdict is Verdict.WRONG]
    assert (Phase.GRADIENT, "table.weight") in {(one.key.phase, one.key.name) for one in wrong}


def test_a_tied_weight_whose_stages_do_not_sum_its_gradients_is_found():
    found = {one.key: one.cause.kind for one in run(summed=False).findings if one.failed}
    for name in ("table.weight", "head.weight"):
        assert found[Key(0, Phase.GRADIENT, name)] is CauseKind.UNTIED


def test_a_parameter_that_no_stage_holds_is_lost():
    (root,) = [one for one in run(lost=True).roots if one.key.phase is Phase.INITIAL]
    assert (root.key.name, root.cause.kind) == ("head.bias", CauseKind.LOST)

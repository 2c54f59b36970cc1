"""Whole proofs of steps with one planted bug: the report names the tensor at which the step goes wrong, no other."""

import linecache

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving.steps import AllReduceBackward, AllReduceForward, make_sgd
from torch import nn

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.step import Step


class Gated(nn.Module):
    """A table and a norm before a gated layer: column, then row. Of the ranks' own, `bug` plants one."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(7, 6), nn.RMSNorm(6)
        self.gate, self.up, self.down = nn.Linear(6, 10, bias=False), nn.Linear(6, 10), nn.Linear(10, 6)
        self.split, self.bug = False, ""

    def forward(self, tokens):
        x = self.norm(self.table(tokens))
        if not self.split:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        shared = x if self.bug == "no backward all-reduce" else AllReduceBackward.apply(x)
        hidden = F.silu(self.gate(shared)) * self.up(shared)
        if self.bug == "a bias on each rank":
            return AllReduceForward.apply(self.down(hidden))
        if self.bug == "no forward all-reduce":
            return F.linear(hidden, self.down.weight) + self.down.bias
        return AllReduceForward.apply(F.linear(hidden, self.down.weight)) + self.down.bias


def split(bug):
    def parallelize(model, mesh):
        model.split, model.bug = True, bug
        for layer, dim in ((model.gate, 0), (model.up, 0), (model.down, 1)):
            own = layer.weight.detach().tensor_split(mesh.size(), dim)[dist.get_rank()]
            layer.weight = nn.Parameter(own.clone())
        model.up.bias = nn.Parameter(model.up.bias.detach().tensor_split(mesh.size())[dist.get_rank()].clone())
        if bug == "gradient of the norm":
            model.norm.weight.register_hook(lambda gradient: 2 * gradient)
        return model

    return parallelize


def make_step():
    generator = torch.Generator().manual_seed(4)
    batch = torch.randint(0, 7, (5,), generator=generator), torch.randn(5, 6, generator=generator)
    return Step(model=Gated, batch=batch, loss=F.mse_loss, optimizer=make_sgd, steps=1)


def first_causes(bug, **settings):
    proof = prove(make_step(), parallelize=split(bug), devices=2, **settings)
    return [(root.key.phase, root.key.name, root.cause.kind) for root in proof.roots], proof


@pytest.mark.parametrize("settings", [{"trials": 1}, {"trials": 3}, {"numeric": True}])
def test_a_missing_backward_all_reduce_is_one_first_cause_and_not_one_for_each_parameter(settings):
    roots, proof = first_causes("no backward all-reduce", **settings)
    assert roots == [(Phase.OUTPUT_GRADIENT, "norm", CauseKind.UNREDUCED)]
    assert proof.roots[0].cause.mend is Mend.ALL_REDUCE_IN_BACKWARD
    wrong = {one.key.name for one in proof.findings if one.failed and one.key.phase is Phase.GRADIENT}
    assert wrong == {"table.weight", "norm.weight"}
    assert "self.norm(self.table(tokens))" in line_at(proof.roots[0].source_line)


@pytest.mark.parametrize("settings", [{"trials": 1}, {"numeric": True}])
def test_with_it_the_step_is_right_and_a_wrong_gradient_is_its_own_cause(settings):
    roots, proof = first_causes("", **settings)
    assert proof.ok
    assert not roots
    roots, _ = first_causes("gradient of the norm", **settings)
    assert roots == [(Phase.GRADIENT, "norm.weight", CauseKind.SCALED)]


@pytest.mark.parametrize(("bug", "name"), [("a bias on each rank", "down"), ("no forward all-reduce", "model")])
@pytest.mark.parametrize("settings", [{"trials": 1}, {"numeric": True}])
def test_a_bias_in_each_partial_value_is_named(bug, name, settings):
    roots, _ = first_causes(bug, **settings)
    assert roots == [(Phase.OUTPUT, name, CauseKind.PARTS_WITH_BIAS)]


def line_at(source_line):
    """The text of a line that a report names."""
    return linecache.getline(__file__, int(source_line.split(":")[1].split()[0]))

"""Whole experts on ranks of their own are proved, with tokens that all ranks have and with tokens of their own."""

from collections import Counter

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.parallel.ranks import alone, calls_of, make_step, mesh_of, random
from tests.parallel.test_transformers import heads, make, own_plan
from torch import nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel import (
    WholeExperts,
    clip_gradients,
    parallelize,
    sharding_of,
    traffic_of,
    whole_experts,
)
from shardproof.parallel.axis import Axis
from shardproof.parallel.exchange import all_to_all
from shardproof.parallel.traffic import count_calls
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.report.text import render_text

H = 5


class Experts(nn.Module):
    """As transformers': a loop over the experts that have tokens."""

    def __init__(self, experts):
        super().__init__()
        self.num_experts = experts
        self.up, self.down = nn.Parameter(random(experts, H, 7)), nn.Parameter(random(experts, 7, H, seed=2))
        self.bias = nn.Parameter(random(experts, H, seed=3))

    def forward(self, hidden_states, top_k_index, top_k_weights):
        found = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            rows, place = (top_k_index == expert).nonzero(as_tuple=True)
            y = F.silu(hidden_states[rows] @ self.up[expert]) @ self.down[expert] + self.bias[expert]
            found = found.index_add(0, rows, y * top_k_weights[rows, place, None])
        return found


class Mixture(nn.Module):
    def __init__(self, experts=4, chosen=2, named=False):
        super().__init__()
        self.chosen, self.named = chosen, named
        self.first, self.last, self.router = nn.Linear(H, H), nn.Linear(H, 2), nn.Linear(H, experts, bias=False)
        self.experts = Experts(experts)

    def forward(self, x):
        h = self.first(x)
        weights, ids = self.router(h).softmax(-1).topk(self.chosen)
        if self.named:
            return self.last(h + self.experts(h, top_k_weights=weights, top_k_index=ids))
        return self.last(h + self.experts(h, ids, weights))


def prove_mixture(plan, mesh, tokens=24, around=lambda model, mesh: None, trials=1, **settings):
    def change(model, device_mesh):
        parallelize(model, device_mesh, plan, axis=next(iter(mesh)))
        around(model, device_mesh)
        return model

    step = make_step(
        lambda: Mixture(**settings), (random(tokens, H), random(tokens, 2)), loss=F.mse_loss, clip_norm=1.0
    )
    return prove(step, parallelize=change, mesh=mesh, trials=trials)


def average(model, mesh):
    """Each rank has its share of the tokens: experts have gradients of all of them, the rest must be averaged."""
    own = set(model.experts.parameters())

    def divide(parameter):
        if parameter not in own:
            dist.all_reduce(parameter.grad)
        parameter.grad.div_(mesh.size())

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(divide)


SAME, OWN = {"experts": WholeExperts()}, {"experts": WholeExperts(input=Shard(0))}


@pytest.mark.parametrize(
    ("mesh", "tokens", "settings"),
    [
        ({"tp": 2}, 24, {}),
        ({"tp": 3}, 25, {"experts": 6, "chosen": 3}),
        ({"tp": 4}, 7, {"chosen": 1}),  # ranks without tokens
        ({"tp": 2}, 24, {"named": True}),
    ],
)
def test_tokens_that_all_ranks_have_are_proved(mesh, tokens, settings):
    proof = prove_mixture(SAME, mesh, tokens, **settings)
    assert proof.ok, render_text(proof)
    assert proof.sharding.split == 3


@pytest.mark.parametrize(("mesh", "tokens"), [({"ep": 2}, 24), ({"ep": 4}, 24), ({"dp": 2}, 24), ({"ep": 4}, 4)])
def test_tokens_of_each_ranks_own_are_proved(mesh, tokens):
    proof = prove_mixture(OWN, mesh, tokens, average)
    assert proof.ok, render_text(proof)


def test_own_tokens_where_all_ranks_have_the_same_are_found():
    """Every rank sends all tokens: outputs are right, and an expert computes each token once a rank."""
    roots = prove_mixture(OWN, {"tp": 2}).roots
    assert {root.key.name for root in roots} == {"experts.up", "experts.down", "experts.bias"}
    assert {(root.cause.kind, root.cause.factor) for root in roots} == {(CauseKind.SCALED, 2)}


def test_the_same_tokens_where_each_rank_has_its_own_are_found():
    assert prove_mixture(SAME, {"ep": 2}, around=average).roots[0].verdict is Verdict.WRONG


def test_a_gradient_of_experts_that_is_not_divided_is_found():
    def average_the_rest(model, mesh):
        average(model, mesh)
        for parameter in model.experts.parameters():
            parameter.register_hook(lambda gradient: gradient * mesh.size())

    roots = prove_mixture(OWN, {"ep": 2}, around=average_the_rest).roots
    assert {root.cause.factor for root in roots} == {2}


def planted(monkeypatch, name, wrong):
    monkeypatch.setattr(whole_experts, name, wrong)
    return prove_mixture(SAME, {"tp": 2}).roots[0]


def test_gradients_that_stay_with_the_ranks_of_the_tokens_are_found(monkeypatch):
    """A shard of replicated tokens whose gradient nobody gathers."""
    root = planted(monkeypatch, "take_shard", lambda x, axis, dim: whole_experts.own_shard(x, axis, dim=dim))
    assert (root.verdict, "gradient" in root.key.phase) == (Verdict.WRONG, True)


def test_an_exchange_without_a_backward_is_found(monkeypatch):
    wrong = lambda rows, axis, sent, received: whole_experts.all_to_all(rows, axis, sent=sent, received=received)  # noqa: E731
    root = planted(monkeypatch, "exchange_rows", wrong)
    assert root.verdict is Verdict.WRONG


@pytest.mark.slow
@pytest.mark.processes
def test_processes_prove_it_too():
    def change(model, mesh):
        return parallelize(model, mesh, {"experts": WholeExperts()}, axis="tp")

    step = make_step(Mixture, (random(24, H), random(24, 2)), loss=F.mse_loss)
    assert prove(step, parallelize=change, mesh={"tp": 2}, trials=1, spawn=True).ok


@pytest.mark.parametrize(("plan", "own"), [(SAME, False), (OWN, True)])
def test_the_calls_are_those_that_its_traffic_says(plan, own, monkeypatch):
    def of_this_rank(counts, axis, **numbers):
        all_to_all(counts, axis, **numbers)  # nobody answers: memory that nobody wrote
        return counts.clone()

    monkeypatch.setattr(whole_experts, "all_to_all", of_this_rank)
    with alone(2) as axis:
        model = Mixture().double()
        parallelize(model, mesh_of(axis), plan)
        ((among, traffic),) = traffic_of(model)["experts"]
        outputs = []
        forward = calls_of(lambda: outputs.append(model(random(6, H))))
        assert forward == count_calls(traffic.forward, among)
        assert calls_of(lambda: outputs[0].sum().backward()) == count_calls(traffic.backward, among)
        assert Counter(traffic.forward)["all_gather"] == (not own)


class Elsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_experts, self.weight, self.norm = 4, nn.Parameter(random(4, H)), nn.LayerNorm(H)


class Uncounted(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(random(4, H))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_experts, self.weight, self.scale = 4, nn.Parameter(random(4, H)), nn.Parameter(random(H))


@pytest.mark.parametrize(
    ("model", "plan", "size", "said"),
    [
        (Mixture, SAME, 3, "4 experts on 3 ranks: each rank needs as many whole experts"),
        (Elsewhere, {"": WholeExperts()}, 2, "norm.weight is used by all experts"),
        (Uncounted, {"": WholeExperts()}, 2, "with num_experts None; needed is a module"),
        (Shared, {"": WholeExperts()}, 2, "needed is a module whose own parameters have a dim of num_experts first"),
    ],
)
def test_what_cannot_be_split_is_refused(model, plan, size, said):
    with alone(size) as axis, pytest.raises(CannotRunError, match=said):
        parallelize(model(), mesh_of(axis), plan)


def test_another_placement_is_refused():
    with pytest.raises(CannotRunError, match="give Replicate"):
        WholeExperts(input=Shard(1))
    assert WholeExperts(input=Replicate()) == WholeExperts()


@pytest.mark.parametrize(("arguments", "named"), [((random(2, H),), {}), ((1, 2, 3), {}), ((), {"x": random(2, H)})])
def test_another_call_is_refused(arguments, named):
    with alone(2) as axis:
        model = parallelize(Mixture(), mesh_of(axis), SAME)
        with pytest.raises(CannotRunError, match="needed are three tensors: hidden_states, top_k_index, top_k_weights"):
            model.experts(*arguments, **named)


def expert_plan(kind, **settings):
    """transformers' own plan over tensors, and over experts for its experts, over one axis."""
    own = make(kind, **settings).model().ep_plan
    tensors = {name: style for name, style in own_plan(kind, **settings).items() if ".mlp." not in name}
    return tensors | own


@pytest.mark.parametrize(("kind", "devices"), [("mixtral", 2), ("mixtral", 4), ("qwen3_moe", 2)])
def test_transformers_models_by_their_own_plans_are_proved(kind, devices):
    settings = heads(4, 4)

    def change(model, mesh):
        return parallelize(model, mesh, expert_plan(kind, **settings))

    proof = prove(make(kind, **settings), parallelize=change, devices=devices, trials=1)
    assert proof.ok, render_text(proof)


def test_clipping_counts_each_expert_once():
    def clip(model):
        axis = getattr(model, "axis", None)
        if axis is None:
            return torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        return clip_gradients(model.parameters(), 0.1, axis)

    def change(model, mesh):
        parallelize(model, mesh, SAME)
        assert sharding_of(model.experts.up).dim == 0
        model.axis = Axis.of(mesh, "tp")
        return model

    step = make_step(Mixture, (random(24, H), random(24, 2)), loss=F.mse_loss, clip=clip)
    assert prove(step, parallelize=change, devices=2, trials=1).ok

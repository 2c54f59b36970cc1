"""Styles that few models need, each against what one device computes and beside a form that does not."""

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import make_step, random
from torch import nn

from shardproof.parallel import Column, Row, parallelize
from shardproof.proving.prove import prove

H, W = 6, 5


class Fused(nn.Module):
    """[gate; up] one projection, as phi3 has it."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj, self.down_proj = nn.Linear(H, 2 * W), nn.Linear(W, H)

    def forward(self, x):
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Joined(nn.Module):
    """Two branches side by side go into one projection: its inputs are fused."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(H, 4), nn.Linear(H, 4), nn.Linear(2 * 4, H)

    def forward(self, x):
        return self.out(torch.cat([self.left(x).relu(), F.gelu(self.right(x))], -1))


class Partial(nn.Module):
    """A product that a rank has a part of, and no module of its own to sum it."""

    def __init__(self):
        super().__init__()
        self.up, self.inner, self.identity = nn.Linear(H, 6), Inner(), nn.Identity()

    def forward(self, x):
        return self.inner(self.up(x))


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(H, 6))

    def forward(self, x):
        return x @ self.weight.T


class Latent(nn.Module):
    """Of latent attention: some features go through a projection by heads, the others straight to every head."""

    def __init__(self):
        super().__init__()
        self.config = type("Config", (), {"qk_rope_head_dim": 2})
        self.kv_a, self.kv_b, self.out = nn.Linear(H, 3 + 2), nn.Linear(3, 4 * 2), nn.Linear(4 * 2, H)

    def forward(self, x):
        latent, rotary = self.kv_a(x).split([3, 2], -1)
        heads = self.kv_b(latent).unflatten(-1, (-1, 2)) * rotary.sin().unsqueeze(-2)
        return self.out(heads.flatten(-2))


class Zero(nn.Module):
    """Experts of which one is the input itself: every rank has it whole, and the ranks' outputs are summed."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.zero = nn.Linear(H, W), nn.Linear(W, H, bias=False), nn.Identity()
        self.experts = Mixed(self)

    def forward(self, x):
        return self.experts(x, None, x.sigmoid())


class Mixed(nn.Module):
    def __init__(self, owner):
        super().__init__()
        self.parts = [owner]

    def forward(self, x, _indices, weights):
        (owner,) = self.parts
        return owner.down(F.gelu(owner.up(x))) * weights + owner.zero(x) * weights


FUSED = {"gate_up_proj": "packed_colwise", "down_proj": "rowwise"}
JOINED = {"left": "colwise", "right": "colwise", "out": "packed_rowwise"}
PARTIAL = {"up": "colwise", "inner.weight": "rowwise", "inner": "all_reduce"}
LATENT = {"kv_a": "mla_kv_a_proj", "kv_b": "colwise", "out": "rowwise"}
# The experts sum what the layers leave partial; so these are cut as parameters.
ZERO = {
    "up.weight": "colwise",
    "up.bias": "colwise",
    "down.weight": "rowwise",
    "zero": "moe_identity_expert",
    "experts": "moe_tp_experts",
}


def proof_of(kind, plan, devices=2):
    step = make_step(kind, (random(4, H), random(4, H)), loss=F.mse_loss)
    return prove(step, parallelize=lambda model, mesh: parallelize(model, mesh, plan), devices=devices, trials=1)


@pytest.mark.parametrize(
    ("kind", "plan", "devices"),
    [(Fused, FUSED, 3), (Joined, JOINED, 3), (Partial, PARTIAL, 2), (Latent, LATENT, 4), (Zero, ZERO, 2)],
)
def test_a_rare_style_is_proved(kind, plan, devices):
    proof = proof_of(kind, plan, devices)
    assert proof.ok, proof.roots


@pytest.mark.parametrize(
    ("kind", "plan", "place"),
    [
        pytest.param(Joined, JOINED | {"out": Row()}, "out", id="inputs cut as one"),
        pytest.param(Partial, PARTIAL | {"inner": "replicate"}, "inner", id="nobody sums"),
        pytest.param(Latent, LATENT | {"kv_a": "replicate"}, "kv_a", id="rotary gradient not summed"),
        pytest.param(Zero, ZERO | {"zero": "local_params"}, "experts", id="identity counted N times"),
    ],
)
def test_the_style_next_to_it_is_found_wrong(kind, plan, place):
    proof = proof_of(kind, plan)
    assert not proof.ok
    assert {finding.key.name.partition(".")[0] for finding in proof.roots} == {place}


def test_a_gathered_fused_projection_needs_no_parts():
    plan = {"gate_up_proj": Column(parts=2, output=Row().output)}
    assert proof_of(Fused, plan, 3).ok

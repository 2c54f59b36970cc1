"""A norm that each rank applies to its own tokens or heads is the whole one, if its gradients are summed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, calls_of, count_calls, make_step, proof_of, random, run
from torch import nn
from torch.distributed.tensor import Shard
from torch.utils.checkpoint import checkpoint

from shardproof.parallel.collectives import gather_shards, take_shard
from shardproof.parallel.linear import ColumnLinear, RowLinear
from shardproof.parallel.norms import GRADIENT_SUM, sum_gradients_of_parameters
from shardproof.parallel.sharding import Section, sharding_of
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.records import Phase

S, H = 7, 6


class OwnNorm(nn.Module):
    """As frameworks write them."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm, self.up, self.down = norm(H), nn.Linear(H, 5), nn.Linear(5, H)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Sharded(nn.Module):
    """The block on this rank's part of the sequence, which is dim 1."""

    def __init__(self, block, axis):
        super().__init__()
        self.norm, self.up, self.down = block.norm, block.up, block.down
        self.block, self.axis = block.forward, axis

    def forward(self, x):
        own = take_shard(x, self.axis, dim=1)
        own = own + self.down(F.gelu(self.up(self.norm(own))))
        return gather_shards(own, self.axis, dim=1, total=S)


def make(norm):
    return make_step(lambda: Block(norm), (random(2, S, H), random(2, S, H)), loss=F.mse_loss)


def by_sequence(sync):
    def change(model, axis):
        model.up = ColumnLinear.from_linear(model.up, axis, input=Shard(1), length=S)
        model.down = RowLinear.from_linear(model.down, axis, output=Shard(1))
        sync(model.norm, axis)
        return Sharded(model, axis)

    return change


NORMS = [nn.LayerNorm, nn.RMSNorm, lambda width: nn.LayerNorm(width, bias=False), OwnNorm]


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_of_this_ranks_tokens_is_proved(norm, devices):
    proof = proof_of(make(norm), by_sequence(sum_gradients_of_parameters), devices)
    assert proof.ok, proof.roots


def test_without_the_sum_its_gradient_is_named_as_partial():
    proof = proof_of(make(nn.LayerNorm), by_sequence(lambda norm, _axis: norm), 2)
    assert {f.key.name for f in proof.roots} == {"norm.weight", "norm.bias"}
    assert all(f.key.phase is Phase.GRADIENT for f in proof.roots)
    assert {f.cause for f in proof.roots} == {
        Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT)
    }


class Heads(nn.Module):
    """One norm for all heads, as q_norm."""

    def __init__(self):
        super().__init__()
        self.split, self.norm, self.out = nn.Linear(H, 4 * 3), nn.RMSNorm(3), nn.Linear(4 * 3, H)

    def forward(self, x):
        return self.out(self.norm(self.split(x).unflatten(-1, (-1, 3))).flatten(-2))


def by_heads(sync):
    def change(model, axis):
        heads = [Section(length=12, unit=3)]
        model.split = ColumnLinear.from_linear(model.split, axis, sections=heads)
        model.out = RowLinear.from_linear(model.out, axis, sections=heads)
        sync(model.norm, axis)

    return change


def test_a_norm_of_this_ranks_heads_is_proved_and_unsynced_it_is_named():
    step = make_step(Heads, (random(5, H), random(5, H)), loss=F.mse_loss)
    assert proof_of(step, by_heads(sum_gradients_of_parameters), 3).ok
    proof = proof_of(step, by_heads(lambda norm, _axis: norm), 3)
    assert {(f.key.phase, f.key.name) for f in proof.roots} == {(Phase.GRADIENT, "norm.weight")}


class TwoNorms(Heads):
    """A norm of the query heads and one of the key heads, of different sizes."""

    def __init__(self):
        super().__init__()
        self.second = nn.LayerNorm(3)

    def forward(self, x):
        heads = self.split(x).unflatten(-1, (-1, 3))
        return self.out((self.norm(heads) * self.second(heads)).flatten(-2))


def together(model, axis):
    sum_gradients_of_parameters(model, axis, names=["norm", "second"])


def one_of_them(model, axis):
    sum_gradients_of_parameters(model, axis, names=["second"])


@pytest.mark.parametrize(("sync", "wrong"), [(together, set()), (one_of_them, {"norm.weight"})])
def test_norms_of_a_parent_are_summed_together_and_one_left_out_is_named(sync, wrong):
    step = make_step(TwoNorms, (random(5, H), random(5, H)), loss=F.mse_loss)

    def change(model, axis):
        by_heads(lambda _norm, _axis: None)(model, axis)
        sync(model, axis)

    proof = proof_of(step, change, 3)
    assert {f.key.name for f in proof.roots} == wrong
    assert proof.ok == (not wrong)


def test_norms_of_a_parent_cost_one_all_reduce_and_a_copy_sums_its_own():
    with alone(2) as axis:
        model = TwoNorms()
        together(model, axis)
        model = copy.deepcopy(model)
        out = model(random(4, H).float())
        assert not {"weight", "bias"} & {*vars(model.norm), *vars(model.second)}
        assert calls_of(lambda: out.sum().backward()) == count_calls(GRADIENT_SUM.backward, axis)
        assert model.second.bias.grad is not None


@pytest.mark.parametrize("size", [2, 3])
def test_all_parameters_of_a_module_cost_one_all_reduce(size):
    with alone(size) as axis:
        norm = sum_gradients_of_parameters(nn.LayerNorm(H), axis)
        outputs = []
        assert calls_of(lambda: outputs.append(norm(random(4, H).float()))) == count_calls((), axis)
        backward = calls_of(lambda: outputs[0].sum().backward())
        assert backward == count_calls(GRADIENT_SUM.backward, axis)
        assert backward != count_calls(2 * GRADIENT_SUM.backward, axis)
        assert sharding_of(norm.weight).local_shape == (H,)


def test_a_copy_sums_too_and_the_module_is_left_as_it_was():
    def on_rank(axis):
        norm = sum_gradients_of_parameters(nn.LayerNorm(H), axis)
        other = copy.deepcopy(norm)
        other(torch.ones(2, H) * torch.arange(H)).sum().backward()
        assert "weight" not in vars(other)
        assert [name for name, _ in other.named_parameters()] == ["weight", "bias"]
        with pytest.raises(RuntimeError):
            other(torch.ones(2, H + 1))
        assert "weight" not in vars(other)
        with torch.no_grad():
            assert torch.equal(other(torch.ones(2, H)), norm(torch.ones(2, H)))
        return other.bias.grad

    for gradient in run(3, on_rank):
        assert gradient.tolist() == [6.0] * H  # two tokens on each of three ranks


def test_a_frozen_parameter_costs_nothing():
    with alone(2) as axis:
        norm = sum_gradients_of_parameters(nn.LayerNorm(H).requires_grad_(False), axis)
        x = random(4, H).float().requires_grad_()
        assert not calls_of(lambda: norm(x).sum().backward())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_of_several_backwards_add_up_each_summed_once(checkpointed):
    """Summing what has accumulated, as a hook after accumulation would, counts the first backward's N times."""
    x = random(2, 3, H)

    def on_rank(axis):
        norm = sum_gradients_of_parameters(nn.LayerNorm(H).double(), axis)
        for part in x:  # a micro-batch, of which each rank has a token
            own = part[axis.rank : axis.rank + 1]
            out = checkpoint(norm, own, use_reentrant=False) if checkpointed else norm(own)
            out.square().sum().backward()
        return norm.weight.grad

    whole = nn.LayerNorm(H).double()
    whole(x).square().sum().backward()
    for gradient in run(3, on_rank):
        torch.testing.assert_close(gradient, whole.weight.grad)

"""Inputs and outputs of a module move between placements: values, gradients, calls, and bugs beside."""

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, calls_of, make_step, mesh_of, random, run
from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import PrepareModuleInput, PrepareModuleOutput

from shardproof.errors import CannotRunError
from shardproof.parallel import DividedInput, Experts, Move, SharedInput, boundaries, parallelize
from shardproof.parallel.traffic import count_calls
from shardproof.proving.prove import prove

MOVES = [
    Move(source=source, target=target)
    for source in (Replicate(), Shard(0), Shard(1), Partial())
    for target in (Replicate(), Shard(0), Shard(1))
]


def held(full, placement, axis):
    """What a rank has of a full tensor; partial values are its even shares."""
    if isinstance(placement, Shard):
        return full.chunk(axis.size, placement.dim)[axis.rank]
    return full / axis.size if isinstance(placement, Partial) else full


@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_a_move_gives_what_its_target_says_and_takes_the_gradient_back(move):
    full, gradient = torch.arange(16.0).view(4, 4), torch.arange(16.0).view(4, 4) ** 2

    def on_rank(axis):
        x = held(full, move.source, axis).clone().requires_grad_()
        moved = move(x, axis)
        moved.backward(held(gradient, move.target, axis))
        return torch.equal(moved, held(full, move.target, axis)), x.grad, axis

    # The gradient of what is replicated is replicated; so it is of every partial value, of which the sum is used.
    back = Replicate() if isinstance(move.source, Partial) else move.source
    for right, found, axis in run(2, on_rank):
        assert right
        assert torch.equal(found, held(gradient, back, axis))


@pytest.mark.parametrize("move", MOVES, ids=repr)
def test_a_move_calls_what_its_traffic_says(move):
    with alone(2) as axis:
        x, outputs = torch.ones(4, 4, requires_grad=True), []
        assert calls_of(lambda: outputs.append(move(x, axis))) == count_calls(move.traffic.forward, axis)
        if outputs[0] is not x:
            assert calls_of(lambda: outputs[0].sum().backward()) == count_calls(move.traffic.backward, axis)


def test_a_move_to_partial_is_refused():
    with pytest.raises(CannotRunError, match="cannot be moved from"):
        Move(source=Replicate(), target=Partial())


def test_boundaries_move_outputs_and_keywords():
    class Doubled(nn.Module):
        def forward(self, x, *, scale):
            return x * scale, x

    plan = {
        "0": PrepareModuleInput(
            input_layouts=(Shard(0),),
            desired_input_layouts=(Replicate(),),
            input_kwarg_layouts={"scale": Replicate()},
            desired_input_kwarg_layouts={"scale": Shard(0)},
        )
    }
    out = PrepareModuleOutput(output_layouts=(Replicate(), None), desired_output_layouts=(Shard(0), None))

    def on_rank(axis):
        model = parallelize(nn.Sequential(Doubled()), mesh_of(axis), plan)
        scaled, x = model[0](torch.full((1, 2), float(axis.rank)), scale=torch.tensor([[2.0], [3.0]]))
        shard = parallelize(nn.Sequential(Doubled()), mesh_of(axis), {"0": out})
        own, rest = shard[0](torch.arange(4.0), scale=2)
        with pytest.raises(CannotRunError, match="without a tensor as argument 'scale'"):
            model[0](torch.ones(1, 2), scale=1)
        return scaled, x, own, rest

    for rank, (scaled, x, own, rest) in enumerate(run(2, on_rank)):
        assert x.tolist() == [[0, 0], [1, 1]]
        assert scaled.tolist() == [[0, 0], [2 + rank, 2 + rank]]
        assert own.tolist() == [[0, 2], [4, 6]][rank]
        assert len(rest) == 4


def test_a_shared_input_sums_the_gradient_and_a_divided_one_divides():
    def on_rank(axis):
        model = parallelize(nn.Sequential(nn.Identity(), nn.Identity()), mesh_of(axis), PLAN)
        x = torch.ones(2, requires_grad=True)
        out = model(x)
        (out * (axis.rank + 1)).sum().backward()
        return out.detach(), x.grad

    PLAN = {"0": SharedInput(), "1": DividedInput()}
    for out, gradient in run(3, on_rank):
        torch.testing.assert_close(out, torch.full((2,), 1 / 3))
        torch.testing.assert_close(gradient, torch.full((2,), (1 + 2 + 3) / 3))


class Router(nn.Module):
    """A layer whose output goes to experts both as hidden states and as their weights."""

    def __init__(self):
        super().__init__()
        self.first, self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 4, bias=False)
        self.experts = Routed()

    def forward(self, x):
        hidden = self.first(x)
        return self.experts(hidden, [self.up, self.down], hidden.sigmoid())


class Routed(nn.Module):
    def forward(self, x, layers, weights):
        up, down = layers
        return down(up(x).tanh()) * weights


ROUTED = {"up.weight": "colwise", "up.bias": "colwise", "down.weight": "rowwise", "experts": Experts()}


@pytest.mark.parametrize("left_out", [None, 0, 2])
def test_the_gradients_of_an_experts_inputs_are_summed_in_one_message(left_out, monkeypatch):
    step = make_step(Router, (random(5, 4), random(5, 4)), loss=F.mse_loss)
    if left_out is not None:
        real = boundaries.sum_gradients_together

        def forget(tensors, axis):
            summed = real(tensors, axis)
            return tuple(x if 2 * i == left_out else y for i, (x, y) in enumerate(zip(tensors, summed, strict=True)))

        monkeypatch.setattr(boundaries, "sum_gradients_together", forget)
    proof = prove(step, parallelize=lambda model, mesh: parallelize(model, mesh, ROUTED), devices=2, trials=1)
    assert proof.ok is (left_out is None), proof.roots


def test_an_experts_inputs_make_the_calls_of_their_traffic():
    with alone(2) as axis:
        out = parallelize(Router(), mesh_of(axis), ROUTED)(torch.ones(5, 4))
        assert calls_of(lambda: out.sum().backward()) == count_calls(["all_reduce"], axis)

"""Inputs and outputs of a module move between placements: values, gradients, calls, and bugs beside."""

import pytest
import torch
from tests.parallel.ranks import alone, calls_of, mesh_of, run
from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import PrepareModuleInput, PrepareModuleOutput

from shardproof.errors import CannotRunError
from shardproof.parallel import DividedInput, Move, SharedInput, parallelize
from shardproof.parallel.traffic import count_calls

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

"""Forwards that are computed again: PyTorch's checkpoints of both kinds, and one written by hand."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

from shardproof import Step
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Key, Phase
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.hooks import modules_recorded
from shardproof.proving.running.recomputation import (
    backward_runs,
    find_repeated,
    is_recomputed,
    recomputation_followed,
)


class ByHand(torch.autograd.Function):
    """The forward again in the backward, as a repository of one's own writes it."""

    @staticmethod
    def forward(ctx, x, function, keep):
        ctx.function, ctx.state = function, torch.get_rng_state() if keep else None
        ctx.save_for_backward(x)
        return function(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.random.fork_rng(), torch.enable_grad():
            if ctx.state is not None:
                torch.set_rng_state(ctx.state)
            y = ctx.function(x)
        torch.autograd.backward(y, gradient)
        return x.grad, None, None


def not_reentrant(function, x, keep=True):
    return checkpoint(function, x, use_reentrant=False, preserve_rng_state=keep)


def reentrant(function, x, keep=True):
    return checkpoint(function, x, use_reentrant=True, preserve_rng_state=keep)


def by_hand(function, x, keep=True):
    return ByHand.apply(x, function, keep)


WAYS = {"not reentrant": not_reentrant, "reentrant": reentrant, "by hand": by_hand}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# Telling that a forward is computed again --------------------------------------------------------------------------


@every_way
def test_a_forward_that_is_computed_again_is_told_from_the_forward_and_from_the_backward(way):
    recorder, seen = Recorder(), []

    def note(what):
        seen.append((what, backward_runs(), is_recomputed(recorder)))

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            note("forward")
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            note("backward")
            return gradient

    x = torch.ones(3, requires_grad=True)
    with recomputation_followed(recorder):
        (way(lambda x: Noted.apply(x).sin().sin(), x) * 2).sum().backward()
    assert seen == [("forward", False, False), ("forward", True, True), ("backward", True, False)]


def test_a_backward_without_a_checkpoint_computes_nothing_again():
    recorder, seen = Recorder(), []
    x = torch.ones(3, requires_grad=True)
    y = x.sin()
    y.register_hook(lambda _: seen.append((backward_runs(), is_recomputed(recorder))))
    with recomputation_followed(recorder):
        torch.autograd.grad(y.sum(), x, create_graph=True)
    assert seen == [(True, False)]


# The call that is repeated -----------------------------------------------------------------------------------------


def test_the_repeated_call_is_found_by_its_values_from_the_end():
    recorder = Recorder()
    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    first, second, third = (recorder.add(Phase.OUTPUT, "up", values) for values in (one, two, one))

    def find(values, name="up", phase=Phase.OUTPUT):
        return find_repeated(recorder, phase, name, values)

    assert [find(one), find(two), find(one), find(one)] == [third, second, first, third]
    assert find(torch.tensor([3.0])) is None
    assert find(one, phase=Phase.INPUT) is None
    assert find(one, name="down") is None


def test_outside_any_module_a_function_is_found_without_its_module():
    recorder = Recorder()
    key = recorder.add(Phase.OUTPUT, "model/softmax", torch.ones(2))
    assert find_repeated(recorder, Phase.OUTPUT, "softmax", torch.ones(2)) == key
    recorder.running.append("other")
    assert find_repeated(recorder, Phase.OUTPUT, "softmax", torch.ones(2)) is None


@every_way
def test_what_is_computed_again_is_recorded_once(way):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    recorder = Recorder()
    with modules_recorded(model, recorder):
        way(model, torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert {key.call for key in recorder.records.tensors} == {0}
    assert Key(0, Phase.OUTPUT_GRADIENT, "0") in recorder.records.tensors


# Proofs ------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x):
        weights = F.softmax(self.norm(x) @ x.T, -1)
        return x + F.dropout(self.down(F.gelu(self.up(weights @ x))), 0.2)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.block, self.leave = nn.Linear(4, 6), Block(), nn.Linear(6, 3)
        self.call = lambda block, x: block(x)

    def forward(self, x):
        return self.leave(self.call(self.block, self.enter(x)))


def make_step(model=Model):
    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(9, 4, generator=generator), torch.randn(9, 3, generator=generator))
    optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    return Step(model=model, batch=batch, loss=F.mse_loss, optimizer=optimizer, steps=2)


def sharded(call):
    def parallelize(model, mesh):
        model.call = call
        return parallelize_module(model, mesh, {"block.up": ColwiseParallel(), "block.down": RowwiseParallel()})

    return parallelize


@every_way
def test_a_checkpoint_is_proved_and_its_masks_drawn_again_are_too(way):
    proof = prove(make_step(), parallelize=sharded(way), devices=2)
    assert proof.ok
    again = [f for f in proof.findings if "recomputed" in f.key.name]
    assert [(f.verdict, f.false_accept) for f in again] == [(Verdict.PROVED, 2.0**-108)]


@every_way
def test_another_mask_is_wrong(way):
    proof = prove(make_step(), parallelize=sharded(lambda block, x: way(block, x, keep=False)), devices=2)
    assert [(f.key.name, f.cause.kind) for f in proof.findings if f.failed] == [
        ("block (recomputed)", CauseKind.RECOMPUTED_MASK)
    ]


def bounds_of(proof):
    return {f.key: f.false_accept for f in proof.findings if f.key.phase is not Phase.MASK}


def test_a_checkpoint_has_the_bounds_of_the_step_without_it():
    plain = prove(make_step(), parallelize=sharded(lambda block, x: block(x)), devices=2)
    assert bounds_of(prove(make_step(), parallelize=sharded(not_reentrant), devices=2)) == bounds_of(plain)
    assert None not in bounds_of(plain).values()


@pytest.mark.parametrize("again", ["all ranks", "this rank"])
@every_way
def test_the_forward_again_over_another_group_is_wrong(way, again):
    """The sum is the last that is computed again, so that no number shows it."""

    class Summed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, group):
            x = x.clone()
            dist.all_reduce(x, group=group)
            return x

        @staticmethod
        def backward(ctx, gradient):
            return gradient, None

    def parallelize(model, mesh):
        alone = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
        size = mesh.size()

        def block(x):
            group = alone if again == "this rank" and backward_runs() else dist.group.WORLD
            # Twice, so that a checkpoint that stops early comes to the sum.
            return Summed.apply(model.block(x) / size, group).sin().sin()

        model.call = lambda _, x: way(block, x)
        return model

    proof = prove(make_step(), parallelize=parallelize, devices=2)
    causes = {f.cause.kind for f in proof.findings if f.failed and f.key.phase is Phase.COLLECTIVES}
    assert causes == ({CauseKind.RECOMPUTED_COLLECTIVE} if again == "this rank" else set())

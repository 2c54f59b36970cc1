"""A small step, and shardings of it: one right, each other with one bug planted. Importable by spawned ranks."""

import os
import signal
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from shardproof.proving.running.target import ProofTarget
from shardproof.proving.step import Step


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 4)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


def make_batch(*, rows=5, outputs=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, 6, generator=generator), torch.randn(rows, outputs, generator=generator)


def make_sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def make_step(*, rows=5, outputs=4, **changes):
    settings = {
        "model": MLP,
        "batch": make_batch(rows=rows, outputs=outputs),
        "loss": F.mse_loss,
        "optimizer": make_sgd,
        "steps": 1,
    }
    return Step(**(settings | changes))


step = make_step()


def parallelize(model, mesh):
    return parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


class MegatronMLP(nn.Module):
    """Column then row by hand, with the parameters' own names; `bug` plants one."""

    def __init__(self, model, rank, size, bug):
        super().__init__()
        self.up, self.down, self.bug, self.size = model.up, model.down, bug, size
        width = 8 // size
        at = (rank + 1) % size if bug == "swapped shards" else rank
        own = slice(at * width, (at + 1) * width)
        place = slice(rank * width, (rank + 1) * width)
        self.up.weight = nn.Parameter(model.up.weight.detach()[place].clone())
        self.up.bias = nn.Parameter(model.up.bias.detach()[place].clone())
        self.down.weight = nn.Parameter(model.down.weight.detach()[:, own].clone())

    def forward(self, x):
        x = x if self.bug == "no backward all-reduce" else AllReduceBackward.apply(x)
        h = F.gelu(F.linear(x, self.up.weight, self.up.bias))
        if self.bug == "bias inside":
            return AllReduceForward.apply(F.linear(h, self.down.weight, self.down.bias))
        partial = F.linear(h, self.down.weight)
        reduced = partial if self.bug == "no all-reduce" else AllReduceForward.apply(partial)
        return reduced + self.down.bias


class AllReduceForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad


class AllReduceBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def megatron(bug):
    def shard(model, mesh):
        return MegatronMLP(model, mesh.get_local_rank(), mesh.size(), bug)

    return shard


def scaled_gradient(model, mesh):
    model = parallelize(model, mesh)
    model.up.weight.register_hook(lambda gradient: gradient * 2)
    return model


def load_with_lambdas():
    return ProofTarget(step=make_step(), parallelize=megatron("bias inside"))


def dies(model, mesh):
    if mesh.get_local_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return parallelize(model, mesh)


def raises(model, mesh):
    if mesh.get_local_rank() == 1:
        raise OverflowError("more than it can hold")
    return parallelize(model, mesh)


def hangs(model, mesh):
    model = parallelize(model, mesh)
    if mesh.get_local_rank() == 1:
        model.down.register_forward_hook(lambda *_: time.sleep(300))
    return model


def slow(model, mesh):
    model = parallelize(model, mesh)
    model.register_full_backward_pre_hook(lambda *_: time.sleep(1.2))
    model.up.register_forward_hook(lambda *_: time.sleep(1.2))
    return model


def average(tensor):
    tensor = tensor.detach().clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()


def make_training(*, forget=(), late=False, steps_taken=None, clip=None):
    """Data parallel over two ranks, four rows a batch."""

    def train(run):
        model = MLP().to(run.state["up.weight"].dtype)
        model.load_state_dict(dict(run.state))
        if "watch" not in forget:
            run.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number, (x, y) in enumerate(run.batches()):
            if number == steps_taken:
                break
            optimizer.zero_grad()
            loss = F.mse_loss(model(x.chunk(run.size)[run.rank]), y.chunk(run.size)[run.rank])
            if "loss" not in forget:
                run.record_loss(average(loss))
            loss.backward()
            for parameter in model.parameters():
                if "average" not in forget:
                    parameter.grad = average(parameter.grad)
            if "gradients" not in forget:
                run.record_gradients()
            norm = None
            if clip is not None:
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if "update" not in forget:
                run.record_update(optimizer, norm=norm)

    return train


def make_step_of_four_rows(**changes):
    return make_step(rows=4, **({"steps": 2} | changes))


def load_training():
    return ProofTarget(step=make_step_of_four_rows(), candidate=make_training())


def load_training_without_average():
    return ProofTarget(step=make_step_of_four_rows(), candidate=make_training(forget=["average"]))


def idle_collective(dtype):
    """In one dtype, a collective that changes nothing: the numbers cannot tell."""

    def shard(model, mesh):
        model = parallelize(model, mesh)

        def hook(_module, _inputs, output):
            if output.dtype == dtype:
                dist.all_reduce(torch.zeros(3))

        model.up.register_forward_hook(hook)
        return model

    return shard


def idle_collective_in_float32(model, mesh):
    return idle_collective(torch.float32)(model, mesh)

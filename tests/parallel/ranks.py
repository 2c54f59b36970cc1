"""Ranks for tests of parallel layers: a small proof, and a rank without the others to count what it calls."""

from collections import Counter
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

from shardproof.parallel.axis import Axis
from shardproof.parallel.traffic import count_calls
from shardproof.proving.prove import prove
from shardproof.proving.step import Step
from shardproof.worlds.threaded import ThreadedWorld


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_sgd(parameters):
    """SGD, because Adam would hide a factor in a gradient."""
    return torch.optim.SGD(parameters, lr=0.1)


def make_step(model, batch, **changes):
    """One step of SGD; what it is made of can be sent to another process if `model` and the changes can."""
    return Step(model=model, batch=batch, **({"optimizer": make_sgd, "steps": 1} | changes))


def mesh_of(axis):
    """A mesh of the axis's ranks, called tp."""
    return init_device_mesh("cpu", (axis.size,), mesh_dim_names=("tp",))


def proof_of(step, change, devices):
    """`change(model, axis)` shards the model in place, or returns another."""

    def parallelize(model, mesh):
        return change(model, Axis.of(mesh, "tp")) or model

    return prove(step, parallelize=parallelize, devices=devices, trials=1)


def run(size, fn):
    """`fn(axis)` on every rank of a threaded world."""

    def on_rank(comm):
        return fn(Axis.of(init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",)), "tp"))

    return ThreadedWorld(size=size).run(on_rank)


@contextmanager
def alone(size):
    """The axis as the first of `size` ranks, whose collectives reach nobody."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield Axis.of(init_device_mesh("cpu", (size,), mesh_dim_names=("tp",)), "tp")
    finally:
        dist.destroy_process_group()


def calls_of(function):
    """What `torch.distributed` is asked for while `function` runs, as `CommDebugMode` counts it.

    Without that one's watch over modules, which not every model bears.
    """
    with _Calls() as calls:
        function()
    return calls.counted


class _Calls(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.counted = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.counted[func._schema.name.removeprefix("c10d::")] += 1
        return func(*args, **(kwargs or {}))


def check_traffic(module, axis, *inputs):
    """Forward and backward of the module call exactly what its `traffic` says."""
    outputs = []
    forward = calls_of(lambda: outputs.append(module(*inputs)))
    backward = calls_of(lambda: outputs[0].sum().backward())
    assert forward == count_calls(module.traffic.forward, axis)
    assert backward == count_calls(module.traffic.backward, axis)
    return forward + backward

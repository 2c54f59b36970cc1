"""A step that drops at random, and shardings of it: right, and with one bug each. Importable by spawned ranks."""

from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving.steps import make_step
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


class Dropping(nn.Module):
    """Drops within the part that is sharded, and behind it."""

    def __init__(self, inside=0.2, behind=0.1):
        super().__init__()
        self.up, self.down = nn.Linear(6, 16), nn.Linear(16, 4)
        self.inside, self.behind = nn.Dropout(inside), nn.Dropout(behind)

    def forward(self, x):
        return self.behind(self.down(self.inside(F.gelu(self.up(x)))))


def make_dropping_step(**changes):
    return make_step(**({"model": Dropping, "rows": 8} | changes))


class Tracker:
    """A generator state of each rank's own, as Megatron's RNG tracker keeps."""

    def __init__(self, rank):
        before = torch.get_rng_state()
        torch.manual_seed(1000 + rank)
        self.state = torch.get_rng_state()
        torch.set_rng_state(before)

    @contextmanager
    def fork(self):
        before = torch.get_rng_state()
        torch.set_rng_state(self.state)
        try:
            yield
        finally:
            self.state = torch.get_rng_state()
            torch.set_rng_state(before)


class Forking(nn.Module):
    def __init__(self, p, tracker):
        super().__init__()
        self.p, self.tracker = p, tracker

    def forward(self, x):
        with self.tracker.fork():
            return F.dropout(x, self.p, self.training)


def naive(model, mesh):
    """Every rank's generator is the same, also for the shards."""
    return parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def tracked(model, mesh):
    model = naive(model, mesh)
    model.inside = Forking(model.inside.p, Tracker(mesh.get_local_rank()))
    return model


def tracked_behind(model, mesh):
    """The tracker where the activations are replicas."""
    model = tracked(model, mesh)
    model.behind = Forking(model.behind.p, Tracker(mesh.get_local_rank()))
    return model


def seeded_by_rank(model, mesh):
    model = naive(model, mesh)
    torch.manual_seed(1000 + mesh.get_local_rank())
    return model


def as_dtensor(model, mesh):
    """The shards stay DTensors, for which DTensor draws."""
    plan = {"up": ColwiseParallel(use_local_output=False), "down": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


class Cutting(nn.Module):
    """Draws the mask of the whole and takes its own columns: what one device drops."""

    def __init__(self, p, rank, size):
        super().__init__()
        self.p, self.rank, self.size = p, rank, size

    def forward(self, x):
        whole = [torch.empty_like(x) for _ in range(self.size)]
        dist.all_gather(whole, x.detach().contiguous())
        whole[self.rank] = x
        return F.dropout(torch.cat(whole, -1), self.p, self.training).chunk(self.size, -1)[self.rank]


def cut_from_the_whole(model, mesh):
    model = naive(model, mesh)
    model.inside = Cutting(model.inside.p, mesh.get_local_rank(), mesh.size())
    return model


def another_probability(model, mesh):
    model = tracked(model, mesh)
    model.inside.p = 0.3
    return model


def no_dropout(model, mesh):
    model = tracked(model, mesh)
    model.behind = nn.Identity()
    return model

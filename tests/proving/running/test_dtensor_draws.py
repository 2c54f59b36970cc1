"""DTensor's random numbers of shards are noted, and what is computed from them; numbers of local tensors are not."""

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from shardproof.proving.running.dtensor_draws import DTensorDraws
from shardproof.proving.running.quiet import quiet_pytorch
from shardproof.worlds.threaded import ThreadedWorld


def truncated(weight):
    nn.init.trunc_normal_(weight, std=0.1)


def copied(weight):
    weight.copy_(2 * torch.randn_like(weight))


def by_data(weight):
    weight.data.uniform_(-1, 1)


def local(weight):
    weight.to_local().normal_()


def constant(weight):
    weight.fill_(3.0)


def names(comm, placement, fill):
    mesh = init_device_mesh("cpu", (comm.size,))
    model = nn.Linear(4, 4, bias=False)
    model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [placement], src_data_rank=None))
    draws = DTensorDraws()
    with draws, torch.no_grad():
        fill(model.weight)
    return draws.names(model)


@pytest.mark.parametrize(
    ("placement", "fill", "noted"),
    [
        (Shard(0), truncated, True),
        (Shard(1), copied, True),
        (Shard(0), by_data, True),
        (Shard(0), local, False),
        (Shard(0), constant, False),
        (Replicate(), truncated, False),
    ],
)
def test_what_dtensor_draws_for_shards_is_noted(placement, fill, noted):
    world = ThreadedWorld(size=2, timeout=60)
    with quiet_pytorch():
        found = world.run(names, placement, fill)
    assert found == [("weight",) if noted else ()] * 2

"""An MLP whose layers are split in every way, and its training on a rank; where a spawned process finds it."""

from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.parallel.ranks import make_step
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard

from shardproof.parallel.axis import Axis
from shardproof.parallel.collectives import gather_shards, take_shard
from shardproof.parallel.linear import ColumnLinear, RowLinear

S, I, H, O = 5, 6, 7, 4  # the hidden width divides by no number of ranks
WHOLE, FEATURES, SEQUENCE = Replicate(), Shard(-1), Shard(1)
column, row = ColumnLinear.from_linear, RowLinear.from_linear


class MLP(nn.Module):
    """`first` is on every rank: what it learns by is the gradient of the split layers' input."""

    def __init__(self, *, bias=True, hidden=H):
        super().__init__()
        self.first = nn.Linear(I, I)
        self.up = nn.Linear(I, hidden, bias=bias)
        self.down = nn.Linear(hidden, O, bias=bias)
        self.enter = self.leave = lambda x: x

    def forward(self, x):
        return self.leave(self.down(F.gelu(self.up(self.enter(self.first(x))))))


def column_row(model, axis):
    model.up, model.down = column(model.up, axis), row(model.down, axis)


def column_column(model, axis):
    """As in the notebook: the hidden shards are gathered where they are read."""
    model.up, model.down = column(model.up, axis), column(model.down, axis, input=FEATURES, output=WHOLE)


def columns_gathered(model, axis):
    model.up, model.down = column(model.up, axis, output=WHOLE), column(model.down, axis, output=WHOLE)


def column_row_whole(model, axis):
    model.up, model.down = column(model.up, axis, output=WHOLE), row(model.down, axis, input=WHOLE)


def row_row(model, axis):
    model.up = row(model.up, axis, input=WHOLE, output=FEATURES)
    model.down = row(model.down, axis, output=FEATURES)
    model.leave = lambda z: gather_shards(z, axis, dim=-1, total=O)


def by_sequence(model, axis):
    model.enter = lambda x: take_shard(x, axis, dim=1)
    model.up, model.down = column(model.up, axis, input=SEQUENCE, length=S), row(model.down, axis, output=SEQUENCE)
    model.leave = lambda z: gather_shards(z, axis, dim=1, total=S)


SPLITS = {
    split.__name__: split
    for split in (column_row, column_column, columns_gathered, column_row_whole, row_row, by_sequence)
}


def step_of_mlp(**options):
    """Two steps of an MLP with these options."""
    generator = torch.Generator().manual_seed(1)
    batch = torch.randn(2, S, I, generator=generator), torch.randn(2, S, O, generator=generator)
    return make_step(partial(MLP, **options), batch, loss=F.mse_loss, steps=2)


def parallelize(model, mesh):
    """Columns after columns along `tp`, whatever other axes there are."""
    column_column(model, Axis.of(mesh, "tp"))
    return model


def average_over_dp(model, mesh):
    model = parallelize(model, mesh)
    group = mesh.get_group("dp")
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: dist.all_reduce(p.grad, dist.ReduceOp.AVG, group=group))
    return model


def train_on_rank(comm, name):
    """Three steps in float64: the losses, and `first`'s weight, which every rank has."""
    torch.manual_seed(0)
    model = MLP().double()
    x, y = torch.randn(2, S, I, dtype=torch.float64), torch.randn(2, S, O, dtype=torch.float64)
    if name is not None:
        SPLITS[name](model, Axis.of(init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",)), "tp"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.first.weight.detach()

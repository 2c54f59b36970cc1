"""The step by hand on one of N devices: local arithmetic and named collectives (sections 3.1.2, 3.2.2 and 4.2).

Every rank runs this code on its own shards. `sharding.py` says which collective stands between two layers, and why. A
collective's argument is passed in directly where it can be: a name for a partial sum would keep it in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardproof.byhand.functions import (
    ACTIVATIONS,
    LOSSES,
    linear_backward_bias,
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
)
from shardproof.byhand.model import Layer
from shardproof.byhand.one_device import update
from shardproof.byhand.sharding import own_slice, place_layers, shard_layers
from shardproof.worlds.ledger import LedgeredCommunicator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch
    from shardproof.byhand.functions import Activation, LossBackward
    from shardproof.byhand.settings import Settings
    from shardproof.byhand.sharding import Placement
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.ledger import Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """What one rank's backward pass needs of its forward pass.

    Layer l computed z[l] from h[l]. Features lie as the layer has them, whole or in shards; `out` is whole.
    """

    h: tuple[Tensor, ...]
    z: tuple[Tensor, ...]
    out: Tensor


def forward(
    comm: Communicator,
    shards: Sequence[Layer],
    placements: Sequence[Placement],
    x: Tensor,
    activation: Activation,
) -> Forward:
    """Compute the output, with a collective after each layer that needs one; `backward` has its counterparts.

    Args:
        comm: this rank's communicator.
        shards: this rank's shard of every layer.
        placements: how each layer is split.
        x: [B, I], the whole batch.
        activation: between the layers, on whatever part of z the rank holds.
    """
    own_in = own_slice(placements[0].in_features, comm.rank, comm.size)
    h = [x if placements[0].split == "column" else x[:, own_in]]
    last = len(shards) - 1
    z: list[Tensor] = []
    for l, (layer, placement) in enumerate(zip(shards, placements, strict=True)):
        name = "out" if l == last else f"z{l + 1}"
        if placement.split == "column":
            z.append(linear_forward(h[l], layer.W, layer.b))  # [B, O/N]
        elif placement.needed == "full":
            z.append(comm.all_reduce(linear_forward(h[l], layer.W), name=name) + layer.b)  # [B, O]
        else:
            z.append(comm.reduce_scatter(linear_forward(h[l], layer.W), dim=1, name=name) + layer.b)  # [B, O/N]
        # A row split's bias was added after the sum over the devices, once: inside it, it would count N times.

        h.append(z[l] if l == last else activation.forward(z[l]))
        if placement.split == "column" and placement.needed == "full":
            name = "out" if l == last else f"h{l + 1}"
            h[-1] = comm.all_gather(h[-1], dim=1, total=placement.out_features, name=name)  # [B, O]
    return Forward(h=tuple(h[:-1]), z=tuple(z), out=h[-1])


def backward(
    comm: Communicator,
    shards: Sequence[Layer],
    placements: Sequence[Placement],
    passed: Forward,
    dout: Tensor,
    *,
    activation: Activation,
) -> tuple[Layer, ...]:
    """Compute this rank's slices of every dW and db from dout; backward of `forward`, collective for collective.

    Args:
        comm: this rank's communicator.
        shards: this rank's shard of every layer.
        placements: how each layer is split.
        passed: what `forward` returned.
        dout: [B, O] where the last layer is split by row, else the rank's own columns of it, [B, O/N].
        activation: between the layers.

    Returns:
        dW and db in the shapes of `shards`.
    """
    gradients = []
    dz = db_of = dout
    for l in reversed(range(len(shards))):
        # Column: [O/N, B] @ [B, I]. Row: [O, B] @ [B, I/N].
        gradients.append(Layer(W=linear_backward_weight(dz, passed.h[l]), b=linear_backward_bias(db_of)))
        if l == 0:
            break  # nobody asks for the gradient of the batch
        below = placements[l - 1]
        if below.needed == "shard":
            dh = linear_backward_input(dz, shards[l].W)  # [B, I/N]: dz is whole, so each sum over O is too
        elif below.split == "column":
            dh = comm.reduce_scatter(linear_backward_input(dz, shards[l].W), dim=1, name=f"dh{l}")  # [B, I/N]
        else:
            dh = comm.all_reduce(linear_backward_input(dz, shards[l].W), name=f"dh{l}")  # [B, I]
        dz = db_of = activation.backward(dh, passed.z[l - 1])
        if below.split == "row" and below.needed == "shard":
            dz = comm.all_gather(dz, dim=1, total=below.out_features, name=f"dz{l}")  # [B, O] of the layer below
    return tuple(reversed(gradients))


def backward_of_loss(
    comm: Communicator, placements: Sequence[Placement], loss: LossBackward, out: Tensor, y: Tensor
) -> Tensor:
    """Compute the part of dout that this rank's last layer needs, without communication: every rank holds all of out.

    A column split needs only its own columns, [B, O/N]; a row split all of dout, [B, O].
    """
    if placements[-1].split == "row":
        return loss(out, y)
    return loss(out, y, own_slice(out.shape[1], comm.rank, comm.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStep:
    """What one rank computed in one step, all that a process has to send home.

    `tensors` holds out [B, O], whole, and for each layer the rank's slices of z1 (not of the last layer), dW1, db1, nW1
    and nb1, n for the updated ones. `entries` is what the step communicated.
    """

    tensors: dict[str, Tensor]
    entries: tuple[Entry, ...]


def train_on_rank(
    comm: Communicator, settings: Settings, layers: Sequence[Layer], batches: Sequence[Batch]
) -> list[RankStep]:
    """Take one step for each batch: forward, backward, and each device updates its own slices.

    Args:
        comm: this rank's communicator.
        settings: the step's activation, loss, learning rate and splits.
        layers: the whole model before the first step; the rank cuts its shards out of it.
        batches: whole batches, the same on every rank.
    """
    placements = place_layers(settings.widths, settings.splits)
    activation, loss = ACTIVATIONS[settings.activation], LOSSES[settings.loss]
    shards = shard_layers(layers, placements, rank=comm.rank, size=comm.size)
    steps = []
    for batch in batches:
        ledgered = LedgeredCommunicator(inner=comm, section="3.1.2")
        passed = forward(ledgered, shards, placements, batch.x, activation)
        ledgered.section = "3.2.2"
        dout = backward_of_loss(ledgered, placements, loss.backward, passed.out, batch.y)
        gradients = backward(ledgered, shards, placements, passed, dout, activation=activation)
        shards = update(shards, gradients, settings.lr)
        tensors = {"out": passed.out} | {f"z{l}": z for l, z in enumerate(passed.z[:-1], start=1)}
        for l, (gradient, shard) in enumerate(zip(gradients, shards, strict=True), start=1):
            tensors |= {f"dW{l}": gradient.W, f"db{l}": gradient.b, f"nW{l}": shard.W, f"nb{l}": shard.b}
        steps.append(RankStep(tensors=tensors, entries=tuple(ledgered.ledger.entries)))
    return steps

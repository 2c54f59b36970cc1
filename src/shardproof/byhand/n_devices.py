"""The step by hand on one of N devices: local arithmetic and named collectives (sections 3.1.2, 3.2.2 and 4.2).

Every rank runs this code on its own shards. `sharding.py` says which collective is needed between two layers, and why.
Partial sums are passed to collectives without a name, which would keep them in memory.
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
from shardproof.byhand.one_device import Forward, update
from shardproof.byhand.sharding import own_slice, plan_splits, shard_layers
from shardproof.worlds.ledger import LedgeredCommunicator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch
    from shardproof.byhand.functions import Activation, LossBackward
    from shardproof.byhand.settings import Settings
    from shardproof.byhand.sharding import LayerSplit
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.ledger import Entry


def forward(
    comm: Communicator,
    shards: Sequence[Layer],
    layer_splits: Sequence[LayerSplit],
    x: Tensor,
    activation: Activation,
) -> Forward:
    """Compute the output, with a collective after each layer that needs one; `backward` has their adjoints.

    In the result `out` is full on every rank; `h` and `z` are full or this rank's shards, as each layer has them.

    Args:
        comm: this rank's communicator.
        shards: this rank's shard of every layer.
        layer_splits: how each layer is split.
        x: [B, I], the full batch.
        activation: between the layers; applied to the part of z that the rank holds.
    """
    own_in = own_slice(layer_splits[0].in_features, comm.rank, comm.size)
    h = [x if layer_splits[0].split == "column" else x[:, own_in]]
    last = len(shards) - 1
    z: list[Tensor] = []
    for l, (layer, layer_split) in enumerate(zip(shards, layer_splits, strict=True)):
        name = "out" if l == last else f"z{l + 1}"
        if layer_split.split == "column":
            z.append(linear_forward(h[l], layer.W, layer.b))  # [B, O/N]
        elif layer_split.needed == "full":
            z.append(comm.all_reduce(linear_forward(h[l], layer.W), name=name) + layer.b)  # [B, O]
        else:
            z.append(comm.reduce_scatter(linear_forward(h[l], layer.W), dim=1, name=name) + layer.b)  # [B, O/N]
        # A row split's bias is added after the sum over the devices; before it, the bias would count N times.

        h.append(z[l] if l == last else activation.forward(z[l]))
        if layer_split.split == "column" and layer_split.needed == "full":
            name = "out" if l == last else f"h{l + 1}"
            h[-1] = comm.all_gather(h[-1], dim=1, total=layer_split.out_features, name=name)  # [B, O]
    return Forward(h=tuple(h[:-1]), z=tuple(z), out=h[-1])


def backward(
    comm: Communicator,
    shards: Sequence[Layer],
    layer_splits: Sequence[LayerSplit],
    saved: Forward,
    dout: Tensor,
    *,
    activation: Activation,
) -> tuple[Layer, ...]:
    """Compute this rank's slices of every dW and db from dout; the backward of `forward`.

    Args:
        comm: this rank's communicator.
        shards: this rank's shard of every layer.
        layer_splits: how each layer is split.
        saved: what `forward` returned.
        dout: [B, O] where the last layer is split by row, else the rank's own columns of it, [B, O/N].
        activation: between the layers.

    Returns:
        dW and db in the shapes of `shards`.
    """
    gradients = []
    dz = db_of = dout
    for l in reversed(range(len(shards))):
        # Column: [O/N, B] @ [B, I]. Row: [O, B] @ [B, I/N].
        gradients.append(Layer(W=linear_backward_weight(dz, saved.h[l]), b=linear_backward_bias(db_of)))
        if l == 0:
            break  # the batch needs no gradient
        below = layer_splits[l - 1]
        if below.needed == "shard":
            dh = linear_backward_input(dz, shards[l].W)  # [B, I/N]: dz is full, and so is each sum over O
        elif below.split == "column":
            dh = comm.reduce_scatter(linear_backward_input(dz, shards[l].W), dim=1, name=f"dh{l}")  # [B, I/N]
        else:
            dh = comm.all_reduce(linear_backward_input(dz, shards[l].W), name=f"dh{l}")  # [B, I]
        dz = db_of = activation.backward(dh, saved.z[l - 1])
        if below.split == "row" and below.needed == "shard":
            dz = comm.all_gather(dz, dim=1, total=below.out_features, name=f"dz{l}")  # [B, O] of the layer below
    return tuple(reversed(gradients))


def backward_of_loss(
    comm: Communicator, layer_splits: Sequence[LayerSplit], loss: LossBackward, out: Tensor, y: Tensor
) -> Tensor:
    """Compute the part of dout that this rank's last layer needs. Every rank has all of out: no communication.

    A column split needs only its own columns, [B, O/N]; a row split all of dout, [B, O].
    """
    if layer_splits[-1].split == "row":
        return loss(out, y)
    return loss(out, y, own_slice(out.shape[1], comm.rank, comm.size))


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStep:
    """The result of one step on one rank.

    Attributes:
        tensors: the full out [B, O], and for each layer the rank's slices of z1 (not for the last layer), dW1, db1, and
            of the updated parameters nW1 and nb1.
        entries: the collectives of the step.
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
        layers: the full model before the first step; the rank cuts its shards out of it.
        batches: full batches, the same on every rank.
    """
    return train(comm, settings, layers, batches, loss_backward=LOSSES[settings.loss].backward)


def train(
    comm: Communicator,
    settings: Settings,
    layers: Sequence[Layer],
    batches: Sequence[Batch],
    *,
    loss_backward: LossBackward,
    in_forward: Callable[[Layer], Layer] = lambda layer: layer,
) -> list[RankStep]:
    """Take the steps of `train_on_rank` with this gradient of the loss; the forward alone has changed layers."""
    layer_splits = plan_splits(settings.widths, settings.splits)
    activation = ACTIVATIONS[settings.activation]
    shards = shard_layers(layers, layer_splits, rank=comm.rank, size=comm.size)
    steps = []
    for batch in batches:
        ledgered = LedgeredCommunicator(inner=comm, section="3.1.2")
        saved = forward(ledgered, [in_forward(one) for one in shards], layer_splits, batch.x, activation)
        ledgered.section = "3.2.2"
        dout = backward_of_loss(ledgered, layer_splits, loss_backward, saved.out, batch.y)
        gradients = backward(ledgered, shards, layer_splits, saved, dout, activation=activation)
        shards = update(shards, gradients, settings.lr)
        tensors = {"out": saved.out} | {f"z{l}": z for l, z in enumerate(saved.z[:-1], start=1)}
        for l, (gradient, shard) in enumerate(zip(gradients, shards, strict=True), start=1):
            tensors |= {f"dW{l}": gradient.W, f"db{l}": gradient.b, f"nW{l}": shard.W, f"nb{l}": shard.b}
        steps.append(RankStep(tensors=tensors, entries=tuple(ledgered.ledger.entries)))
    return steps

"""The step by hand in a pipeline: each device holds whole layers, and microbatches pass through them (section 5).

A batch is cut into microbatches. In the forward pass a stage sends what its last layer hands on to the next stage; in
the backward pass it sends the gradient of what it was sent back to the stage before. The loss is a mean over the batch,
so the gradients of the microbatches are added up, each as its share of that mean. The schedule is GPipe's: all
forwards, then all backwards, then one update.
Source: Huang et al., "GPipe" (arXiv:1811.06965), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.byhand.data import Batch
from shardproof.byhand.functions import (
    ACTIVATIONS,
    LOSSES,
    linear_backward_bias,
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
)
from shardproof.byhand.model import Layer
from shardproof.byhand.one_device import Backward, Forward, update
from shardproof.byhand.step import Step
from shardproof.worlds.communicator import shard_range, shard_sizes
from shardproof.worlds.ledger import LedgeredCommunicator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from shardproof.byhand.functions import Activation, Loss
    from shardproof.byhand.settings import Settings
    from shardproof.worlds.communicator import Communicator
    from shardproof.worlds.ledger import Message

    Accumulate = Callable[[tuple[Layer, ...], tuple[Layer, ...]], tuple[Layer, ...]]
    Share = Callable[[Batch, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The layers that one device holds: from `first` to before `stop`, of `layers` in all."""

    first: int
    stop: int
    layers: int

    @property
    def begins(self) -> bool:
        """Whether the batch enters here."""
        return self.first == 0

    @property
    def ends(self) -> bool:
        """Whether the output and the loss are computed here."""
        return self.stop == self.layers


def plan_stages(layers: int, devices: int) -> tuple[Stage, ...]:
    """One stage for each device, as even as possible; further devices than layers hold nothing."""
    count = min(layers, devices)
    ranges = (shard_range(layers, stage, count) for stage in range(count))
    return tuple(Stage(first=first, stop=stop, layers=layers) for first, stop in ranges)


def count_stages(settings: Settings) -> int:
    """The number of stages of a walkthrough."""
    return len(plan_stages(len(settings.widths) - 1, settings.devices))


def split_microbatches(batch: Batch, count: int) -> tuple[Batch, ...]:
    """Microbatches in order, as even as possible; one for each sample where there are fewer samples."""
    sizes = shard_sizes(len(batch.x), min(count, len(batch.x)))
    return tuple(Batch(x=x, y=y) for x, y in zip(batch.x.split(sizes), batch.y.split(sizes), strict=True))


def share_of_batch(microbatch: Batch, samples: int) -> float:
    """The weight of a microbatch's own mean in the mean over the batch, B_m / B."""
    return len(microbatch.x) / samples


def accumulate(total: tuple[Layer, ...], gradients: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Add a microbatch's gradients to those of the microbatches before it."""
    return tuple(Layer(W=t.W + g.W, b=t.b + g.b) for t, g in zip(total, gradients, strict=True))


def forward_of_stage(stage: Stage, layers: Sequence[Layer], x: Tensor, activation: Activation) -> Forward:
    """Pass one microbatch through the stage's layers; its backward is `backward_of_stage`.

    Args:
        stage: which layers these are.
        layers: the stage's own.
        x: [B_m, I], samples of the batch, or what the stage before handed on.
        activation: after each layer but the model's last.
    """
    h, z = [x], []
    for l, layer in enumerate(layers, start=stage.first):
        z.append(linear_forward(h[-1], layer.W, layer.b))  # [B_m, O]
        h.append(z[-1] if l == stage.layers - 1 else activation.forward(z[-1]))  # [B_m, O]
    return Forward(h=tuple(h[:-1]), z=tuple(z), out=h[-1])


def backward_of_stage(
    stage: Stage, layers: Sequence[Layer], saved: Forward, dout: Tensor, activation: Activation
) -> Backward:
    """Compute the stage's dW and db from the gradient of what it handed on; the backward of `forward_of_stage`.

    Args:
        stage: which layers these are.
        layers: the stage's own.
        saved: what the forward of this microbatch returned.
        dout: [B_m, O], of its `out`.
        activation: after each layer but the model's last.

    Returns:
        The gradients, and dh of what each layer was handed, but for the batch, which needs none.
    """
    gradients, dh = [], []
    dh_l = dout  # [B_m, O]
    for l in reversed(range(stage.first, stage.stop)):
        own = l - stage.first
        dz = dh_l if l == stage.layers - 1 else activation.backward(dh_l, saved.z[own])  # [B_m, O]
        gradients.append(Layer(W=linear_backward_weight(dz, saved.h[own]), b=linear_backward_bias(dz)))
        if l > 0:
            dh_l = linear_backward_input(dz, layers[own].W)  # [B_m, I]
            dh.append(dh_l)
    return Backward(gradients=tuple(reversed(gradients)), dh=tuple(reversed(dh)))


def run_forwards(
    comm: Communicator, stage: Stage, layers: Sequence[Layer], microbatches: Sequence[Batch], activation: Activation
) -> list[Forward]:
    """Pass every microbatch through the stage: from the batch or the stage before, and on to the next stage."""
    saved = []
    for m, microbatch in enumerate(microbatches):
        x = microbatch.x
        if not stage.begins:
            x = x.new_empty(len(x), layers[0].W.shape[1])
            comm.receive(x, source=comm.rank - 1, name=f"h{stage.first}[{m}]")
        saved.append(forward_of_stage(stage, layers, x, activation))
        if not stage.ends:
            comm.send(saved[m].out, to=comm.rank + 1, name=f"h{stage.stop}[{m}]")
    return saved


def run_backwards(
    comm: Communicator,
    stage: Stage,
    layers: Sequence[Layer],
    microbatches: Sequence[Batch],
    saved: Sequence[Forward],
    *,
    activation: Activation,
    loss: Loss,
    accumulate: Accumulate = accumulate,
    share: Share = share_of_batch,
) -> tuple[tuple[Layer, ...], list[Backward]]:
    """Pass every microbatch's gradient back through the stage, and accumulate those of the parameters.

    Returns:
        dW and db of the batch, and what the backward of each microbatch computed.
    """
    samples = sum(len(one.x) for one in microbatches)
    total: tuple[Layer, ...] | None = None
    found = []
    for m, microbatch in enumerate(microbatches):
        if stage.ends:
            dout = loss.backward(saved[m].out, microbatch.y) * share(microbatch, samples)
        else:
            dout = torch.empty_like(saved[m].out)
            comm.receive(dout, source=comm.rank + 1, name=f"dh{stage.stop}[{m}]")
        found.append(backward_of_stage(stage, layers, saved[m], dout, activation))
        if not stage.begins:
            comm.send(found[m].dh[0], to=comm.rank - 1, name=f"dh{stage.first}[{m}]")
        total = found[m].gradients if total is None else accumulate(total, found[m].gradients)
    assert total is not None
    return total, found


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStep:
    """The result of one step on one device of a pipeline.

    Attributes:
        tensors: of the whole batch, for each of the stage's layers z1, h1 (but for the last layer), dW1, db1, nW1, nb1;
            dh1 of what each layer but the first was handed; out and loss on the last stage. Empty without layers.
        sent: the messages that this stage sent.
    """

    tensors: dict[str, Tensor]
    sent: tuple[Message, ...]


def train_on_stage(
    comm: Communicator, settings: Settings, layers: Sequence[Layer], batches: Sequence[Batch]
) -> list[StageStep]:
    """Take one step for each batch as one stage of a pipeline: forwards, backwards, and an update of its own layers.

    Args:
        comm: this rank's communicator; rank s is stage s.
        settings: the step's activation, loss, learning rate and number of microbatches.
        layers: the full model before the first step; the stage takes its own layers.
        batches: full batches, the same on every rank; the first stage reads their x, the last their y.
    """
    return train(comm, settings, layers, batches)


def train(
    comm: Communicator,
    settings: Settings,
    layers: Sequence[Layer],
    batches: Sequence[Batch],
    *,
    accumulate: Accumulate = accumulate,
    share: Share = share_of_batch,
) -> list[StageStep]:
    """Take the steps of `train_on_stage` with this way of adding up the microbatches' gradients."""
    stages = plan_stages(len(layers), comm.size)
    if comm.rank >= len(stages):
        return [StageStep(tensors={}, sent=()) for _ in batches]
    stage, activation, loss = stages[comm.rank], ACTIVATIONS[settings.activation], LOSSES[settings.loss]
    own = tuple(layers[stage.first : stage.stop])
    steps = []
    for batch in batches:
        microbatches = split_microbatches(batch, settings.microbatches)
        ledgered = LedgeredCommunicator(inner=comm, section="5.1")
        saved = run_forwards(ledgered, stage, own, microbatches, activation)
        ledgered.section = "5.2"
        gradients, found = run_backwards(
            ledgered,
            stage,
            own,
            microbatches,
            saved,
            activation=activation,
            loss=loss,
            accumulate=accumulate,
            share=share,
        )
        own = update(own, gradients, settings.lr)
        tensors = _put_together(stage, saved, found)
        if stage.ends:
            losses = [
                loss.forward(one.out, microbatch.y) * share_of_batch(microbatch, len(batch.x))
                for one, microbatch in zip(saved, microbatches, strict=True)
            ]
            tensors["loss"] = torch.stack(losses).sum()
        for l, (gradient, layer) in enumerate(zip(gradients, own, strict=True), start=stage.first + 1):
            tensors |= {f"dW{l}": gradient.W, f"db{l}": gradient.b, f"nW{l}": layer.W, f"nb{l}": layer.b}
        steps.append(StageStep(tensors=tensors, sent=tuple(ledgered.ledger.sent)))
    return steps


def gather_stages(stages: Sequence[StageStep], settings: Settings) -> Step:
    """Assemble the full step from the stages' layers."""
    tensors = {name: tensor for stage in stages for name, tensor in stage.tensors.items()}
    layers = range(1, len(settings.widths))
    hidden = layers[:-1]
    return Step(
        z=tuple(tensors[f"z{l}"] for l in hidden),
        out=tensors["out"],
        loss=tensors["loss"],
        gradients=tuple(Layer(W=tensors[f"dW{l}"], b=tensors[f"db{l}"]) for l in layers),
        updated=tuple(Layer(W=tensors[f"nW{l}"], b=tensors[f"nb{l}"]) for l in layers),
        h=tuple(tensors[f"h{l}"] for l in hidden),
        dh=tuple(tensors[f"dh{l}"] for l in hidden),
    )


def plan_schedule(stages: int, microbatches: int) -> tuple[tuple[str, ...], ...]:
    """What each stage does at each point of time: `F0`, the forward of microbatch 0, `B0`, its backward, or nothing."""
    rows = []
    for stage in range(stages):
        row = [""] * (2 * (microbatches + stages - 1))
        for m in range(microbatches):
            row[stage + m] = f"F{m}"
            row[microbatches + 2 * (stages - 1) - stage + m] = f"B{m}"
        rows.append(tuple(row))
    return tuple(rows)


def _put_together(stage: Stage, saved: Sequence[Forward], found: Sequence[Backward]) -> dict[str, Tensor]:
    """The microbatches' activations and their gradients, as tensors of the batch."""
    tensors = {}
    for own, l in enumerate(range(stage.first + 1, stage.stop + 1)):
        z = torch.cat([one.z[own] for one in saved])
        if l == stage.layers:
            tensors["out"] = z
            break
        tensors[f"z{l}"] = z
        tensors[f"h{l}"] = torch.cat([one.h[own + 1] if l < stage.stop else one.out for one in saved])
    for own, l in enumerate(range(max(1, stage.first), stage.stop)):
        tensors[f"dh{l}"] = torch.cat([one.dh[own] for one in found])
    return tensors

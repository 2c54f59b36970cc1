"""What the walkthrough explains, in words that depend on the settings."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from shardproof.byhand.pipeline import plan_schedule, plan_stages
from shardproof.worlds.communicator import shard_sizes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.byhand.settings import Settings
    from shardproof.worlds.make import WorldKind

BETWEEN_LAYERS = {
    ("column", "column"): "all-gather forward, reduce-scatter backward",
    ("column", "row"): "nothing to communicate: the shard that one produces is the shard that the other needs",
    ("row", "column"): "all-reduce forward, all-reduce backward",
    ("row", "row"): "reduce-scatter forward, all-gather backward",
}
AFTER_THE_LAST = {
    "column": "all-gather forward; backward each device computes its own columns of dout",
    "row": "all-reduce forward; backward each device computes all of dout",
}


MOST_COLUMNS, MOST_STAGES = 32, 8
"""The largest schedule that is drawn."""


def describe_activation(settings: Settings) -> Iterator[str]:
    """Say what stands between the layers."""
    names = {"none": "No activation", "relu": "relu", "gelu": "gelu, in its exact form with erf,"}
    yield f"{names[settings.activation]} between the layers."


def describe_loss(settings: Settings) -> Iterator[str]:
    """Say what the loss is, and for classes where they come from."""
    if settings.loss == "mse":
        yield "The loss is the mean squared error."
    else:
        yield "The loss is the softmax cross-entropy. A sample's class is where its y is largest."


def describe_world(settings: Settings, world: WorldKind) -> Iterator[str]:
    """Say where the devices are."""
    where = {
        "simulated": "simulated in this process",
        "spawned": "gloo processes on this machine",
        "launched": "processes that torchrun launched",
    }
    yield f"The devices are {where[world]}. Each holds these slices of the parameters:"
    if any(width % settings.devices for width in settings.widths[1:]):
        yield "(A width that does not divide leaves the first devices one feature more.)"


def describe_communication(settings: Settings) -> Iterator[str]:
    """Say which collective stands between two layers, and why."""
    if settings.devices == 1:
        yield "One device alone has nothing to communicate."
        return
    yield "A layer split by column needs its whole input and produces a shard of its output; one split by row needs a"
    yield "shard of its input and produces a partial sum of its output. So:"
    for l, pair in enumerate(pairwise(settings.splits), start=1):
        yield f"  layer {l} to layer {l + 1}, {pair[0]} to {pair[1]}: {BETWEEN_LAYERS[pair]}"
    yield f"  layer {len(settings.splits)} to the loss, {settings.splits[-1]}: {AFTER_THE_LAST[settings.splits[-1]]}"
    if "row" in settings.splits:
        yield "The bias of a row split is added once, after the sum over the devices."


def describe_factor(settings: Settings) -> Iterator[str]:
    """Derive dout: the notebook's is right at its own output width only."""
    O = settings.widths[-1]
    if settings.loss == "cross-entropy":
        yield "dL/dout = (softmax(out) - onehot(class)) / B, with B samples in the batch."
        return
    yield "L = 1/(B*O) * sum (out - y)^2 is a mean over B samples and O outputs, so dL/dout = 2/(B*O) * (out - y)."
    yield "The notebook has dout = out - y and takes the mean over the batch later, which amounts to 1/B * (out - y)."
    if O == 2:
        yield "The two agree here because O = 2, so that 2/(B*O) = 1/B. At any other output width they do not."
    else:
        yield f"That is right for its O = 2 alone: here, with O = {O}, it would be {O}/2 times the gradient."


def describe_pipeline(settings: Settings) -> Iterator[str]:
    """Say which layers a stage holds, how the batch is cut, and in which order the stages work."""
    layers = len(settings.widths) - 1
    stages = plan_stages(layers, settings.devices)
    sizes = shard_sizes(settings.batch_size, min(settings.microbatches, settings.batch_size))
    yield "Each device holds whole layers, and the batch goes through them in microbatches."
    for number, stage in enumerate(stages):
        held = f"layer {stage.stop}" if stage.stop - stage.first == 1 else f"layers {stage.first + 1} to {stage.stop}"
        yield f"stage {number} : {held}"
    if len(stages) < settings.devices:
        yield f"(There are {layers} layers for {settings.devices} devices: the others hold nothing here.)"
    samples = " and ".join(f"{sizes.count(size)} of {size}" for size in sorted(set(sizes), reverse=True))
    yield f"Microbatches of a batch of {settings.batch_size} samples: {samples}."
    if len(stages) == 1:
        yield "One stage alone has nothing to send."
        return
    schedule = plan_schedule(len(stages), len(sizes))
    yield "All forwards, then all backwards (GPipe); F0 is the forward of microbatch 0, and B0 its backward:"
    if len(schedule[0]) <= MOST_COLUMNS and len(stages) <= MOST_STAGES:
        for number, row in enumerate(schedule):
            yield f"stage {number} | " + " ".join(f"{cell or '.':3s}" for cell in row).rstrip()
    else:
        yield f"(a table of {len(stages)} stages by {len(schedule[0])} turns)"


def describe_share() -> Iterator[str]:
    """Say how the gradients of microbatches make those of the batch."""
    yield "The loss is a mean over the batch, so a microbatch of B_m samples begins with B_m/B of its own dout, and the"
    yield "gradients of the microbatches are added up."

"""The notebook's run as values: each section's comparisons and collectives. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from shardproof.byhand import one_device, reference
from shardproof.byhand.both_splits import train_both_ways
from shardproof.byhand.comparisons import (
    Baseline,
    compare_forward,
    compare_forward_of_ranks,
    compare_forward_of_stages,
    compare_gradients,
    compare_gradients_of_ranks,
    compare_gradients_of_stages,
    compare_updates,
    compare_updates_of_ranks,
)
from shardproof.byhand.data import Batch, draw_samples, split_batches
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import Layer, initialise_layers
from shardproof.byhand.pipeline import gather_stages
from shardproof.byhand.sharding import gather_output, gather_weight, plan_splits
from shardproof.byhand.sign_flips import find_sign_flips
from shardproof.byhand.step import Step
from shardproof.byhand.tolerance import estimate_scales
from shardproof.worlds.simulated import SimulatedWorld

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from shardproof.byhand.n_devices import RankStep
    from shardproof.byhand.pipeline import StageStep
    from shardproof.byhand.settings import Settings
    from shardproof.byhand.sharding import LayerSplit
    from shardproof.comparison import Comparison
    from shardproof.worlds.ledger import Entry, Message
    from shardproof.worlds.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One numbered section of a step.

    Attributes:
        number: of it.
        comparisons: of each tensor with the reference's.
        entries: its collectives.
        messages: of all stages of the pipeline, by the stage that sends.
        sign_flips: how many inputs of relu flipped sign.
    """

    number: str
    comparisons: tuple[Comparison, ...]
    entries: tuple[Entry, ...] = ()
    messages: tuple[Message, ...] = ()
    sign_flips: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step: the reference's output [B, O] and loss, and the sections 3.1.1 to 4.1 in the notebook's order, then
    those of a pipeline, 5.1 to 5.3.
    """

    step: int
    out: Tensor
    loss: float
    sections: tuple[Section, ...]

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All sections' comparisons."""
        return tuple(line for section in self.sections for line in section.comparisons)


def draw_batches(settings: Settings) -> list[Batch]:
    """Draw the data set and cut it into batches; for cross-entropy, a sample's class is the index of its largest y."""
    data = draw_samples(
        samples=settings.samples,
        in_features=settings.widths[0],
        out_features=settings.widths[-1],
        seed=settings.seed,
    )
    y = data.y.argmax(dim=1) if settings.loss == "cross-entropy" else data.y.to(settings.dtype)
    return split_batches(Batch(x=data.x.to(settings.dtype), y=y), settings.batch_size)


def take_steps(settings: Settings, world: World) -> Iterator[StepReport]:
    """Take every step four times - PyTorch's, by hand on one device, on N, in a pipeline - and compare them.

    Each of the four continues from its own parameters. In a launched world, processes other than the one that prints
    run their rank and yield nothing.
    """
    batches = list(islice(cycle(draw_batches(settings)), settings.steps))
    layers = initialise_layers(settings.widths, seed=settings.seed, dtype=settings.dtype)
    layer_splits = plan_splits(settings.widths, settings.splits)
    model = reference.build_model(
        settings.widths, activation=settings.activation, seed=settings.seed, dtype=settings.dtype
    )
    for index, (batch, (ranks, stages)) in enumerate(
        zip(batches, _run_ranks(settings, world, layers, batches), strict=False)
    ):
        before = reference.read_layers(model)
        scales = estimate_scales(before, batch, loss=settings.loss, lr=settings.lr, step=index + 1)
        expected = reference.take_step(model, batch, loss=settings.loss, lr=settings.lr)
        by_hand = one_device.take_step(
            layers, batch, activation=ACTIVATIONS[settings.activation], loss=LOSSES[settings.loss], lr=settings.lr
        )
        gathered, piped = gather_step(ranks, layer_splits, settings, batch), gather_stages(stages, settings)
        one, several, pipeline = (
            Baseline(
                reference=expected,
                scales=scales,
                sign_flips=find_sign_flips(settings, before, batch, step=step, reference=expected, scales=scales),
                lr=settings.lr,
            )
            for step in (by_hand, gathered, piped)
        )
        yield StepReport(
            step=index + 1,
            out=expected.out,
            loss=float(expected.loss),
            sections=(
                *_fill_sections(by_hand, gathered, ranks, layer_splits, one=one, several=several),
                *_fill_sections_of_stages(piped, stages, pipeline),
            ),
        )
        layers = by_hand.updated


def gather_step(
    ranks: Sequence[RankStep], layer_splits: Sequence[LayerSplit], settings: Settings, batch: Batch
) -> Step:
    """Assemble the full step from every rank's slices."""

    def gather(kind: str) -> tuple[Layer, ...]:
        return tuple(
            Layer(
                W=gather_weight([rank.tensors[f"{kind}W{l}"] for rank in ranks], layer_split),
                b=gather_output([rank.tensors[f"{kind}b{l}"] for rank in ranks], layer_split),
            )
            for l, layer_split in enumerate(layer_splits, start=1)
        )

    out = ranks[0].tensors["out"]
    return Step(
        z=tuple(
            gather_output([rank.tensors[f"z{l}"] for rank in ranks], layer_split)
            for l, layer_split in enumerate(layer_splits[:-1], start=1)
        ),
        out=out,
        loss=LOSSES[settings.loss].forward(out, batch.y),
        gradients=gather("d"),
        updated=gather("n"),
    )


def _run_ranks(
    settings: Settings, world: World, layers: tuple[Layer, ...], batches: Sequence[Batch]
) -> Iterator[tuple[tuple[RankStep, ...], tuple[StageStep, ...]]]:
    """Yield every rank's step, one step after the other: with shards of the layers, and as stages."""
    if not isinstance(world, SimulatedWorld):
        # Processes are expensive to start, and ranks of a launched world cannot use values that only the first one has.
        for ranks in zip(*world.run(train_both_ways, settings, layers, layers, batches), strict=True):
            yield _tell_apart(ranks)
        return
    layer_splits = plan_splits(settings.widths, settings.splits)
    sharded = staged = layers
    for batch in batches:  # one at a time: only one step's tensors are in memory
        results = world.run(train_both_ways, settings, sharded, staged, [batch])
        ranks, stages = _tell_apart([steps[0] for steps in results])
        yield ranks, stages
        sharded = gather_step(ranks, layer_splits, settings, batch).updated
        staged = gather_stages(stages, settings).updated


def _tell_apart(
    results: Sequence[tuple[RankStep, StageStep]],
) -> tuple[tuple[RankStep, ...], tuple[StageStep, ...]]:
    return tuple(rank for rank, _ in results), tuple(stage for _, stage in results)


def _fill_sections(
    by_hand: Step,
    gathered: Step,
    ranks: Sequence[RankStep],
    layer_splits: Sequence[LayerSplit],
    *,
    one: Baseline,
    several: Baseline,
) -> tuple[Section, ...]:
    def entries(number: str) -> tuple[Entry, ...]:
        return tuple(entry for entry in ranks[0].entries if entry.section == number)

    return (
        Section(number="3.1.1", comparisons=compare_forward(by_hand, one), sign_flips=one.sign_flips.count),
        Section(
            number="3.1.2",
            comparisons=compare_forward_of_ranks(ranks, several),
            entries=entries("3.1.2"),
            sign_flips=several.sign_flips.count,
        ),
        Section(number="3.2.1", comparisons=compare_gradients(by_hand, one)),
        Section(
            number="3.2.2",
            comparisons=compare_gradients_of_ranks(ranks, layer_splits, several),
            entries=entries("3.2.2"),
        ),
        Section(
            number="4.1",
            comparisons=(
                *compare_updates(by_hand, one),
                *compare_updates_of_ranks(gathered, ranks, layer_splits, several),
            ),
        ),
    )


def _fill_sections_of_stages(step: Step, stages: Sequence[StageStep], baseline: Baseline) -> tuple[Section, ...]:
    def messages(number: str) -> tuple[Message, ...]:
        return tuple(message for stage in stages for message in stage.sent if message.section == number)

    return (
        Section(
            number="5.1",
            comparisons=compare_forward_of_stages(step, baseline),
            messages=messages("5.1"),
            sign_flips=baseline.sign_flips.count,
        ),
        Section(number="5.2", comparisons=compare_gradients_of_stages(step, baseline), messages=messages("5.2")),
        Section(number="5.3", comparisons=compare_updates(step, baseline, prefix="PP - ")),
    )

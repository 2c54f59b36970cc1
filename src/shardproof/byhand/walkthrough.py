"""The notebook's run as values: each section's comparisons and collectives. Nothing here prints."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from shardproof.byhand import one_device, reference
from shardproof.byhand.comparisons import (
    Baseline,
    compare_forward,
    compare_forward_of_ranks,
    compare_gradients,
    compare_gradients_of_ranks,
    compare_updates,
    compare_updates_of_ranks,
)
from shardproof.byhand.data import Batch, draw_samples, split_batches
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import Layer, initialise_layers
from shardproof.byhand.n_devices import RankStep, train_on_rank
from shardproof.byhand.sharding import gather_output, gather_weight, plan_splits
from shardproof.byhand.sign_flips import find_sign_flips
from shardproof.byhand.step import Step
from shardproof.byhand.tolerance import estimate_scales
from shardproof.worlds.simulated import SimulatedWorld

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from shardproof.byhand.settings import Settings
    from shardproof.byhand.sharding import LayerSplit
    from shardproof.comparison import Comparison
    from shardproof.worlds.ledger import Entry
    from shardproof.worlds.world import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One numbered section of a step: its comparisons and collectives, and how many inputs of relu flipped sign."""

    number: str
    comparisons: tuple[Comparison, ...]
    entries: tuple[Entry, ...] = ()
    sign_flips: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One step: the reference's output [B, O] and loss, and the sections 3.1.1 to 4.1 in the notebook's order."""

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
    """Take every step three times - PyTorch's, by hand on one device, by hand on N - and compare them.

    Each of the three continues from its own parameters. In a launched world, processes other than the one that prints
    run their rank and yield nothing.
    """
    batches = list(islice(cycle(draw_batches(settings)), settings.steps))
    layers = initialise_layers(settings.widths, seed=settings.seed, dtype=settings.dtype)
    layer_splits = plan_splits(settings.widths, settings.splits)
    model = reference.build_model(
        settings.widths, activation=settings.activation, seed=settings.seed, dtype=settings.dtype
    )
    for index, (batch, ranks) in enumerate(zip(batches, _run_ranks(settings, world, layers, batches), strict=False)):
        before = reference.read_layers(model)
        scales = estimate_scales(before, batch, loss=settings.loss, lr=settings.lr, step=index + 1)
        expected = reference.take_step(model, batch, loss=settings.loss, lr=settings.lr)
        by_hand = one_device.take_step(
            layers, batch, activation=ACTIVATIONS[settings.activation], loss=LOSSES[settings.loss], lr=settings.lr
        )
        gathered = gather_step(ranks, layer_splits, settings, batch)
        one, several = (
            Baseline(
                reference=expected,
                scales=scales,
                sign_flips=find_sign_flips(settings, before, batch, step=step, reference=expected, scales=scales),
                lr=settings.lr,
            )
            for step in (by_hand, gathered)
        )
        yield StepReport(
            step=index + 1,
            out=expected.out,
            loss=float(expected.loss),
            sections=_fill_sections(by_hand, gathered, ranks, layer_splits, one=one, several=several),
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
) -> Iterator[tuple[RankStep, ...]]:
    """Yield every rank's step, one step after the other."""
    if not isinstance(world, SimulatedWorld):
        # Processes are expensive to start, and ranks of a launched world cannot use values that only the first one has.
        yield from zip(*world.run(train_on_rank, settings, layers, batches), strict=True)
        return
    layer_splits = plan_splits(settings.widths, settings.splits)
    for batch in batches:  # one at a time: only one step's tensors are in memory
        ranks = tuple(steps[0] for steps in world.run(train_on_rank, settings, layers, [batch]))
        yield ranks
        layers = gather_step(ranks, layer_splits, settings, batch).updated


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

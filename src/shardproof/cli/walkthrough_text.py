"""The walkthrough as text, section by section, with the notebook's numbers and names."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TextIO

from shardproof.byhand.pipeline import count_stages
from shardproof.byhand.settings import count_epoch
from shardproof.byhand.sharding import plan_splits
from shardproof.byhand.tolerance import RELATIVE_EPSILONS, count_epsilons
from shardproof.cli.walkthrough_prose import (
    describe_activation,
    describe_communication,
    describe_factor,
    describe_loss,
    describe_pipeline,
    describe_share,
    describe_world,
)
from shardproof.worlds.communicator import shard_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from shardproof.byhand.settings import Settings
    from shardproof.byhand.walkthrough import Section, StepReport
    from shardproof.worlds.make import WorldKind

FEW = 4
"""Up to this number of devices, all are shown; of more, the first two and the last."""
MOST_MESSAGES = 16
"""Messages of a section that are shown."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has been counted over all steps so far."""

    comparisons: int = 0
    exact: int = 0
    diverged: int = 0
    bytes_per_rank: int = 0
    bytes_sent: int = 0

    def add(self, report: StepReport) -> None:
        """Count a step's comparisons and traffic."""
        self.comparisons += len(report.comparisons)
        self.exact += sum(line.exact for line in report.comparisons)
        self.diverged += sum(not line.approximate for line in report.comparisons)
        self.bytes_per_rank += sum(entry.bytes_per_rank for section in report.sections for entry in section.entries)
        self.bytes_sent += sum(message.bytes for section in report.sections for message in section.messages)


def write_text(settings: Settings, world: WorldKind, reports: Iterable[StepReport], stream: TextIO) -> bool:
    """Write each step as it comes, the first in full; return whether every comparison is approximate."""
    tally = Tally()

    def write(lines: Iterable[str]) -> None:
        stream.writelines(f"{line}\n" for line in lines)

    write(tell_model(settings))
    for report in reports:
        tally.add(report)
        write(tell_first_step(settings, world, report) if report.step == 1 else tell_step(settings, report))
        stream.flush()
    write(tell_end(settings, tally))
    return tally.diverged == 0


def tell_model(settings: Settings) -> Iterator[str]:
    """Sections 1.1 to 1.3: the data, the model, the parameters."""
    widths, batches = settings.widths, count_epoch(settings.samples, settings.batch_size)
    yield "# 1. Dataset and Model"
    yield ""
    yield "## 1.1. Random Dataset"
    yield f"{settings.samples} samples, x of {widths[0]} and y of {widths[-1]} numbers, drawn from the standard normal"
    yield f"distribution with seed {settings.seed}, so that every run has the same."
    yield f"Batches of {settings.batch_size}, in order: {_count(batches, 'batch', 'batches')} in an epoch."
    if settings.samples % settings.batch_size:
        yield f"The last one has {settings.samples % settings.batch_size}."
    yield ""
    yield f"## 1.2. A Simple {len(widths) - 1}-Layer MLP model"
    for l, (i, o) in enumerate(pairwise(widths), start=1):
        yield f"layer {l}: Linear({i} -> {o}), split by {settings.splits[l - 1]}"
    yield from describe_activation(settings)
    yield from describe_loss(settings)
    yield f"Updated by SGD with a learning rate of {settings.lr}. All in {settings.dtype_name}."
    yield ""
    yield "## 1.3. Each Layer's Original Weights and Biases"
    for l, (i, o) in enumerate(pairwise(widths), start=1):
        yield f"W{l}.shape: torch.Size({[o, i]}),  b{l}.shape: torch.Size({[o]})"
    yield ""


def tell_first_step(settings: Settings, world: WorldKind, report: StepReport) -> Iterator[str]:
    """Sections 2 to 5.3, in full."""
    by_number = {section.number: section for section in report.sections}
    yield "# 2. Run One Step Using PyTorch On Single Device"
    yield "Forward, loss.backward() and, in section 4.1, the update that optimizer.step() makes. Everything below is"
    yield "compared with this."
    yield f"loss={report.loss:.4f}"
    yield f"out={report.out}"
    yield ""
    yield "# 3. Manual Computation"
    epsilons = count_epsilons(settings.dtype)
    yield "Each line compares a tensor computed by hand with PyTorch's. They may differ by rounding: `approximate`"
    yield f"allows {epsilons} machine epsilons of the size of the sums in it, and {RELATIVE_EPSILONS} of the element."
    yield ""
    yield "## 3.1. Forward Pass"
    yield "### 3.1.1 On One Device"
    yield "Layer by layer, h = x @ W.T + b."
    yield from _tell_section(by_number["3.1.1"])
    yield ""
    devices = _count(settings.devices, "Device", "Devices")
    yield f"### 3.1.2 On {devices} Using Tensor Parallelism (TP)"
    yield from describe_world(settings, world)
    yield from _tell_shards(settings)
    yield from describe_communication(settings)
    yield from _tell_section(by_number["3.1.2"])
    yield ""
    yield "## 3.2 Backward Pass"
    yield "d{variable} means dL/d{variable}."
    yield ""
    yield "### 3.2.1 On One Device"
    yield from describe_factor(settings)
    yield from _tell_section(by_number["3.2.1"])
    yield ""
    yield f"### 3.2.2 On {devices} Using Tensor Parallelism (TP)"
    yield "The same arithmetic on slices; dW2_0 is device 0's slice of dW2, compared with the same slice of PyTorch's."
    yield from _tell_section(by_number["3.2.2"], running=_sum_bytes(by_number["3.1.2"]))
    yield ""
    yield "# 4. Update The Model"
    yield "## 4.2 Manually"
    yield f"manual_nW = W - {settings.lr} * dW, and b likewise. Before 4.1: optimizer.step() overwrites W and b."
    yield "Each device updates its own slices, without communication."
    yield ""
    yield "## 4.1 PyTorch"
    yield "What optimizer.step() leaves, beside one device's update and the devices' updated slices, gathered."
    yield from _tell_section(by_number["4.1"])
    yield ""
    yield f"# 5. A Pipeline of {_count(count_stages(settings), 'Stage', 'Stages')}"
    yield from describe_pipeline(settings)
    yield ""
    yield "## 5.1 Forward Pass"
    yield "A stage sends what its last layer hands on to the next stage; PP - h1 is that of all microbatches together."
    yield from _tell_section(by_number["5.1"])
    yield ""
    yield "## 5.2 Backward Pass"
    yield "A stage sends the gradient of what it was sent back to the stage before."
    yield from describe_share()
    yield from _tell_section(by_number["5.2"], running=sum(one.bytes for one in by_number["5.1"].messages))
    yield ""
    yield "## 5.3 Update The Model"
    yield "Each stage updates its own layers, once, when all microbatches have come back."
    yield from _tell_section(by_number["5.3"])
    yield ""


def tell_step(settings: Settings, report: StepReport) -> Iterator[str]:
    """One line for a later step, and in full each comparison that is not approximate."""
    if report.step == 2:
        yield "# The Steps After The First"
        yield "Each way of computing goes on from its own parameters. (--format json has every comparison.)"
    lines, batches = report.comparisons, count_epoch(settings.samples, settings.batch_size)
    worst = max(lines, key=lambda line: math.inf if math.isnan(line.maxdiff) else line.maxdiff)
    yield (
        f"step {report.step} | batch {(report.step - 1) % batches + 1} of {batches} | loss: {report.loss:.4f} | "
        f"approximate: {sum(line.approximate for line in lines)} of {len(lines)} | "
        f"exact: {sum(line.exact for line in lines)} | maxdiff: {worst.maxdiff:.2e} ({worst.name})"
    )
    yield from (f"  {line}" for line in lines if not line.approximate)


def tell_end(settings: Settings, tally: Tally) -> Iterator[str]:
    """The verdict, and the ledger's last total."""
    approximate = tally.comparisons - tally.diverged
    yield (
        f"{_count(settings.steps, 'step', 'steps')}, {_count(tally.comparisons, 'comparison', 'comparisons')}: "
        f"{approximate} approximate, {tally.exact} of them exact; {tally.diverged} diverged. "
        f"{tally.bytes_per_rank} bytes per rank communicated, {tally.bytes_sent} bytes sent between stages."
    )


def _tell_shards(settings: Settings) -> Iterator[str]:
    layer_splits, n = plan_splits(settings.widths, settings.splits), settings.devices
    shown = range(n) if n <= FEW else (0, 1, n - 1)
    for rank in shown:
        shapes = []
        for l, layer_split in enumerate(layer_splits, start=1):
            own_out = _length(layer_split.out_features, rank, n)
            own_in = _length(layer_split.in_features, rank, n)
            W = (
                [own_out, layer_split.in_features]
                if layer_split.split == "column"
                else [layer_split.out_features, own_in]
            )
            b = [own_out] if layer_split.z_is_sharded else [layer_split.out_features]
            shapes.append(f"W{l}.shape: torch.Size({W}),  b{l}.shape: torch.Size({b})")
        if rank == n - 1 and n > FEW:
            yield "..."
        yield f"device {rank} : {shapes[0]}"
        yield from (f"{'':{len(f'device {rank} : ')}}{line}" for line in shapes[1:])


def _length(total: int, rank: int, size: int) -> int:
    start, stop = shard_range(total, rank, size)
    return stop - start


def _tell_section(section: Section, *, running: int = 0) -> Iterator[str]:
    for line in section.comparisons:
        yield str(line)
    if section.sign_flips:
        inputs = _count(section.sign_flips, "input of relu lies", "inputs of relu lie")
        yield f"({inputs} so near zero that rounding decides on which side. The gradients there are allowed to differ.)"
    if section.entries:
        yield f"{'communicated':24s} | {'bytes per rank':>14s} | {'running total':>13s}"
        for entry in section.entries:
            running += entry.bytes_per_rank
            yield f"{entry.collective + ' ' + entry.tensor:24s} | {entry.bytes_per_rank:14d} | {running:13d}"
    if section.messages:
        yield f"{'sent':24s} | {'bytes':>14s} | {'running total':>13s}"
        left = len(section.messages) - MOST_MESSAGES
        for number, message in enumerate(section.messages):
            running += message.bytes
            if number < MOST_MESSAGES:
                what = f"{message.tensor} {message.source} -> {message.destination}"
                yield f"{what:24s} | {message.bytes:14d} | {running:13d}"
        if left > 0:
            yield f"{f'... {left} more':24s} | {'':14s} | {running:13d}"


def _sum_bytes(section: Section) -> int:
    return sum(entry.bytes_per_rank for entry in section.entries)


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"

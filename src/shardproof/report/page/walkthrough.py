"""The walkthrough described as the values of its page: sections, code, matrices, comparisons, and what breaks it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shardproof.byhand import functions, mistakes, n_devices, one_device, pipeline
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.mistakes import Mistake, MistakenWorld
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.pipeline import count_stages, plan_schedule, plan_stages
from shardproof.byhand.sharding import own_slice, plan_splits
from shardproof.byhand.walkthrough import draw_batches, take_steps
from shardproof.report.page.description import Tone
from shardproof.report.page.matrices import draw_matrix
from shardproof.report.page.traffic import say_bytes
from shardproof.worlds.simulated import SimulatedWorld

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from shardproof.byhand.model import Layer
    from shardproof.byhand.settings import Settings
    from shardproof.byhand.sharding import Split
    from shardproof.byhand.walkthrough import Section, StepReport
    from shardproof.comparison import Comparison
    from shardproof.report.page.matrices import Matrix

_SAMPLES = 10  # of a batch that are drawn
_MOST_MESSAGES = 16
_MOST_TURNS = 40  # of a schedule that is drawn
_NOTEBOOK_WIDTH = 3  # an output width at which the notebook's factor is wrong
_MEANS = {
    "all_gather": "every device gets all devices' slices, side by side",
    "reduce_scatter": "the devices' parts are summed, and each device keeps its slice of the sum",
    "all_reduce": "the devices' parts are summed, and every device gets the sum",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One comparison of a tensor by hand with PyTorch's."""

    name: str
    tone: Tone
    outcome: str
    maxdiff: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One collective, or message: which, of what, how many bytes through a rank, and what it does."""

    kind: str
    tensor: str
    size: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One section of the notebook; `schedule` is what each stage of a pipeline does in each turn."""

    number: str
    title: str
    prose: tuple[str, ...]
    code: str = ""
    matrices: tuple[Matrix, ...] = ()
    schedule: tuple[tuple[str, ...], ...] = ()
    sent: tuple[Sent, ...] = ()
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakage:
    """A mistake that was really made when the page was: what it changes."""

    id: str
    button: str
    words: str
    code: str
    wrong: int
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkthroughPage:
    """The whole page."""

    tone: Tone
    answer: str
    sentence: str
    chapters: tuple[Chapter, ...]
    breakages: tuple[Breakage, ...]


def describe_walkthrough(settings: Settings) -> WalkthroughPage:
    """Take the first step in this process, right and with each mistake, and describe it."""
    settings = replace(settings, steps=1)
    report = _take_step(settings)
    lines = report.comparisons
    diverged = sum(not line.approximate for line in lines)
    exact = sum(line.exact for line in lines)
    return WalkthroughPage(
        tone=Tone.BAD if diverged else Tone.GOOD,
        answer="Something diverged" if diverged else "The same step",
        sentence=(
            f"One training step by hand, on one device, on {settings.devices} and in a pipeline: "
            f"{len(lines) - diverged} of {len(lines)} tensors are PyTorch's within rounding, {exact} of them to the "
            "last bit."
        ),
        chapters=tuple(_chapters(settings, report)),
        breakages=tuple(_break(settings)),
    )


def _take_step(settings: Settings, mistake: Mistake | None = None) -> StepReport:
    world = SimulatedWorld(size=settings.devices)
    return next(take_steps(settings, world if mistake is None else MistakenWorld(inner=world, mistake=mistake)))


def _chapters(settings: Settings, report: StepReport) -> list[Chapter]:
    sections = {section.number: section for section in report.sections}
    n = settings.devices
    drawn = _draw(settings)
    shape = " -> ".join(map(str, settings.widths))
    splits = ", ".join(f"layer {l} by {split}" for l, split in enumerate(settings.splits, start=1))
    width = settings.widths[-1]
    factor = f"The loss is a mean over B samples and O outputs, so dout = 2/(B O) (out - y); here O = {width}."
    return [
        Chapter(
            number="1", title="Dataset and model", matrices=drawn["model"],
            prose=(
                f"{settings.batch_size} samples and an MLP of widths {shape}, drawn with seed {settings.seed}.",
                f"Split over {n} devices: {splits}. A frame is the slice of one device.",
            ),
        ),
        _chapter(
            sections["3.1.1"], "Forward on one device", ("Layer by layer, h = x W^T + b.",),
            (functions.linear_forward, one_device.forward), drawn["forward"],
        ),
        _chapter(
            sections["3.1.2"], f"Forward on {n} devices", (
                "A column split makes a slice of the output on each device; a row split makes a part of a sum.",
            ), (n_devices.forward,), drawn["forward of ranks"],
        ),
        _chapter(
            sections["3.2.1"], "Backward on one device", (
                factor if settings.loss == "mse" else "dout = (softmax(out) - onehot(class)) / B.",
            ),
            (functions.linear_backward_weight, functions.linear_backward_bias, one_device.backward), drawn["backward"],
        ),
        _chapter(
            sections["3.2.2"], f"Backward on {n} devices", ("The same arithmetic on slices.",),
            (n_devices.backward,), drawn["backward of ranks"],
        ),
        _chapter(
            sections["4.1"], "Update the model", (f"W - {settings.lr} dW on each device's own slices.",),
            (one_device.update,), drawn["updated"],
        ),
        *_chapters_of_pipeline(settings, sections, drawn),
    ]  # fmt: skip


def _chapters_of_pipeline(
    settings: Settings, sections: Mapping[str, Section], drawn: Mapping[str, tuple[Matrix, ...]]
) -> list[Chapter]:
    stages, microbatches = count_stages(settings), min(settings.microbatches, settings.batch_size)
    schedule = plan_schedule(stages, microbatches)
    many, cut = ("stage", "stages")[stages > 1], ("microbatch", "microbatches")[microbatches > 1]
    return [
        Chapter(
            number="5", title=f"A pipeline of {stages} {many}", matrices=drawn["model in stages"],
            prose=(
                f"Each device holds whole layers, and the batch goes through them in {microbatches} {cut}.",
                "All forwards, then all backwards (GPipe): F0 is the forward of microbatch 0, and B0 its backward.",
            ),
            schedule=schedule if len(schedule[0]) <= _MOST_TURNS else (),
        ),
        _chapter(
            sections["5.1"], f"Forward in {stages} {many}",
            ("A stage sends what its last layer hands on to the next stage.",),
            (pipeline.run_forwards, pipeline.forward_of_stage), drawn["forward in stages"],
        ),
        _chapter(
            sections["5.2"], f"Backward in {stages} {many}", (
                "The loss is a mean over the batch, so a microbatch of B_m samples begins with B_m/B of its own dout.",
                "A stage sends the gradient of what it was sent back, and adds up the gradients of its parameters.",
            ),
            (pipeline.run_backwards, pipeline.backward_of_stage, pipeline.accumulate), drawn["backward in stages"],
        ),
        _chapter(
            sections["5.3"], "Update each stage", ("Once, when all microbatches have come back.",),
            (one_device.update,), drawn["updated in stages"],
        ),
    ]  # fmt: skip


def _chapter(
    section: Section,
    title: str,
    prose: tuple[str, ...],
    code: Sequence[Callable[..., object]],
    matrices: tuple[Matrix, ...],
) -> Chapter:
    return Chapter(
        number=section.number,
        title=title,
        prose=prose,
        code="\n\n".join(map(show_code, code)),
        matrices=matrices,
        sent=(*_collectives(section), *_messages(section)),
        lines=tuple(map(_line, section.comparisons)),
    )


def _collectives(section: Section) -> Iterator[Sent]:
    for entry in section.entries:
        yield Sent(
            kind=entry.collective.replace("_", "-"),
            tensor=entry.tensor,
            size=say_bytes(entry.bytes_per_rank),
            words=_MEANS[entry.collective],
        )


def _messages(section: Section) -> Iterator[Sent]:
    shown, left = section.messages[:_MOST_MESSAGES], section.messages[_MOST_MESSAGES:]
    for one in shown:
        words = f"stage {one.source} to stage {one.destination}"
        yield Sent(kind="send", tensor=one.tensor, size=say_bytes(one.bytes), words=words)
    if left:
        size = say_bytes(sum(one.bytes for one in left))
        yield Sent(kind="send", tensor=f"{len(left)} more", size=size, words="between the stages")


def show_code(function: Callable[..., object]) -> str:
    """The source of a function without its docstring: the code that was run."""
    source = textwrap.dedent(inspect.getsource(function))
    first = ast.parse(source).body[0]
    assert isinstance(first, ast.FunctionDef)
    lines = source.splitlines()
    if ast.get_docstring(first) is not None:
        quoted = first.body[0]
        assert quoted.end_lineno is not None
        lines = [*lines[: quoted.lineno - 1], *lines[quoted.end_lineno :]]
    return "\n".join(lines)


def _line(line: Comparison) -> Line:
    good = line.outcome in ("exact", "approximate")
    return Line(
        name=line.name,
        tone=Tone.GOOD if good else Tone.BAD,
        outcome="equal to the last bit" if line.exact else "equal within rounding" if good else "diverged",
        maxdiff=f"{line.maxdiff:.3g}",
    )


def _draw(settings: Settings) -> dict[str, tuple[Matrix, ...]]:
    """The matrices of each chapter, of the first step."""
    batch = draw_batches(settings)[0]
    layers = initialise_layers(settings.widths, seed=settings.seed, dtype=settings.dtype)
    activation, loss = ACTIVATIONS[settings.activation], LOSSES[settings.loss]
    step = one_device.take_step(layers, batch, activation=activation, loss=loss, lr=settings.lr)
    plans = plan_splits(settings.widths, settings.splits)
    n = settings.devices

    def slices(length: int) -> tuple[slice, ...]:
        return tuple(own_slice(length, rank, n) for rank in range(n))

    def weights(kind: str, of: Sequence[object], *, split: bool) -> list[Matrix]:
        found = []
        for l, (layer, plan) in enumerate(zip(of, plans, strict=True), start=1):
            by_rows = plan.split == "column"
            own = slices(plan.out_features if by_rows else plan.in_features) if split else ()
            bias = slices(plan.out_features) if split and plan.z_is_sharded else ()
            found += [
                draw_matrix(f"{kind}W{l}", layer.W, split="rows" if by_rows else "columns", slices=own),  # type: ignore[attr-defined]
                draw_matrix(f"{kind}b{l}", layer.b, split="columns", slices=bias),  # type: ignore[attr-defined]
            ]
        return found

    def outputs(*, split: bool) -> list[Matrix]:
        found = [
            draw_matrix(
                f"z{l}",
                z,
                split="columns" if split and plan.z_is_sharded else None,
                slices=slices(plan.out_features),
                most_rows=_SAMPLES,
            )
            for l, (z, plan) in enumerate(zip(step.z, plans, strict=False), start=1)
        ]
        return [*found, draw_matrix("out", step.out, most_rows=_SAMPLES)]

    def in_stages(kind: str, of: Sequence[Layer]) -> list[Matrix]:
        found = []
        for rank, stage in enumerate(plan_stages(len(of), n)):
            for l in range(stage.first, stage.stop):
                for name, values in (("W", of[l].W), ("b", of[l].b)):
                    own = (slice(0, 0),) * rank + (slice(0, len(values)),)
                    found.append(draw_matrix(f"{kind}{name}{l + 1}", values, split="rows", slices=own))
        return found

    def activations(kind: str, of: Sequence[Tensor]) -> list[Matrix]:
        return [draw_matrix(f"{kind}{l}", values, most_rows=_SAMPLES) for l, values in enumerate(of, start=1)]

    return {
        "model in stages": tuple(in_stages("", layers)),
        "forward in stages": (*activations("h", step.h), draw_matrix("out", step.out, most_rows=_SAMPLES)),
        "backward in stages": (*activations("dh", step.dh), *in_stages("d", step.gradients)),
        "updated in stages": tuple(in_stages("new ", step.updated)),
        "model": (draw_matrix("x", batch.x, most_rows=_SAMPLES), *weights("", layers, split=True)),
        "forward": tuple(outputs(split=False)),
        "forward of ranks": tuple(outputs(split=True)),
        "backward": tuple(weights("d", step.gradients, split=False)),
        "backward of ranks": tuple(weights("d", step.gradients, split=True)),
        "updated": tuple(weights("new ", step.updated, split=True)),
    }


def _break(settings: Settings) -> list[Breakage]:
    """Each mistake that the settings can show, really made."""
    columns_only: tuple[Split, ...] = tuple("column" for _ in settings.splits)
    made: list[tuple[Mistake, Settings, str, str, Callable[..., object]]] = [
        (Mistake.BIAS_TWICE, settings, "Add the bias twice",
         "Each device computes x W^T + b + b. The loss is off, and every gradient with it.", mistakes.double_bias),
    ]  # fmt: skip
    if settings.devices > 1 and len(settings.splits) > 1 and min(settings.widths[1:]) >= settings.devices:
        words = (
            "Each device keeps its own part of dh in place of the sum over devices. The forward is right and the last "
            "layer's gradients are; what comes before them in the model is wrong."
        )
        columns = replace(settings, splits=columns_only)
        made.insert(0, (Mistake.NO_REDUCE_SCATTER, columns, "Forget the reduce-scatter", words,
                        mistakes.WithoutSum.reduce_scatter))  # fmt: skip
    if settings.devices <= _NOTEBOOK_WIDTH:
        wide = replace(settings, widths=(*settings.widths[:-1], _NOTEBOOK_WIDTH), loss="mse")
        words = (
            "The notebook's dout = (out - y) / B is right where the output width is 2. Here it is 3, where PyTorch's "
            "factor is 2/(3 B): every gradient is 3/2 times too large, and the forward shows nothing."
        )
        made.append((Mistake.NOTEBOOK_FACTOR, wide, "Use the notebook's factor at output width 3", words,
                     mistakes.notebook_backward))  # fmt: skip
    if settings.batch_size > 1:
        batch = replace(settings, microbatches=max(2, settings.microbatches))
        words = (
            "The gradients of each microbatch replace those of the one before, so only the last one's are left. What "
            "is sent forward and back is right, and the loss is."
        )
        made.append((Mistake.LAST_MICROBATCH, batch, "Keep the last microbatch's gradients only", words,
                     mistakes.keep_last))  # fmt: skip
        words = (
            "Each microbatch begins with the dout of its own mean, whatever the batch: every gradient is as many times "
            "too large as there are microbatches, and the forward shows nothing."
        )
        made.append((Mistake.MICROBATCH_MEAN, batch, "Forget to divide by the number of microbatches", words,
                     mistakes.whole_share))  # fmt: skip
    found = []
    for number, (mistake, chosen, button, words, code) in enumerate(made):
        report = _take_step(chosen, mistake)
        numbers = ("5.1", "5.2", "5.3") if mistake.in_pipeline else ("3.1.2", "3.2.2", "4.1")
        lines = tuple(
            _line(line)
            for section in report.sections
            if section.number in numbers
            for line in section.comparisons
            if section.number != "4.1" or line.name.startswith("TP")
        )
        wrong = sum(line.tone is Tone.BAD for line in lines)
        found.append(
            Breakage(id=f"break{number}", button=button, words=words, code=show_code(code), wrong=wrong, lines=lines)
        )
    return found

"""The settings of a walkthrough, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import cycle, islice, pairwise

import torch

from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.sharding import SPLITS, Split
from shardproof.errors import CannotRunError

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
PATTERNS: dict[str, tuple[Split, ...]] = {"column": ("column",), "row": ("row",), "column-row": ("column", "row")}
MOST_DEVICES = 64
MOST_MICROBATCHES = 64
LARGEST_SEED = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a walkthrough. The defaults are the notebook's.

    Attributes:
        steps: the number of updates; each takes the next batch, and the first again after the last.
        splits: one entry a layer.
        microbatches: of a batch, in a pipeline; a smaller batch makes one of each sample.

    Raises:
        CannotRunError: a value is out of its range.
    """

    widths: tuple[int, ...] = (6, 4, 2)
    samples: int = 32
    batch_size: int = 32
    activation: str = "none"
    loss: str = "mse"
    lr: float = 0.01
    steps: int = 1
    seed: int = 12345
    dtype: torch.dtype = torch.float32
    devices: int = 2
    splits: tuple[Split, ...] = ("column", "column")
    microbatches: int = 2

    def __post_init__(self) -> None:
        _check_sizes(self)
        _check_choices(self)
        _check_splits(self)

    @property
    def dtype_name(self) -> str:
        """`float32`, without the `torch.`."""
        return str(self.dtype).removeprefix("torch.")


def count_epoch(samples: int, batch_size: int) -> int:
    """The number of batches of an epoch, with the smaller last one."""
    return -(-samples // batch_size)


def check_memory(settings: Settings, available: int) -> None:
    """Refuse a run that does not fit in memory; the system would kill the process without a message.

    The four computations together keep about 18 copies of the parameters: values, gradients and updated values, full,
    in shards and in stages; and about as many of each layer's activations.

    Args:
        settings: of the run.
        available: memory in bytes.

    Raises:
        CannotRunError: it is not enough.
    """
    parameters = sum((i + 1) * o for i, o in pairwise(settings.widths))
    activations = settings.batch_size * sum(settings.widths)
    data = settings.samples * (settings.widths[0] + settings.widths[-1])
    needed = (18 * (parameters + activations) + 2 * data) * settings.dtype.itemsize
    if needed > available:
        widths = ",".join(str(width) for width in settings.widths)
        raise CannotRunError(
            f"--widths {widths} --samples {settings.samples}: the run needs about {needed / 2**30:.3g} GiB of memory "
            f"and this machine has {available / 2**30:.3g}; give smaller widths, or fewer samples"
        )


def read_widths(text: str) -> tuple[int, ...]:
    """Read `6,4,2`.

    Raises:
        CannotRunError: the text is not whole numbers with commas between them.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise CannotRunError(f"--widths {text!r}: give whole numbers with commas between them, such as 6,4,2") from None


def read_splits(text: str, layers: int) -> tuple[Split, ...]:
    """Read `column`, `row` or `column-row` (alternating), for any depth; or one entry a layer: `column,row,row`.

    Raises:
        CannotRunError: an entry is another word, or there are more or fewer entries than layers.
    """
    if text in PATTERNS:
        return tuple(islice(cycle(PATTERNS[text]), layers))
    given: list[Split] = []
    for part in text.split(","):
        if part not in SPLITS:
            raise CannotRunError(
                f"--split {text!r}: give {', '.join(PATTERNS)}, or one of column and row for each layer, with commas"
            )
        given.append("column" if part == "column" else "row")
    if len(given) != layers:
        raise CannotRunError(f"--split {text!r}: {len(given)} splits for {layers} layers; give one for each layer")
    return tuple(given)


def read_dtype(text: str) -> torch.dtype:
    """Read `float32`.

    Raises:
        CannotRunError: it is not one of `DTYPES`.
    """
    if text not in DTYPES:
        raise CannotRunError(f"--dtype {text!r}: the step needs a floating dtype; give one of {', '.join(DTYPES)}")
    return DTYPES[text]


def _check_sizes(settings: Settings) -> None:
    widths = ",".join(str(width) for width in settings.widths)
    if len(settings.widths) < 2:
        raise CannotRunError(f"--widths {widths}: a layer needs an input and an output width; give at least two")
    if min(settings.widths) < 1:
        raise CannotRunError(f"--widths {widths}: a width of {min(settings.widths)}; give widths of 1 or more")
    if settings.samples < 1:
        raise CannotRunError(f"--samples {settings.samples}: give 1 or more")
    if not 1 <= settings.batch_size <= settings.samples:
        raise CannotRunError(
            f"--batch-size {settings.batch_size}: {settings.samples} samples make batches of 1 to {settings.samples}"
        )
    if settings.steps < 1:
        raise CannotRunError(f"--steps {settings.steps}: give 1 or more")
    if not (math.isfinite(settings.lr) and settings.lr >= 0):
        raise CannotRunError(f"--lr {settings.lr}: give a finite number, 0 or more")
    if not 0 <= settings.seed <= LARGEST_SEED:
        raise CannotRunError(f"--seed {settings.seed}: give a whole number from 0 to {LARGEST_SEED}")
    if not 1 <= settings.devices <= MOST_DEVICES:
        raise CannotRunError(f"--devices {settings.devices}: give 1 to {MOST_DEVICES}")
    if not 1 <= settings.microbatches <= MOST_MICROBATCHES:
        raise CannotRunError(f"--microbatches {settings.microbatches}: give 1 to {MOST_MICROBATCHES}")


def _check_choices(settings: Settings) -> None:
    if settings.activation not in ACTIVATIONS:
        raise CannotRunError(f"--activation {settings.activation!r}: give one of {', '.join(ACTIVATIONS)}")
    if settings.loss not in LOSSES:
        raise CannotRunError(f"--loss {settings.loss!r}: give one of {', '.join(LOSSES)}")
    if settings.dtype not in DTYPES.values():
        raise CannotRunError(f"--dtype {settings.dtype_name}: give one of {', '.join(DTYPES)}")


def _check_splits(settings: Settings) -> None:
    layers = len(settings.widths) - 1
    if len(settings.splits) != layers:
        raise CannotRunError(f"--split: {len(settings.splits)} splits for {layers} layers; give one for each layer")
    for l, split in enumerate(settings.splits):
        side, width = ("output", settings.widths[l + 1]) if split == "column" else ("input", settings.widths[l])
        if width < settings.devices:
            raise CannotRunError(
                f"--devices {settings.devices}: layer {l + 1} is split by {split} over its {width} {side} features; "
                f"give {width} or fewer, a larger width or another --split"
            )

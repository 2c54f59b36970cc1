"""Two checkpoints of one model, of 2 and of 4 ranks, against reading both their files once.

The model is synthetic: 400 MB in bfloat16, matrices split by rows and by columns and a few replicated vectors. The
files are in the system's cache, so that the reading is that of memory: a disk is slower, and hides more of the
comparison. The floor reads every file of both checkpoints into one buffer of 2 MiB.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from benchmarks.measure import Row, interleave, peak_extra_mib
from shardproof.checkpoints import Settings, compare_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS, WIDTH, WIDE = 12, 2048, 4096
BUFFER_BYTES = 1 << 21


def rows() -> Iterator[Row]:
    """Speed of both kernels, on equal checkpoints and on such that differ by rounding; memory."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = make_model()
        two, four = save(folder / "2", model, 2), save(folder / "4", model, 4)
        rounded = save(folder / "rounded", {name: tensor * (1 + 2**-8) for name, tensor in model.items()}, 4)
        del model
        yield from _speed("equal", two, four)
        yield from _speed("1 ulp", two, rounded)
        yield _memory(two, four)


def make_model() -> dict[str, torch.Tensor]:
    """The full tensors."""
    generator = torch.Generator().manual_seed(0)
    model = {}
    for layer in range(LAYERS):
        for name, shape in (("up", (WIDE, WIDTH)), ("down", (WIDTH, WIDE)), ("norm", (WIDTH,))):
            model[f"layers.{layer}.{name}.weight"] = torch.randn(shape, generator=generator).bfloat16()
    return model


def save(folder: Path, model: dict[str, torch.Tensor], ranks: int) -> Path:
    """A folder with a file for each rank."""
    folder.mkdir()
    dims = {"up": 0, "down": 1}
    for rank in range(ranks):
        shards = {
            name: tensor.chunk(ranks, dims[kind])[rank] if (kind := name.split(".")[2]) in dims else tensor
            for name, tensor in model.items()
        }
        save_file(
            {name: shard.contiguous().clone() for name, shard in shards.items()}, folder / f"rank_{rank}.safetensors"
        )
    return folder


def read(*folders: Path) -> None:
    """Read every byte once."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    for folder in folders:
        for path in folder.iterdir():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def _speed(what: str, actual: Path, expected: Path) -> Iterator[Row]:
    timings = interleave(
        {
            "read": lambda: read(actual, expected),
            "eager": lambda: compare_paths(actual, expected),
            "compiled": lambda: compare_paths(actual, expected, Settings(kernel="compiled")),
        },
        rounds=5,
    )
    for kernel, target in (("eager", 4), ("compiled", 2)):
        yield Row(
            what=f"compare 2 and 4 ranks, {kernel}: 400 MB each, {what}",
            ours=timings[kernel].median,
            peer_name="reading both",
            peer=timings["read"].median,
            unit="ms",
            target=target,
            spread=timings[kernel].spread,
        )


def _memory(actual: Path, expected: Path) -> Row:
    prepare = (
        "from pathlib import Path; import torch; from shardproof.checkpoints import compare_paths\n"
        "from shardproof.checkpoints.values import compare; compare({'w': torch.ones(9)}, {'w': torch.ones(9)})"
    )
    return Row(
        what="compare 2 and 4 ranks, eager: extra memory",
        ours=peak_extra_mib(prepare, f"compare_paths(Path({str(actual)!r}), Path({str(expected)!r}))"),
        peer_name="allowed",
        peer=64,
        unit="MiB",
        target=1,
    )

"""A decoder of many sizes and choices under ten plans. One line is one product of sizes, plans, meshes, optimizers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.mutants.configuration import CAST, Configuration
from benchmarks.mutants.models.gpt import GPTSizes, gpt_step
from benchmarks.mutants.models.gpt_plans import PLANS
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

OF_ONE_AXIS = ("plain shards", "DTensor, whole sequences", "DTensor, split sequences")
MEGATRON = ("Megatron", "Megatron, split sequences")
FSDP = ("FSDP2", "FSDP2 of leaves")
BOTH = ("FSDP2, whole sequences", "FSDP2, split sequences")
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Every combination of what it lists.

    Attributes:
        plans: names of `PLANS`.
        meshes: sizes of axes by name, as in "tp 2" or "dp 2 tp 4".
        sizes: each a change of `GPTSizes`.
        optimizers: names of `MORE_OPTIMIZERS`; taken in turn where `in_turn` is set.
        dtypes: of the parameters; taken in turn likewise.
        clips: norms that gradients are clipped to, None for none; taken in turn likewise.
        in_turn: whether the last three are taken in turn, not each with each.
        steps: how many.
    """

    plans: Sequence[str]
    meshes: Sequence[str]
    sizes: Sequence[Mapping[str, Any]] = ({},)
    optimizers: Sequence[str] = ("AdamW", "SGD", "momentum")
    dtypes: Sequence[str] = ("float32",)
    clips: Sequence[float | None] = (None, 0.5)
    in_turn: bool = True
    steps: int = 2


CHOICES: tuple[Mapping[str, Any], ...] = (
    {"norm": "RMSNorm", "mlp": "gated", "positions": "rope", "bias": False},  # llama
    {"tied": True, "mlp": "gelu"},  # GPT-2
    {"positions": "alibi", "mlp": "gelu", "tied": True},  # bloom
    {"norm": "RMSNorm", "mlp": "gated", "positions": "rope", "head_norms": True},  # Qwen3
    {"mlp": "squared relu", "positions": "none", "cap": 5.0},  # nanochat, nearly
    {"recompute": "non-reentrant", "positions": "rope"},
    {"recompute": "reentrant", "mlp": "gated"},
    {"last_cast": True, "mlp": "relu"},
    {"layers": 3, "rows": 4},
)
WITHOUT_HEAD_NORMS = tuple(one for one in CHOICES if "head_norms" not in one)

# A configuration more is a line more, or a word in a line.
LINES = (
    # Choices of the model, each under each plan.
    Line(plans=OF_ONE_AXIS, meshes=("tp 2", "tp 4"), sizes=WITHOUT_HEAD_NORMS),
    Line(plans=("plain shards",), meshes=("tp 2", "tp 4"), sizes=(CHOICES[3],)),
    Line(plans=MEGATRON, meshes=("tp 2", "tp 4"), sizes=WITHOUT_HEAD_NORMS),
    Line(plans=FSDP, meshes=("dp 2", "dp 4"), sizes=tuple(c | {"rows": 4} for c in CHOICES)),
    Line(plans=("HSDP",), meshes=("dp_replicate 2 dp_shard 2",), sizes=tuple(c | {"rows": 4} for c in CHOICES)),
    Line(plans=BOTH, meshes=("dp 2 tp 2",), sizes=tuple(c | {"rows": 4} for c in WITHOUT_HEAD_NORMS)),
    # Grouped queries: as many ranks as KV heads, or fewer.
    Line(plans=OF_ONE_AXIS, meshes=("tp 2",), sizes=({"kv_heads": 2}, {"kv_heads": 2, "positions": "rope"})),
    Line(plans=("Megatron",), meshes=("tp 2",), sizes=({"kv_heads": 2},)),
    # GPT-J's block.
    Line(
        plans=("plain shards", "DTensor, whole sequences", "Megatron"),
        meshes=("tp 2", "tp 4"),
        sizes=({"side_by_side": True, "positions": "rope"},),
    ),
    # Numbers of ranks.
    Line(
        plans=(*OF_ONE_AXIS, *MEGATRON),
        meshes=("tp 3",),
        sizes=({"heads": 6, "hidden": 24, "sequence": 9, "vocabulary": 18},),
    ),
    Line(
        plans=(*OF_ONE_AXIS, *MEGATRON),
        meshes=("tp 5",),
        sizes=({"heads": 5, "hidden": 20, "sequence": 10, "vocabulary": 20},),
    ),
    Line(
        plans=(*OF_ONE_AXIS, *MEGATRON),
        meshes=("tp 8",),
        sizes=({"heads": 8, "hidden": 32}, {"heads": 8, "hidden": 32, "tied": True}),
    ),
    Line(plans=FSDP, meshes=("dp 3", "dp 8"), sizes=({"rows": 24, "sequence": 4},)),
    Line(plans=("HSDP",), meshes=("dp_replicate 2 dp_shard 4", "dp_replicate 4 dp_shard 2"), sizes=({"rows": 8},)),
    Line(plans=BOTH, meshes=("dp 4 tp 2", "dp 2 tp 4", "dp 3 tp 2"), sizes=({"rows": 12},)),
    # Dtypes, with each optimizer.
    Line(
        plans=(*OF_ONE_AXIS, "Megatron"),
        meshes=("tp 2",),
        dtypes=tuple(DTYPES),
        optimizers=("AdamW", "momentum"),
        clips=(1.0,),
        in_turn=False,
    ),
    Line(
        plans=("FSDP2",),
        meshes=("dp 2",),
        dtypes=tuple(DTYPES),
        optimizers=("AdamW", "SGD"),
        clips=(1.0,),
        in_turn=False,
    ),
    Line(
        plans=("FSDP2, split sequences",),
        meshes=("dp 2 tp 2",),
        dtypes=("bfloat16", "float16"),
        optimizers=("AdamW",),
        sizes=({"rows": 4},),
    ),
    # Every optimizer that is stepped fused, foreach or neither.
    # Fused or foreach, PyTorch steps no DTensors beside plain tensors.
    Line(plans=("plain shards", "Megatron"), meshes=("tp 2",), optimizers=tuple(MORE_OPTIMIZERS), in_turn=False),
    Line(
        plans=("DTensor, whole sequences",),
        meshes=("tp 2",),
        in_turn=False,
        optimizers=[name for name in MORE_OPTIMIZERS if " " not in name],
    ),
    # PyTorch's fused SGD steps no DTensors.
    Line(
        plans=("FSDP2",),
        meshes=("dp 2",),
        optimizers=[name for name in MORE_OPTIMIZERS if name != "momentum fused"],
        clips=(0.5,),
        in_turn=False,
    ),
    # Sizes.
    Line(plans=(*OF_ONE_AXIS, *MEGATRON), meshes=("tp 2",), sizes=({"hidden": 32}, {"hidden": 64, "vocabulary": 32})),
    Line(
        plans=("plain shards", "Megatron", "DTensor, whole sequences"),
        meshes=("tp 2", "tp 4"),
        sizes=({"hidden": 128, "vocabulary": 32, "rows": 4},),
    ),
    Line(
        plans=("plain shards", "Megatron"),
        meshes=("tp 2", "tp 4"),
        sizes=({"hidden": 256, "heads": 8, "vocabulary": 32, "rows": 4},),
        optimizers=("AdamW",),
    ),
    Line(plans=("FSDP2",), meshes=("dp 2",), sizes=({"hidden": 128}, {"hidden": 256}), optimizers=("AdamW",)),
    Line(
        plans=("plain shards", "Megatron", "DTensor, split sequences"),
        meshes=("tp 2",),
        sizes=(
            {"layers": 4},
            {"layers": 4, "tied": True},
        ),
    ),
    Line(
        plans=("plain shards", "Megatron"),
        meshes=("tp 2",),
        optimizers=("AdamW",),
        sizes=(
            {"layers": 8, "hidden": 64},
            {"layers": 8, "hidden": 32, "tied": True},
            {"layers": 6, "hidden": 48},
        ),
        steps=1,
    ),
    Line(
        plans=("plain shards",),
        meshes=("tp 8",),
        optimizers=("AdamW",),
        steps=1,
        sizes=({"layers": 8, "hidden": 32, "heads": 8},),
    ),
    Line(plans=("FSDP2",), meshes=("dp 2",), optimizers=("AdamW",), sizes=({"layers": 8, "hidden": 32},), steps=1),
    # Steps.
    Line(plans=(*OF_ONE_AXIS, "Megatron"), meshes=("tp 2",), steps=4),
    # Dropout of whole activations.
    Line(plans=("DTensor, whole sequences", "Megatron"), meshes=("tp 2",), sizes=({"dropout": 0.1, "rows": 4},)),
)


def configurations() -> Iterator[Configuration]:
    """All of the lines."""
    for line in LINES:
        yield from expand(line)


def expand(line: Line) -> Iterator[Configuration]:
    """Each combination that the line lists."""
    turns = itertools.cycle(itertools.product(line.optimizers, line.dtypes, line.clips))
    for plan, mesh, sizes in itertools.product(line.plans, line.meshes, line.sizes):
        each = [next(turns)] if line.in_turn else itertools.product(line.optimizers, line.dtypes, line.clips)
        for optimizer, dtype, clip in each:
            yield _configuration(plan, mesh, sizes, optimizer, dtype, clip, line.steps)


def _configuration(
    plan: str, mesh: str, changes: Mapping[str, Any], optimizer: str, dtype: str, clip: float | None, steps: int
) -> Configuration:
    words = mesh.split()
    sizes = replace(GPTSizes(), **changes, dtype=DTYPES[dtype])
    said = [optimizer, *([] if dtype == "float32" else [dtype]), *([f"clipped to {clip}"] if clip else [])]
    choices = [f"{name} {value}" for name, value in changes.items()]
    return Configuration(
        name=", ".join([f"decoder by {plan}", mesh, *choices, *said, *([] if steps == 2 else [f"{steps} steps"])]),
        make_step=partial(gpt_step, sizes, optimizer=MORE_OPTIMIZERS[optimizer], clip_norm=clip, steps=steps),
        parallelize=PLANS[plan],
        mesh={axis: int(size) for axis, size in zip(words[::2], words[1::2], strict=True)},
        tolerance=CAST if sizes.last_cast else 1e-6,
    )

"""Models that are no decoders: images in patches, an encoder beside a decoder, convolutions, relative positions."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.configuration import Configuration, on_mesh
from benchmarks.mutants.correct.meshes import root_only
from benchmarks.mutants.models.two_layers import draw
from benchmarks.mutants.steps import MORE_OPTIMIZERS
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.distributed.device_mesh import DeviceMesh

HIDDEN, HEADS = 8, 4


class Attention(nn.Module):
    """Queries of x, keys and values of `memory`; a bias of positions if asked; as many heads as are here."""

    def __init__(self, *, relative: bool = False) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.distances = nn.Parameter(torch.randn(16)) if relative else None

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k, v = (
            w(t).unflatten(-1, (-1, HIDDEN // HEADS)).transpose(1, 2)
            for w, t in ((self.wq, x), (self.wk, memory), (self.wv, memory))
        )
        scores = q @ k.mT * (HIDDEN // HEADS) ** -0.5
        if self.distances is not None:
            places = torch.arange(x.shape[1])
            scores = scores + self.distances[(places[:, None] - places) % 16]
        return self.wo((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention to oneself, or to `memory`, and an MLP."""

    def __init__(self, *, relative: bool = False) -> None:
        super().__init__()
        self.norm, self.mlp_norm = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.attention = Attention(relative=relative)
        self.up, self.down = nn.Linear(HIDDEN, 2 * HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, normed if memory is None else memory)
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class Patches(nn.Module):
    """Images [B, 3, 8, 8] in patches of 4, a token for the class, two blocks, 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, HIDDEN, 4, stride=4)
        self.token, self.places = nn.Parameter(torch.randn(1, 1, HIDDEN)), nn.Parameter(torch.randn(5, HIDDEN))
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(2)), nn.Linear(HIDDEN, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class Sound(nn.Module):
    """As Whisper's encoder: [B, 6, 12] through two convolutions, fixed sines, two blocks, a mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, HIDDEN, 3, padding=1)
        self.second = nn.Conv1d(HIDDEN, HIDDEN, 3, stride=2, padding=1)
        self.register_buffer("sines", torch.sin(torch.arange(6)[:, None] * 0.9 ** torch.arange(HIDDEN)))
        self.blocks, self.head = nn.ModuleList(Block() for _ in range(2)), nn.Linear(HIDDEN, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.second(F.gelu(self.first(x)))).mT + self.sines
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


class Translation(nn.Module):
    """Two sequences of ids as rows of a table: an encoder's block, a decoder's that attends to it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, HIDDEN)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(HIDDEN, 5)

    def forward(self, ids: Tensor) -> Tensor:
        source, target = self.table(ids).chunk(2, 1)
        return self.head(self.blocks[1](target, self.blocks[0](source)).mean(1))


class Relative(nn.Module):
    """A block whose scores have a learned bias of distances, shared by all heads."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.blocks, self.head = nn.Embedding(12, HIDDEN), nn.ModuleList([Block()]), nn.Linear(HIDDEN, 5)
        self.blocks[0] = Block(relative=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.blocks[0](self.table(ids)).mean(1))


def over_tp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Heads and widths over tp; a bias that all heads share sees one rank's heads, and its gradient is summed."""
    plan: dict[str, Any] = {"head": ColwiseParallel(output_layouts=Replicate())}
    for i, block in enumerate(model.blocks):
        plan |= {f"blocks.{i}.attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")}
        plan |= {f"blocks.{i}.attention.wo": RowwiseParallel()}
        plan |= {f"blocks.{i}.up": ColwiseParallel(), f"blocks.{i}.down": RowwiseParallel()}
        if block.attention.distances is not None:
            block.attention.distances.register_hook(lambda gradient: _summed(gradient, mesh))
    return parallelize_module(model, mesh, plan)


def _summed(gradient: Tensor, mesh: DeviceMesh) -> Tensor:
    gradient = gradient.clone()
    torch.distributed.all_reduce(gradient, group=mesh.get_group())
    return gradient


EVERY_ID = torch.arange(32).remainder(12).view(4, 8)
LABELS = torch.tensor([0, 3, 1, 4])
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "images in patches": (Patches, draw(4, 3, 8, 8)),
    "sound by convolutions": (Sound, draw(4, 6, 12)),
    "an encoder and a decoder": (Translation, EVERY_ID),
    "relative positions": (Relative, EVERY_ID),
}


def configurations() -> Iterator[Configuration]:
    """Each over tp and under FSDP2."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for name, (model, inputs) in MODELS.items():
        for parallelize, mesh in ((over_tp, {"tp": 2}), (over_tp, {"tp": 4}), (root_only, {"dp": 2})):
            optimizer = next(optimizers)
            step = Step(
                model=model,
                batch=(inputs, LABELS),
                loss=F.cross_entropy,
                optimizer=MORE_OPTIMIZERS[optimizer],
                clip_norm=1.0,
                steps=2,
            )
            yield on_mesh(f"{name}, {optimizer}", step, parallelize, mesh)

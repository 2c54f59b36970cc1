"""Inputs: what a model is called with, by the signature of its forward and by its configuration."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.images import GRID, find_patch_shape, list_with_images
from shardproof.worlds.communicator import shard_range

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

SEQUENCE, BATCH = 9, 2
IGNORED = -100


def probing_ids(vocabulary: int, seed: int) -> Tensor:
    """Draw token ids [B, S] that include the first and last id of every vocabulary shard on 2, 3 and 4 ranks.

    For both ways to cut a vocabulary: as torch.chunk does (all shards but the last have one size) and as evenly as
    possible. Where there are more edges than tokens, the smallest ids stay.
    """
    starts = [min(rank * -(-vocabulary // ranks), vocabulary) for ranks in (2, 3, 4) for rank in range(ranks + 1)]
    starts += [shard_range(vocabulary, rank, ranks)[0] for ranks in (3, 4) for rank in range(ranks)]
    edges = {edge % vocabulary for start in starts for edge in (start - 1, start)}
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (BATCH * SEQUENCE,), generator=generator)
    positions = torch.randperm(len(ids), generator=generator)[: len(edges)]
    ids[positions] = torch.tensor(sorted(edges))[: len(positions)]
    return ids.view(BATCH, SEQUENCE)


def make_labels(ids: Tensor) -> Tensor:
    """The ids with some ignored, as many in each row: on a data axis the loss is the mean of the means of the ranks."""
    labels = ids.clone()
    for row in range(BATCH):
        labels[row, 1 + 3 * row : 4 + 3 * row] = IGNORED
    return labels


def list_inputs(model: nn.Module, seed: int) -> list[dict[str, Any]]:
    """What the model's forward may be called with, in the order in which to try it.

    Token ids if it takes them, and every argument without a default; with images among the tokens before those without;
    then embeddings in place of the ids; then the hidden states of an encoder beside them.

    Raises:
        CannotRunError: it needs an argument that nothing is known of.
    """
    parameters = inspect.signature(model.forward).parameters
    first = _make_inputs(model, seed)
    found = []
    if "input_ids" in first:
        images = list_with_images(model, first["input_ids"], first.get("labels"), IGNORED, seed + 3)
        found += [{**first, **one} for one in images]
    found.append(first)
    width = getattr(model.config.get_text_config(), "hidden_size", None)  # type: ignore[operator, union-attr]
    generator = torch.Generator().manual_seed(seed + 2)
    if "input_ids" in first and "inputs_embeds" in parameters and width:
        rest = {name: value for name, value in first.items() if name != "input_ids"}
        found.append({**rest, "inputs_embeds": torch.randn(BATCH, SEQUENCE, width, generator=generator)})
    if "encoder_hidden_states" in parameters and width:
        found.append({**first, "encoder_hidden_states": torch.randn(BATCH, SEQUENCE, width, generator=generator)})
    return found


def _make_inputs(model: nn.Module, seed: int) -> dict[str, Any]:
    """Token ids if the forward takes them, and every argument without a default.

    Raises:
        CannotRunError: it needs an argument that nothing is known of.
    """
    parameters = inspect.signature(model.forward).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    config: Any = model.config
    text = config.get_text_config()
    drawer = _Drawer(
        model=model, config=config, generator=torch.Generator().manual_seed(seed), packed="grid_thw" in parameters
    )
    found: dict[str, Any] = {}
    if "input_ids" in parameters and getattr(text, "vocab_size", None):
        found["input_ids"] = probing_ids(text.vocab_size, seed)
        if "labels" in parameters:
            found["labels"] = make_labels(found["input_ids"])
    for name in needed:
        if name in found:
            continue
        if name not in _ARGUMENTS:
            raise CannotRunError(
                f"{type(model).__name__}.forward needs {name}, which shardproof does not know how to make; "
                "write a Step of your own"
            )
        found[name] = _ARGUMENTS[name](drawer)
    if not found and "inputs_embeds" in parameters:
        found["inputs_embeds"] = drawer.draw(BATCH, SEQUENCE, text.hidden_size)
    if "generation_steps" in parameters:
        found["generation_steps"] = 1
    if "context_hidden_states" in found and "attention_mask" in parameters:
        found["attention_mask"] = torch.ones(BATCH, SEQUENCE + config.block_size, dtype=torch.long)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawer:
    """Makes the arguments of one model.

    Attributes:
        model: which.
        config: its configuration.
        generator: of the numbers.
        packed: the patches of all images are the rows of one matrix.
    """

    model: nn.Module
    config: Any
    generator: torch.Generator
    packed: bool

    def draw(self, *shape: int) -> Tensor:
        """Normal numbers."""
        return torch.randn(shape, generator=self.generator)

    def pixels(self) -> Tensor:
        """Images [B, C, H, W]; or patches, all in one matrix [B * 16, C * P * P], or by image if they are pooled."""
        if self.packed:
            return self.draw(BATCH * GRID * GRID, self.patch_elements())
        if not hasattr(self.config, "image_size"):
            return self.draw(BATCH, self.pooled() ** 2, self.patch_elements())
        return self.draw(BATCH, getattr(self.config, "num_channels", 3), self.config.image_size, self.config.image_size)

    def patch_elements(self) -> int:
        """How many numbers of an image the first layer takes together."""
        patch = find_patch_shape(self.model)
        if patch:
            return prod(patch)
        raise CannotRunError(f"{type(self.model).__name__} has no layer that embeds patches")

    def pooled(self) -> int:
        """Patches along a side of an image that is pooled by squares."""
        return int(getattr(self.config, "pooling_kernel_size", GRID))

    def grid(self) -> Tensor:
        """The patches of each image: time, height, width [B, 3]."""
        return torch.tensor([[1, GRID, GRID]] * BATCH)

    def positions(self) -> Tensor:
        """The column and row of each patch [B, N, 2]."""
        side = torch.arange(self.pooled())
        return torch.cartesian_prod(side, side).flip(-1).expand(BATCH, -1, -1).clone()

    def context(self) -> Tensor:
        """Hidden states of several layers of another model, beside each other [B, S, layers * H]."""
        layers = len(getattr(self.config, "target_layer_ids", [0]))
        return self.draw(BATCH, SEQUENCE, layers * self.config.hidden_size)


_ARGUMENTS: dict[str, Callable[[_Drawer], Any]] = {
    "pixel_values": _Drawer.pixels,
    "hidden_states": _Drawer.pixels,
    "grid_thw": _Drawer.grid,
    "pixel_position_ids": _Drawer.positions,
    "inputs_embeds": lambda drawer: drawer.draw(BATCH, SEQUENCE, drawer.config.hidden_size),
    "num_patches": lambda _: SEQUENCE // 2,
    "noise_embeds": lambda drawer: drawer.draw(BATCH, drawer.config.block_size, drawer.config.hidden_size),
    "context_hidden_states": _Drawer.context,
}

"""Images beside text: pixel values in the forms that models take, and as many image tokens as they become features."""

from __future__ import annotations

import inspect
from math import prod
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn

GRID = 4  # patches along a side of an image
_TYPES = ("mm_token_type_ids", "token_type_ids")  # which tokens are an image: 1 for one
_CHANNELS = 3


def list_with_images(
    model: nn.Module, ids: Tensor, labels: Tensor | None, ignored: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Token ids with images among them, in each form of pixel values that the model turns into features.

    After the first token of a row stand its images' tokens, which labels ignore.

    Args:
        model: of which `forward` takes token ids.
        ids: token ids [B, S].
        labels: of them, if the model takes labels.
        ignored: the label that is ignored.
        seed: draws the pixels.
    """
    config: Any = model.config
    parameters = inspect.signature(model.forward).parameters
    image = getattr(config, "image_token_id", None)
    if "pixel_values" not in parameters or not isinstance(image, int):
        return
    text = ids.masked_fill(ids == image, 1)  # no token of an image by chance
    generator = torch.Generator().manual_seed(seed)
    for pixels in _list_pixels(model, parameters, len(ids), generator):
        count = _count_features(model, pixels)
        if count == 0 or count % len(ids):
            continue
        marks = torch.full((len(ids), count // len(ids)), image)
        found: dict[str, Any] = {"input_ids": _insert(text, marks), **pixels}
        if labels is not None:
            found["labels"] = _insert(labels, torch.full_like(marks, ignored))
        found |= {name: (found["input_ids"] == image).long() for name in _TYPES if name in parameters}
        yield found


def find_patch_shape(model: nn.Module) -> tuple[int, ...]:
    """The part of an image that the first layer takes together, [C, P, P] or [C * P * P]; () if none embeds patches."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if "patch" in name and weight is not None and weight.ndim > 1:
            return tuple(weight[0].shape)
    return ()


def _insert(ids: Tensor, marks: Tensor) -> Tensor:
    return torch.cat((ids[:, :1], marks, ids[:, 1:]), dim=1)


def _list_pixels(
    model: nn.Module, parameters: Mapping[str, Any], batch: int, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """One image a row, in each form that a model may take.

    The patches of all images, [B * N, C * P * P] or [B * N, C, P, P]; or whole ones, [B, C, H, W] or [B, 1, C, H, W].
    """
    config: Any = model.config
    vision = getattr(config, "vision_config", None) or config
    patch = find_patch_shape(model)
    if "image_grid_thw" in parameters and patch:
        patches = torch.randn(batch * GRID * GRID, prod(patch), generator=generator)
        grid = {"image_grid_thw": torch.tensor([[1, GRID, GRID]] * batch)}
        if "image_merge_sizes" in parameters:
            grid["image_merge_sizes"] = torch.ones(batch, dtype=torch.long)
        yield {"pixel_values": patches, **grid}
        yield {"pixel_values": patches.view(-1, *patch), **grid}
    size = getattr(vision, "image_size", None)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    if height and width:
        channels = getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or _CHANNELS
        pixels = torch.randn(batch, channels, height, width, generator=generator)
        sizes = {"image_sizes": torch.tensor([[height, width]] * batch)} if "image_sizes" in parameters else {}
        for form in (pixels, pixels.unsqueeze(1)):
            yield {"pixel_values": form}
            yield {"pixel_values": form, **sizes}


def _count_features(model: nn.Module, pixels: Mapping[str, Tensor]) -> int:
    """How many features the images become, each as wide as a token's embedding; 0 if the model fails on them."""
    owners = [one for one in (model, getattr(model, "model", None)) if hasattr(one, "get_image_features")]
    width = getattr(model.config.get_text_config(), "hidden_size", 0)  # type: ignore[operator, union-attr]
    if not owners or not width:
        return 0
    try:
        with torch.no_grad():
            outputs: Any = owners[0].get_image_features(**pixels)  # type: ignore[union-attr, operator]
    except Exception:  # noqa: BLE001 - whatever the model's code raises: it takes another form, or none of these
        return 0
    features = getattr(outputs, "pooler_output", outputs)
    parts = features if isinstance(features, list | tuple) else [features]
    return sum(one.numel() for one in parts if isinstance(one, torch.Tensor)) // width

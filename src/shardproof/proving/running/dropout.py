"""Dropout in ordinary runs: a stand-in that is the same on both sides, and beside it the masks that a side would draw.

In exact arithmetic a mask is an oracle of the element. In float64 it is 1 + p cos(x): a function of the element too, so
that replicas and shards see the same and a sum does not commute with it; smooth, so that rounding stays rounding.

The masks drawn are those of PyTorch's generators as the user's code has them at that call, with p = 1/2, which tells
most of two masks whether they are one.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from shardproof.exact.engine.dropout import Dropout, call_with_masks, on_local
from shardproof.exact.engine.function_bodies import body_of
from shardproof.proving.records import Key, Phase
from shardproof.proving.running.capture import local_value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardproof.proving.records import Records


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """One dropout of a run on one device or rank.

    Attributes:
        values: what it drops elements of: the rank's own plain tensor, in float64, flat.
        mask: which of them would stay, in the same order.
        by_dtensor: it was DTensor that drew for a shard; on a mesh of CPUs it does not do as it does on GPUs.
    """

    values: Tensor
    mask: Tensor
    by_dtensor: bool = False


Masks = dict[Key, Drawn]


class _Masking(TorchFunctionMode):
    """Gives every dropout a mask; in the backward too, where a checkpoint may compute it again."""

    def __init__(self, mask_of: Callable[[Dropout], Tensor]) -> None:
        super().__init__()
        self._mask_of = mask_of

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        body = body_of(func)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        found = call_with_masks(func, args, kwargs, self._mask_of, inside=self)
        return func(*args, **kwargs) if found is None else found


@contextmanager
def dropout_standing_in() -> Iterator[None]:
    """Inside, dropout draws nothing: the stand-in's mask."""
    with _Masking(_stand_in):
        yield


@contextmanager
def masks_drawn(records: Records, found: Masks) -> Iterator[None]:
    """Inside, each dropout of the model draws a mask, put into `found`, and goes on with the stand-in's.

    Args:
        records: of the same run, for the number of the step and the module that is running.
        found: filled in the order of execution.
    """
    running = records.running

    def draw(call: Dropout) -> Tensor:
        key = Key(records.step, Phase.MASK, running[-1] if running else "model")
        while key in found:
            key = Key(key.step, key.phase, key.name, key.call + 1)
        found[key] = _draw(call)
        return _stand_in(call)

    with _Masking(draw):
        yield


def _stand_in(call: Dropout) -> Tensor:
    mask: Tensor = on_local(call.x.detach(), lambda x: 1 + call.p * torch.cos(x))
    return mask


def _draw(call: Dropout) -> Drawn:
    x = call.x.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DTensor warns of meshes of CPUs; `by_dtensor` says so
        kept = F.dropout(torch.ones_like(x), 0.5)
    return Drawn(
        values=local_value(x).double().reshape(-1).clone(),
        mask=(local_value(kept) != 0).reshape(-1),
        by_dtensor=any(placement.is_shard() for placement in getattr(x, "placements", ())),
    )

"""Dropout in ordinary runs: a deterministic stand-in for its masks; and the masks that the generators would draw.

In exact arithmetic a mask is an oracle of the element. In ordinary arithmetic the stand-in is 1 + p cos(x). It depends
on the element alone, so replicas and shards get the same; it does not commute with a sum, so a dropout before an
all-reduce instead of after it shows; it is smooth, so rounding stays rounding.

The masks drawn are those of PyTorch's generators, in the state in which the user's code calls dropout. They are drawn
with p = 1/2, at which two different masks differ in the most elements.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from shardproof.exact.engine.dropout import Dropout, call_with_masks, may_be_masked
from shardproof.exact.engine.function_bodies import body_of
from shardproof.proving.records import DrawnMask, Key, Phase
from shardproof.proving.running.capture import local_value
from shardproof.proving.running.recomputation import backward_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shardproof.proving.records import Masks
    from shardproof.proving.running.capture import Recorder


class _Masking(TorchFunctionMode):
    """Gives every dropout a mask; in the backward too, where a checkpoint may run it again."""

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
        if not may_be_masked(func):
            return func(*args, **kwargs)
        found = call_with_masks(func, args, kwargs, self._mask_of, inside=self)
        return func(*args, **kwargs) if found is None else found


@contextmanager
def dropout_standing_in() -> Iterator[list[float]]:
    """Inside, dropout draws nothing: the stand-in's mask. Yields a list that each call adds its probability to."""
    called: list[float] = []

    def stand_in(call: Dropout) -> Tensor:
        called.append(call.p)
        return _stand_in(call)

    with _Masking(stand_in):
        yield called


@contextmanager
def masks_drawn(recorder: Recorder, found: Masks) -> Iterator[None]:
    """Inside, each dropout draws a mask, which is put into `found`, and applies the stand-in's.

    One that is computed again in a backward has a name of its own, so that the forward's keep their numbers.

    Args:
        recorder: of the same run; has the number of the step and the module that is running.
        found: filled in execution order.
    """
    running = recorder.running

    def draw(call: Dropout) -> Tensor:
        name = running[-1] if running else "model"
        again = backward_runs()
        key = Key(recorder.step, Phase.MASK, f"{name} (recomputed)" if again else name)
        while key in found:
            key = Key(key.step, key.phase, key.name, key.call + 1)
        found[key] = replace(_draw(call), recomputed=again)
        return _stand_in(call)

    with _Masking(draw):
        yield


def _stand_in(call: Dropout) -> Tensor:
    return call.mask(lambda x: 1 + call.p * torch.cos(x))


def _draw(call: Dropout) -> DrawnMask:
    x = call.x.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DTensor warns of meshes of CPUs; `by_dtensor` says so
        draw = torch.feature_dropout if call.channels else torch.dropout
        kept = draw(torch.ones_like(x), 0.5, True)
    return DrawnMask(
        values=local_value(x).double().reshape(-1).clone(),
        mask=(local_value(kept) != 0).reshape(-1),
        by_dtensor=any(placement.is_shard() for placement in getattr(x, "placements", ())),
    )

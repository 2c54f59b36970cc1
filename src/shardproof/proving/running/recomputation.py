"""Recomputation: a forward that is computed again while the backward runs, as activation checkpointing does.

A checkpoint, PyTorch's of both kinds or one written by hand, turns the recording of gradients on inside the backward,
where it is off otherwise, and calls the forward again. What is computed again is recorded under the call of the forward
that it repeats, so that both are cut alike.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from shardproof.exact.engine.function_bodies import body_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from shardproof.proving.records import Key, Phase
    from shardproof.proving.running.capture import Recorder

# What `torch.enable_grad` and `torch.no_grad` call.
_SET_GRAD_MODE = torch._C._set_grad_enabled  # noqa: SLF001


def backward_runs() -> bool:
    """Whether this code is called by a backward: by a function's own, a hook or a checkpoint."""
    return _current_backward() is not None


def is_recomputed(recorder: Recorder) -> bool:
    """Whether this code is part of a forward that is computed again."""
    number = _current_backward()
    return number is not None and (number in recorder.recomputing or bool(recorder.running))


@contextmanager
def recomputation_followed(recorder: Recorder) -> Iterator[None]:
    """Inside, the recorder knows in which of the running backwards a forward is computed again."""
    with _GradModeFollowed(recorder.recomputing):
        yield


def find_repeated(recorder: Recorder, phase: Phase, name: str, values: Tensor) -> Key | None:
    """The call of the forward that is computed again, by its values; None if there is none with these.

    Where several calls have the same values, the one that was repeated least, of these the last: a backward runs from
    the end.

    Args:
        recorder: of the run.
        phase: an input or an output.
        name: of the module; of a function, without the module that called it where no module is running.
        values: of the tensor, as they are recorded.
    """
    found = [
        key
        for key, recorded in recorder.records.tensors.items()
        if key.step == recorder.step
        and key.phase is phase
        and (key.name == name or (not recorder.running and key.name.rpartition("/")[2] == name))
        and recorded.values.shape == values.shape
        and torch.equal(recorded.values, values)
    ]
    if not found:
        return None
    repeated = min(reversed(found), key=lambda key: recorder.repeated.get(key, 0))
    recorder.repeated[repeated] = recorder.repeated.get(repeated, 0) + 1
    return repeated


def _current_backward() -> int | None:
    """The number of the innermost backward that runs in this thread; None outside any."""
    number = torch._C._current_graph_task_id()  # noqa: SLF001 - nothing public says whether a backward runs
    return None if number < 0 else number


class _GradModeFollowed(TorchFunctionMode):
    """Keeps the numbers of the backwards inside which the recording of gradients was turned on."""

    def __init__(self, recomputing: set[int]) -> None:
        super().__init__()
        self._recomputing = recomputing

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        body = body_of(func)
        if body is not None:  # of `backward`, among others, which the mode would see as a whole
            with self:
                return body(*args, **(kwargs or {}))
        number = _current_backward() if func is _SET_GRAD_MODE else None
        if number is not None and args[0]:
            self._recomputing.add(number)
        elif number is not None:
            self._recomputing.discard(number)
        return func(*args, **(kwargs or {}))

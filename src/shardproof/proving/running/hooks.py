"""Hooks: the inputs and outputs of a model's modules are recorded, and cut where a run is in segments."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from shardproof.proving.records import GRADIENT_OF, Key, Phase
from shardproof.proving.running.capture import capture, unseen
from shardproof.proving.running.functions import FunctionsRecorded
from shardproof.proving.running.recomputation import backward_runs, find_repeated
from shardproof.proving.running.stage_shapes import is_rehearsed
from shardproof.source_lines import calling_line
from shardproof.worlds.in_flight import calls_in_flight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.nn import Module

    from shardproof.proving.running.capture import Recorder
    from shardproof.proving.running.segments import Segments


@contextmanager
def modules_recorded(
    model: Module, recorder: Recorder, segments: Segments | None = None, *, enlarged: int = 1
) -> Iterator[None]:
    """Record the outputs of every module, inputs that are no module's outputs, and the gradients of both.

    Args:
        model: whose modules.
        recorder: of the run.
        segments: its cuts; None without any.
        enlarged: gradients of activations are recorded, and cut, as so many times what they are.
    """
    hooks = _Hooks(recorder=recorder, segments=segments, enlarged=enlarged)
    handles = []
    for name, module in model.named_modules():
        handles += [
            # First and last: what a sharding does at a module's ends is done in that module.
            module.register_forward_pre_hook(partial(hooks.begin, name or "model"), prepend=True),
            module.register_forward_pre_hook(partial(hooks.enter, name or "model"), with_kwargs=True),
            module.register_forward_hook(partial(hooks.leave, name or "model")),
            module.register_forward_hook(hooks.end, always_call=True),
        ]
    try:
        with FunctionsRecorded(recorder, hooks.pass_on):
            yield
    except Exception as error:
        if recorder.latest_gradient and _raised_in_backward(error):
            error.add_note(f"in the backward, after the {recorder.latest_gradient}")
        raise
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hooks:
    """The hooks of one run on one device or rank.

    Attributes:
        recorder: of the run.
        segments: its cuts; None without any.
        enlarged: by how much gradients of activations are enlarged.
        seen: tensors that are recorded already: as another module's input they are not recorded again.
    """

    recorder: Recorder
    segments: Segments | None
    enlarged: int
    seen: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    def begin(self, name: str, *_: Any) -> None:
        """The module's forward is running."""
        if not backward_runs():
            self.recorder.latest_gradient = ""
        self.recorder.running.append(name)

    def end(self, *_: Any) -> None:
        """The module's forward has ended, also by an error."""
        self.recorder.running.pop()

    def enter(self, name: str, _module: Module, inputs: Any, named: Any) -> Any:
        """Record inputs that no module computed; not those without a gradient (masks, positions, the batch)."""
        if name not in self.recorder.records.source_lines:
            self.recorder.records.source_lines[name] = calling_line()
        with unseen():
            new = [x for x in _floats((inputs, named)) if x.requires_grad and x not in self.seen]
            return self._replaced((inputs, named), new, Phase.INPUT, name)

    def leave(self, name: str, _module: Module, _inputs: Any, outputs: Any) -> Any:
        """Record every floating output."""
        with unseen():
            return self._replaced(outputs, _floats(outputs), Phase.OUTPUT, name)

    def _replaced(self, tree: Any, tensors: list[Tensor], phase: Phase, name: str) -> Any:
        """The tree with which the program continues; None if it is unchanged."""
        cut = {}
        for i, tensor in enumerate(tensors):
            passed_on = self.pass_on(tensor, phase, name if len(tensors) == 1 else f"{name}[{i}]")
            if passed_on is not tensor:
                cut[id(tensor)] = passed_on
        return tree_map(lambda x: cut.get(id(x), x), tree) if cut else None

    def pass_on(self, tensor: Tensor, phase: Phase, name: str, *, as_shift: bool = False) -> Tensor:
        """Record the tensor; return the one with which the program continues.

        What is computed again in a backward is recorded already, and is cut as it was then.

        Args:
            tensor: on this device or rank.
            phase: an input or an output.
            name: of its module or function.
            as_shift: see `capture`.
        """
        if is_rehearsed():
            return tensor
        exact = self.recorder.exact
        if exact is not None:
            exact.admit(tensor)
        with calls_in_flight().shown(tensor) as replace_by:  # the program may still have to wait for it
            if backward_runs():
                values = capture(tensor.detach(), exact).values
                repeated = find_repeated(self.recorder, phase, name, values)
                if repeated is None:
                    return tensor
                key = repeated
            else:
                key = self.recorder.add(phase, name, tensor.detach(), as_shift=as_shift)
            passed_on = tensor if self.segments is None else self.segments.cut(key, tensor, self.enlarged)
            if passed_on is not tensor:
                replace_by(passed_on)
        if passed_on is tensor and phase is Phase.INPUT:
            # An alias has the gradient of this use alone. The tensor itself may have other uses too, and a sharding may
            # redistribute it for one of them.
            passed_on = tensor.view_as(tensor)
        self.seen[passed_on] = True
        if passed_on.requires_grad:
            passed_on.register_hook(partial(self._record_gradient, key))
        return passed_on

    def _record_gradient(self, of: Key, gradient: Tensor | None) -> None:
        if gradient is None:  # the backward of an autograd.Function may give none
            return
        with unseen(), calls_in_flight().shown(gradient):
            found = gradient.detach() if self.enlarged == 1 else gradient.detach() * self.enlarged
            key = self.recorder.add(GRADIENT_OF[of.phase], of.name, found, call=of.call)
        self.recorder.latest_gradient = f"{key.phase} of {key.name}"


def _raised_in_backward(error: Exception) -> bool:
    """Whether PyTorch's autograd engine was running: its frames have no module and no line of the user's."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__", "").startswith("torch.autograd") for frame in frames)


def _floats(tree: Any) -> list[Tensor]:
    """Each once, in order."""
    found = {id(x): x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.is_floating_point()}
    return list(found.values())

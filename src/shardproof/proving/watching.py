"""Watching a model: what goes into and comes out of its modules is recorded, and cut where a run is in segments."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from shardproof.proving.records import GRADIENT_OF, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.nn import Module

    from shardproof.proving.records import Records
    from shardproof.proving.segments import Segments


@contextmanager
def watched(model: Module, records: Records, segments: Segments | None = None) -> Iterator[None]:
    """Record the outputs of every module, inputs that are no module's outputs, and the gradients of both."""
    watch = _Watch(records=records, segments=segments)
    handles = []
    for name, module in model.named_modules():
        handles += [
            module.register_forward_pre_hook(partial(watch.enter, name or "model"), with_kwargs=True),
            module.register_forward_hook(partial(watch.leave, name or "model")),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watch:
    """Of one run on one device.

    Attributes:
        seen: what has been handed on under a name already: another module's input needs none of its own.
    """

    records: Records
    segments: Segments | None
    seen: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    def enter(self, name: str, _module: Module, inputs: Any, named: Any) -> Any:
        """Inputs that are computed between modules; those without a gradient (masks, positions, the batch) are left."""
        new = [x for x in _floats((inputs, named)) if x.requires_grad and x not in self.seen]
        return self._replaced((inputs, named), new, Phase.INPUT, name)

    def leave(self, name: str, _module: Module, _inputs: Any, outputs: Any) -> Any:
        """Every output of floating numbers."""
        return self._replaced(outputs, _floats(outputs), Phase.OUTPUT, name)

    def _replaced(self, tree: Any, tensors: list[Tensor], phase: Phase, name: str) -> Any:
        """What the program is to go on with; None for what it has."""
        cut = {}
        for i, tensor in enumerate(tensors):
            key = self.records.add(phase, name if len(tensors) == 1 else f"{name}[{i}]", tensor.detach())
            handed_on = tensor if self.segments is None else self.segments.cut(key, tensor)
            if handed_on is not tensor:
                cut[id(tensor)] = handed_on
            self.seen[handed_on] = True
            if handed_on.requires_grad:
                handed_on.register_hook(partial(self._record_gradient, key))
        return tree_map(lambda x: cut.get(id(x), x), tree) if cut else None

    def _record_gradient(self, of: Key, gradient: Tensor) -> None:
        self.records.add(GRADIENT_OF[of.phase], of.name, gradient.detach(), call=of.call)


def _floats(tree: Any) -> list[Tensor]:
    """Each once, in order."""
    found = {id(x): x for x in tree_leaves(tree) if isinstance(x, Tensor) and x.is_floating_point()}
    return list(found.values())

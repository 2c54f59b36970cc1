"""Which module is running, for error messages: a stack that PyTorch's global module hooks keep."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.utils.hooks import RemovableHandle


@dataclass(slots=True)
class ModuleStack:
    """The modules whose forward is running, outermost first. Empty in the backward and in the optimizer."""

    _stacks: dict[int, list[Module]] = field(default_factory=dict)  # by thread: ranks may be threads
    _handles: list[RemovableHandle] = field(default_factory=list)

    def start(self) -> None:
        """Install the hooks, for every module of the process."""
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]

    def stop(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stacks.clear()

    @property
    def path(self) -> str:
        """The innermost running module as a path from the outermost: 'Decoder.layers.0.mlp'; '' outside any."""
        if not self._stack:
            return ""
        root, innermost = self._stack[0], self._stack[-1]
        name = next((name for name, module in root.named_modules() if module is innermost), type(innermost).__name__)
        return f"{type(root).__name__}.{name}" if name else type(root).__name__

    @property
    def _stack(self) -> list[Module]:
        return self._stacks.setdefault(threading.get_ident(), [])

    def _enter(self, module: Module, _inputs: Any) -> None:
        self._stack.append(module)

    def _leave(self, module: Module, _inputs: Any, _outputs: Any) -> None:
        while self._stack and self._stack.pop() is not module:
            pass

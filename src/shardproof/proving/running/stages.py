"""The modules of a model that one rank holds, under the names that they have in the whole model: stages of a pipeline.

A stage is often a container of its own, `nn.Sequential(*layers[2:4])`, in which a layer has another name than in the
model. What a rank records of it is compared with the whole model's, so it is named as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping


class Stages(nn.Module):
    """Holds modules without a name of its own before theirs. It has no forward.

    Args:
        modules: that the rank holds.
        names: of the modules of the whole model. A module that is not among them is named by its place below one that
            is; a container that is not, and has no parameters or buffers of its own, has no name and is left out. So
            is a container of which two stages have a part each.

    Raises:
        CannotRunError: two modules have one name.
    """

    def __init__(self, modules: Iterable[nn.Module], names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.held = nn.ModuleList(modules)
        self._named: dict[str, nn.Module] = {}
        parted: set[str] = set()
        for module in self.held:
            for name, found in _name_all(module, None, names):
                other = self._named.setdefault(name, found)
                if other is found:
                    continue
                if _has_own(found) or _has_own(other):
                    raise CannotRunError(
                        f"two modules that this rank holds are called {name or 'by no name'}: give the modules of one "
                        "model, each with its name there, or return them from run.model(shard)"
                    )
                parted.add(name)
        self._named = {name: found for name, found in self._named.items() if name not in parted}

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """Those that are held, not this one; parameters and buffers are named after them."""
        memo = set() if memo is None else memo
        for name, module in self._named.items():
            if module not in memo or not remove_duplicate:
                memo.add(module)
                yield ".".join(filter(None, (prefix, name))), module


def name_modules(model: nn.Module) -> dict[nn.Module, str]:
    """The name of each module of a model; the model's own is empty."""
    return {module: name for name, module in model.named_modules()}


def _name_all(module: nn.Module, place: str | None, names: Mapping[nn.Module, str]) -> Iterator[tuple[str, nn.Module]]:
    """Every module inside, with its name; `place` is the name that it has below its parent, if that has one."""
    name = names.get(module, place)
    if name is None and _has_own(module):
        name = ""
    if name is not None:
        yield name, module
    for child_name, child in module.named_children():
        yield from _name_all(child, ".".join(filter(None, (name, child_name))), names)


def _has_own(module: nn.Module) -> bool:
    """Whether it has parameters or buffers beside those of the modules in it."""
    return bool([*module.parameters(recurse=False), *module.buffers(recurse=False)])

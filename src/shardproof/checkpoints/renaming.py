"""Names of one checkpoint as the other has them: patterns OLD=NEW, in which * stands for any part."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from shardproof.errors import CannotRunError
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming:
    """Names that match `old` become `new`, in which each * is what stood in the place of the * of `old`."""

    old: str
    new: str

    def apply(self, name: str) -> str | None:
        """The new name; None where the old one does not match."""
        pattern = "(.*)".join(map(re.escape, self.old.split("*")))
        found = re.fullmatch(pattern, name, re.DOTALL)
        if found is None:
            return None
        first, *others = self.new.split("*")
        return first + "".join(part + other for part, other in zip(found.groups(), others, strict=False))


def parse_renaming(text: str) -> Renaming:
    """From OLD=NEW.

    Raises:
        CannotRunError: it is not of that form, or NEW has more * than OLD.
    """
    old, equals, new = text.partition("=")
    if not equals or not old or not new or "=" in new:
        raise CannotRunError(f"--rename {printable(text)}: give OLD=NEW, such as 'module.*=*'")
    if new.count("*") != old.count("*"):
        raise CannotRunError(f"--rename {printable(text)}: OLD and NEW need equally many *")
    return Renaming(old=old, new=new)


def rename(tensors: Mapping[str, T], renamings: Sequence[Renaming]) -> dict[str, T]:
    """The tensors by their new names; of each name the first pattern that matches counts.

    Raises:
        CannotRunError: a pattern matches no name, or two tensors get one name.
    """
    unused = set(renamings)
    found: dict[str, T] = {}
    for name, tensor in tensors.items():
        new = name
        for renaming in renamings:
            applied = renaming.apply(name)
            if applied is not None:
                new = applied
                unused.discard(renaming)
                break
        if new in found:
            raise CannotRunError(f"--rename gives two tensors of actual the name {printable(new)}; give other patterns")
        found[new] = tensor
    if unused:
        one = next(renaming for renaming in renamings if renaming in unused)
        raise CannotRunError(f"--rename {printable(one.old)}={printable(one.new)} matches no tensor of actual")
    return found

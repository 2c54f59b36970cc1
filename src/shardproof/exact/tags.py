"""Tags: what is known of the numbers in a storage. Views share one; a tensor's tag is its storage's.

Keyed by storage and not by tensor, because autograd hands saved tensors back as new Python objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch.multiprocessing.reductions import StorageWeakRef

from shardproof.exact.degree import CONSTANT, Degree

if TYPE_CHECKING:
    from torch import Tensor

_SWEEP_EVERY = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """Of every element of a storage.

    Attributes:
        real: the elements are real constants that have met no residue yet; they are lifted when they do.
        degree: an upper bound over the elements.
        symbols: some elements may be -inf or the lowest finite number, the two symbols of masks.
        roots: every element is a result of the square-root oracle.
        exponential: what `exp` of the elements is, where it is known: a tensor over a storage laid out alike.
        void: a division by zero happened on the way here, so the trial says nothing of these elements.
    """

    real: bool = False
    degree: Degree = CONSTANT
    symbols: bool = False
    roots: bool = False
    exponential: Tensor | None = None
    void: bool = False

    def __or__(self, other: Tag) -> Tag:
        """Of a storage that holds elements of both."""
        if self is other:
            return self
        return Tag(
            real=self.real and other.real,
            degree=self.degree | other.degree,
            symbols=self.symbols or other.symbols,
            roots=self.roots and other.roots,
            void=self.void or other.void,
        )


REAL = Tag(real=True)


@dataclass(slots=True)
class TagStore:
    """The tags of all live storages. A weak reference keeps a storage's address from being used again."""

    _tags: dict[int, tuple[StorageWeakRef, Tag]] = field(default_factory=dict)
    _until_sweep: int = _SWEEP_EVERY

    def get(self, tensor: Tensor) -> Tag | None:
        """The tag of the tensor's storage; None if exact arithmetic has never seen it."""
        found = self._tags.get(tensor.untyped_storage()._cdata)
        return found[1] if found else None

    def set(self, tensor: Tensor, tag: Tag) -> None:
        """Tag the tensor's storage."""
        storage = tensor.untyped_storage()
        known = self._tags.get(storage._cdata)
        self._tags[storage._cdata] = (known[0] if known else StorageWeakRef(storage), tag)
        self._until_sweep -= 1
        if self._until_sweep <= 0:
            self._sweep()

    def _sweep(self) -> None:
        self._tags = {address: kept for address, kept in self._tags.items() if not kept[0].expired()}
        self._until_sweep = max(_SWEEP_EVERY, len(self._tags))

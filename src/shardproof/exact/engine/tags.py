"""Tags: what is known of the numbers in a storage. Views share one; a tensor's tag is its storage's.

Keyed by storage and not by tensor, because autograd hands saved tensors back as new Python objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch.multiprocessing.reductions import StorageWeakRef

from shardproof.exact.algebra.degree import CONSTANT, Degree

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from shardproof.exact.algebra.residue import Threshold

_SWEEP_EVERY = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceTensors:
    """`Pieces` of a tensor, as tensors over storages laid out alike; a value that is a single number has no dims.

    Of a storage of booleans it is those of the number that a truth value stands for, a gate.
    """

    base: Tensor
    thresholds: tuple[Threshold, ...]
    values: tuple[Tensor, ...]
    of_exp: bool

    def each(self) -> tuple[Tensor, ...]:
        """The base and the values."""
        return (self.base, *self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTensors:
    """`LogTerms` of a tensor, as tensors over storages laid out alike.

    Attributes:
        rest: as there, as are the others.
        softpluses: the arguments, and `binomial` of each.
        log_factors: likewise.
    """

    rest: Degree | None
    shifts: tuple[Tensor, ...]
    unit: Tensor | None
    factors: tuple[Tensor, ...]
    softpluses: tuple[tuple[Tensor, int], ...] = ()
    log_factors: tuple[tuple[Tensor, int], ...] = ()
    whole: int = 0
    depth: Tensor | None = None

    def each(self) -> tuple[Tensor, ...]:
        """The residues among them."""
        arguments = (argument for argument, _ in (*self.softpluses, *self.log_factors))
        return (*self.shifts, *self.factors, *arguments, *(() if self.unit is None else (self.unit,)))


@dataclass(slots=True, kw_only=True, unsafe_hash=True)  # a value; frozen ones take four times as long to make
class Tag:
    """Of every element of a storage.

    A storage of integers or booleans has one where residues chose its elements (an index from topk, a comparison) or
    where it was made inside: its degree is then that of the choice.

    Attributes:
        real: the elements are real constants that have met no residue yet; they are lifted when they do.
        degree: an upper bound over the elements.
        symbols: some elements may be -inf or the lowest finite number, the two symbols of masks.
        roots: every element is a result of the square-root oracle.
        void: some elements may come of a division by zero, so that the trial says nothing of them. Those of a floating
            storage are NaN; which of integers and booleans are is in `void_where`.
        divisor: what every element was divided by, see `Residue`.
        compared: booleans that came from comparing residues; a Python branch on them is refused.
        compares: of booleans that compare two tensors of residues, the storages of these.
        squared: what the square of the elements is, where they are roots times constants: a tensor over a storage laid
            out alike.
        lifted: the residues of real elements, where they have been asked for: a tensor over a storage laid out alike.
        value: the real numbers that residues stand for, where they are constants and all known, likewise.
        void_where: of integers and booleans that may be void, which are, likewise; all of them where it is None.
        pieces: of which other tensor the elements are a piecewise function, where it is known.
        logs: of which logarithms and shifts the elements are a sum, where it is known.
    """

    real: bool = False
    degree: Degree = CONSTANT
    symbols: bool = False
    roots: bool = False
    divisor: float | None = None
    void: bool = False
    compared: bool = False
    compares: tuple[StorageWeakRef, StorageWeakRef] | None = None
    squared: Tensor | None = None
    lifted: Tensor | None = None
    value: Tensor | None = None
    void_where: Tensor | None = None
    pieces: PieceTensors | None = None
    logs: LogTensors | None = None

    @property
    def plain(self) -> bool:
        """Whether the elements are residues and no symbols, none of them void, and not known as real numbers."""
        return not (self.real or self.symbols or self.void or self.compared or self.value is not None)

    @property
    def alone(self) -> bool:
        """Whether nothing is known in tensors laid out alike."""
        return (
            self.logs is None
            and self.pieces is None
            and self.squared is None
            and self.value is None
            and self.lifted is None
            and self.void_where is None
        )

    @property
    def bare(self) -> Tag:
        """Less what is known in tensors laid out alike."""
        if self.alone:
            return self
        return replace(self, squared=None, lifted=None, value=None, void_where=None, pieces=None, logs=None)

    def __or__(self, other: Tag) -> Tag:
        """Of a storage that holds elements of both."""
        return Tag(
            real=self.real and other.real,
            degree=self.degree | other.degree,
            symbols=self.symbols or other.symbols,
            roots=self.roots and other.roots,
            divisor=self.divisor if self.divisor == other.divisor else None,
            void=self.void or other.void,
            compared=self.compared or other.compared,
        )


# Constants made inside. Integers and booleans made inside have it too: they need not be put back at the end.
REAL = Tag(real=True)


def union(tags: Iterable[Tag]) -> Tag:
    """Of a storage that holds elements of all of them, less what is known of companions; REAL of none."""
    found: Tag | None = None
    for tag in tags:
        found = tag if found is None or found is tag else found | tag
    return REAL if found is None else found.bare


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

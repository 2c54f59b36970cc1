"""Tensors from outside: they become residues when they are first used, and are put back at the end."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from shardproof.exact.algebra.degree import CONSTANT, VARIABLE
from shardproof.exact.algebra.finite import all_finite
from shardproof.exact.algebra.lift import PRECISION
from shardproof.exact.engine.input_residues import KnownNumbers, draw_for_values
from shardproof.exact.engine.tags import REAL, Tag, TagStore
from shardproof.exact.engine.tensor_trees import PLAIN, view_like, whole_storage
from shardproof.exact.errors import ExactArithmeticError, NotANumberError
from shardproof.source_lines import user_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.exact.algebra.residue import Arithmetic

_PRUNE_EVERY = 1_000


@dataclass(slots=True, kw_only=True)
class Visitor:
    """A tensor from outside, its own data and its own gradient, to be put back."""

    tensor: weakref.ref[Tensor]
    data: Tensor
    grad: Tensor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shadow:
    """The residues that stand for a storage outside, which a weak reference keeps from being mistaken for another."""

    of: StorageWeakRef
    residues: Tensor
    variable: bool


@dataclass(slots=True, kw_only=True)
class Entry:
    """Converts tensors from outside at first sight, in place, so that the program keeps its own objects.

    A leaf that requires a gradient is a variable of the program: its elements become drawn residues, the same for the
    same value (see `draw_for_values`). So do elements of other tensors whose numbers are among `variables`. Any other
    element is a constant and lifted; a zero-dimensional constant (a step counter, a learning rate) stays real until it
    meets a residue. Memory that tensors share outside they share inside.
    """

    arithmetic: Arithmetic
    tags: TagStore
    key: int
    variables: KnownNumbers = field(default_factory=KnownNumbers)
    visitors: list[Visitor] = field(default_factory=list)
    # storages converted out of place: {address of the storage outside: what stands for it}
    _shadows: dict[int, _Shadow] = field(default_factory=dict)
    # storages of integers that were written inside: (all of it, what it held)
    _kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _until_prune: int = _PRUNE_EVERY

    # In --------------------------------------------------------------------------------------------------------------

    def admit(self, tensor: Tensor) -> None:
        """Convert a tensor that Python code has handed to PyTorch, wrapper subclasses through their inner tensors."""
        if not (tensor.dtype.is_floating_point or tensor.dtype.is_complex) or tensor.is_meta:
            return
        refuse_unusable(tensor)
        new = [inner for inner in inner_tensors(tensor) if not inner.is_meta and self.tags.get(inner) is None]
        if not new:
            return
        if not tensor.is_leaf:
            msg = (
                f"a tensor of shape {tuple(tensor.shape)} was computed with autograd outside exact arithmetic and used "
                f"inside, at {user_line()}; compute it inside, or detach it"
            )
            raise ExactArithmeticError(msg)
        grad = tensor.grad
        if type(tensor) in PLAIN:
            self._replace_data(tensor, self._converted(tensor, variable=tensor.requires_grad))
        else:
            self._admit_wrapper(tensor, new)
        if grad is not None:
            self.admit(grad)

    def read(self, tensor: Tensor, *, real: bool = False) -> Tensor:
        """Residues for a tensor that no Python code handed over (an inner tensor of a subclass, a C++ buffer).

        Args:
            tensor: any floating one.
            real: leave its numbers real, because the program has just written them down (`torch.tensor(...)`).
        """
        refuse_unusable(tensor)
        return self._converted(tensor, variable=tensor.requires_grad and tensor.is_leaf, real=real)

    def keep(self, tensor: Tensor) -> None:
        """Remember what a storage of integers or booleans holds, which is about to be written for the first time."""
        whole = whole_storage(tensor)
        self._kept.append((whole, whole.clone()))
        self.tags.set(tensor, REAL)

    # Out -------------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Put every visitor's own data and gradient back, bit for bit."""
        present = [(tensor, v) for v in self.visitors if (tensor := v.tensor()) is not None]
        self.visitors.clear()
        for tensor, _ in present:
            tensor.grad = None  # its dtype must not be in the way of the data's
        for tensor, visitor in reversed(present):
            tensor.data = visitor.data
        for tensor, visitor in present:
            tensor.grad = visitor.grad
        for whole, before in self._kept:
            whole.copy_(before)
        self._kept.clear()
        self._shadows.clear()

    # ------------------------------------------------------------------------------------------------------------------

    def _admit_wrapper(self, tensor: Tensor, new: list[Tensor]) -> None:
        bits = PRECISION[_real_dtype(tensor)]
        if tensor.dtype not in (torch.float64, torch.complex128):
            wide = torch.complex128 if tensor.is_complex() else torch.float64
            self._replace_data(tensor, tensor.detach().to(wide))
        for inner in new:
            self._replace_data(inner, self._converted(inner, variable=tensor.requires_grad, bits=bits))

    def _replace_data(self, tensor: Tensor, data: Tensor) -> None:
        grad = tensor.grad if tensor.is_leaf else None
        self.visitors.append(Visitor(tensor=weakref.ref(tensor), data=tensor.data, grad=grad))
        tensor.data = data

    def _converted(self, tensor: Tensor, *, variable: bool, real: bool = False, bits: int | None = None) -> Tensor:
        """The tensor's view into the converted copy of its storage: what shared memory goes on sharing it."""
        storage = tensor.untyped_storage()
        shadow = self._shadows.get(storage._cdata)
        if shadow is None:
            self._prune()
            whole = whole_storage(tensor)
            known = None if variable or real else self.variables.find(whole)
            variable = variable or (known is not None and bool(known.all()))
            residues = self._convert(whole, tensor, variable=variable, real=real, bits=bits, known=known)
            shadow = _Shadow(of=StorageWeakRef(storage), residues=residues, variable=variable)
            self._shadows[storage._cdata] = shadow
        elif variable and not shadow.variable:
            msg = (
                f"a parameter of shape {tuple(tensor.shape)} shares memory with a tensor that requires no gradient and "
                f"was used before it, first used at {user_line()}; clone() that one, or use the parameter first"
            )
            raise ExactArithmeticError(msg)
        if not tensor.is_complex():
            return view_like(shadow.residues, tensor)
        pairs = torch.view_as_complex(shadow.residues.view(-1, 2))
        found = view_like(pairs, tensor)
        return found.conj() if tensor.is_conj() else found

    def _convert(
        self, whole: Tensor, seen: Tensor, *, variable: bool, real: bool, bits: int | None, known: Tensor | None = None
    ) -> Tensor:
        finite = all_finite(whole)
        unwritten = None if finite else whole.isnan() | whole.isposinf()
        if unwritten is not None and bool(unwritten.any()):
            if variable or real:
                what = "NaN" if bool(whole.isnan().any()) else "an infinity"
                msg = f"a tensor of shape {tuple(seen.shape)} from outside holds {what}, first used at {user_line()}"
                raise NotANumberError(msg)
            # Memory that nobody has written yet may hold anything: what is no number is no error until it is read.
            whole = whole.masked_fill(unwritten, 0.0)
            if known is None:
                shadow = self.arithmetic.lift.simplest(whole).masked_fill_(unwritten, nan)
                self.tags.set(shadow, REAL)
                return shadow
        if (seen.ndim == 0 and not variable and known is None) or real:
            shadow = self.arithmetic.lift.simplest(whole)
            self.tags.set(shadow, REAL)
            return shadow
        shadow = whole if variable else self.arithmetic.lift.tensor(whole, bits=bits)
        symbols = not variable and bool((shadow < -self.arithmetic.field.half).any())
        if variable and not finite and bool(whole.isinf().any()):
            msg = (
                f"a tensor of shape {tuple(seen.shape)} from outside holds an infinity, first used at {user_line()}; "
                "exact arithmetic knows -inf and finfo.min only, as masks"
            )
            raise NotANumberError(msg)
        if variable:
            shadow = draw_for_values(whole, field=self.arithmetic.field, key=self.key)
            self.tags.set(shadow, Tag(degree=VARIABLE))
        elif known is not None:
            drawn = draw_for_values(whole.masked_fill(~known, 0.0), field=self.arithmetic.field, key=self.key)
            shadow = torch.where(known, drawn, shadow)
            if unwritten is not None:
                shadow.masked_fill_(unwritten, nan)
            self.tags.set(shadow, Tag(degree=VARIABLE, symbols=symbols))
        else:
            self.tags.set(shadow, Tag(degree=CONSTANT, symbols=symbols, value=self.arithmetic.lift.simplest(whole)))
        return shadow

    def _prune(self) -> None:
        """Forget tensors from outside that are gone: a batch of every step of a long run."""
        self._until_prune -= 1
        if self._until_prune <= 0:
            self._until_prune = _PRUNE_EVERY
            self.visitors = [visitor for visitor in self.visitors if visitor.tensor() is not None]
            self._shadows = {address: shadow for address, shadow in self._shadows.items() if not shadow.of.expired()}


def inner_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors inside a wrapper subclass (DTensor, LocalTensor), or the tensor itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) in PLAIN:
        yield tensor
        return
    for name in flatten()[0]:
        inner = getattr(tensor, name)
        if isinstance(inner, Tensor):  # a DTensor also names its mesh
            yield from inner_tensors(inner)


def _real_dtype(tensor: Tensor) -> torch.dtype:
    """The tensor's dtype, or of a complex one that of its parts."""
    return tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype


def refuse_unusable(tensor: Tensor) -> None:
    """Refuse layouts and dtypes that residues cannot take the place of."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        msg = f"a {tensor.layout} tensor is used at {user_line()}; exact arithmetic needs dense tensors: to_dense() it"
        if tensor.is_quantized:
            msg = f"a quantized tensor is used at {user_line()}; exact arithmetic needs plain numbers: dequantize() it"
        raise ExactArithmeticError(msg)
    if _real_dtype(tensor) not in PRECISION:
        msg = (
            f"a tensor of {tensor.dtype} is used at {user_line()}; exact arithmetic takes the place of "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in PRECISION)}: convert it first"
        )
        raise ExactArithmeticError(msg)

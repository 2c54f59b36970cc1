"""Tensors from outside: how they become residues on the way in, and how they are put back on the way out."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.degree import CONSTANT, VARIABLE
from shardproof.exact.errors import ExactArithmeticError, NotANumberError, user_line
from shardproof.exact.lift import PRECISION, draw_for_values, is_symbol
from shardproof.exact.tags import REAL, Tag, TagStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.exact.arithmetic import Arithmetic


@dataclass(slots=True, kw_only=True)
class Visitor:
    """A tensor from outside, its own data and its own gradient, to be put back."""

    tensor: weakref.ref[Tensor]
    data: Tensor
    grad: Tensor | None


@dataclass(slots=True, kw_only=True)
class Entry:
    """Converts tensors from outside at first sight, in place, so that the program keeps its own objects.

    A leaf that requires a gradient is a variable of the program: its elements become drawn residues, the same for the
    same value (see `draw_for_values`). Any other tensor is a constant and lifted; a zero-dimensional one (a step
    counter, a learning rate) stays real until it meets a residue.
    """

    arithmetic: Arithmetic
    tags: TagStore
    key: int
    visitors: list[Visitor] = field(default_factory=list)
    # storages converted out of place: {address of the storage outside: (it, kept alive; its residues)}
    _shadows: dict[int, tuple[torch.UntypedStorage, Tensor]] = field(default_factory=dict)

    def admit(self, tensor: Tensor) -> None:
        """Convert a tensor that Python code has handed to PyTorch, wrapper subclasses through their inner tensors."""
        if not tensor.dtype.is_floating_point or tensor.is_meta:
            return
        refuse_unusable(tensor)
        if not tensor.is_leaf and self._is_new(tensor):
            msg = (
                f"a tensor of shape {tuple(tensor.shape)} was computed with autograd outside exact arithmetic and used "
                f"inside, at {user_line()}; compute it inside, or detach it"
            )
            raise ExactArithmeticError(msg)
        if type(tensor) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
            self._admit_wrapper(tensor)
            return
        if self.tags.get(tensor) is not None:
            return
        residues = self._converted(tensor, variable=tensor.requires_grad)
        self._replace_data(tensor, residues)

    def read(self, tensor: Tensor) -> Tensor:
        """Residues for a tensor that no Python code handed over (an inner tensor of a subclass, a C++ buffer)."""
        refuse_unusable(tensor)
        return self._converted(tensor, variable=False)

    def leave(self) -> None:
        """Put every visitor's own data and gradient back, bit for bit."""
        while self.visitors:
            visitor = self.visitors.pop()
            tensor = visitor.tensor()
            if tensor is not None:
                tensor.grad = None  # its dtype must not be in the way of the data's
                tensor.data = visitor.data
                tensor.grad = visitor.grad
        self._shadows.clear()

    def _is_new(self, tensor: Tensor) -> bool:
        return all(self.tags.get(inner) is None for inner in inner_tensors(tensor))

    def _admit_wrapper(self, tensor: Tensor) -> None:
        new = [inner for inner in inner_tensors(tensor) if self.tags.get(inner) is None]
        if not new or not tensor.dtype.is_floating_point:
            return
        bits = PRECISION[tensor.dtype]
        if tensor.dtype != torch.float64:
            self._replace_data(tensor, tensor.detach().to(torch.float64))
        for inner in inner_tensors(tensor):
            if self.tags.get(inner) is None:
                residues = self._converted(inner, variable=tensor.requires_grad, bits=bits)
                self._replace_data(inner, residues)

    def _replace_data(self, tensor: Tensor, data: Tensor) -> None:
        self.visitors.append(Visitor(tensor=weakref.ref(tensor), data=tensor.data, grad=tensor.grad))
        tensor.data = data

    def _converted(self, tensor: Tensor, *, variable: bool, bits: int | None = None) -> Tensor:
        """The tensor's view into the converted copy of its storage: what shared memory goes on sharing it."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._shadows:
            whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
            self._shadows[storage._cdata] = (storage, self._convert(whole, tensor, variable=variable, bits=bits))
        shadow = self._shadows[storage._cdata][1]
        return shadow.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def _convert(self, whole: Tensor, seen: Tensor, *, variable: bool, bits: int | None) -> Tensor:
        if whole.isnan().any():
            msg = f"a tensor of shape {tuple(seen.shape)} from outside holds NaN, first used at {user_line()}"
            raise NotANumberError(msg)
        if seen.ndim == 0 and not variable:
            shadow = whole.to(torch.float64, copy=True)
            self.tags.set(shadow, REAL)
            return shadow
        symbols = bool(whole.numel()) and is_symbol(float(whole.min()))
        if bool(torch.isposinf(whole).any()) or (variable and symbols):
            msg = (
                f"a tensor of shape {tuple(seen.shape)} from outside holds an infinity, first used at {user_line()}; "
                "exact arithmetic knows -inf and finfo.min only, as masks"
            )
            raise NotANumberError(msg)
        if variable:
            shadow = draw_for_values(whole, field=self.arithmetic.field, key=self.key)
        else:
            shadow = self.arithmetic.lift.tensor(whole, bits=bits)
        self.tags.set(shadow, Tag(degree=VARIABLE if variable else CONSTANT, symbols=symbols))
        return shadow


def inner_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors inside a wrapper subclass (DTensor, LocalTensor), or the tensor itself."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) in (Tensor, torch.nn.Parameter, torch.nn.Buffer):
        yield tensor
        return
    for name in flatten()[0]:
        yield from inner_tensors(getattr(tensor, name))


def refuse_unusable(tensor: Tensor) -> None:
    """Refuse layouts and dtypes that residues cannot take the place of."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        msg = f"a {tensor.layout} tensor is used at {user_line()}; exact arithmetic needs dense tensors: to_dense() it"
        raise ExactArithmeticError(msg)
    if tensor.dtype not in PRECISION:
        msg = (
            f"a tensor of {tensor.dtype} is used at {user_line()}; exact arithmetic takes the place of "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in PRECISION)}: convert it first"
        )
        raise ExactArithmeticError(msg)

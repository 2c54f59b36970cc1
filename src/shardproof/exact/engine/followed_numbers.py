"""Numbers that a program reads from residues, and what it decides by them.

A training reads numbers to print them (`loss.item()`), to compute with them in Python
(`max_norm / (norm.item() + eps)`) and to branch on them (`if coefficient < 1.0`). With `leaving="follow"`

- `x.item()` gives a `FollowedNumber`, which remembers its residue: arithmetic with Python numbers and tensors goes on
  exactly;
- what is shown of it, and what `float(x)` gives, is an oracle of the residue: a positive number, the same for the same
  residue. Nothing is derived of what is computed from it;
- a comparison is decided by a random sign of the residue of the difference, the same on both sides. Where the
  reference limits the same number to the same limit (`clamp(coefficient, max=1.0)`), it is decided so that the number
  is within the limit. In that branch the number is its own limited value: x = min(x, 1) where x < 1.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakTensorKeyDictionary

from shardproof.exact.algebra.number_branches import NumberBranch
from shardproof.exact.engine.tensor_trees import PLAIN, tensors_in
from shardproof.source_lines import access_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.exact.engine.dispatch import Dispatcher

_SHOWN_BELOW: Final = 9.0  # its power of two: exp of a shown number is a number
_READS: Final = frozenset(
    {Tensor.item, Tensor.__float__, Tensor.__bool__, Tensor.tolist, Tensor.numpy, Tensor.__array__}
)
_FROM_DATA: Final = frozenset({torch.tensor, torch.as_tensor})
# Whether a comparison holds, from the sign of the difference of its operands.
_HOLDS: Final[dict[str, Callable[[float], bool]]] = {
    "lt": lambda sign: sign < 0,
    "le": lambda sign: sign <= 0,
    "gt": lambda sign: sign > 0,
    "ge": lambda sign: sign >= 0,
}
_COMPARISONS: Final = {
    function: name
    for name in _HOLDS
    for function in (getattr(Tensor, f"__{name}__"), getattr(Tensor, name), getattr(torch, name))
} | {torch.less: "lt", torch.greater: "gt", Tensor.less: "lt", Tensor.greater: "gt"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """The operands of a comparison whose result is a tensor of one truth value."""

    name: str
    x: Any
    y: Any


@dataclass(slots=True, kw_only=True)
class NumberReads:
    """What one program reads from residues.

    Attributes:
        dispatcher: of the run.
        key: of the oracle of what is shown.
        known_limits: of the reference, see `Arithmetic.limits`; None where this is the reference, on whose reads what
            both programs compute may depend.
        is_inside: whether the calling thread is in exact arithmetic.
        count: how many numbers were read, or branched on.
        branches: the ways that comparisons were decided, each once, in the order in which they came.
    """

    dispatcher: Dispatcher
    key: int
    known_limits: frozenset[int] | None
    is_inside: Callable[[], bool]
    count: int = 0
    branches: dict[NumberBranch, None] = field(default_factory=dict)
    _compared: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)
    _limited: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    # What PyTorch's functions are given, and give ---------------------------------------------------------------------

    def replace(self, value: Any) -> Any:
        """Arguments of a function with the tensors of followed numbers, and limited tensors, in their places."""
        if isinstance(value, FollowedNumber):
            return value.now
        if isinstance(value, Tensor):
            return self._limited.get(value, value) if self._limited else value
        if type(value) in (list, tuple):
            return type(value)([self.replace(item) for item in value])
        if type(value) is dict:
            return {key: self.replace(item) for key, item in value.items()}
        return value

    def read(self, func: Any, args: tuple[Any, ...]) -> Any:
        """The number that a function reads from one residue; NotImplemented for other functions and tensors."""
        if func not in _READS or args[0].numel() != 1:
            return NotImplemented
        x = _own(args[0])
        if type(x) not in PLAIN:
            return NotImplemented
        if func in (Tensor.__bool__, Tensor.item) and (compared := self._compared.get(x)) is not None:
            return self._decide(compared)
        if not self._is_residue(x):
            return NotImplemented
        dispatcher = self.dispatcher
        if func is Tensor.__bool__:
            return self.is_nonzero(x)
        self.count += 1
        if func is Tensor.item:
            dispatcher.run.left |= self.known_limits is None
            return FollowedNumber(self, x.detach().reshape(()).clone())
        dispatcher.run.left = True
        found = torch.full(x.shape, self.shown(x), dtype=torch.float64)
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            return float(found) if func is Tensor.__float__ else func(found)

    def build(self, func: Any, args: tuple[Any, ...]) -> Any:
        """The tensor that `torch.tensor` makes of nested lists with followed numbers; NotImplemented for others."""
        if func not in _FROM_DATA or isinstance(args[0], Tensor) or not tensors_in(args[0]):
            return NotImplemented
        return _stack(args[0])

    def remember(self, func: Any, args: tuple[Any, ...], result: Any) -> None:
        """Keep the operands of a comparison of one number, which Python may branch on."""
        name = _COMPARISONS.get(func)
        if name is None or type(result) not in PLAIN or result.numel() != 1 or len(args) < 2:
            return
        if any(map(self._is_residue, args[:2])):  # integers, and known constants, have an order of their own
            self._compared[result] = _Comparison(name=name, x=args[0], y=args[1])

    def _is_residue(self, x: Any) -> bool:
        """Whether a tensor holds residues: neither integers nor constants that are known as reals."""
        if not isinstance(x, Tensor) or type(own := _own(x)) not in PLAIN or not own.is_floating_point():
            return False
        return self.dispatcher.is_known(own) and self.dispatcher.constants.value_of(own) is None

    # What is known of a number ----------------------------------------------------------------------------------------

    def digit(self, x: Tensor) -> int:
        """The residue of one element."""
        with torch._C.DisableTorchFunction():
            dispatcher = self.dispatcher
            if dispatcher.void.of(x) is not None:
                dispatcher.run.escaped_void = True
            residue = float(dispatcher.residues_of(x.detach()).reshape(()).numpy())
        return 0 if math.isnan(residue) else int(residue)

    def is_nonzero(self, x: Tensor) -> bool:
        """Whether one element is not zero; what depends on it has no derived bound."""
        self.dispatcher.run.left = True
        return self.digit(x) != 0

    def shown(self, x: Tensor) -> float:
        """The number that is shown of a residue: positive, and drawn for it, evenly over the powers of two."""
        drawn = int.from_bytes(self._draw("shown", self.digit(x))[:8], "big") / 2.0**64
        return float(2.0 ** (2 * _SHOWN_BELOW * drawn - _SHOWN_BELOW))

    def compare(self, name: str, x: FollowedNumber, y: Any) -> bool:
        """Decide a comparison of a followed number."""
        other = y.now if isinstance(y, FollowedNumber) else y
        sign, limited = self._sign(x.now, other)
        if limited:
            x.now = _limit(x.now, other, sign)
        return self._answer(name, sign, limited=limited)

    def _decide(self, compared: _Comparison) -> bool:
        self.count += 1
        sign, limited = self._sign(compared.x, compared.y)
        if limited and isinstance(compared.x, Tensor):
            self._limited[compared.x] = _limit(compared.x, compared.y, sign)
        return self._answer(compared.name, sign, limited=limited)

    def _answer(self, name: str, sign: float, *, limited: bool) -> bool:
        holds = _HOLDS[name](sign)
        if abs(sign) == 1:  # of a number and another one: neither equal, nor one of them infinite or NaN
            self.branches[NumberBranch(line=access_line(), holds=holds, limited=limited)] = None
        return holds

    def _sign(self, x: Any, y: Any) -> tuple[float, bool]:
        """The sign of x - y, NaN where y is, and whether the reference limits x to y or y to x."""
        if isinstance(y, float) and not math.isfinite(y):
            return -y, False
        with torch.no_grad():
            digit = self.digit((x - y).reshape(()))
        if digit == 0:
            return 0, False
        known = self.known_limits or ()
        if digit in known or -digit in known:
            return 1 if digit in known else -1, True
        self.dispatcher.run.left = True
        positive = bool(self._draw("sign", abs(digit))[0] & 1) == (digit > 0)
        return 1 if positive else -1, False

    def _draw(self, what: str, digit: int) -> bytes:
        prime = self.dispatcher.run.arithmetic.field.prime
        return sha256(f"{what} {self.key} {prime} {digit}".encode()).digest()


def reads_or_builds(func: Any) -> bool:
    """Whether `read`, `build` or `remember` of `NumberReads` may do something for a function."""
    return func in _READS or func in _FROM_DATA or func in _COMPARISONS


def _limit(x: Tensor, y: Any, sign: float) -> Tensor:
    """X where it is known to lie on one side of y, as the clamp that keeps it there."""
    with torch.no_grad():
        if isinstance(y, Tensor):
            return torch.maximum(x, y) if sign > 0 else torch.minimum(x, y)
        return torch.clamp(x, min=y) if sign > 0 else torch.clamp(x, max=y)


def _own(x: Tensor) -> Tensor:
    """The local tensor of a DTensor that every rank has whole; any other tensor itself."""
    placements = getattr(x, "placements", None)
    if placements is not None and all(placement.is_replicate() for placement in placements):
        local: Tensor = x.to_local()  # type: ignore[attr-defined]  # of a DTensor
        return local
    return x


def _stack(data: Any) -> Tensor:
    if isinstance(data, Tensor):
        return data.detach().clone()
    if isinstance(data, list | tuple):
        return torch.stack([_stack(item) for item in data])
    return torch.full((), float(data), dtype=torch.float64)


class FollowedNumber(float):
    """A Python number that was read from a residue, or computed from such.

    Attributes:
        tensor: the residue, a tensor without dims, as it was read.
        now: the same, limited where a branch has told on which side of a limit it lies.
    """

    __slots__ = ("_reads", "now", "tensor")
    _reads: NumberReads
    now: Tensor
    tensor: Tensor

    def __new__(cls, reads: NumberReads, tensor: Tensor) -> Self:
        made = super().__new__(cls, reads.shown(tensor))
        made._reads, made.tensor, made.now = reads, tensor, tensor
        return made

    def __deepcopy__(self, _memo: Any) -> FollowedNumber:
        return self

    def __reduce__(self) -> Any:
        return float, (float.__add__(self, 0.0),)

    def __hash__(self) -> int:
        return float.__hash__(self)

    def __bool__(self) -> bool:
        return self._reads.is_nonzero(self.now)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | float):
            return NotImplemented
        return math.isfinite(other) and not self - other

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __float__(self) -> float:
        return self._leave()

    def __int__(self) -> int:
        return int(self._leave())

    def _leave(self) -> float:
        """The number as it is shown: from here on nothing is known of what is computed with it."""
        self._reads.dispatcher.run.left = True
        return float.__add__(self, 0.0)


def _define(name: str) -> None:
    """Arithmetic goes on with the tensor; behind the run, which has put the tensors back, with what was shown."""
    of_float, of_tensor = getattr(float, name), getattr(Tensor, name)

    def method(self: FollowedNumber, *others: Any) -> Any:
        if not all(isinstance(other, int | float | Tensor) for other in others):
            return NotImplemented
        if not self._reads.is_inside() or not all(
            isinstance(other, Tensor) or math.isfinite(other) for other in others
        ):
            return of_float(self, *others)
        given = [other.now if isinstance(other, FollowedNumber) else other for other in others]
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(isinstance(one, Tensor) for one in others)):
            found = of_tensor(self.now, *given)
        if any(isinstance(other, Tensor) for other in others) or not isinstance(found, Tensor):
            return found
        return FollowedNumber(self._reads, found)

    setattr(FollowedNumber, name, method)


def _define_comparison(name: str) -> None:
    of_float = getattr(float, f"__{name}__")

    def method(self: FollowedNumber, other: Any) -> Any:
        if not isinstance(other, int | float):
            return NotImplemented
        return self._reads.compare(name, self, other) if self._reads.is_inside() else of_float(self, other)

    setattr(FollowedNumber, f"__{name}__", method)


def _define_leaving(name: str, function: Callable[..., Any]) -> None:
    def method(self: FollowedNumber, *others: Any) -> Any:
        return function(self._leave(), *others)

    setattr(FollowedNumber, name, method)


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg", "pos", "abs"):
    _define(f"__{_name}__")
for _name in _HOLDS:
    _define_comparison(_name)
_LEAVE: dict[str, Callable[..., Any]] = {
    "__round__": round,
    "__trunc__": math.trunc,
    "__floor__": math.floor,
    "__ceil__": math.ceil,
    "__floordiv__": operator.floordiv,
    "__mod__": operator.mod,
    "__divmod__": divmod,
}
for _name, _function in _LEAVE.items():
    _define_leaving(_name, _function)

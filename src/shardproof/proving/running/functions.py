"""Functions that a model calls are recorded and cut as its modules are: softmax, attention, cross-entropy.

PyTorch computes attention and cross-entropy in one op each. In exact arithmetic they are called here as they are
written out, which gives the same digits, so that a segment is a part of them and has a small degree. Ordinary runs call
the ops: their numbers are to be the user's own.

A cross-entropy, and a wide softmax, is taken apart where code for a split vocabulary has a tensor too:

    maximum = max(x)                         [rows], the same on all ranks after an all-reduce
    exponentials = exp(x - maximum)          [rows, elements], in shards if x is

So a maximum that is subtracted from a tensor, and the exponential of that difference, are recorded wherever a program
computes them. A softmax is the same function whatever is subtracted: from a cut on the maximum is any number.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from shardproof.exact.engine.dropout import ATTENTION, written_out_attention
from shardproof.exact.engine.function_bodies import body_of
from shardproof.proving.records import Phase
from shardproof.proving.running.context_parallel import let_ring_run
from shardproof.proving.running.recomputation import backward_runs
from shardproof.proving.running.stage_shapes import is_rehearsed, write_unwritten

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.running.capture import Recorder

# A softmax of more elements is taken apart: up to here one segment has a chance of at most 12 * 256 / 2**21.
NARROW: Final = 256

_SOFTMAX: Final = frozenset({F.softmax, torch.softmax, Tensor.softmax})
_CROSS_ENTROPY: Final = torch._C._nn.cross_entropy_loss  # noqa: SLF001 - F.cross_entropy calls it
_SUBTRACTIONS: Final = frozenset(
    {torch.sub, torch.subtract, Tensor.sub, Tensor.subtract, Tensor.__sub__}
    | {Tensor.sub_, Tensor.subtract_, Tensor.__isub__}
)
_EXPONENTIALS: Final = frozenset({torch.exp, Tensor.exp, torch.exp_, Tensor.exp_})
_WITH_TABLES: Final = frozenset(
    {torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__, Tensor.mul_}
    | {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_}
)
_LARGEST_TABLE: Final = 2**16  # elements
_IN_PLACE: Final = frozenset({torch.exp_, Tensor.exp_})
_MEAN, _SUM = 1, 2  # torch.nn._reduction


class PassOn(Protocol):
    """Records a tensor; returns the one with which the program continues."""

    def __call__(self, tensor: Tensor, phase: Phase, name: str, *, as_shift: bool = False) -> Tensor: ...


class FunctionsRecorded(TorchFunctionMode):
    """Records what functions are given and give.

    Args:
        recorder: of the run.
        pass_on: records and cuts.
    """

    def __init__(self, recorder: Recorder, pass_on: PassOn) -> None:
        super().__init__()
        self._recorder, self._pass_on = recorder, pass_on
        self._maxima = WeakIdKeyDictionary()  # those recorded
        self._shifted = WeakIdKeyDictionary()  # what they were subtracted from

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _is_passed_on(func):
            return func(*args, **kwargs)
        body = body_of(func)
        if body is not None:  # of `backward` too, in which a checkpoint calls functions again
            with self:
                return body(*args, **kwargs)
        exact = self._recorder.exact
        if func is ATTENTION and args:
            let_ring_run(args[0])
        if func is torch.empty_strided and is_rehearsed():
            return write_unwritten(func(*args, **kwargs))
        if func in _SOFTMAX and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            return self._softmax(func, args, kwargs)
        if exact is None:
            return func(*args, **kwargs)
        if func in _WITH_TABLES and self._recorder.step == 0 and not backward_runs():
            self._note_tables(args[:2], exact)
        if func is ATTENTION and _may_take_apart(args[:3]):
            with self:
                return written_out_attention(*args, **kwargs)
        if func is _CROSS_ENTROPY and _is_over_classes(*args):
            with self:
                return _cross_entropy(*args)
        if func in _SUBTRACTIONS and len(args) > 1 and (args[1] in self._maxima or _is_shift(args[1], exact)):
            return self._subtract_maximum(func, args, kwargs)
        if func in _EXPONENTIALS and args and args[0] in self._shifted:
            return self._exponential(func, args[0])
        return func(*args, **kwargs)

    def _name(self, function: str) -> str:
        running = self._recorder.running
        return f"{running[-1]}/{function}" if running else function

    def _note_tables(self, operands: tuple[Any, ...], exact: ExactArithmetic) -> None:
        """Record a table of constants beside an operand that is no constant."""
        tables = [x for x in operands if _is_table(x, exact)]
        others = [x for x in operands if isinstance(x, Tensor) and all(x is not table for table in tables)]
        running = self._recorder.running
        if len(tables) == len(others) == 1 and running:
            self._recorder.add_table(running[-1], tables[0])

    def _softmax(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        name, exact = self._name("softmax"), self._recorder.exact
        scores = self._pass_on(args[0], Phase.INPUT, name)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if exact is not None and isinstance(dim, int) and _is_wide(scores, dim, exact):
            with self:
                rows = scores.movedim(dim, -1)
                exponentials = (rows - rows.detach().amax(-1, keepdim=True)).exp()
                found = (exponentials / exponentials.sum(-1, keepdim=True)).movedim(-1, dim)
        else:
            found = func(scores, *args[1:], **kwargs)
        return self._pass_on(found, Phase.OUTPUT, name)

    def _subtract_maximum(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """X - maximum, the maximum cut in place: whatever the program does with it afterwards is done with the same."""
        maximum = args[1]
        if maximum not in self._maxima:
            self._maxima[maximum] = True
            rows = maximum.squeeze(-1)
            passed_on = self._pass_on(rows, Phase.INPUT, self._name("maximum"), as_shift=True)
            if passed_on.data_ptr() != rows.data_ptr():
                with torch.no_grad():
                    rows.copy_(passed_on)
        found = func(*args, **kwargs)
        self._shifted[found] = True
        return found

    def _exponential(self, func: Callable[..., Any], shifted: Tensor) -> Tensor:
        name = self._name("exponentials")
        if func in _IN_PLACE:
            passed_on = self._pass_on(func(shifted), Phase.OUTPUT, name)
            return shifted if passed_on is shifted else shifted.copy_(passed_on)
        found: Tensor = _Exponential.apply(shifted, lambda x: self._pass_on(x, Phase.OUTPUT, name))  # type: ignore[no-untyped-call]
        return found


class _Exponential(torch.autograd.Function):
    """exp(x) forward, which may be cut; gradient times what the forward went on with backward, as code by hand does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pass_on: Callable[[Tensor], Tensor]) -> Any:
        """Shaped like x."""
        found = pass_on(x.exp())
        ctx.save_for_backward(found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """Shaped like x."""
        (found,) = ctx.saved_tensors
        return gradients[0] * found, None


def _cross_entropy(
    logits: Tensor, targets: Tensor, _weight: None, reduction: int, ignore_index: int, _smoothing: float
) -> Tensor:
    """log(sum(exp(x - max))) - (x - max)[target] of each token, 0 for ignored ones; their mean or sum."""
    rows = logits.movedim(1, -1) if logits.ndim > 2 else logits  # [..., classes]
    counts = targets != ignore_index
    less = rows - rows.detach().amax(-1, keepdim=True)
    total = less.exp().sum(-1)
    index = targets.masked_fill(~counts, 0).unsqueeze(-1)
    losses = (total.log() - less.gather(-1, index).squeeze(-1)).masked_fill(~counts, 0.0)
    if reduction == _MEAN:
        return losses.sum() / counts.sum()
    return losses.sum() if reduction == _SUM else losses


@lru_cache(maxsize=4096)
def _is_passed_on(func: Callable[..., Any]) -> bool:
    """Whether nothing is recorded of a function, as of most, and of the reading of a tensor's attributes."""
    looked_at = _SOFTMAX | _WITH_TABLES | _SUBTRACTIONS | _EXPONENTIALS
    others = (ATTENTION, _CROSS_ENTROPY, torch.empty_strided)
    return func not in looked_at and not any(func is other for other in others) and body_of(func) is None


def _may_take_apart(tensors: tuple[Any, ...]) -> bool:
    """Whether these are plain tensors, one of which has a gradient. Of DTensors PyTorch's ops know the placements."""
    plain = len(tensors) == 3 and all(type(x) is Tensor for x in tensors)
    return plain and any(x.requires_grad for x in tensors)


def _is_over_classes(*args: Any) -> bool:
    """Whether this is a cross-entropy of class indices, without weights and smoothing."""
    if len(args) != 6 or not isinstance(args[0], Tensor) or not isinstance(args[1], Tensor):
        return False
    logits, targets, weight, _, _, smoothing = args
    plain = type(logits) is Tensor and logits.requires_grad and not targets.is_floating_point()
    return plain and weight is None and not smoothing and logits.ndim == targets.ndim + 1


def _is_table(x: Any, exact: ExactArithmetic) -> bool:
    """Whether it is a plain tensor of several constants, whose real numbers are known, and not too large."""
    if type(x) is not Tensor or x.requires_grad or not x.is_floating_point() or not 1 < x.numel() <= _LARGEST_TABLE:
        return False
    tag = exact.tags.get(x)
    return tag is not None and (tag.real or tag.value is not None)


def _is_shift(x: Any, exact: ExactArithmetic) -> bool:
    """Whether it is a maximum that the program takes no gradient of."""
    if type(x) is not Tensor or x.requires_grad or not x.is_floating_point():
        return False
    tag = exact.tags.get(x)
    return tag is not None and tag.degree.maximum and x.ndim > 0 and x.shape[-1] == 1


def _is_wide(scores: Tensor, dim: int, exact: ExactArithmetic) -> bool:
    """Whether a softmax is wide, and each of its rows has an element that no mask hides."""
    if type(scores) is not Tensor or not scores.ndim or scores.shape[dim] <= NARROW:
        return False
    with exact.paused():
        return not bool((scores.detach() < -exact.arithmetic.field.half).all(dim).any())

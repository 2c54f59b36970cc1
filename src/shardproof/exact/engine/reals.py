"""Real constants: tensors made inside from numbers, shapes and integers, until they meet a residue.

They are float64, and PyTorch computes elementwise ops on them as they are: step counters, positions, masks. These
round, as Python's own floats do: a constant is known to float64's precision.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.finite import all_finite
from shardproof.exact.algebra.lift import LOWEST, is_symbol
from shardproof.exact.engine.choices import choice_among, mark_choice, mark_compared
from shardproof.exact.engine.tags import REAL
from shardproof.exact.engine.tensor_trees import floats_in, tensors_in
from shardproof.exact.engine.variants import functional_of, puts_elements, written_arguments
from shardproof.exact.rules.creation import EMPTY, FACTORIES
from shardproof.exact.rules.registry import REAL_TOO, RULES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch._ops import OpOverload

    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.void_elements import VoidElements

_aten: Final = torch.ops.aten
_SUMS: Final = frozenset({_aten.sum.default, _aten.sum.dim_IntList})
_DIVISIONS: Final = frozenset({"div", "reciprocal", "rsqrt", "pow", "addcdiv", "_foreach_div", "true_divide"})
# Sums of more would round.
_LARGEST_SUM: Final = 2.0**53
# What a constant cannot be, unless it was computed from the lowest finite number.
_HUGE: Final = 1e300
# Autograd makes tensors without memory for gradients that are zero; residues could not be written into them.
_WITHOUT_MEMORY: Final = {_aten._efficientzerotensor.default: _aten.zeros.default}


@dataclass(slots=True, kw_only=True)
class Reals:
    """Makes real constants and computes with them."""

    run: Run
    void: VoidElements

    # Computing -------------------------------------------------------------------------------------------------------

    def may_compute(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether an op whose floating operands are all real is carried out on the reals as they are."""
        functional = functional_of(op) or op
        reals = floats_in((args, kwargs))
        if puts_elements(functional, args, kwargs):
            return True
        if torch.Tag.pointwise in functional.tags:
            return True
        rule = RULES.get(functional)
        if functional in REAL_TOO:
            return True
        if rule is not None and rule.kind == "move":
            return True
        if any(x.is_complex() for x in reals) or (functional not in _SUMS and (rule is None or rule.kind != "sum")):
            return False
        whole = all(bool((x == x.round()).all()) for x in reals)
        return whole and sum(float(x.abs().sum()) for x in reals) < _LARGEST_SUM

    def compute(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """PyTorch's own result; comparisons behind its operands, and void elements, are noted of it."""
        written = written_arguments(op, args, kwargs)
        void = self.void.among((args, kwargs))
        finite = all(all_finite(x) for x in floats_in((args, kwargs)))
        finite = finite and all(isfinite(x) for x in (*args, *kwargs.values()) if isinstance(x, float))
        result = op(*args, **kwargs)
        functional = functional_of(op) or op
        rule = RULES.get(functional)
        moved = (rule is not None and rule.kind == "move") or puts_elements(functional, args, kwargs)
        for x in (*tensors_in(result), *written):
            before = self.run.tags.get(x)
            if before is not None and not any(x is target for target in written):
                continue  # a view
            divided = None
            if x.is_floating_point() and not moved:
                divided = self._divided_by_zero(op, x) if finite else None
                self._examine(op, x)
            self.run.set(x, REAL if before is None else replace(before.bare, real=True, symbols=False))
            if divided is not None:
                self.void.mark(x, divided)
        self._remember_choices(op, args, kwargs, result)
        if void:
            self.void.spread(op, (args, kwargs), void, result, written=written)
        return result

    # Making ----------------------------------------------------------------------------------------------------------

    def make(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A factory, or an op on integers and booleans alone: what is floating of its result is real."""
        op = _WITHOUT_MEMORY.get(op, op)
        void = self.void.among((args, kwargs)) if op not in FACTORIES else {}
        with float64_by_default():
            result = op(*args, **kwargs)
        for x in tensors_in(result):
            if x.is_meta or x.layout != torch.strided or x.is_quantized:
                continue
            known = self.run.tags.get(x) is not None
            if op in EMPTY and (x.is_floating_point() or x.is_complex()):
                x.fill_(float("nan"))
            elif x.is_floating_point() and not known:
                self._examine(op, x)
            if not known or op in FACTORIES:
                self.run.tags.set(x, REAL)
        for x in written_arguments(op, args, kwargs):
            self.run.tags.set(x, self.run.tag(x).bare)
        if op not in FACTORIES:
            self._remember_choices(op, args, kwargs, result)
        if void:
            self.void.spread(op, (args, kwargs), void, result, written=written_arguments(op, args, kwargs))
        return result

    def _remember_choices(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what results owe to comparisons of residues; a shape that depends on one escapes to Python."""
        mark_choice(self.run.tags, op, (args, kwargs), result)
        mark_compared(self.run.tags, (args, kwargs), result)
        if torch.Tag.dynamic_output_shape in op.tags:
            self.run.escaped = self.run.escaped.chosen_by(choice_among(self.run.tags, (args, kwargs)).degree)

    def _divided_by_zero(self, op: OpOverload, x: Tensor) -> Tensor | None:
        """Which elements of what was computed of finite numbers are no numbers, each replaced by 0; None if none are.

        -inf is one, unless a division gives it: the logarithm of a mask is a mask.
        """
        if all_finite(x):
            return None
        divides = op._schema.name.removeprefix("aten::").rstrip("_") in _DIVISIONS
        found = ~x.isfinite() if divides else x.isnan()
        if not bool(found.any()):
            return None
        x.masked_fill_(found, 0.0)
        self.run.zero_divisions.append(self.run.location)
        return found

    def _examine(self, op: OpOverload, x: Tensor) -> None:
        """Refuse NaN, and a mask's symbol that something was done with but adding and multiplying by 0 or 1."""
        lowest = float(x.min()) if x.numel() else 0.0
        if isnan(lowest):
            self.run.refuse_nan(f"{op} gives NaN, or is given memory that was never written (torch.empty)")
        if lowest < -_HUGE and bool(((x < -_HUGE) & (x > LOWEST)).any()):
            self.run.refuse_symbols(op)


def one_lowest(value: Any) -> Any:
    """A Python number, with the lowest finite number of every dtype made that of float64: they are one symbol.

    Two of them must add up to -inf, and any other arithmetic be noticed, whatever dtype the program believes in.
    """
    return LOWEST if isinstance(value, float) and value != LOWEST and is_symbol(value) and isfinite(value) else value


@contextmanager
def float64_by_default() -> Iterator[None]:
    """Factories and ops on integers give float64: computed in float32, 1/3 would be another constant."""
    before = torch.get_default_dtype()
    if before == torch.float64:
        yield
        return
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

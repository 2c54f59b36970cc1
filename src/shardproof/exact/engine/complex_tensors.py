"""Complex tensors in exact arithmetic: which ops are views, movements or written out in real and imaginary parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from shardproof.exact.engine.choices import mark_choice, mark_compared
from shardproof.exact.engine.tags import union
from shardproof.exact.engine.tensor_trees import map_tensors, tensors_in
from shardproof.exact.engine.variants import puts_elements
from shardproof.exact.rules.complex_numbers import COMPLEX, MADE_OF_REALS, VIEWS, joined
from shardproof.exact.rules.registry import RULES

if TYPE_CHECKING:
    from torch import Tensor
    from torch._ops import OpOverload
    from torch.utils._python_dispatch import TorchDispatchMode

    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.run import Run

_TO_COPY: Final = torch.ops.aten._to_copy.default
# A view with the opposite sign, as PyTorch makes it for the imaginary part of a conjugate.
_NEGATIVE_VIEW: Final = torch.ops.aten._neg_view.default


@dataclass(slots=True, kw_only=True)
class ComplexTensors:
    """Carries out the ops that are given complex tensors, or give them."""

    run: Run
    constants: Constants

    def carry_out(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], *, reenter: TorchDispatchMode
    ) -> Any:
        """The op's result; NotImplemented where no complex numbers are at play, or where the op consists of others."""
        if op is _NEGATIVE_VIEW:
            with reenter:
                return -args[0]
        becomes = op is _TO_COPY and (kwargs.get("dtype") or torch.float64).is_complex
        if not becomes and op not in MADE_OF_REALS and not any(x.is_complex() for x in tensors_in((args, kwargs))):
            return NotImplemented
        if op in VIEWS:
            return op(*args, **kwargs)
        rule = RULES.get(op)
        if becomes and not args[0].is_complex():
            with reenter:
                real = torch.ops.aten._to_copy.default(args[0], dtype=torch.float64, device=kwargs.get("device"))
                return joined(real, torch.zeros_like(real))
        if (rule is not None and rule.kind == "move") or puts_elements(op, args, kwargs):
            return self._move(op, args, kwargs)
        written_out = COMPLEX.get(op)
        if written_out is not None:
            try:
                with reenter:
                    return written_out(*args, **kwargs)
            except NotImplementedError as error:
                self.run.refuse_op(op, f"cannot be carried out exactly: {error}")
        if rule is not None:
            self.run.refuse_op(op, "has no exact rule for complex numbers")
        return NotImplemented

    def _move(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = [x for x in tensors_in((args, kwargs)) if x.is_complex() or x.is_floating_point()]
        if any(isinstance(x, float | complex) and x != 0 for x in (*args, *kwargs.values())):
            self.run.refuse_op(op, "has no exact rule for complex numbers and a number that is not zero")
        if any(self.constants.symbols_in(x) for x in operands):
            self.run.refuse_symbols(op)
        tag = union(self.run.tag(x) for x in operands)
        if not all(self.run.tag(x).real for x in operands):
            args, kwargs = map_tensors(self._residues, (args, kwargs))
        result = op(*args, **kwargs)
        known = {x.untyped_storage()._cdata for x in operands}
        for x in tensors_in(result):
            if (x.is_complex() or x.is_floating_point()) and x.untyped_storage()._cdata not in known:
                self.run.set(x, tag)
        mark_choice(self.run.tags, op, (args, kwargs), result)
        mark_compared(self.run.tags, (args, kwargs), result)
        return result

    def _residues(self, x: Tensor) -> Tensor:
        if not self.run.tag(x).real or not (x.is_complex() or x.is_floating_point()):
            return x
        if not x.is_complex():
            return self.constants.residues_of(x, unwritten=True)
        return torch.view_as_complex(self.constants.residues_of(torch.view_as_real(x.resolve_conj()), unwritten=True))

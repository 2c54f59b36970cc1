"""The short way of an op: its rule alone, where all of its tensors are plain residues, as nearly all are.

Then no operand is to be admitted, lifted or replaced because it is void, and no result is to be marked: all that the
handlers of `Dispatcher` and `Applying.apply` do besides would find nothing to do, at several times the cost of the op.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch

from shardproof.exact.algebra.blocks import is_large
from shardproof.exact.engine.applying import ADDED_TO, CERTAIN, EQUALITIES, is_float_tensor
from shardproof.exact.engine.choices import mark_selection
from shardproof.exact.engine.constants import symbol_among
from shardproof.exact.engine.escapes import READS_NUMBER
from shardproof.exact.engine.tags import union
from shardproof.exact.engine.tensor_trees import covers_storage, tensors_in
from shardproof.exact.engine.variants import functional_of
from shardproof.exact.engine.writing import RESULT_SAVED
from shardproof.exact.rules.complex_numbers import MADE_OF_REALS
from shardproof.exact.rules.creation import FACTORIES
from shardproof.exact.rules.optimizers import WRITTEN_OUT
from shardproof.exact.rules.order import COMPARISONS
from shardproof.exact.rules.registry import RULES, SELECTIONS

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from shardproof.exact.engine.applying import Applying
    from shardproof.exact.engine.tags import Tag

_aten: Final = torch.ops.aten
# Ops that handlers of the dispatcher accept whatever their tensors are, and those that `puts_elements` looks at.
_BY_OTHERS: Final = frozenset(
    {
        *(_aten._to_copy.default, _aten.lift_fresh.default, _aten.native_dropout.default, _aten._neg_view.default),
        *(_aten.view.dtype, _aten._assert_async.default, _aten._assert_async.msg),
        *(_aten.copy_.default, _aten.fill_.Scalar, _aten.fill_.Tensor, _aten.zero_.default),
        *(_aten.index_put.default, _aten._unsafe_index_put.default, _aten.put.default),
    }
)
# Arguments that must not be residues.
_INDICES: Final = frozenset({"index", "indices", "scalars"})
_CHANGES: Final = frozenset({torch.Tag.inplace_view, torch.Tag.dynamic_output_shape, torch.Tag.nondeterministic_seeded})
# Keyword arguments that every handler passes on as they are.
_PASSED_ON: Final = (int, float, bool, str, type(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortWay:
    """Applies rules to plain residues."""

    applying: Applying

    def carry_out(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The op's result by its rule, or that of the op which it is the in-place form of; NotImplemented elsewhere."""
        if takes_short_way(op):
            return self._apply(op, args, kwargs)
        functional = written_in_place(op)
        return NotImplemented if functional is None else self._write(functional, args, kwargs)

    def _apply(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = RULES.get(op)
        if rule is None:
            return NotImplemented
        if kwargs and (op in ADDED_TO or not all(type(value) in _PASSED_ON for value in kwargs.values())):
            return NotImplemented
        run, operands = self.applying.run, tensors_in(args)
        tags: list[Tag] = []
        for x in operands:
            if x.dtype is not torch.float64 or x.layout is not torch.strided:
                return NotImplemented
            tag = run.tags.get(x)
            if tag is None or not tag.plain:
                return NotImplemented
            tags.append(tag)
        if not tags or any(type(value) is torch.dtype for value in args) or symbol_among(args, kwargs):
            return NotImplemented
        run.arithmetic.operands_void = None
        inherited = union(tags)
        result = self.applying.by_kind(op, rule, args, kwargs, operands, inherited, None)
        if not is_float_tensor(result):
            mark_selection(run.tags, op, args, result, inherited)
        return result

    def _write(self, functional: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first argument, with the functional op's result written into it, as `Writing.store` writes residues."""
        run, target = self.applying.run, args[0]
        old = run.tags.get(target)
        if old is None or not old.plain or is_large(target.numel(), target.device):  # those go block by block
            return NotImplemented
        run.ops, run.op = run.ops + 1, functional
        result = self._apply(functional, args, kwargs)
        if result is NotImplemented:
            run.ops -= 1
            return result
        target.copy_(result)
        new = run.tag(result).bare
        run.set(target, new if covers_storage(target) else old | new)
        self.applying.logs.write(target, result, old, self.applying.logs.of(result))
        return target


@lru_cache(maxsize=4096)
def written_in_place(op: OpOverload) -> OpOverload | None:
    """The op that takes the short way and computes what this one writes into its first argument alone; else None."""
    arguments = op._schema.arguments
    written = [argument.is_write for argument in arguments]
    if written[:1] != [True] or sum(written) > 1 or arguments[0].is_out or str(arguments[0].type) != "Tensor":
        return None
    functional = functional_of(op)
    others = op in _BY_OTHERS | RESULT_SAVED or bool(_CHANGES & set(op.tags))  # unsqueeze_ writes no element
    may = functional is not None and not others and takes_short_way(functional)
    return functional if may else None


@lru_cache(maxsize=4096)
def takes_short_way(op: OpOverload) -> bool:
    """Whether nothing but the types of its tensors decides how an op is carried out, and it writes into none."""
    return (
        op.namespace == "aten"
        and op not in _BY_OTHERS
        and not any(op in special for special in (FACTORIES, MADE_OF_REALS, SELECTIONS, COMPARISONS, WRITTEN_OUT))
        and not any(op in truth_values for truth_values in (CERTAIN, EQUALITIES))
        and not _CHANGES & set(op.tags)
        and not any(argument.is_write or argument.name in _INDICES for argument in op._schema.arguments)
        and op._schema.name.removeprefix("aten::") not in READS_NUMBER
    )

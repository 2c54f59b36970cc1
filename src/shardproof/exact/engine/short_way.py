"""The short way of an op: its rule alone, where all of its tensors are plain residues, as nearly all are.

Then no operand is to be admitted, lifted or replaced because it is void, and no result is to be marked: all that the
handlers of `Dispatcher` and `Applying.apply` do besides would find nothing to do, at several times the cost of the op.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.blocks import is_large
from shardproof.exact.engine.applying import (
    ADDED_TO,
    CERTAIN,
    EQUALITIES,
    LEAVES_UNWRITTEN,
    is_float_tensor,
    takes_numbers,
)
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
    from shardproof.exact.rules.registry import Kind, Rule

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
class _Plan:
    """How the short way carries out one op, decided once.

    Attributes:
        op: the op; kept, so that no other one gets its id.
        rule: of the op; None where it takes no short way.
        in_place: how the op which it is the in-place form of is carried out.
        named: no keyword argument needs the long way.
        alone: the kind of rule, where there is a shorter one for residues of which nothing is known besides.
    """

    op: OpOverload
    rule: Rule | None
    in_place: _Plan | None = None
    named: bool = True
    alone: Kind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortWay:
    """Applies rules to plain residues."""

    applying: Applying
    _plans: dict[int, _Plan] = field(default_factory=dict)

    def carry_out(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The op's result by its rule, or that of the op which it is the in-place form of; NotImplemented elsewhere."""
        plan = self._plans.get(id(op))  # ops are hashed by a function in Python
        if plan is None:
            plan = self._plans[id(op)] = _plan(op)
        if plan.rule is not None:
            return self._apply(plan, args, kwargs)
        return NotImplemented if plan.in_place is None else self._write(plan.in_place, args, kwargs)

    def _apply(self, plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = plan.rule
        assert rule is not None
        if kwargs and (not plan.named or not all(type(value) in _PASSED_ON for value in kwargs.values())):
            return NotImplemented
        if symbol_among(args, kwargs):
            return NotImplemented
        operands: list[Tensor] = []
        flat = True
        for value in args:
            if isinstance(value, Tensor):
                operands.append(value)
            elif isinstance(value, list | tuple) and (inside := tensors_in(value)):
                flat = False
                operands += inside
            elif type(value) is torch.dtype:
                return NotImplemented
        tags = self._tags_of_plain(operands)
        if not tags:
            return NotImplemented
        applying = self.applying
        applying.run.arithmetic.operands_void = None
        alone = plan.alone if all(tag.alone for tag in tags.values()) else None
        if alone == "formula" and flat:
            return applying.formula_alone(plan.op, rule, args, kwargs, tags)
        inherited = union(tags.values())
        if alone == "move":
            return applying.move_alone(plan.op, args, kwargs, operands, inherited)
        result = applying.by_kind(plan.op, rule, args, kwargs, operands, inherited, None)
        if not is_float_tensor(result):
            mark_selection(applying.run.tags, plan.op, args, result, inherited)
        return result

    def _tags_of_plain(self, operands: list[Tensor]) -> dict[int, Tag]:
        """The tags of the operands by their ids; none if one of them is more than plain residues."""
        found, tags = {}, self.applying.run.tags
        for x in operands:
            tag = tags.get(x)
            if tag is None or not tag.plain or x.dtype is not torch.float64 or x.layout is not torch.strided:
                return {}
            found[id(x)] = tag
        return found

    def _write(self, plan: _Plan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The first argument, with the functional op's result written into it, as `Writing.store` writes residues."""
        run, target = self.applying.run, args[0]
        old = run.tags.get(target)
        if old is None or not old.plain or is_large(target.numel(), target.device):  # those go block by block
            return NotImplemented
        run.ops, run.op = run.ops + 1, plan.op
        result = self._apply(plan, args, kwargs)
        if result is NotImplemented:
            run.ops -= 1
            return result
        target.copy_(result)
        found, logs = run.tag(result), self.applying.logs
        run.set(target, found.bare if covers_storage(target) else old | found.bare)
        if found.logs is not None or old.logs is not None:
            logs.write(target, result, old, logs.of(result))
        return target


def _plan(op: OpOverload) -> _Plan:
    if not takes_short_way(op):
        functional = written_in_place(op)
        return _Plan(op=op, rule=None, in_place=None if functional is None else _plan(functional))
    rule = RULES.get(op)
    if rule is None:
        return _Plan(op=op, rule=None)
    of_formula = rule.kind == "formula" and op not in LEAVES_UNWRITTEN
    of_move = rule.kind == "move" and not takes_numbers(op)
    return _Plan(op=op, rule=rule, named=op not in ADDED_TO, alone=rule.kind if of_formula or of_move else None)


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


def _is_index(argument: Any) -> bool:
    """Whether an argument is a tensor that must not hold residues; the index of `select` is a number."""
    return argument.name in _INDICES and "Tensor" in str(argument.type)


@lru_cache(maxsize=4096)
def takes_short_way(op: OpOverload) -> bool:
    """Whether nothing but the types of its tensors decides how an op is carried out, and it writes into none."""
    return (
        op.namespace == "aten"
        and op not in _BY_OTHERS
        and not any(op in special for special in (FACTORIES, MADE_OF_REALS, SELECTIONS, COMPARISONS, WRITTEN_OUT))
        and not any(op in truth_values for truth_values in (CERTAIN, EQUALITIES))
        and not _CHANGES & set(op.tags)
        and not any(argument.is_write or _is_index(argument) for argument in op._schema.arguments)
        and op._schema.name.removeprefix("aten::") not in READS_NUMBER
    )

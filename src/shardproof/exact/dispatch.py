"""What happens to one ATen op: which rule carries it out, on which residues, and what is then known of the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._pytree import tree_flatten, tree_map

from shardproof.exact import rules
from shardproof.exact.arithmetic import Residue
from shardproof.exact.choices import choice_among, mark_choice, mark_selection
from shardproof.exact.degree import CONSTANT
from shardproof.exact.errors import (
    ExactArithmeticError,
    LeavingFieldError,
    Place,
    RandomDrawError,
    SymbolError,
    UnsupportedOpError,
    user_line,
)
from shardproof.exact.leaving import READS_NUMBER, casts_to_integers
from shardproof.exact.lift import LOWEST, NEGATIVE_INFINITY, is_symbol
from shardproof.exact.registry import REAL_TOO, RULES, SELECTIONS, Rule
from shardproof.exact.rules.creation import EMPTY, FACTORIES
from shardproof.exact.tags import REAL, Tag
from shardproof.exact.variants import functional_of, own_decomposition, split_foreach, without_out, written_arguments

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.utils._python_dispatch import TorchDispatchMode

    from shardproof.exact.arithmetic import Arithmetic
    from shardproof.exact.degree import Degree
    from shardproof.exact.entry import Entry
    from shardproof.exact.modules import ModuleStack
    from shardproof.exact.tags import TagStore

assert rules  # imported for the table it fills


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """An op that chose by order: its operands, cloned, for comparison with the other program's."""

    op: str
    place: Place
    operands: tuple[Tensor, ...]


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Carries out ops one by one; runs with the modes off."""

    arithmetic: Arithmetic
    tags: TagStore
    entry: Entry
    modules: ModuleStack
    random: Literal["refuse", "draw"] = "refuse"
    leaving: Literal["refuse", "allow"] = "refuse"
    record_selections: bool = False
    check: bool = False
    selections: list[Selection] = field(default_factory=list)
    zero_divisions: list[Place] = field(default_factory=list)
    escaped: Degree = CONSTANT  # what Python has seen of comparisons of residues: every later element may owe to it
    left: bool = False  # a residue was read as a number, or a branch was taken on one
    # residues of real storages, {address: (the storage, kept alive; its residues)}, dropped when the storage is written
    _lifted: dict[int, tuple[torch.UntypedStorage, Tensor]] = field(default_factory=dict)
    _reenter: TorchDispatchMode | None = None
    _taken_apart: list[OpOverload] = field(default_factory=list)

    # One op ----------------------------------------------------------------------------------------------------------

    def carry_out(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], *, reenter: TorchDispatchMode
    ) -> Any:
        """The op's result on residues.

        Args:
            op: an ATen or other overload.
            args: its positional arguments.
            kwargs: its keyword arguments.
            reenter: the mode, to be entered again around PyTorch's own decompositions.
        """
        self._reenter = reenter
        return self._run(op, args, kwargs)

    def _run(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        args, kwargs = tree_map(_in_float64, args), tree_map(_in_float64, kwargs)
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if any(x.is_meta for x in inputs):
            return op(*args, **kwargs)
        floating = [x for x in inputs if x.is_floating_point() or x.is_complex()]
        if torch.Tag.nondeterministic_seeded in op.tags:
            return self._draw(op, args, kwargs)
        if op in FACTORIES or not floating:
            return self._create(op, args, kwargs)
        for x in floating:
            if self.tags.get(x) is None:
                residues = self.entry.read(x)
                args, kwargs = tree_map(lambda y, x=x, r=residues: r if y is x else y, (args, kwargs))
        floating = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor) and x.is_floating_point()]
        if op._schema.name.removeprefix("aten::") in READS_NUMBER:
            return self._read_number(op, args, kwargs, floating)
        if torch.Tag.inplace_view in op.tags:
            return op(*args, **kwargs)
        if all(self._tag(x).real for x in floating) and self._stays_real(op, floating):
            return self._on_reals(op, args, kwargs)
        return self._on_residues(op, args, kwargs)

    def _on_residues(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = RULES.get(op)
        if rule is not None:
            return self._apply(op, rule, args, kwargs)
        functional = functional_of(op)
        if functional is not None:
            return self._write(op, functional, args, kwargs)
        calls = split_foreach(op, args, kwargs)
        if calls is not None:
            return [self._call(c.packet, c.args, c.kwargs) for c in calls]
        decomposition = decomposition_table.get(op)
        if decomposition is None:
            decomposition = own_decomposition(op)
        if decomposition is not None and op not in self._taken_apart:
            assert self._reenter is not None
            self._taken_apart.append(op)  # some of PyTorch's decompositions lead back to where they came from
            try:
                with self._reenter:
                    return decomposition(*args, **kwargs)
            finally:
                self._taken_apart.pop()
        self._refuse(op)
        return None

    def _call(self, packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A packet's overload, chosen by its arguments, through the dispatcher."""
        assert self._reenter is not None
        with self._reenter:
            return packet(*args, **kwargs)

    # Rules -----------------------------------------------------------------------------------------------------------

    def _apply(self, op: OpOverload, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor) and x.is_floating_point()]
        tags = [self._tag(x) for x in inputs]
        void = any(tag.void for tag in tags)
        symbols = any(tag.symbols for tag in tags) or self._has_symbol_scalar(op, args, kwargs)
        if symbols and not rule.symbols:
            self._refuse_symbols(op, inputs)
            symbols = False
        if op in SELECTIONS and self.record_selections:
            operands = tuple(self.residues_of(x).clone() for x in inputs)
            self.selections.append(Selection(op=str(op), place=self._place(), operands=operands))
        if rule.kind == "formula":
            self.arithmetic.operands_void = void
            result, zero_divisions = self._apply_formula(rule, args, kwargs, symbols=symbols)
            void = void or zero_divisions
            self._settle(result, void=void, symbols=symbols)
            result = tree_map(lambda x: x.tensor if isinstance(x, Residue) else x, result)
            return self._owing(op, (args, kwargs), result, tags)
        args, kwargs = self._lifted_scalars(op, args, kwargs)
        args, kwargs = tree_map(self._as_residues, (args, kwargs))
        result = op(*args, **kwargs)
        if self.leaving == "refuse" and casts_to_integers(op, result):
            self._refuse_leaving("a cast to an integer dtype")
        if rule.kind == "sum":
            assert rule.function is not None
            count = rule.function(result, *args, **kwargs)
            degree = _union(tags).degree.sum_of(count)
            for tensor in tree_flatten(result)[0]:
                self.arithmetic.field.reduce_(tensor)
                self._set(tensor, Tag(degree=degree, void=void))
            return self._owing(op, (args, kwargs), result, tags)
        self._settle_moved(result, inputs, tags, symbols=symbols)
        return self._owing(op, (args, kwargs), result, tags)

    def _owing(self, op: OpOverload, args: Any, result: Any, tags: list[Tag]) -> Any:
        """The result, with what it owes to comparisons of residues noted in its tags."""
        if op in SELECTIONS:
            mark_selection(self.tags, op, args, result, _union(tags))
            if torch.Tag.dynamic_output_shape in op.tags:
                self.escaped = self.escaped.chosen_by(choice_among(self.tags, result).degree)
        mark_choice(self.tags, op, args, result)
        return result

    def _apply_formula(
        self, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any], *, symbols: bool
    ) -> tuple[Any, bool]:
        assert rule.function is not None
        extra: dict[str, Any] = {}
        if rule.symbols:
            extra["symbols"] = symbols
        wrap = tree_map(self._as_values, (args, kwargs))
        before = self.arithmetic.zero_divisions
        result = rule.function(self.arithmetic, *wrap[0], **wrap[1], **extra)
        divided = self.arithmetic.zero_divisions > before
        if divided:
            self.zero_divisions.append(self._place())
        return result, divided

    def _settle(self, result: Any, *, void: bool, symbols: bool) -> None:
        for value in tree_flatten(result, is_leaf=lambda x: isinstance(x, Residue))[0]:
            if isinstance(value, Residue):
                held = symbols and bool((value.tensor.abs() > self.arithmetic.field.half).any())
                known = value.exponential
                if known is not None:
                    assert known.tensor.is_contiguous()
                    assert value.tensor.is_contiguous()
                    self._set(known.tensor, Tag(degree=known.degree, void=void))
                tag = Tag(degree=value.degree, void=void, symbols=held, roots=value.roots)
                self._set(value.tensor, tag if known is None else replace(tag, exponential=known.tensor))

    def _settle_moved(self, result: Any, inputs: list[Tensor], tags: list[Tag], *, symbols: bool) -> None:
        addresses = {x.untyped_storage()._cdata for x in inputs}
        tag = replace(_union(tags), real=False, exponential=None)
        if symbols:
            tag = replace(tag, symbols=True, roots=False)
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                if tensor.untyped_storage()._cdata not in addresses or self.tags.get(tensor) is None:
                    self._set(tensor, tag)

    # Writing ---------------------------------------------------------------------------------------------------------

    def _write(self, op: OpOverload, functional: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        targets = written_arguments(op, args, kwargs)
        result = self._run(functional, args, without_out(op, kwargs))
        results = [x for x in (result if isinstance(result, tuple | list) else [result]) if isinstance(x, Tensor)]
        for target, value in zip(targets, results, strict=True):
            if op._schema.arguments[-1].is_out and target.shape != value.shape:
                target.resize_(value.shape)
            self._store(target, value)
        returned = len(op._schema.returns)  # `_foreach_` forms return nothing
        return None if returned == 0 else targets[0] if returned == 1 else tuple(targets)

    def _store(self, target: Tensor, value: Tensor) -> None:
        """Write a result into a tensor of the program, and say what its storage now holds."""
        if not target.is_floating_point():
            if value.is_floating_point():
                self._refuse_leaving("a cast to an integer dtype")
            target.copy_(value)
            if self.tags.get(value) is not None:
                self.tags.set(target, self._tag(target) | self._tag(value))
            return
        if not value.is_floating_point():
            value = value.to(torch.float64)
            self.tags.set(value, REAL)
        old, new = self._tag(target), self._tag(value)
        whole = target.numel() * target.element_size() == target.untyped_storage().nbytes()
        self._lifted.pop(target.untyped_storage()._cdata, None)
        if new.real and not old.real and not whole:
            value, new = self.residues_of(value), replace(self._tag(value), real=False)
        if old.real and not new.real and not whole:
            self._lift_in_place(target)
            old = replace(old, real=False)
        target.copy_(value)
        new = replace(new, exponential=None)  # laid out as the value, not as the target
        self.tags.set(target, new if whole else replace(old | new, real=old.real and new.real))

    def _lift_in_place(self, target: Tensor) -> None:
        storage = torch.empty(0, dtype=target.dtype, device=target.device).set_(target.untyped_storage())
        written = storage.isnan()  # memory never written stays NaN: it differs from everything it is compared with
        storage.copy_(torch.where(written, storage, self.arithmetic.lift.tensor(storage.masked_fill(written, 0.0))))

    # Constants -------------------------------------------------------------------------------------------------------

    def _create(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if op is torch.ops.aten._efficientzerotensor.default:  # autograd's zeros have no memory to hold residues
            op = torch.ops.aten.zeros.default
        result = op(*args, **kwargs)
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.is_meta:
                if tensor.dtype != torch.float64:
                    result = self._create_in_float64(op, args, kwargs)
                    break
                if op in EMPTY:
                    tensor.fill_(float("nan"))
                if self.tags.get(tensor) is None or op in FACTORIES:
                    self._set(tensor, REAL)
        if op not in FACTORIES:
            self._owe(op, args, kwargs, result)
        return result

    def _owe(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Note what an op on integers owes to comparisons of residues; a number or a shape escapes to Python."""
        mark_choice(self.tags, op, (args, kwargs), result)
        if torch.Tag.dynamic_output_shape in op.tags or op._schema.name.removeprefix("aten::") in READS_NUMBER:
            choice = choice_among(self.tags, (args, kwargs))
            self.escaped = self.escaped.chosen_by(choice.degree)

    def _create_in_float64(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A factory without a dtype follows the default dtype; the result is converted, which is exact."""
        result = tree_map(lambda x: x.to(torch.float64) if _is_floating(x) else x, op(*args, **kwargs))
        for tensor in tree_flatten(result)[0]:
            if _is_floating(tensor):
                if op in EMPTY:
                    tensor.fill_(float("nan"))
                self._set(tensor, REAL)
        return result

    def _stays_real(self, op: OpOverload, floating: list[Tensor]) -> bool:
        functional = functional_of(op) or op
        rule = RULES.get(functional)
        if torch.Tag.pointwise in functional.tags or (rule is not None and rule.kind == "move"):
            return True
        if rule is not None and rule.kind == "sum":
            return all(bool((x == x.round()).all()) for x in floating)
        return functional in REAL_TOO

    def _on_reals(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for target in written_arguments(op, args, kwargs):
            self._lifted.pop(target.untyped_storage()._cdata, None)
        result = op(*args, **kwargs)
        for tensor in tree_flatten(result)[0]:
            if _is_floating(tensor) and self.tags.get(tensor) is None:
                self._set(tensor, REAL)
        mark_choice(self.tags, op, (args, kwargs), result)
        return result

    def _draw(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.random == "refuse":
            name = op._schema.name.removeprefix("aten::")
            raise RandomDrawError(
                f"{name} draws random numbers inside exact arithmetic, {self._place()}; draw them outside and pass them "
                "in, switch dropout off, or use ExactArithmetic(random='draw')"
            )
        result = op(*args, **kwargs)
        for tensor in tree_flatten(result)[0]:
            if _is_floating(tensor):
                self._lifted.pop(tensor.untyped_storage()._cdata, None)
                self._set(tensor, REAL)
        return result

    def residues_of(self, tensor: Tensor) -> Tensor:
        """The residues of a tensor that may still be real."""
        tag = self.tags.get(tensor)
        if tag is None:
            return self.entry.read(tensor)
        if not tag.real:
            return tensor
        if tensor.ndim == 0:
            return self.arithmetic.lift.tensor(tensor)
        storage = tensor.untyped_storage()
        if storage._cdata not in self._lifted:
            whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
            unwritten = whole.isnan()
            if bool(unwritten.any()) and bool(tensor.isnan().any()):
                raise ExactArithmeticError(
                    f"memory that was never written (torch.empty) or NaN is used, {self._place()}"
                )
            self._lifted[storage._cdata] = (storage, self.arithmetic.lift.tensor(whole.masked_fill(unwritten, 0.0)))
        return self._lifted[storage._cdata][1].as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())

    def is_known(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage has a tag; wrapper subclasses are asked by their inner tensors."""
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided:
            return False
        return self.tags.get(tensor) is not None

    def _tag(self, tensor: Tensor) -> Tag:
        return self.tags.get(tensor) or REAL

    def _set(self, tensor: Tensor, tag: Tag) -> None:
        self._lifted.pop(tensor.untyped_storage()._cdata, None)
        self.tags.set(tensor, tag)
        if self.check and not tag.real:
            ok = (tensor.abs() <= self.arithmetic.field.half) & (tensor == tensor.round())
            if tag.symbols:
                ok |= (tensor == LOWEST) | (tensor == NEGATIVE_INFINITY)
            if not bool(ok.all()):
                raise ExactArithmeticError(f"an element is not a canonical residue, {self._place()}")

    def _as_residues(self, x: Any) -> Any:
        return self.residues_of(x) if _is_floating(x) else x

    def _as_values(self, x: Any) -> Any:
        if not _is_floating(x):
            return x
        tag = self._tag(x)
        known = None
        if tag.exponential is not None:
            view = tag.exponential.as_strided(x.size(), x.stride(), x.storage_offset())
            known = Residue(view, self._tag(view).degree, self.arithmetic)
        return Residue(self.residues_of(x), tag.degree, self.arithmetic, roots=tag.roots, exponential=known)

    def _lifted_scalars(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def lifted(value: Any, argument: Any) -> Any:
            if isinstance(value, bool) or not isinstance(value, int | float) or str(argument.type) not in _NUMBERS:
                return value
            return value if is_symbol(value) else self.arithmetic.constant(value)

        arguments = op._schema.arguments
        return (
            tuple(lifted(value, argument) for value, argument in zip(args, arguments, strict=False)),
            {a.name: lifted(kwargs[a.name], a) for a in arguments if a.name in kwargs},
        )

    def _has_symbol_scalar(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        values = (*args, *kwargs.values())
        found = any(isinstance(v, float) and is_symbol(v) for v in values)
        real = [v for v in values if _is_floating(v) and self._tag(v).real]
        return found or any(bool((v.detach() < -1e300).any()) or (v.numel() == 1 and is_symbol(float(v))) for v in real)

    # Refusals --------------------------------------------------------------------------------------------------------

    def _place(self) -> Place:
        return Place(module=self.modules.path, line=user_line())

    def _read_number(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], floating: list[Tensor]
    ) -> Any:
        if self.leaving == "refuse" and not all(self._tag(x).real for x in floating):
            self._refuse_leaving(op._schema.name.removeprefix("aten::"))
        self.left = self.left or not all(self._tag(x).real for x in floating)
        return op(*args, **kwargs)

    def refuse_reading(self, tensor: Tensor, what: str) -> None:
        """Refuse `numpy()` and the like on residues, unless leaving is allowed."""
        tag = self.tags.get(tensor) if tensor.is_floating_point() else REAL
        if self.leaving == "refuse" and not (tag or REAL).real:
            self._refuse_leaving(what)
        self.left = self.left or not (tag or REAL).real

    def _refuse_leaving(self, what: str) -> NoReturn:
        raise LeavingFieldError(
            f"{what} takes a residue out of exact arithmetic, {self._place()}; its digits mean nothing as a number. To "
            "print, use print(tensor) or exact.digits(tensor); where it is known to be safe, ExactArithmetic(leaving='allow')"
        )

    def _refuse_symbols(self, op: OpOverload, inputs: list[Tensor]) -> None:
        half = self.arithmetic.field.half
        if any(bool((x.abs() > half).any()) for x in inputs if not self._tag(x).real) or any(
            bool((x < -1e300).any()) for x in inputs if self._tag(x).real
        ):
            raise SymbolError(
                f"{op} is given -inf or finfo.min, {self._place()}; exact arithmetic knows them only as masks: added, "
                "chosen by where or masked_fill, times 0 or 1, and under softmax"
            )

    def _refuse(self, op: OpOverload) -> NoReturn:
        raise UnsupportedOpError(
            f"{op} has no exact rule, {self._place()}. Add one: from shardproof.exact import formula; "
            f"@formula({str(op).removeprefix('aten.')!r}) def rule(m, x, ...): return an expression of Residue values"
        )


_NUMBERS = frozenset({"number", "float", "Scalar", "Optional[number]", "Optional[float]"})


def _in_float64(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value.is_floating_point else value


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _union(tags: list[Tag]) -> Tag:
    found = tags[0] if tags else REAL
    for tag in tags[1:]:
        found = found | tag
    return found

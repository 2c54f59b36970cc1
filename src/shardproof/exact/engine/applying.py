"""How a rule is applied: residues in, the result's tags out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.blocks import is_large
from shardproof.exact.algebra.field import EXACT_LIMIT
from shardproof.exact.algebra.lift import is_symbol
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.engine.choices import choice_among, mark_choice, mark_compared, mark_selection
from shardproof.exact.engine.constants import symbol_among
from shardproof.exact.engine.log_tensors import depth_of_number
from shardproof.exact.engine.run import Selection
from shardproof.exact.engine.tags import REAL, Tag, union
from shardproof.exact.engine.tensor_trees import covers_storage, floats_in, map_tensors, tensors_in, view_like
from shardproof.exact.engine.variants import puts_elements
from shardproof.exact.errors import ExactArithmeticError
from shardproof.exact.rules.order import COMPARISONS
from shardproof.exact.rules.pieces import comparison, goes_by_piece, over_pieces
from shardproof.exact.rules.registry import OF_EXP, OF_EXP_BACKWARD, OF_ROWS, PRODUCTS, SELECTIONS, Rule
from shardproof.op_arguments import name_arguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch._ops import OpOverload

    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.log_tensors import LogStore
    from shardproof.exact.engine.piece_tensors import PieceStore
    from shardproof.exact.engine.reals import Reals
    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.two_way_choices import TwoWayChoices
    from shardproof.exact.engine.void_elements import VoidElements

_aten: Final = torch.ops.aten
# Products added to a tensor, `beta` times.
ADDED_TO: Final = frozenset(
    getattr(_aten, name).default for name in ("addmm", "baddbmm", "addbmm", "addmv", "addr", "_addmm_activation")
)
_MOVE: Final = Rule(kind="move", symbols=True)
# Arguments that are elements whatever their dtype; others of integers are indices, or masks.
_ELEMENTS: Final = frozenset({"self", "other", "tensors", "src", "source", "value", "values"})
_NUMBERS: Final = frozenset({"number", "float", "Scalar", "Optional[number]", "Optional[float]"})
# Their result is the same for every residue: nothing is chosen by it.
CERTAIN: Final = frozenset(
    {_aten.isnan.default, _aten.isinf.default, _aten.isfinite.default, _aten.isneginf.default, _aten.isposinf.default}
)
# Some elements of their results may be memory that was never written.
LEAVES_UNWRITTEN: Final = frozenset({_aten._grouped_mm.default})
EQUALITIES: Final = frozenset({_aten.eq.Tensor, _aten.ne.Tensor, _aten.eq.Scalar, _aten.ne.Scalar})


@dataclass(slots=True, kw_only=True)
class Applying:
    """Applies rules."""

    run: Run
    constants: Constants
    reals: Reals
    void: VoidElements
    pieces: PieceStore
    logs: LogStore
    choices: TwoWayChoices

    def apply(
        self, op: OpOverload, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any], *, into: Tensor | None = None
    ) -> Any:
        """The op's result by its rule, tagged.

        Args:
            op: what the rule is for.
            rule: how it is carried out.
            args: the op's positional arguments.
            kwargs: its keyword arguments.
            into: of an elementwise formula, the memory that the result is to overwrite as a whole.
        """
        if puts_elements(op, args, kwargs):
            rule = _MOVE
        if op in ADDED_TO and kwargs.get("beta", 1) == 0:
            args = (self._zeros_like(args[0]), *args[1:])
        if rule.kind != "formula":
            args, kwargs = self._promoted(op, args, kwargs)
        operands = floats_in((args, kwargs))
        void = self.void.among((args, kwargs))
        known = self.constants.as_reals(op, rule, args, kwargs)
        if known is not None and rule.kind == "move" and _casts_to_integers(kwargs):
            return self.reals.compute(op, *known)
        given = (args, kwargs)
        if void and rule.kind == "formula":
            args, kwargs = self.void.replaced(given, void)
        self.run.arithmetic.operands_void = void.get(id(operands[0])) if void else None
        symbols = any(self.constants.symbols_in(x) for x in operands) or symbol_among(args, kwargs)
        if symbols and not rule.symbols:
            self._refuse_symbols(op, operands)
            symbols = False
        inherited = replace(union(self.run.tag(x) for x in floats_in((args, kwargs))), real=False, symbols=symbols)
        by_reals = all(self.constants.value_of(x) is not None for x in operands)
        if self.run.record_selections and op in SELECTIONS and not by_reals:
            kept = tuple(self.constants.residues_of(x).clone() for x in operands)
            self.run.selections.append(Selection(op=str(op), location=self.run.location, operands=kept))
        if op in SELECTIONS and op not in OF_ROWS and not by_reals:
            self.run.selected = True
        result = self.by_kind(op, rule, args, kwargs, operands, inherited, into)
        if not by_reals and not _is_certain(op, args):
            mark_selection(self.run.tags, op, (args, kwargs), result, inherited)
        if op in COMPARISONS and not by_reals and not symbols:
            numbers = (self._as_value(x) if isinstance(x, Tensor) else x for x in args)
            self.pieces.keep(result, comparison(self.run.arithmetic, COMPARISONS[op], *numbers))
        if not by_reals:
            self.choices.note(op, *given, result)
        mark_choice(self.run.tags, op, (args, kwargs), result)
        mark_compared(self.run.tags, (args, kwargs), result)
        if known is not None:
            self.constants.keep(op, known, operands, result)
        if void:
            self.void.spread(op, given, void, result, written=[] if into is None else [into])
        if torch.Tag.dynamic_output_shape in op.tags:
            choice = choice_among(self.run.tags, (args, kwargs, result))
            self.run.escaped = self.run.escaped.chosen_by(choice.degree)
        return result

    def _zeros_like(self, x: Tensor) -> Tensor:
        """What `beta=0` makes of the tensor that a product is added to: by PyTorch's contract it is not looked at."""
        zeros = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
        self.run.set(zeros, REAL)
        return zeros

    def by_kind(
        self,
        op: OpOverload,
        rule: Rule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        operands: list[Tensor],
        inherited: Tag,
        into: Tensor | None,
    ) -> Any:
        """The op's result by a formula, a movement of residues or a sum of them, tagged."""
        if rule.kind == "formula":
            return self._formula(op, rule, args, kwargs, inherited, into)
        moves = rule.kind == "move"

        def residues(x: Tensor) -> Tensor:
            return self.constants.residues_of(x, unwritten=moves) if x.is_floating_point() else x

        as_given = args, kwargs
        args, kwargs = self._lift_scalars(op, *map_tensors(residues, as_given))
        result = op(*args, **kwargs)
        if rule.kind == "sum":
            return self._sum(op, rule, result, args, kwargs, inherited)
        return self._moved(op, result, operands, args, kwargs, inherited, as_given)

    def move_alone(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], operands: list[Tensor], inherited: Tag
    ) -> Any:
        """The op's result by a movement of plain residues of which nothing is known besides; no number stands for one.

        Args:
            op: which moves elements.
            args: its positional arguments.
            kwargs: its keyword arguments.
            operands: the tensors among them.
            inherited: the tag of a storage that holds elements of all of them.
        """
        result = op(*args, **kwargs)
        views = {x.untyped_storage()._cdata for x in operands}
        for x in tensors_in(result):
            if not is_float_tensor(x):
                self._leave_by_cast(op, x)
            elif x.untyped_storage()._cdata not in views:
                self.run.set(x, inherited)
        return result

    # Kinds of rules --------------------------------------------------------------------------------------------------

    def _formula(
        self,
        op: OpOverload,
        rule: Rule,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inherited: Tag,
        into: Tensor | None,
    ) -> Any:
        assert rule.function is not None
        extra: dict[str, Any] = {"symbols": inherited.symbols} if rule.symbols else {}
        if into is not None:
            extra["into"] = into
        values = map_tensors(self._as_value, (args, kwargs))
        named = values[1] | extra
        pieces = None
        if rule.pointwise and into is None and goes_by_piece(op, values[0], named):
            pieces = {"of_exp": op in OF_EXP or op in OF_EXP_BACKWARD, "product": op in PRODUCTS}
        result, divided = self._call(op, rule.function, values[0], named, pieces)
        taken = {x.untyped_storage()._cdata for x in _memory_of(values) if into is None}
        return self._settle_all(op, result, inherited, taken, divided=divided)

    def formula_alone(
        self, op: OpOverload, rule: Rule, args: tuple[Any, ...], kwargs: dict[str, Any], tags: Mapping[int, Tag]
    ) -> Any:
        """The op's result by a formula, of plain residues of which nothing is known besides.

        Args:
            op: what the rule is for.
            rule: a formula.
            args: the op's positional arguments, whose tensors are in no lists.
            kwargs: its keyword arguments, without tensors.
            tags: of the operands, by their ids.
        """
        m = self.run.arithmetic
        values = tuple(
            Residue(x, (tag := tags[id(x)]).degree, m, roots=tag.roots, divisor=tag.divisor)
            if isinstance(x, Tensor)
            else x
            for x in args
        )
        elements, taken = 1, set()
        for x in args:
            if isinstance(x, Tensor):
                elements *= x.numel()  # what they broadcast to has no more
                taken.add(x.untyped_storage()._cdata)
                device = x.device
        function = rule.function if is_large(elements, device) else rule.of_residues or rule.function
        if rule.symbols:
            kwargs = {**kwargs, "symbols": False}
        result, divided = self._call(op, function, values, kwargs, None)
        return self._settle_all(op, result, REAL, taken, divided=divided)

    def _settle_all(self, op: OpOverload, result: Any, inherited: Tag, taken: set[int], *, divided: bool) -> Any:
        if isinstance(result, Residue):
            unwritten = op in LEAVES_UNWRITTEN and bool(result.tensor.isnan().any())
            return self._settle(result, inherited, taken, divided=divided or unwritten)
        if isinstance(result, list | tuple):
            settled = [self._settle_all(op, item, inherited, taken, divided=divided) for item in result]
            return type(result)(settled)
        assert not is_float_tensor(result), f"{op} gives floating numbers that are no residues"
        return result

    def _call(
        self,
        op: OpOverload,
        function: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        pieces: dict[str, bool] | None,
    ) -> tuple[Any, bool]:
        """What a formula's function gives, piece by piece if it is told how; and whether it has divided by zero."""
        assert function is not None
        m = self.run.arithmetic
        before = m.divided_before = m.zero_divisions
        try:
            if pieces is None:
                result = function(m, *args, **kwargs)
            else:
                result = over_pieces(m, function, *args, **pieces, **kwargs)
        except ExactArithmeticError as error:
            raise type(error)(f"{op}: {error}, {self.run.location}") from error
        except NotImplementedError as error:
            self.run.refuse_op(op, f"cannot be carried out exactly: {error}")
        except FloatingPointError as error:
            self.run.refuse_nan(error)
        divided = m.zero_divisions > before
        if divided:
            self.run.zero_divisions.append(self.run.location)
        return result, divided

    def _sum(
        self, op: OpOverload, rule: Rule, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inherited: Tag
    ) -> Any:
        assert rule.function is not None
        count = rule.function(result, *args, **kwargs)
        if count * self.run.arithmetic.field.half >= EXACT_LIMIT:
            self.run.refuse_op(op, f"adds up {count} residues, more than float64 holds exactly")
        tag = Tag(degree=inherited.degree.sum_of(count), void=inherited.void)
        for x in tensors_in(result):
            self.run.arithmetic.field.reduce_(x)
            self.run.set(x, tag)
        return result

    def _moved(
        self,
        op: OpOverload,
        result: Any,
        operands: list[Tensor],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inherited: Tag,
        as_given: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> Any:
        views = {x.untyped_storage()._cdata for x in operands}
        if inherited.roots and any(value != 0 for value in self._scalars(op, args, kwargs)):
            inherited = replace(inherited, roots=False)  # sqrt(0) = 0, other numbers that fill are no roots
        if inherited.symbols:
            inherited = replace(inherited, roots=False)
        for x in tensors_in(result):
            if x.is_meta:
                continue
            if not x.is_floating_point():
                self._leave_by_cast(op, x)
            elif x.untyped_storage()._cdata not in views:
                self.run.set(x, inherited)
        if not inherited.symbols and any(self.run.tag(x).squared is not None for x in operands):
            self._move_squares(op, result, operands, args, kwargs)
        if not inherited.symbols and any(self.run.tag(x).pieces is not None for x in operands):
            self._move_pieces(op, result, operands, args, kwargs)
        depths = _map_numbers(depth_of_number, op, *as_given)
        masks = any(depth_of_number(number) for number in self._scalars(op, *as_given))
        if masks or any(self.logs.of(x) is not None for x in operands):
            self._move_logs(op, result, operands, (args, kwargs), depths)
        return result

    def _leave_by_cast(self, op: OpOverload, x: Tensor) -> None:
        if x.dtype != torch.bool:  # booleans say what is zero, which is exact
            self.run.leave(f"a cast to {str(x.dtype).removeprefix('torch.')} ({op})")

    def _move_squares(
        self, op: OpOverload, result: Any, operands: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Let what is known of the operands' squares go where the operands went (a stack of norms)."""
        tags = [self.run.tag(x) for x in operands]
        moved = isinstance(result, Tensor) and result.is_contiguous() and self.run.tag(result).squared is None
        if not moved or not all(tag.roots or tag.squared is not None for tag in tags):
            return
        if any(value != 0 for value in self._scalars(op, args, kwargs)):
            return
        squares = {id(x): self._as_value(x).square() for x in operands}
        tensors = {at: square.tensor for at, square in squares.items()}
        companion = op(*map_tensors(lambda x: tensors.get(id(x), x), args), **kwargs).contiguous()
        self.run.set(companion, union(Tag(degree=square.degree) for square in squares.values()))
        self.run.set(result, replace(self.run.tag(result), squared=companion))

    def _move_pieces(
        self, op: OpOverload, result: Any, operands: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        fresh = isinstance(result, Tensor) and result.is_floating_point() and self.run.tag(result).pieces is None
        if fresh and not any(value != 0 for value in self._scalars(op, args, kwargs)):
            self.pieces.move(op, result, operands, args, kwargs)

    def _move_logs(
        self,
        op: OpOverload,
        result: Any,
        operands: list[Tensor],
        given: tuple[tuple[Any, ...], dict[str, Any]],
        depths: tuple[tuple[Any, ...], dict[str, Any]],
    ) -> None:
        if not (isinstance(result, Tensor) and result.is_floating_point() and self.run.tag(result).logs is None):
            return

        def filled(number: float) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return _map_numbers(lambda _: number, op, *given)

        self.logs.move(op, result, operands, given, filled=filled, depths=depths)

    # Results ---------------------------------------------------------------------------------------------------------

    def _settle(self, value: Residue, inherited: Tag, taken: set[int], *, divided: bool) -> Tensor:
        tensor = value.tensor
        if tensor.untyped_storage()._cdata in taken:
            tensor = tensor.clone()  # an operand as it was: the program may write into its result
        taken.add(tensor.untyped_storage()._cdata)
        if divided:
            for companion in _companions(value):
                tensor.masked_fill_(companion.tensor.isnan(), nan)
        symbols = inherited.symbols and bool((tensor < -self.run.arithmetic.field.half).any())
        tag = Tag(degree=value.degree, void=divided, symbols=symbols, roots=value.roots, divisor=value.divisor)
        if value.logs is None and value.pieces is None and value.squared is None:
            self.run.set(tensor, tag)
            return tensor
        if tensor.is_contiguous() and covers_storage(tensor):
            tag = replace(tag, squared=self._settle_companion(value.squared, divided=divided))
        self.run.set(tensor, tag)
        self.pieces.keep(tensor, value.pieces, divided=divided)
        self.logs.keep(tensor, value.logs, divided=divided)
        return tensor

    def _settle_companion(self, known: Residue | None, *, divided: bool) -> Tensor | None:
        if known is None:
            return None
        tensor = known.tensor.contiguous()
        self.run.set(tensor, Tag(degree=known.degree, void=divided))
        return tensor

    # Operands --------------------------------------------------------------------------------------------------------

    def _promoted(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Integers and booleans that stand for elements made floating, as PyTorch's type promotion would."""
        if all(x.is_floating_point() for x in tensors_in((args, kwargs))):
            return args, kwargs

        def promote(x: Tensor) -> Tensor:
            if x.is_floating_point():
                return x
            number = x.to(torch.float64)
            self.run.tags.set(number, Tag(real=True, degree=self.run.tag(x).degree))
            mask = self.void.of(x)
            if mask is not None:
                self.void.mark(number, mask)
            return number

        def given(name: str, value: Any) -> Any:
            return map_tensors(promote, value) if name in _ELEMENTS else value

        names = [a.name for a in op._schema.arguments]
        positional = tuple(given(name, value) for name, value in zip(names, args, strict=False))
        return positional, {name: given(name, value) for name, value in kwargs.items()}

    def _as_value(self, x: Tensor) -> Any:
        if not x.is_floating_point():
            return x
        tag = self.run.tag(x)
        if tag.plain and tag.bare is tag:
            return Residue(x, tag.degree, self.run.arithmetic, roots=tag.roots, divisor=tag.divisor)

        def beside(companion: Tensor | None) -> Residue | None:
            if companion is None:
                return None
            view = view_like(companion, x)
            return Residue(view, self.run.tag(view).degree, self.run.arithmetic)

        return Residue(
            self.constants.residues_of(x),
            tag.degree,
            self.run.arithmetic,
            roots=tag.roots,
            divisor=tag.divisor,
            squared=beside(tag.squared),
            value=self.constants.value_of(x),
            pieces=None if tag.symbols else self.pieces.of(x),
            logs=self.logs.of(x),
        )

    def _scalars(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The Python numbers that stand for elements, not for dims and shapes."""
        given = name_arguments(op, args, kwargs)
        named = ((given[a.name], str(a.type)) for a in op._schema.arguments if a.name in given)
        return [value for value, kind in named if kind in _NUMBERS and _is_number(value)]

    def _lift_scalars(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def lifted(value: Any) -> Any:
            if is_symbol(value):
                return value
            try:
                return self.run.arithmetic.constant(value)
            except FloatingPointError as error:
                self.run.refuse_nan(error)

        return _map_numbers(lifted, op, args, kwargs)

    def _refuse_symbols(self, op: OpOverload, operands: list[Tensor]) -> None:
        """Raise if the elements given, and not others of their storage, are symbols."""
        held = any(bool((self.constants.residues_of(x) < -self.run.arithmetic.field.half).any()) for x in operands)
        if held:
            self.run.refuse_symbols(op)


def _memory_of(values: Any) -> list[Tensor]:
    """The tensors that a formula was given: its own results must not be any of them."""
    found: list[Tensor] = []
    if isinstance(values, Residue):
        found.append(values.tensor)
        found.extend(() if values.pieces is None else (known.tensor for known in values.pieces.each()))
        found.extend(known.tensor for known in _companions(values))
    elif isinstance(values, list | tuple | dict):
        for value in values.values() if isinstance(values, dict) else values:
            found.extend(_memory_of(value))
    return found


def _companions(x: Residue) -> list[Residue]:
    """Its square and its log terms."""
    return [*([] if x.squared is None else [x.squared]), *([] if x.logs is None else x.logs.each())]


def is_float_tensor(value: Any) -> bool:
    """Whether it is a tensor of floating numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()


def _casts_to_integers(kwargs: dict[str, Any]) -> bool:
    dtype = kwargs.get("dtype")
    return dtype is not None and not dtype.is_floating_point and dtype != torch.bool


def _is_certain(op: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether a truth value is the same for every residue; `torch.isfinite` is (x == x) * (abs(x) != inf)."""
    if op in CERTAIN:
        return True
    if op not in EQUALITIES:
        return False
    x, y = args
    if isinstance(y, Tensor):
        return bool(x.data_ptr() == y.data_ptr() and x.shape == y.shape and x.stride() == y.stride())
    return not isfinite(y)


def _map_numbers(
    function: Callable[[float], Any], op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `function` applied to the Python numbers that stand for elements, not for dims and shapes."""

    def mapped(value: Any, argument: Any) -> Any:
        return function(value) if _is_number(value) and str(argument.type) in _NUMBERS else value

    arguments = op._schema.arguments
    return (
        tuple(mapped(value, argument) for value, argument in zip(args, arguments, strict=False)),
        {a.name: mapped(kwargs[a.name], a) for a in arguments if a.name in kwargs},
    )


def takes_numbers(op: OpOverload) -> bool:
    """Whether a Python number among the op's arguments may stand for elements."""
    return any(str(argument.type) in _NUMBERS for argument in op._schema.arguments)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

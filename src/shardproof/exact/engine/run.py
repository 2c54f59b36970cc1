"""What the parts of one exact run share: its arithmetic, the tags of its tensors, and its refusals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from shardproof.exact.algebra.bound import LARGEST_USEFUL
from shardproof.exact.algebra.degree import CONSTANT, VARIABLE
from shardproof.exact.algebra.lift import LOWEST, NEGATIVE_INFINITY
from shardproof.exact.algebra.no_bound import NoBound
from shardproof.exact.engine.tags import REAL, Tag
from shardproof.exact.errors import (
    CodeLocation,
    ExactArithmeticError,
    LeavingFieldError,
    NotANumberError,
    RandomDrawError,
    SymbolError,
    UnsupportedOpError,
)
from shardproof.exact.rules.refused import find_reason
from shardproof.source_lines import user_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch._ops import OpOverload

    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.residue import Arithmetic
    from shardproof.exact.engine.modules import ModuleStack
    from shardproof.exact.engine.tags import TagStore


# By the start of an op's name.
_REASONS: Final = {
    "scaled_dot_product": NoBound.ATTENTION,
    "softmax": NoBound.SOFTMAX,
    "safe_softmax": NoBound.SOFTMAX,
    "log_softmax": NoBound.SOFTMAX,
    "logsumexp": NoBound.SOFTMAX,
    "nll_loss": NoBound.CROSS_ENTROPY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """An op that chose by order: its operands, cloned, for comparison with the other program's."""

    op: str
    location: CodeLocation
    operands: tuple[Tensor, ...]


@dataclass(slots=True, kw_only=True)
class Run:
    """One exact run."""

    arithmetic: Arithmetic
    tags: TagStore
    modules: ModuleStack
    random: Literal["refuse", "oracle", "draw"] = "refuse"
    leaving: Literal["refuse", "allow", "follow"] = "refuse"
    record_selections: bool = False
    check: bool = False
    selections: list[Selection] = field(default_factory=list)
    zero_divisions: list[CodeLocation] = field(default_factory=list)
    ops: int = 0
    op: OpOverload | None = None  # that is carried out
    escaped: Degree = CONSTANT  # what Python has seen of comparisons of residues: every later element may owe to it
    escaped_void: bool = False  # a void element was read as a number, or gave a shape: everything after may be wrong
    selected: bool = False  # elements were selected by comparing residues
    left: bool = False  # a residue was read as a number, or a branch was taken on one

    @property
    def location(self) -> CodeLocation:
        """The module that runs and the user's line."""
        return CodeLocation(module=self.modules.path, line=user_line())

    # Tags ------------------------------------------------------------------------------------------------------------

    def tag(self, tensor: Tensor) -> Tag:
        """What is known of a tensor that has been seen before."""
        return self.tags.get(tensor) or REAL

    def set(self, tensor: Tensor, tag: Tag) -> None:
        """Say what a tensor's storage holds from now on; where its bound is lost by the op that runs, that is noted."""
        degree = tag.degree
        known = degree is CONSTANT or degree is VARIABLE or degree.lost is not None
        if not known and degree.chance(self.arithmetic.field.prime) > LARGEST_USEFUL:
            tag = replace(tag, degree=degree.lost_to(self._reason(degree)))
        self.tags.set(tensor, tag)
        if self.check and not tag.real and tensor.is_floating_point():
            self.require_canonical(tensor, symbols=tag.symbols, void=tag.void)

    def require_canonical(self, tensor: Tensor, *, symbols: bool = False, void: bool = False) -> None:
        """Raise unless every element is a residue's canonical representative, or a symbol or void where they may be."""
        ok = (tensor.abs() <= self.arithmetic.field.half) & (tensor == tensor.round())
        if void:
            ok |= tensor.isnan()
        if symbols:
            ok |= (tensor == LOWEST) | (tensor == NEGATIVE_INFINITY)
        if not bool(ok.all()):
            raise ExactArithmeticError(f"an element is not a canonical residue, {self.location}")

    def _reason(self, degree: Degree) -> NoBound:
        """Why the op that runs has no bound for its result, whose operands may have had one."""
        name = "" if self.op is None else self.op.name().removeprefix("aten::").lstrip("_")
        for start, reason in _REASONS.items():
            if name.startswith(start):
                return reason
        return NoBound.CROSS_ENTROPY if degree.inverses else degree.reason(self.arithmetic.field.prime)

    # Refusals --------------------------------------------------------------------------------------------------------

    def refuse_op(self, op: OpOverload, why: str = "has no exact rule") -> NoReturn:
        """Refuse an op on residues that has no rule, with the reason where there is one."""
        reason = find_reason(op._schema.name.removeprefix("aten::"))
        if reason is not None:
            raise UnsupportedOpError(f"{op} {why}: {reason}, {self.location}")
        name = str(op).removeprefix("aten.")
        if op.namespace != "aten":
            name = f"{op.namespace}::{name.removeprefix(op.namespace + '.')}"
        raise UnsupportedOpError(
            f"{op} {why}, {self.location}. To add a rule, before the run:\n"
            "    from shardproof.exact import formula\n"
            f"    @formula({name!r})\n"
            "    def rule(m, x, ...):  # the op's arguments, residues in place of floating tensors\n"
            "        return x * x + 1  # an expression of residues: + - * / @ and what Residue has"
        )

    def leave(self, what: str, *, number: bool = False) -> None:
        """Refuse that a residue becomes a number. Where the program may, note it: nothing later has a derived bound.

        Args:
            what: does so.
            number: Python reads one number, which may be followed.
        """
        if self.leaving == "allow" or (number and self.leaving == "follow"):
            self.left = True
            return
        raise LeavingFieldError(
            f"{what} takes a residue out of exact arithmetic, {self.location}; its digits mean nothing as a number. To "
            "print, use print(tensor) or exact.digits(tensor); where it is known to be safe, "
            "`with exact.leaving_allowed():` around it, or ExactArithmetic(leaving='allow')"
        )

    def refuse_draw(self, op: OpOverload) -> NoReturn:
        """Refuse a random draw of floating numbers."""
        name = op._schema.name.removeprefix("aten::")
        raise RandomDrawError(
            f"{name} draws random numbers inside exact arithmetic, {self.location}; {self._instead_of_drawing}"
        )

    @property
    def _instead_of_drawing(self) -> str:
        if self.random == "oracle":
            return (
                "draw them outside and pass them in. Of random layers only nn.Dropout, F.dropout and attention's "
                "dropout_p have an oracle: write a mask of your own as F.dropout, or switch it off"
            )
        return (
            "draw them outside and pass them in, switch dropout off, or use ExactArithmetic(random='oracle'), in which "
            "dropout's mask is an oracle, or random='draw'"
        )

    def refuse_symbols(self, op: OpOverload) -> NoReturn:
        """Refuse the symbols of masks."""
        raise SymbolError(
            f"{op} is given -inf or finfo.min, {self.location}; exact arithmetic knows them only as masks: added, "
            "chosen by where or masked_fill, times 0 or 1, and under softmax"
        )

    def refuse_nan(self, what: Any) -> NoReturn:
        """Refuse NaN, or an infinity that is no mask."""
        raise NotANumberError(f"{what}, {self.location}")

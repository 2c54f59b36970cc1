"""Errors of exact arithmetic. Their messages name the op, the module and the user's line."""

from __future__ import annotations

from dataclasses import dataclass


class ExactArithmeticError(RuntimeError):
    """Exact arithmetic cannot continue; nothing is computed in floating point instead."""


class UnsupportedOpError(ExactArithmeticError):
    """An op on floating tensors has no exact rule."""


class LeavingFieldError(ExactArithmeticError):
    """A residue was about to become a Python number, a branch, an index or an array of another library."""


class RandomDrawError(ExactArithmeticError):
    """A random draw inside exact arithmetic."""


class NotANumberError(ExactArithmeticError):
    """NaN, or an infinity where no mask can hold one."""


class SymbolError(ExactArithmeticError):
    """-inf or finfo.min was used otherwise than as a mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeLocation:
    """Where the program is: the module that runs, as a path from the outermost one, and the user's line."""

    module: str
    line: str

    def __str__(self) -> str:
        parts = [f"in module {self.module}"] if self.module else []
        return ", ".join([*parts, f"at {self.line}"] if self.line else parts) or "at an unknown line"

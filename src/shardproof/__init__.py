"""Run a sharded training step in exact arithmetic and prove that it is still the same step."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardproof.comparison import Comparison, compare
    from shardproof.errors import CannotRunError
    from shardproof.exact import ExactArithmetic
    from shardproof.proving.findings import Finding, Proof, Verdict
    from shardproof.proving.prove import prove
    from shardproof.proving.step import Step
    from shardproof.report.assertion import NotProvedError, assert_proved
    from shardproof.report.words import describe

__version__ = "0.1.0"

__all__ = [
    "CannotRunError",
    "Comparison",
    "ExactArithmetic",
    "Finding",
    "NotProvedError",
    "Proof",
    "Step",
    "Verdict",
    "assert_proved",
    "compare",
    "describe",
    "prove",
]

# Imported when first asked for: `import shardproof` costs nothing, and the command line only what a command needs.
_HOMES = {
    "CannotRunError": "shardproof.errors",
    "Comparison": "shardproof.comparison",
    "ExactArithmetic": "shardproof.exact",
    "Finding": "shardproof.proving.findings",
    "NotProvedError": "shardproof.report.assertion",
    "Proof": "shardproof.proving.findings",
    "Step": "shardproof.proving.step",
    "Verdict": "shardproof.proving.findings",
    "assert_proved": "shardproof.report.assertion",
    "compare": "shardproof.comparison",
    "describe": "shardproof.report.words",
    "prove": "shardproof.proving.prove",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module 'shardproof' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

"""Run a sharded training step in exact arithmetic and prove that it is still the same step."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shardproof.version import __version__ as __version__

if TYPE_CHECKING:
    from shardproof.checkpoints.rows import CheckpointComparison
    from shardproof.checkpoints.values import compare
    from shardproof.comparison import Comparison
    from shardproof.errors import CannotRunError
    from shardproof.exact import ExactArithmetic
    from shardproof.proving.findings import Finding, Proof, Verdict
    from shardproof.proving.prove import prove
    from shardproof.proving.step import Step
    from shardproof.report.assertion import NotProvedError, assert_proved
    from shardproof.report.words import describe
    from shardproof.unittest_mixin import ProofTestMixin

__all__ = [
    "CannotRunError",
    "CheckpointComparison",
    "Comparison",
    "ExactArithmetic",
    "Finding",
    "NotProvedError",
    "Proof",
    "ProofTestMixin",
    "Step",
    "Verdict",
    "assert_proved",
    "compare",
    "describe",
    "prove",
]

# Each name is imported when it is first used, so that `import shardproof` is fast and a command imports what it needs.
_MODULES = {
    "CannotRunError": "shardproof.errors",
    "CheckpointComparison": "shardproof.checkpoints.rows",
    "Comparison": "shardproof.comparison",
    "ExactArithmetic": "shardproof.exact",
    "Finding": "shardproof.proving.findings",
    "NotProvedError": "shardproof.report.assertion",
    "Proof": "shardproof.proving.findings",
    "ProofTestMixin": "shardproof.unittest_mixin",
    "Step": "shardproof.proving.step",
    "Verdict": "shardproof.proving.findings",
    "assert_proved": "shardproof.report.assertion",
    "compare": "shardproof.checkpoints.values",
    "describe": "shardproof.report.words",
    "prove": "shardproof.proving.prove",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        msg = f"module 'shardproof' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])

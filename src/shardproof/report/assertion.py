"""A proof as an assertion for tests: a step that is not proved raises an AssertionError whose message is the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardproof.proving.prove import prove
from shardproof.report.text import render_text

if TYPE_CHECKING:
    from shardproof.proving.findings import Proof
    from shardproof.proving.step import Step


class NotProvedError(AssertionError):
    """The step is not proved; `proof` has the findings."""

    def __init__(self, message: str, proof: Proof) -> None:
        super().__init__(message, proof)  # both, so that it survives pickling
        self.proof = proof

    def __str__(self) -> str:
        return str(self.args[0])


def assert_proved(step: Step, **settings: Any) -> Proof:
    """Prove, and return the proof; arguments are those of `prove`: `parallelize`, `devices` and so on.

    Raises:
        NotProvedError: an AssertionError whose message is the text report.
        CannotRunError: a side cannot be built or run.
    """
    __tracebackhide__ = True
    proof = prove(step, **settings)
    if not proof.ok:
        raise NotProvedError(render_text(proof), proof)
    return proof

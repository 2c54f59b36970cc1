"""A proof as an assertion for tests: a step that is not proved raises an AssertionError whose message is the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shardproof.errors import CannotRunError
from shardproof.proving.prove import prove
from shardproof.report.summary import summarize
from shardproof.report.text import render_text
from shardproof.report.user_frames import keep_user_frames

if TYPE_CHECKING:
    from shardproof.proving.findings import Proof
    from shardproof.proving.step import Step


class NotProvedError(AssertionError):
    """The step is not proved; `proof` has the findings.

    The first line of the message is the first cause, which a test runner's short summary shows; the report follows.
    """

    def __init__(self, message: str, proof: Proof) -> None:
        super().__init__(message, proof)  # both, so that it survives pickling
        self.proof = proof

    def __str__(self) -> str:
        return str(self.args[0])


NotProvedError.__module__ = "shardproof"  # where users import it, and what a test runner prints


def assert_proved(step: Step, **settings: Any) -> Proof:
    """Prove, and return the proof; arguments are those of `prove`: `parallelize`, `devices` and so on.

    Raises:
        NotProvedError: an AssertionError whose message is the first cause, and the text report below it.
        CannotRunError: a side cannot be built or run. The traceback of what caused it has the user's frames.
    """
    __tracebackhide__ = True
    try:
        proof = prove(step, **settings)
    except CannotRunError as error:
        raise keep_user_frames(error) from error.__cause__
    if not proof.ok:
        raise NotProvedError(f"{tell_failure(proof)}\n{render_text(proof)}", proof)
    return proof


def tell_failure(proof: Proof) -> str:
    """The first of the first causes in one line: 'step 1, gradient: up.weight: WRONG. 2 times too large.'.

    Where there is none, the answer.
    """
    summary = summarize(proof)
    if not summary.causes:
        return summary.headline
    first, more = summary.causes[0], len(summary.causes) - 1
    words = [f"{first.group.title}: {first.group.first.verdict}.", *filter(None, (first.cause, first.mend))]
    words += [f"And {more} more first cause{'s' * (more != 1)}."] if more else []
    return " ".join(words)

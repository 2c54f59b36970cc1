"""The pytest plugin: a `shardproof` fixture. Imports nothing heavy until a test uses it.

def test_my_sharding(shardproof):
    shardproof.assert_proved(step, parallelize=my_parallelize, devices=4)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from shardproof.proving.findings import Proof
    from shardproof.proving.step import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Prover:
    """What the fixture gives: proofs whose reports become sections of the test's own report."""

    item: pytest.Item

    def assert_proved(self, step: Step, **settings: Any) -> Proof:
        """Prove, and return the proof; arguments are those of `prove`: `parallelize`, `devices` and so on.

        Raises:
            NotProvedError: an AssertionError with the first cause in one line; the report is a section of the failure.
            CannotRunError: a side cannot be built or run.
        """
        __tracebackhide__ = True
        from shardproof.report.assertion import NotProvedError, assert_proved, tell_failure
        from shardproof.report.text import render_text

        try:
            return assert_proved(step, **settings)
        except NotProvedError as error:
            # On the item: pytest takes it into the report of this phase, and xdist carries it to the main process.
            self.item.add_report_section("call", "shardproof", render_text(error.proof))
            raise NotProvedError(tell_failure(error.proof), error.proof) from None


@pytest.fixture
def shardproof(request: pytest.FixtureRequest) -> Prover:
    """Prove sharded training steps; the report is a section of the failure."""
    assert isinstance(request.node, pytest.Item)
    return Prover(item=request.node)

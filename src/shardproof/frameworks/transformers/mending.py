"""Mending: entries of a plan with which a wrong proof passes, searched for by proving it again with each."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.exact.errors import ExactArithmeticError
from shardproof.frameworks.transformers.plan_candidates import list_candidates, list_run_order
from shardproof.proving.findings import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    from shardproof.proving.findings import Finding, Proof
    from shardproof.proving.records import Key
    from shardproof.proving.step import Step

MOST_TRIES = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """What would mend a wrong proof.

    Attributes:
        entries: styles by pattern of names, to be put into the plan; empty where none was found.
        proof: the same proof with them; None where none was found.
        tried: how many times the proof was made again.
    """

    entries: Mapping[str, str] = field(default_factory=dict)
    proof: Proof | None = None
    tried: int = 0


def find_mend(
    proof: Proof,
    step: Step,
    resolve: Callable[[nn.Module, Mapping[str, str]], Mapping[str, str]],
    attempt: Callable[[Mapping[str, str]], Proof],
    *,
    most: int = MOST_TRIES,
    seconds: float = float("inf"),
) -> Suggestion:
    """Search for entries with which nothing is wrong any more.

    Candidates come from the first causes, one entry at a time. One that leaves fewer tensors wrong, and no other
    ones, is kept, and the search goes on from there for what is left.

    Args:
        proof: with something WRONG.
        step: what was proved, of a model of transformers.
        resolve: the plan of a model with some entries put in, a style for each module and parameter.
        attempt: the same proof with some entries put in.
        most: how many times to try.
        seconds: after which no further try begins.
    """
    model = step.model()
    modules = list_run_order(step, model)
    entries: dict[str, str] = {}
    tried, until = 0, time.monotonic() + seconds
    while True:
        found = None
        for candidate in list_candidates(_list_roots(proof), model, modules, resolve(model, entries)):
            if tried == most or time.monotonic() > until:
                return Suggestion(tried=tried)
            tried += 1
            found = _try(attempt, entries | candidate)
            if found is not None and _list_failed(found) < _list_failed(proof):
                break
            found = None
        if found is None:
            return Suggestion(tried=tried)
        entries, proof = entries | candidate, found
        if not _list_roots(proof):
            return Suggestion(entries=entries, proof=proof, tried=tried)


def _try(attempt: Callable[[Mapping[str, str]], Proof], entries: Mapping[str, str]) -> Proof | None:
    """The proof with these entries; None where transformers cannot apply them, or the model cannot run so."""
    try:
        return attempt(entries)
    except (CannotRunError, ExactArithmeticError):
        return None


def _list_roots(proof: Proof) -> list[Finding]:
    """The first causes that are to be mended: not what could not be told on either side."""
    return [one for one in proof.roots if one.failed and one.verdict is not Verdict.VACUOUS]


def _list_failed(proof: Proof) -> frozenset[Key]:
    return frozenset(one.key for one in proof.findings if one.failed)

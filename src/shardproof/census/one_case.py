"""One case: a model type proved, and whatever happens put into a result."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from shardproof.census.results import BASE, LOADING, Outcome, Result
from shardproof.errors import CannotRunError
from shardproof.exact.errors import ExactArithmeticError
from shardproof.frameworks.transformers import (
    OneDeviceError,
    OwnPlan,
    PlanChange,
    ShardedCrashError,
    find_mend,
    make_reproduction,
    save_reproduction,
    tiny_step,
)
from shardproof.frameworks.transformers.loading import check_loading
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.report.grouping import group_findings
from shardproof.report.json import installed_versions
from shardproof.report.words import describe_cause
from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import nn

    from shardproof.census.results import Case
    from shardproof.proving.findings import Finding, Proof
    from shardproof.proving.step import Step

_WORST_FIRST = {
    Verdict.WRONG: Outcome.WRONG,
    Verdict.UNDECIDED: Outcome.UNDECIDED,
    Verdict.UNSUPPORTED: Outcome.UNSUPPORTED,
    Verdict.VACUOUS: Outcome.VACUOUS,
}
_MOST_CAUSES = 8
_MOST_TEXT = 600
_SUGGEST_SECONDS = 120.0  # of searching for entries that mend a plan, at most; a try that has begun ends


def prove_case(case: Case, folder: Path | None = None) -> Result:
    """Prove one training step of the type, small, with plain SGD: the plan decides the gradients, not the optimizer.

    Where chance has made an element void in the only trial, other random numbers are taken, once.

    Args:
        case: which.
        folder: where scripts of what is wrong or fails on ranks are written, each in a folder of its own.
    """
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    started = time.monotonic()
    versions = {name: version for name, version in installed_versions().items() if name != "python"}
    model = ""
    step: Step | None = None
    roots: tuple[Finding, ...] = ()
    try:
        if case.variant == LOADING:
            return replace(_load(case), seconds=round(time.monotonic() - started, 1), versions=versions)
        step = replace(tiny_step(case.kind, case.settings, seed=case.seed), steps=1, optimizer=_sgd)
        model = type(step.model()).__name__
        proof = _prove(step, case)
        roots = proof.roots
        result = _mend(step, _describe(case, proof), proof)
    except Exception as error:  # noqa: BLE001 - a result says what happened
        outcome = _name_outcome(error)
        loading = case.variant == LOADING
        if outcome is Outcome.CRASH and not loading and (step is None or not _crashes_in_numbers(step, case)):
            outcome = Outcome.REFUSED
        result = Result(case=case, outcome=outcome, said=_shorten(error))
    if folder is not None and step is not None and result.outcome in (Outcome.WRONG, Outcome.CRASH):
        _write_script(folder, step, result, roots)
    return replace(result, model=model, seconds=round(time.monotonic() - started, 1), versions=versions)


def _load(case: Case) -> Result:
    found = check_loading(case.kind, case.settings, case.devices)
    causes = [f"{one.name} ({one.where}): {one.said}" for one in found.misplaced]
    more = [f"and {len(causes) - _MOST_CAUSES} more"] if len(causes) > _MOST_CAUSES else []
    outcome = Outcome.LOADED if found.ok else Outcome.WRONG
    return Result(case=case, outcome=outcome, model=found.model, causes=(*causes[:_MOST_CAUSES], *more))


def _prove(step: Step, case: Case, *, numeric: bool = False, change: PlanChange | None = None) -> Proof:
    for seed in (case.seed, case.seed + 1):
        proof = prove(
            step,
            parallelize=OwnPlan(change=change or PlanChange()),
            devices=None if case.mesh else case.devices,
            mesh=case.mesh or None,
            trials=case.trials,
            seed=seed,
            timeout=600,
            numeric=numeric,
        )
        if not any(finding.verdict is Verdict.UNSUPPORTED for finding in proof.findings):
            break
    return proof


def _mend(step: Step, result: Result, proof: Proof) -> Result:
    """The result of a wrong proof, with entries that would mend it, and what the same proof says with them."""
    case = result.case
    if result.outcome is not Outcome.WRONG or not case.suggest:
        return result

    def attempt(entries: Mapping[str, str]) -> Proof:
        return _prove(step, case, change=PlanChange(put=entries))

    def resolve(model: nn.Module, entries: Mapping[str, str]) -> Mapping[str, str]:
        return OwnPlan(change=PlanChange(put=entries)).resolve(model, proof.mesh)

    found = find_mend(proof, step, resolve, attempt, seconds=_SUGGEST_SECONDS)
    mended = "" if found.proof is None else str(_describe(case, found.proof).outcome)
    return replace(result, suggested=dict(found.entries), mended=mended, tried=found.tried)


def _write_script(folder: Path, step: Step, result: Result, roots: Sequence[Finding]) -> None:
    """Write the script of a result; none where it would not show what is wrong."""
    case = result.case
    said = [printable(one) for one in (*result.causes, *([result.said] if result.said else []))]
    own = folder / (
        case.kind if case.variant == BASE else f"{case.kind}-{re.sub(r'[^0-9A-Za-z_.=-]', '_', case.variant)}"
    )
    with suppress(CannotRunError):
        made = make_reproduction(step, OwnPlan(change=PlanChange()), case.devices, roots, said)
        own.mkdir(parents=True, exist_ok=True)
        save_reproduction(made, own)


def _crashes_in_numbers(step: Step, case: Case) -> bool:
    """Whether the ranks fail in ordinary arithmetic too: only then is it the model's own code."""
    try:
        _prove(step, case, numeric=True)
    except CannotRunError as error:
        return _name_outcome(error) is Outcome.CRASH
    return False


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def _describe(case: Case, proof: Proof) -> Result:
    counts = Counter(str(finding.verdict) for finding in proof.findings)
    outcome = next((outcome for verdict, outcome in _WORST_FIRST.items() if counts[verdict]), Outcome.PROVED)
    failed = [finding for finding in proof.roots if finding.failed]
    roots = sorted(failed, key=lambda one: one.verdict is not Verdict.WRONG)  # first what makes the plan wrong
    causes = [_say(group.first, group.pattern, len(group.findings), proof.mesh) for group in group_findings(roots)]
    more = [f"and {len(causes) - _MOST_CAUSES} more"] if len(causes) > _MOST_CAUSES else []
    return Result(case=case, outcome=outcome, counts=dict(counts), causes=(*causes[:_MOST_CAUSES], *more))


def _say(finding: Finding, pattern: str, count: int, mesh: Mapping[str, int]) -> str:
    many = f" ({count} tensors)" if count > 1 else ""
    cause = "" if finding.cause is None else f": {describe_cause(finding.cause, mesh=mesh)}"
    return f"{finding.verdict} {finding.key.phase} {pattern}{many}{cause}"


def _name_outcome(error: BaseException) -> Outcome:
    """What an error means, by the errors that it comes of."""
    for one in _chain(error):
        if isinstance(one, ExactArithmeticError):
            return Outcome.UNSUPPORTED
        if isinstance(one, MemoryError) or "can't allocate memory" in str(one):
            return Outcome.MEMORY
        if isinstance(one, OneDeviceError):
            return Outcome.ONE_DEVICE
        if isinstance(one, ShardedCrashError):
            return Outcome.CRASH
    last = list(_chain(error))[-1]
    on_a_rank = str(error).startswith("rank ")
    return Outcome.CRASH if on_a_rank and not isinstance(last, CannotRunError) else Outcome.REFUSED


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _shorten(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if isinstance(error, CannotRunError) else f"{type(error).__name__}: {text}"
    return text if len(text) <= _MOST_TEXT else text[:_MOST_TEXT] + " ..."

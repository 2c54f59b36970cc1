"""`prove`: run both sides in exact arithmetic, several times, and say of every tensor what that shows."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import TYPE_CHECKING

import torch

from shardproof.errors import CannotRunError
from shardproof.exact import ExactArithmetic
from shardproof.proving.alignment import Alignment
from shardproof.proving.candidate import run_training
from shardproof.proving.findings import Finding, Proof, Verdict
from shardproof.proving.judge import judge
from shardproof.proving.layout import find_layout
from shardproof.proving.ranks import Sent, run_in_processes, run_in_threads
from shardproof.proving.records import ACTIVATIONS, Phase
from shardproof.proving.roots import mark_roots
from shardproof.proving.rounding import measure_rounding
from shardproof.proving.sides import build_model, draw_parameters, run_reference
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardproof.proving.candidate import Candidate
    from shardproof.proving.judge import Outcome
    from shardproof.proving.ranks import Reload
    from shardproof.proving.records import Key
    from shardproof.proving.rounding import Rounding
    from shardproof.proving.sides import Parallelize
    from shardproof.proving.step import Step


def prove(
    step: Step,
    *,
    parallelize: Parallelize | None = None,
    candidate: Candidate | None = None,
    devices: int,
    trials: int = 3,
    seed: int = 0,
    spawn: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
    reload: Reload | None = None,
) -> Proof:
    """Prove that a sharded training step is still the single-device step.

    Args:
        step: what a training step is.
        parallelize: `parallelize(model, mesh) -> model`, the user's own sharding. The mesh has one axis, `tp`.
        candidate: instead, `candidate(run)`: the user's own training step, with its own split of the batch, averaging
            of the loss, clipping and update; see `shardproof.proving.candidate`.
        devices: how many ranks.
        trials: how many times, each with another prime, other inputs and other oracles.
        seed: of all of them.
        spawn: run each rank in a process of its own, instead of simulating them in this one.
        timeout: seconds after which ranks that get nowhere are given up.
        reload: what a spawned rank calls for its `(step, parallelize)`, where these cannot be pickled: a function at
            the top of a module, or an object of such a class.

    Raises:
        CannotRunError: a side cannot be built or run.
    """
    if devices < 2:
        raise CannotRunError(f"devices is {devices}; a sharded step needs at least 2")
    if trials < 1:
        raise CannotRunError(f"trials is {trials}; give at least 1")
    if (parallelize is None) == (candidate is None):
        raise CannotRunError("prove needs exactly one of parallelize(model, mesh) and candidate(run)")
    if candidate is not None and spawn:
        raise CannotRunError("candidate(run) is run simulated only; leave out spawn, or give parallelize")
    model = build_model(step, seed)
    draw_parameters(model, seed)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seeds = tuple(seed * 1000 + trial for trial in range(trials))
    contexts = [ExactArithmetic(seed=s) for s in seeds]
    # The candidate gets contexts of its own: what the reference lifts or tags is not known to it.
    try:
        reference = run_reference(step, model, contexts, fresh=candidate is None)
    except Exception as error:
        if isinstance(error, CannotRunError):
            raise
        raise CannotRunError(f"the step cannot be run on one device: {type(error).__name__}: {error}") from error
    if candidate is not None:
        trained = [ExactArithmetic(seed=s) for s in seeds]
        ranks = ThreadedWorld(size=devices, timeout=timeout).run(run_training, step, candidate, state, trained)
    elif spawn:
        assert parallelize is not None
        world = SpawnedWorld(size=devices, timeout=timeout)
        ranks = run_in_processes(world, reload or Sent(step, parallelize), state, seeds, seed)
    else:
        assert parallelize is not None
        ranks = run_in_threads(ThreadedWorld(size=devices, timeout=timeout), step, parallelize, state, seeds, seed)
    layout = find_layout(
        reference.parameters,
        {name: {rank: side.parameters[name] for rank, side in enumerate(ranks)} for name in ranks[0].parameters},
    )
    outcomes = [
        judge(
            Alignment(
                reference=reference.trials[trial],
                ranks=[side.trials[trial] for side in ranks],
                layout=layout,
                own_training=candidate is not None,
            ),
            context.prime,
        )
        for trial, context in enumerate(contexts)
    ]
    alone = find_layout(reference.parameters, {name: {0: values} for name, values in reference.parameters.items()})
    beside = reference.native[torch.float64]
    rounding = partial(
        measure_rounding,
        candidate=Alignment(reference=beside, ranks=[side.native[torch.float64] for side in ranks], layout=layout),
        float32=Alignment(reference=beside, ranks=[reference.native[torch.float32]], layout=alone),
    )
    return Proof(
        findings=conclude(outcomes, rounding, own_training=candidate is not None),
        devices=devices,
        trials=trials,
        primes=tuple(context.prime for context in contexts),
        seeds=seeds,
    )


def conclude(
    trials: Sequence[Mapping[Key, Outcome]], rounding: Callable[[Key], Rounding | None], *, own_training: bool = False
) -> tuple[Finding, ...]:
    """One finding a tensor from its outcomes in all trials, and from its rounding where they differ.

    In a training of the user's own, modules may split the work as they like: where loss, gradients and updates are
    right, an activation that differs is no finding.

    Raises:
        CannotRunError: nothing was compared.
    """
    if not trials[0]:
        raise CannotRunError("nothing was compared: the step computes no gradient, loss or update")
    findings: list[Finding] = []
    pending: Finding | None = None  # the first of the partial activations that nothing has been seen to reduce yet
    for key in trials[0]:
        outcomes = [trial[key] for trial in trials if key in trial]
        verdict = judge_trials(outcomes)
        native = None if verdict.ok else rounding(key)
        if verdict is Verdict.WRONG and native is not None and native.agrees and not worst_cause(outcomes):
            verdict = Verdict.UNDECIDED
        if key.phase in ACTIVATIONS and verdict.ok:
            # Right activations are no findings; a wrong one is where the trouble starts.
            partial_here = all(outcome.partial for outcome in outcomes)
            pending = (pending or unreduced(key, outcomes[0])) if partial_here else None
            continue
        if own_training and key.phase in ACTIVATIONS and " times too " in worst_cause(outcomes):
            continue  # a rank's own scale (a local mean), which its training may make up for later
        if pending is not None and key.phase in ACTIVATIONS | {Phase.LOSS} and verdict is Verdict.WRONG:
            if all(finding.verdict.ok for finding in findings):
                findings.append(pending)
            pending = None
        worst = next((o for o in outcomes if not o.equal), outcomes[0])
        bound = prod(outcome.chance for outcome in outcomes)
        findings.append(
            Finding(
                key=key,
                verdict=verdict,
                cause=worst.cause,
                ranks=worst.ranks,
                differing=worst.differing,
                elements=worst.elements,
                rounding=native,
                false_accept=bound if verdict is Verdict.PROVED and bound < 1 else None,
            )
        )
    results = [finding for finding in findings if finding.key.phase not in ACTIVATIONS]
    if own_training and results and all(finding.verdict.ok for finding in results):
        return tuple(results)
    return mark_roots(findings)


def unreduced(key: Key, outcome: Outcome) -> Finding:
    """An activation that was partial on each rank, when what is computed from it turns out wrong."""
    return Finding(
        key=key,
        verdict=Verdict.WRONG,
        cause="ranks hold partial values whose sum is right, and what is computed from them is wrong",
        elements=outcome.elements,
    )


def worst_cause(outcomes: Sequence[Outcome]) -> str:
    """The cause that a trial named, if one did: a relation that holds to the last digit is no rounding."""
    return next((outcome.cause for outcome in outcomes if outcome.cause), "")


def judge_trials(outcomes: Sequence[Outcome]) -> Verdict:
    """What all trials of one tensor show together. A void trial that differs says nothing; one that agrees counts."""
    telling = [outcome for outcome in outcomes if outcome.equal or not outcome.void]
    if not telling:
        return Verdict.UNSUPPORTED
    if not all(outcome.equal for outcome in telling):
        return Verdict.WRONG
    if not any(outcome.informative for outcome in telling):
        return Verdict.VACUOUS
    return Verdict.PROVED

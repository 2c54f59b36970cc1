"""`prove`: run both sides in exact arithmetic, several times, and say of every tensor what that shows."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.exact.algebra.field import choose_prime
from shardproof.proving.axes import Axes, make_axes
from shardproof.proving.findings import Native, Proof
from shardproof.proving.judging.alignment import Alignment
from shardproof.proving.judging.collectives import conclude_divergence, find_divergence
from shardproof.proving.judging.conclude import conclude
from shardproof.proving.judging.drawn import find_shards_drawn_alike, judge_drawn
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.marks import mark_allowed, mark_source_lines
from shardproof.proving.judging.noise import lay_side_by_side, measure_rounding
from shardproof.proving.judging.numeric import add_numbers, conclude_numerically
from shardproof.proving.judging.outcomes import find_blind
from shardproof.proving.records import Precision
from shardproof.proving.running.batch import describe_probes, digest_batch
from shardproof.proving.running.both_sides import Runner
from shardproof.proving.running.determinism import require_deterministic
from shardproof.proving.running.request import RunRequest
from shardproof.proving.running.target import ProofTarget
from shardproof.proving.trials import find_candidate_layout, take_trials
from shardproof.worlds.randomness import randomness_kept
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardproof.proving.cause import Part
    from shardproof.proving.findings import Finding, Rounding
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.noise import OwnRuns
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import BothSides, Key
    from shardproof.proving.running.candidate import Candidate
    from shardproof.proving.running.models import Parallelize
    from shardproof.proving.running.target import Reload
    from shardproof.proving.step import Step


@randomness_kept()
def prove(
    step: Step,
    *,
    parallelize: Parallelize | None = None,
    candidate: Candidate | None = None,
    devices: int | None = None,
    mesh: Mapping[str, int] | None = None,
    data_axes: Sequence[str] | None = None,
    trials: int = 3,
    max_false_accept: float | None = None,
    allow: Sequence[str] = (),
    seed: int = 0,
    spawn: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
    reload: Reload | None = None,
    numeric: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Proof:
    """Prove that a sharded training step is still the single-device step.

    Args:
        step: what a training step is.
        parallelize: `parallelize(model, mesh) -> model`, the user's own sharding. Along data axes each rank gets
            its rows of the batch, split along dim 0, and the sharding is to average the gradients.
        candidate: instead, `candidate(run)`: the user's own training step, with its own split of the batch, averaging
            of the loss, clipping and update; see `shardproof.proving.running.candidate`.
        devices: how many ranks, on one axis `tp`.
        mesh: instead, the sizes of the mesh's axes by name: {"dp": 2, "tp": 2}.
        data_axes: of the mesh, by default those with `dp` or `data` in their name.
        trials: how many times, each with another prime, other inputs and other oracles.
        max_false_accept: take more trials until every derived bound is at most this, like 1e-12.
        allow: patterns of findings to let be, for '<verdict> <phase> <name>': 'VACUOUS gradient *.bias'.
        seed: of all of them.
        spawn: run each rank in a process of its own, instead of simulating them in this one.
        timeout: seconds after which ranks that get nowhere are given up.
        reload: what a spawned rank calls for its `ProofTarget`, where it cannot be pickled: a function at the top of a
            module, or an object of such a class.
        numeric: only compare the numbers in the model's own dtypes with the reference's rounding noise. Nothing is
            proved; for a step that exact arithmetic cannot run.
        tell: is told in a few words what is being run.

    Raises:
        CannotRunError: a side cannot be built or run; the step is not the same twice.
    """
    axes = make_axes(devices=devices, mesh=mesh, data_axes=data_axes)
    if trials < 1:
        raise CannotRunError(f"trials is {trials}; give at least 1")
    if max_false_accept is not None and not 0 < max_false_accept < 1:
        raise CannotRunError(f"max_false_accept is {max_false_accept}; give a probability like 1e-12")
    target = ProofTarget(step=step, parallelize=parallelize, candidate=candidate)
    request = RunRequest(
        mesh=axes.sizes,
        data_axes=axes.data,
        build_seed=seed,
        seeds=() if numeric else tuple(seed * 1000 + trial for trial in range(trials)),
        fresh=candidate is None,
        batch=digest_batch(step),
    )
    tell = tell or _say_nothing
    tell("the step twice on one device: is it the same?")
    require_deterministic(step, seed)
    tell("the numbers" if numeric else f"trial 1 of {trials}, and the numbers")
    runner = Runner(target=target, spawn=spawn, timeout=timeout, reload=reload)
    first = runner.run(replace(request, seeds=request.seeds[:1], draws=True), natively=True)
    try:
        layout = find_candidate_layout(first)
    except CannotRunError:
        findings = find_shards_drawn_alike(first.reference, first.ranks)
        if not findings:
            raise
    else:
        if not numeric:
            request, outcomes = take_trials(runner, request, first, layout, max_false_accept, tell)
        findings = conclude_numerically(_own_runs_of(first, layout)) if numeric else _judge_all(first, layout, outcomes)
        initial, masks = judge_drawn(first, layout)
        if numeric:  # right initial values are proved, and yet nothing of the step is
            initial = tuple(finding for finding in initial if not finding.verdict.ok)
        findings = (*initial, *findings, *masks)
    return Proof(
        findings=mark_source_lines(mark_allowed(findings, allow), first.source_lines),
        probes=describe_probes(step.batch),
        allow=tuple(allow),
        mesh=axes.sizes,
        data_axes=axes.data,
        trials=len(request.seeds),
        primes=tuple(choose_prime(one) for one in request.seeds),
        seeds=request.seeds,
        native=_describe_native(first),
    )


def _say_nothing(_told: str) -> None:
    """Nobody looks on."""


def _describe_native(both: BothSides) -> Native:
    """What was run in the user's own dtypes."""
    failed = both.reference.failed
    calls = [] if failed else both.ranks[0].native[both.own_precision].collectives
    return Native(dtype=both.dtype, failed=failed, collectives=len(calls))


def _judge_all(first: BothSides, layout: Layout, outcomes: Sequence[Mapping[Key, Outcome]]) -> tuple[Finding, ...]:
    """The findings of all trials, in their order of a step."""
    in_float64 = _in_float64(first, layout)
    findings = conclude(
        outcomes, _rounding(first, in_float64), partial(_blind, in_float64), own_training=first.own_training
    )
    return _beside_numbers(findings, first, layout, outcomes[0])


def _own_runs_of(both: BothSides, layout: Layout) -> OwnRuns:
    if both.reference.failed:
        raise CannotRunError(f"the step does not run in {both.dtype} on one device: {both.reference.failed}")
    own = lay_side_by_side(both.reference, both.ranks, layout, both.axes, own_training=both.own_training)
    assert own is not None
    return own


def _beside_numbers(
    findings: tuple[Finding, ...], both: BothSides, layout: Layout, outcomes: Mapping[Key, Outcome]
) -> tuple[Finding, ...]:
    if both.reference.failed:
        return findings
    dtype = both.dtype
    divergence = find_divergence(
        [side.trials[0] for side in both.ranks], [side.native[both.own_precision] for side in both.ranks]
    )
    return add_numbers(
        findings,
        _own_runs_of(both, layout),
        agreed={key for key, outcome in outcomes.items() if outcome.equal and not outcome.partial},
        divergence=None if divergence is None else conclude_divergence(divergence, dtype),
        dtype=dtype,
    )


def _in_float64(both: BothSides, layout: Layout) -> Alignment:
    """The float64 runs, side by side."""
    return Alignment(
        reference=both.reference.native[Precision.FLOAT64],
        ranks=[side.native[Precision.FLOAT64] for side in both.ranks],
        layout=layout,
        axes=both.axes,
    )


def _blind(in_float64: Alignment, key: Key) -> frozenset[Part]:
    """The parts of a tensor that are zero in the reference's float64 run."""
    aligned = in_float64.of(key)
    return frozenset() if aligned is None else find_blind(aligned.held)


def _rounding(both: BothSides, in_float64: Alignment) -> Callable[[Key], Rounding | None]:
    """Measures a tensor's difference in float64 against the reference's noise."""
    own = {name: {0: values} for name, values in both.reference.parameters.items()}
    float32 = Alignment(
        reference=in_float64.reference,
        ranks=[both.reference.native[Precision.FLOAT32]],
        axes=Axes(),
        layout=find_layout(both.reference.parameters, own),
    )
    return partial(measure_rounding, candidate=in_float64, float32=float32)

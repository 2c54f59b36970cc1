"""`prove`: run both sides in exact arithmetic, several times, and say of every tensor what that shows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError
from shardproof.exact.algebra.field import choose_prime
from shardproof.proving.axes import make_axes
from shardproof.proving.findings import Native, Proof
from shardproof.proving.judging.evidence import collect_evidence
from shardproof.proving.judging.judge import (
    InFloat64,
    find_candidate_layout,
    judge_drawn,
    judge_exactly,
    judge_numerically,
    judge_sharding,
    judge_without_layout,
    list_branches,
    list_own_buffers,
    list_taken_constants,
    list_unwatched_states,
    measure_in_float64,
    needs_float64,
    settle_numbers,
)
from shardproof.proving.judging.marks import mark_allowed, mark_source_lines, unmark_consequences
from shardproof.proving.judging.one_sided import conclude_one_sided
from shardproof.proving.judging.update_inputs import collect_update_inputs
from shardproof.proving.records import Precision
from shardproof.proving.running.batch import describe_probes, digest_batch
from shardproof.proving.running.both_sides import Numbers, Runner
from shardproof.proving.running.determinism import require_deterministic
from shardproof.proving.running.freed_memory import free_cycles, freed_memory_reused
from shardproof.proving.running.replay import replay_updates
from shardproof.proving.running.request import RunRequest
from shardproof.proving.running.target import ProofTarget
from shardproof.proving.trials import Trials
from shardproof.worlds.fork_server import start_server
from shardproof.worlds.launched_runs import launched_runs
from shardproof.worlds.make import make_world
from shardproof.worlds.randomness import randomness_kept
from shardproof.worlds.world import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardproof.proving.findings import Finding
    from shardproof.proving.judging.layout import Layout
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import BothSides, Key
    from shardproof.proving.running.candidate import Candidate
    from shardproof.proving.running.models import Parallelize
    from shardproof.proving.running.target import Reload
    from shardproof.proving.step import Step
    from shardproof.worlds.launched_runs import LaunchedRuns


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
    launched: bool | LaunchedRuns = False,
    jobs: int = 1,
    timeout: float = DEFAULT_TIMEOUT,
    reload: Reload | None = None,
    numeric: bool = False,
    evidence: Sequence[str] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Proof:
    """Prove that a sharded training step is still the single-device step.

    Args:
        step: what a training step is.
        parallelize: `parallelize(model, mesh) -> model`, the user's own sharding. Along data axes each rank gets
            its rows of the batch, split along dim 0, and the sharding is to average the gradients. Of a pipeline it may
            return a schedule of `torch.distributed.pipelining`, which runs the stages that it was made of.
        candidate: instead, `candidate(run)`: the user's own training step, with its own split of the batch, averaging
            of the loss, clipping and update; see `shardproof.proving.running.candidate`.
        devices: how many ranks, on one axis `tp`.
        mesh: instead, the sizes of the mesh's axes by name: {"dp": 2, "tp": 2}.
        data_axes: of the mesh, by default those with `dp` or `data` in their name, and `ep`.
        trials: how many times, each with another prime, other inputs and other oracles.
        max_false_accept: take more trials until every derived bound is at most this, like 1e-12.
        allow: patterns of findings to accept, for '<verdict> <phase> <name>': 'VACUOUS gradient *.bias'.
        seed: of all of them.
        spawn: run each rank in a process of its own, instead of simulating them in this one.
        launched: the ranks are the processes that torchrun started, all of which call `prove` with the same
            arguments. Rank 0 runs the step on one device, compares, and reports what cannot be run; each gets the
            proof. Instead of True, the runs that these processes are in already.
        jobs: in how many processes of their own trials after the first are taken side by side; each needs the memory of
            one. Of simulated ranks alone; the proof is the same.
        timeout: seconds after which ranks that get nowhere are given up.
        reload: what a spawned rank calls for its `ProofTarget`, where it cannot be pickled: a function at the top of a
            module, or an object of such a class.
        numeric: only compare the numbers in the model's own dtypes with the reference's rounding noise. Nothing is
            proved; for a step that exact arithmetic cannot run.
        evidence: patterns for '<phase> <name>' of tensors whose values a page shows beside those that are not right, so
            none for these alone; collected only if it is given.
        tell: is called with a few words on what is run next.

    Raises:
        CannotRunError: a side cannot be built or run; the step is not the same twice. Launched ranks other than 0 raise
            `SystemExit(2)` instead and print nothing.
    """
    if launched:
        devices = _count_launched(spawn=spawn, devices=devices, mesh=mesh)
    axes = make_axes(devices=devices, mesh=mesh, data_axes=data_axes)
    if trials < 1:
        raise CannotRunError(f"trials is {trials}; give at least 1")
    if max_false_accept is not None and not 0 < max_false_accept < 1:
        raise CannotRunError(f"max_false_accept is {max_false_accept}; give a probability like 1e-12")
    if jobs < 1 or (jobs > 1 and (spawn or launched)):
        needed = "simulated ranks, as others are processes already" if jobs > 1 else "at least 1"
        raise CannotRunError(f"jobs is {jobs}; it needs {needed}")
    if jobs > 1 and trials > 2:
        start_server()  # it is ready when the first trial has been taken
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
    runner = Runner(target=target, spawn=spawn, timeout=timeout, reload=reload, jobs=jobs)
    settings = _Settings(allow=allow, max_false_accept=max_false_accept, evidence=evidence, tell=tell)
    if launched is not True:
        runner = runner if launched is False else replace(runner, launched=launched)
        with freed_memory_reused():
            return _prove(runner, request, settings)
    with freed_memory_reused(), launched_runs(timeout) as runs:
        if not runs.speaks:
            followed: Proof = runs.follow()
            return followed
        proof = _prove(replace(runner, launched=runs), request, settings)
        runs.publish(proof)
    return proof


def _count_launched(*, spawn: bool, devices: int | None, mesh: Mapping[str, int] | None) -> int | None:
    """The number of devices of a launched proof, where no mesh is given; all processes must have a place."""
    if spawn:
        raise CannotRunError("spawn and launched are both set: the ranks are processes that torchrun started, or ours")
    launched = make_world("launched", size=devices if mesh is None else prod(mesh.values())).size
    return launched if mesh is None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """What a proof reports and how far it goes: see `prove`."""

    allow: Sequence[str]
    max_false_accept: float | None
    evidence: Sequence[str] | None
    tell: Callable[[str], None]


def _prove(runner: Runner, request: RunRequest, settings: _Settings) -> Proof:
    step, numeric, tell, evidence = runner.target.step, not request.seeds, settings.tell, settings.evidence
    tell("the step twice on one device: is it the same?")
    require_deterministic(step, request.build_seed)
    wanted = len(request.seeds)
    request = replace(request, seeds=request.seeds[:1], traced=True)
    tell("the numbers" if numeric else f"trial 1 of {wanted}")
    first = runner.run(replace(request, draws=True), Numbers.BOTH) if numeric else runner.run(request)
    numbers = _OrdinaryRuns(runner, replace(request, seeds=(), told=tuple(side.told for side in first.ranks)), tell)
    sharding = seen = compared = None
    loaded: tuple[str, ...] = ()
    own_buffers, unwatched_states = list_own_buffers(first), list_unwatched_states(first)
    try:
        layout = find_candidate_layout(first)
    except CannotRunError:
        first = first if numeric else numbers.own(first)
        findings = judge_without_layout(first)
        if not findings:
            raise
    else:
        sharding, idle = judge_sharding(first, layout)
        loaded = tuple(sorted({name for side in first.ranks for name in side.told.filled}))
        selections: tuple[Finding, ...] = ()
        outcomes: list[dict[Key, Outcome]] = []
        in_float64 = InFloat64()
        if not numeric:
            alone = wanted == 1 and settings.max_false_accept is None
            trials = Trials.after_first(runner, request, first, layout, tell, alone=alone)
            compared = first if evidence is not None else None
            first = first.without_compared()  # the memory is needed for what follows
            free_cycles()
            if evidence is not None:
                first = numbers.in_float64(first)  # a page shows these too: kept, and not taken again
            in_float64 = _take_trials(trials, first, numbers, wanted, settings.max_false_accept)
            request, outcomes, selections = trials.request, trials.outcomes, conclude_one_sided(trials.choices)
            first = numbers.own(first)
        initial, masks = judge_drawn(first, layout)
        first = first.without_drawn()
        own_is_float64 = first.own_precision is Precision.FLOAT64
        inputs = collect_update_inputs(first, layout)
        if not numeric:
            settled = settle_numbers(first, layout)
            first = first.without_settled()  # the memory is needed for what follows
        first = replace(first, replays=replay_updates(step, inputs, in_float64=own_is_float64))
        if numeric:
            findings = judge_numerically(first, layout)
            # Right initial values are PROVED, but a report of numbers must not say that anything is proved.
            initial = tuple(finding for finding in initial if not finding.verdict.ok)
        else:
            findings = judge_exactly(first, layout, outcomes, in_float64, settled)
        findings = unmark_consequences((*idle, *initial, *findings, *masks, *selections))
        if evidence is not None:
            tell("what a page shows")
            shown = first if compared is None else compared.joined(first)
            seen = collect_evidence(shown, layout, outcomes[0] if outcomes else {}, findings, evidence)
    return Proof(
        findings=mark_source_lines(mark_allowed(findings, settings.allow), first.source_lines),
        probes=describe_probes(step.batch),
        allow=tuple(settings.allow),
        mesh=request.mesh,
        data_axes=request.data_axes,
        trials=len(request.seeds),
        primes=tuple(choose_prime(one) for one in request.seeds),
        seeds=request.seeds,
        native=_describe_native(first),
        sharding=sharding,
        loaded=loaded,
        own_buffers=own_buffers,
        unwatched_states=unwatched_states,
        taken_constants=list_taken_constants(first),
        branches=list_branches(first),
        evidence=seen,
    )


def _take_trials(
    trials: Trials, first: BothSides, numbers: _OrdinaryRuns, wanted: int, max_false_accept: float | None
) -> InFloat64:
    """Take all trials after the first; returns what runs in float64 tell of tensors that these leave open."""
    trials.take(wanted - 1)
    if max_false_accept is not None:
        trials.take_for_bound(max_false_accept)
    in_float64 = numbers.measure_in_float64(first, trials.layout, trials.outcomes)
    trials.take_for_unjudged(first, in_float64)
    if in_float64.covers(trials.outcomes):
        return in_float64
    return numbers.measure_in_float64(first, trials.layout, trials.outcomes)


@dataclass(frozen=True, slots=True)
class _OrdinaryRuns:
    """The runs in ordinary arithmetic, taken once the exact ones are compared; those in float64 only where needed."""

    runner: Runner
    request: RunRequest
    tell: Callable[[str], None]

    def own(self, both: BothSides) -> BothSides:
        """With those in the user's own dtypes, and what is drawn."""
        self.tell(f"the numbers in {both.dtype}")
        return both.joined(self.runner.run(replace(self.request, draws=True), Numbers.OWN))

    def in_float64(self, both: BothSides) -> BothSides:
        """With those in float64."""
        if both.in_float64:
            return both
        self.tell("the numbers in float64")
        return both.joined(self.runner.run(self.request, Numbers.FLOAT64))

    def measure_in_float64(
        self, both: BothSides, layout: Layout, outcomes: Sequence[Mapping[Key, Outcome]]
    ) -> InFloat64:
        """What those in float64 tell, where they are needed; their tensors are not kept."""
        if not needs_float64(outcomes):
            return InFloat64()
        return measure_in_float64(self.in_float64(both), layout, outcomes)


def _say_nothing(_told: str) -> None:
    """Progress that nobody asked for."""


def _describe_native(both: BothSides) -> Native:
    """What was run in the user's own dtypes."""
    failed = both.reference.failed
    calls = [] if failed else both.ranks[0].native[both.own_precision].collectives
    return Native(dtype=both.dtype, failed=failed, collectives=len(calls))

"""What a fixed proof costs, counted and not timed: ops, runs, bytes kept, passes of the judge over memory.

A count that rises is a regression to explain, or to mend; one that falls lowers the limit here.
"""

from collections import Counter
from dataclasses import fields, is_dataclass, replace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from shardproof.exact.engine.dispatch import Dispatcher
from shardproof.exact.engine.short_way import ShortWay
from shardproof.parallel import Column, Row, parallelize
from shardproof.proving.judging.judge import (
    InFloat64,
    compare_trials,
    find_candidate_layout,
    judge_drawn,
    judge_exactly,
    judge_sharding,
    needs_float64,
)
from shardproof.proving.judging.update_inputs import collect_update_inputs
from shardproof.proving.running import one_rank
from shardproof.proving.running.both_sides import Numbers, Runner
from shardproof.proving.running.request import RunRequest
from shardproof.proving.running.target import ProofTarget
from shardproof.proving.step import Step

HIDDEN, WIDE = 64, 256
PARAMETERS = 2 * HIDDEN * WIDE + HIDDEN + WIDE


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(HIDDEN, WIDE), nn.Linear(WIDE, HIDDEN)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


def make_target():
    generator = torch.Generator().manual_seed(0)
    step = Step(
        model=MLP,
        batch=tuple(torch.randn(2, 4, HIDDEN, generator=generator)),
        loss=F.mse_loss,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        steps=1,
    )
    plan = {"up": Column(), "down": Row()}
    return ProofTarget(step=step, parallelize=lambda model, mesh: parallelize(model, mesh, plan))


class Counted(TorchDispatchMode):
    """Counts ATen ops, and the elements that they read; views read none."""

    def __init__(self):
        super().__init__()
        self.ops, self.elements, self.sorted = Counter(), 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if not func.is_view and func is not torch.ops.aten.detach.default:
            self.ops[str(func)] += 1
            given = [x for arg in args for x in (arg if isinstance(arg, list | tuple) else [arg])]
            self.elements += sum(x.numel() for x in given if isinstance(x, Tensor))
            if "sort" in str(func):
                self.sorted.append(args[0].numel())
        return found


def storages(value, found=None):
    """The bytes of each storage that a value of plain values holds, by its address."""
    found = {} if found is None else found
    if isinstance(value, Tensor):
        found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
    elif isinstance(value, dict):
        for item in value.values():
            storages(item, found)
    elif isinstance(value, list | tuple):
        for item in value:
            storages(item, found)
    elif is_dataclass(value):
        for field in fields(value):
            storages(getattr(value, field.name), found)
    return found


@pytest.fixture(scope="module")
def cost():
    """The counts of a first trial of two ranks, with its runs in ordinary arithmetic, and of its judgement."""
    exact, short, runs = Counter(), Counter(), Counter()
    carry_out, go_short, train = Dispatcher.carry_out, ShortWay.carry_out, one_rank._train_one_run

    def counted(dispatcher, op, *args, **options):
        exact[str(op)] += 1
        return carry_out(dispatcher, op, *args, **options)

    def counted_short(way, op, args, kwargs):
        found = go_short(way, op, args, kwargs)
        short[str(op)] += found is not NotImplemented
        return found

    def counted_run(context, build, split, run, **options):
        kind = "exact" if run.recorder.exact is not None else "masks" if run.masks is not None else run.precision.value
        runs[kind] += 1
        return train(context, build, split, run, **options)

    with (
        mock.patch.object(Dispatcher, "carry_out", counted),
        mock.patch.object(ShortWay, "carry_out", counted_short),
        mock.patch.object(one_rank, "_train_one_run", counted_run),
    ):
        runner = Runner(target=make_target(), spawn=False, timeout=60, reload=None)
        request = RunRequest(mesh={"tp": 2}, traced=True)
        first = runner.run(replace(request, seeds=(0,)))
        further = replace(request, told=tuple(side.told for side in first.ranks), draws=True)
        own = runner.run(further, Numbers.OWN)
    judged = Counted()
    with judged:
        layout = find_candidate_layout(first)
        judge_sharding(first, layout)
        outcomes = compare_trials(first, layout)
        both = first.without_compared().joined(own)
        judge_drawn(both, layout)
        collect_update_inputs(both, layout)
        assert not needs_float64(outcomes)
        findings = judge_exactly(both, layout, outcomes, InFloat64())
    assert all(finding.verdict.ok for finding in findings)
    return {
        "exact ops": exact.total(),
        "the long way": exact.total() - short.total(),
        "runs": dict(runs),
        "bytes kept of exact runs": sum(storages(first).values()) / PARAMETERS,
        "bytes kept of ordinary runs": sum(storages(own).values()) / PARAMETERS,
        "judge's ops": judged.ops.total(),
        "judge's passes": judged.elements / PARAMETERS,
        "sorted": judged.sorted,
        "layout": layout,
    }


def test_the_runs_are_those_that_a_proof_needs(cost):
    """The reference's, and those of two ranks; masks are drawn only where something drops, float64 where it differs."""
    assert cost["runs"] == {
        "exact": 3,
        "own": 3,
        "rounded": 1,
        "shaken": 1,
        "shaken again": 1,
    }


@pytest.mark.parametrize(
    ("what", "limit"),
    [
        ("exact ops", 342),
        ("the long way", 151),
        ("bytes kept of exact runs", 54),
        ("bytes kept of ordinary runs", 87),
        ("judge's ops", 1889),
        ("judge's passes", 201),
    ],
)
def test_counts_stay_within_their_limits(cost, what, limit):
    assert cost[what] <= limit, f"{what}: {cost[what]}"
    assert cost[what] > 0.8 * limit, f"{what} is {cost[what]} now: lower the limit"


def test_shards_are_found_without_a_sort_of_the_state(cost):
    layout = cost["layout"]
    assert all(layout.is_in_parts(name) for name in layout.element_index)
    assert max(cost["sorted"]) < PARAMETERS / 100

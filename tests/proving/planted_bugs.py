"""What every planted bug has to show: it is killed at its place and for its reason, and on processes too."""

import pytest
from benchmarks.mutants.bug import load_bugs
from benchmarks.mutants.matrix import cause_right, root_right, run_bug

from shardproof.proving.prove import prove

ON_PROCESSES = pytest.param(True, marks=[pytest.mark.slow, pytest.mark.processes])


def bugs_numbered(*numbers):
    """The bugs M1, M2 and so on, by name."""
    names = {f"M{number}" for number in numbers}
    return {bug.id: bug for bug in load_bugs() if bug.id in names}


def require_killed(bug):
    """The bug is killed at its place and for its reason, and changes numbers without the prover."""
    row = run_bug(bug, baselines=False)
    assert row.killed
    assert row.shown
    assert root_right(bug, row), row.roots
    assert cause_right(bug, row) in (True, None), row.causes


def require_same_on_processes(bug):
    """Spawned ranks find the first causes that simulated ones find, and there are some."""
    planted = bug.configuration()

    def roots(**settings):
        sharding = {"parallelize": planted.parallelize, "candidate": planted.candidate}
        proof = prove(planted.make_step(), **sharding, mesh=dict(planted.mesh), trials=1, **settings)
        return [(root.key, root.verdict, root.cause) for root in proof.roots]

    assert roots(spawn=True) == roots() != []

"""Planted bugs are killed at their place and for their reason; a change without effect survives."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from benchmarks.mutants.baselines import NAMES
from benchmarks.mutants.block import Sizes
from benchmarks.mutants.bug import Bug, load_bugs
from benchmarks.mutants.configuration import sharded
from benchmarks.mutants.correct import by_kind, configurations
from benchmarks.mutants.correct.decoders import Line, expand
from benchmarks.mutants.jobs import Job
from benchmarks.mutants.lines import Lines, unchanged
from benchmarks.mutants.matrix import cause_right, format_row, root_right, run_bug
from benchmarks.mutants.ordinary import find_differences
from benchmarks.mutants.pool import run_jobs
from benchmarks.mutants.processes import RankFailedError, run_in_processes
from benchmarks.mutants.progress import Progress
from benchmarks.mutants.sample import spread
from benchmarks.mutants.sharded import shard
from benchmarks.mutants.steps import make_step
from benchmarks.mutants.tried import try_configuration
from torch import nn

from shardproof.proving.cause import CauseKind
from shardproof.proving.step import Step

BUGS = {bug.id: bug for bug in load_bugs()}
ALL = {one.name: one for one in configurations()}
NO_BUG = Bug(id="M00", name="no-bug", phase="-", seen_in="", line="row_output", change=Lines().row_output, root="")


@pytest.mark.parametrize("name", ["M01", "M10", "M12", "M21", "M23", "M41"])
def test_a_bug_is_killed_at_its_place_and_for_its_reason(name):
    bug = BUGS[name]
    row = run_bug(bug, baselines=False)
    assert row.killed
    assert row.shown
    assert root_right(bug, row)
    assert cause_right(bug, row) in (True, None)


def test_a_change_without_effect_is_reported_as_survived_and_as_no_bug():
    row = run_bug(NO_BUG)
    assert not row.killed
    assert not row.refused
    assert "SURVIVED" in format_row(NO_BUG, row)
    assert "NO DIFFERENCE" in format_row(NO_BUG, row)
    assert not row.baselines["counts"]
    assert not row.baselines["1e-2"]


def test_a_bug_expected_elsewhere_is_not_called_right():
    bug = replace(BUGS["M10"], root="output norm", cause=CauseKind.SHARD_ORDER)
    row = run_bug(bug, baselines=False)
    assert row.killed
    assert not root_right(bug, row)
    assert cause_right(bug, row) is False


def test_baselines_see_a_missing_reduction_and_its_missing_collective():
    seen = run_bug(BUGS["M01"]).baselines
    assert tuple(seen) == NAMES
    assert seen["loss"]
    assert seen["counts"]


# One of each kind, the quick ones; `make mutants` runs them all.
SOME = [
    "by hand, sizes 1, tied, SGD, 2 ranks",
    "padded vocabulary, tied, 3 ranks",
    "own sequence-parallel training, clipped, AdamW, 2 ranks",
    "data parallel, updated by parts, 2 ranks",
    "MLP by styles: row output scattered, then gathered, 3 ranks",
    "loss: smoothed cross-entropy, 3 ranks",
    "attention: rope, biases, 2 ranks",
    "split sequences, RMSNorm, tied, 2 ranks",
    "Adam, amsgrad, DTensor, 4 ranks",
    "dtypes: a normed model of bfloat16, 2 ranks",
    "an encoder and a decoder, AdamW, tp 2",
    "strided sequences, Adam, 2 ranks",
    "an all-reduce, functional, AdamW, 2 ranks",
    "experts on their ranks, 16 tokens, AdamW, dp 2",
    "routed experts, room for the mean, all-to-all, Adam, ep 4",
    "decoder by FSDP2, dp 2, SGD, float16, clipped to 1.0",
]


@pytest.mark.parametrize("name", SOME)
def test_a_correct_configuration_is_proved_and_is_correct(name):
    tried = try_configuration(ALL[name])
    assert not tried.alarm
    assert not tried.mistaken


def test_there_are_many_and_each_has_a_name_of_its_own():
    assert len(ALL) == len(configurations()) > 1000


def test_a_configuration_that_is_not_correct_is_found_without_the_prover_and_by_it():
    step = make_step(Sizes(), steps=1)
    wrong = sharded("a bias added on every rank", step, shard(BUGS["M10"].lines), 2)
    tried = try_configuration(wrong)
    assert "step 1, output layers.0.attention.out WRONG" in tried.alarm
    assert not tried.undecided
    assert tried.mistaken.startswith("loss of step 1 (")


def test_a_configuration_that_cannot_be_run_is_a_false_alarm():
    broken = sharded("no module", make_step(Sizes()), lambda _model, _mesh: None, 2)
    tried = try_configuration(broken)
    assert tried.alarm.startswith("not run: ")
    assert not tried.undecided
    assert "rank 0, rank 1" in tried.mistaken


class Counting(nn.Module):
    """A linear layer that sums what it has seen in a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.share = 1.0

    def forward(self, x):
        self.seen += x.detach().sum() * self.share
        return self.linear(x)


def count_half(model, _mesh):
    model.share = 0.5
    return model


def drift(model, mesh):
    model.linear.bias.register_hook(lambda gradient: gradient * (1 + mesh.get_local_rank()))
    return model


@pytest.mark.parametrize(
    ("parallelize", "expected"),
    [
        (count_half, ["buffer seen"]),
        (drift, ["loss of step 2", "loss of step 3", "parameter linear.weight", "parameter linear.bias"]),
    ],
)
def test_ordinary_runs_compare_losses_replicas_and_buffers(parallelize, expected):
    batch = (torch.ones(4, 3), torch.ones(4, 2))
    step = Step(model=Counting, batch=batch, loss=F.mse_loss, steps=1)
    right = sharded("right", step, lambda model, _mesh: model, 2)
    assert find_differences(right) == []
    found = [said for said in find_differences(replace(right, parallelize=parallelize)) if "rank 1" in said]
    assert len(found) == len(expected)
    assert all(said.startswith(one) for said, one in zip(found, expected, strict=True))


def test_a_rank_that_raises_says_so():
    def fail(rank):
        if rank:
            raise ValueError("so it is")

    with pytest.raises(RankFailedError, match=r"failed; rank 1: ValueError: so it is"):
        run_in_processes(2, fail, timeout=20)


def test_progress_is_kept_of_the_same_sources_alone(tmp_path):
    path, job = tmp_path / "progress.jsonl", Job("correct", "one")
    Progress(path, "a").add(job, {"alarm": ""})
    with path.open("a") as file:
        file.write('{"code": "a", "kind": "cor')  # interrupted here
    assert Progress(path, "a").results() == {job: {"alarm": ""}}
    assert Progress(path, "b").results() == {}


def test_the_fast_sample_has_some_of_each_kind_and_is_fixed():
    every = {"many": [str(i) for i in range(240)], "few": ["a", "b"]}
    assert spread(every) == spread(every)
    assert {kind: len(names) for kind, names in spread(every).items()} == {"many": 20, "few": 2}


def test_a_bug_with_a_step_of_its_own_has_a_right_twin_among_the_correct_ones():
    planted = [bug for bug in BUGS.values() if bug.plant is not None]
    assert len(planted) >= 40
    assert {f"without {bug.id}" for bug in planted} == {name.partition(":")[0] for name in by_kind()["right_twins"]}


def test_a_bug_is_a_line_or_a_step_of_its_own():
    with pytest.raises(ValueError, match="one of them"):
        replace(NO_BUG, plant=lambda _planted: None)


def test_bugs_come_in_the_order_of_their_numbers():
    numbers = [int("".join(filter(str.isdigit, bug.id))) for bug in load_bugs()]
    assert numbers == sorted(numbers)


def test_a_line_of_decoders_is_a_product_and_its_settings_are_taken_in_turn():
    line = Line(plans=("FSDP2", "HSDP"), meshes=("dp 2",), sizes=({}, {"layers": 2}))
    assert len(list(expand(line))) == 4
    each = replace(line, in_turn=False, optimizers=("AdamW", "SGD"), clips=(None, 1.0))
    assert len(list(expand(each))) == 16


def test_a_job_that_takes_too_long_is_given_up_and_the_others_are_done():
    jobs = [Job("bug", "M41"), Job("bug", "M01")]
    results = dict(run_jobs(jobs, processes=1, timeout=0.5))
    assert list(results) == jobs
    assert all(result["failed"] == "no end after 0.5 s" for result in results.values())


def test_each_bug_changes_one_known_line():
    with pytest.raises(ValueError, match="changes the line 'nowhere'"):
        replace(NO_BUG, line="nowhere", change=unchanged)
    assert len(BUGS) == len(load_bugs())

"""Meshes dp x tp: FSDP2 and data parallelism by hand are proved, bugs over either axis found and named by it."""

import json
import shutil
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import meshes
from torch import nn
from torch.distributed.fsdp import fully_shard

from shardproof import Step
from shardproof.cli.app import main
from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.report.text import render_text

pytestmark = [
    pytest.mark.filterwarnings("ignore:FSDP2-wrapped module"),  # returns a view: nothing here writes into it
    pytest.mark.filterwarnings("ignore:.*replicate.*:FutureWarning"),
]


@pytest.mark.parametrize(
    ("parallelize", "mesh"),
    [
        (meshes.shard_both, meshes.DP_TP),
        (meshes.shard_dp, meshes.DP),
        (meshes.shard_root_only, {"dp": 3}),
        (meshes.keep_unsharded, meshes.DP),
        (meshes.shard_last_dim, meshes.DP),
        (meshes.shard_and_replicate, {"dp_replicate": 2, "dp_shard": 2}),
        (meshes.replicate, meshes.DP),
        (meshes.average_by_hooks, meshes.DP_TP),
        (meshes.average_by_hooks, {"tp": 2, "dp": 2}),
    ],
)
def test_data_parallel_steps_are_proved(parallelize, mesh):
    proof = prove(meshes.make_net_step(rows=12, steps=2, clip_norm=1.0), parallelize=parallelize, mesh=mesh, trials=1)
    assert proof.ok, render_text(proof)
    assert proof.mesh == mesh
    assert {finding.key.phase for finding in proof.findings} >= {Phase.LOSS, Phase.GRADIENT, Phase.NORM, Phase.UPDATE}
    assert {finding.key.step for finding in proof.findings} == {0, 1}


def test_mixed_precision_is_proved():
    batch = tuple(tensor.bfloat16() for tensor in meshes.make_net_step().batch)
    step = meshes.make_net_step(model=meshes.make_net_in_bfloat16, batch=batch, steps=2)
    proof = prove(step, parallelize=meshes.in_mixed_precision, mesh=meshes.DP, trials=1)
    assert proof.ok, render_text(proof)


def test_segments_between_fsdp2_s_modules_have_bounds():
    proof = prove(meshes.make_net_step(), parallelize=meshes.shard_both, mesh=meshes.DP_TP, trials=2)
    assert proof.ok, render_text(proof)
    gradients = [finding for finding in proof.findings if finding.key.phase is Phase.GRADIENT]
    assert len(gradients) == len(list(meshes.Net().parameters()))
    assert all(finding.false_accept is not None and finding.false_accept < 1e-3 for finding in gradients)


def roots_of(parallelize, mesh=meshes.DP_TP, **changes):
    proof = prove(meshes.make_net_step(**changes), parallelize=parallelize, mesh=mesh, trials=1)
    assert not proof.ok
    return {(root.key.phase, root.key.name): root for root in proof.roots}


def test_gradients_that_nobody_averages_are_found_over_dp():
    roots = roots_of(meshes.average_nothing)
    gradients = {key for key in roots if key[0] is Phase.GRADIENT}
    assert gradients == set(roots)
    assert {name for _, name in gradients} == {name for name, _ in meshes.Net().named_parameters()}
    assert {root.cause for root in roots.values()} == {
        Cause(kind=CauseKind.MISSING_AVERAGE, axes=("dp",), mend=Mend.AVERAGE_GRADIENT)
    }


@pytest.mark.parametrize(
    ("parallelize", "factor"), [(meshes.average_twice, Fraction(1, 2)), (meshes.sum_only, Fraction(2))]
)
def test_gradients_divided_too_often_or_never_are_found(parallelize, factor):
    roots = roots_of(parallelize)
    cause = Cause(kind=CauseKind.SCALED, factor=factor)
    assert {key: root.cause for key, root in roots.items()} == {
        (Phase.GRADIENT, "up.weight"): cause,
        (Phase.GRADIENT, "up.bias"): cause,
    }


def test_a_partial_sum_over_tp_is_found_and_named_beside_dp():
    proof = prove(meshes.make_net_step(), parallelize=meshes.leave_partial_over_tp, mesh=meshes.DP_TP, trials=1)
    first = proof.roots[0]
    assert (first.key.phase, first.key.name, first.verdict) == (Phase.OUTPUT, "down", Verdict.WRONG)
    assert (first.cause.kind, first.cause.axes) == (CauseKind.UNREDUCED, ("tp",))
    assert "    ranks hold partial values whose sum over tp is right, " in render_text(proof)
    assert "    An all-reduce over tp is missing in the forward.\n" in render_text(proof)


def test_replicas_over_tp_that_disagree_are_found_although_dp_shards_them():
    roots = roots_of(meshes.disagree_over_tp)
    assert {key: root.cause for key, root in roots.items()} == {
        (Phase.GRADIENT, "norm.weight"): Cause(kind=CauseKind.REPLICAS_DIFFER, ranks=(1, 3))
    }


# A training of one's own ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bug", "phases"),
    [("", set()), ("replicas counted", {Phase.NORM}), ("shards missed", {Phase.NORM})],
)
def test_a_norm_that_counts_replicas_or_misses_shards_is_found(bug, phases):
    step = meshes.make_net_step(clip_norm=1.0)
    proof = prove(step, candidate=meshes.Training(bug), mesh=meshes.DP_TP, trials=1)
    assert proof.ok == (not phases), render_text(proof)
    assert {root.key.phase for root in proof.roots} == phases


@pytest.mark.parametrize("bug", [False, True])
def test_a_mean_per_rank_over_unequal_tokens_is_found(bug):
    proof = prove(meshes.make_step_of_tokens(), candidate=meshes.train_on_tokens(bug), mesh=meshes.DP, trials=1)
    assert proof.ok == (not bug), render_text(proof)
    assert (Phase.LOSS in {root.key.phase for root in proof.roots}) == bug


def test_the_same_mean_is_found_where_the_prover_takes_the_steps():
    proof = prove(meshes.make_step_of_tokens(), parallelize=meshes.shard_dp, mesh=meshes.DP, trials=1)
    assert Phase.LOSS in {finding.key.phase for finding in proof.findings if finding.verdict is Verdict.WRONG}


# transformers --------------------------------------------------------------------------------------------------------


def prove_subject(subject, mesh, **settings):
    return prove(subject.step, parallelize=subject.parallelize, mesh=mesh, trials=1, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [meshes.DP, meshes.DP_TP])
def test_llama_by_its_own_plan_and_fsdp2_is_proved(mesh):
    proof = prove_subject(meshes.load_llama(), mesh)
    assert proof.ok, render_text(proof)


@pytest.mark.slow
def test_llama_s_own_mean_over_a_rank_s_tokens_is_found():
    proof = prove_subject(meshes.load_model("llama", count=False), meshes.DP)
    assert [(root.key.phase, root.verdict) for root in proof.roots] == [(Phase.LOSS, Verdict.WRONG)]


@pytest.mark.slow
def test_a_norm_that_the_plan_forgets_is_named_over_tp_although_fsdp2_shards_it():
    proof = prove_subject(meshes.load_model("qwen3", drop=["*q_norm"]), meshes.DP_TP)
    assert {(root.key.phase, root.key.name, root.cause) for root in proof.roots} == {
        (
            Phase.GRADIENT,
            f"model.layers.{layer}.self_attn.q_norm.weight",
            Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=Mend.ALL_REDUCE_GRADIENT),
        )
        for layer in range(2)
    }
    assert "    An all-reduce of the gradient over tp is missing in the backward.\n" in render_text(proof)


def test_a_plan_cannot_be_changed_where_there_is_no_tp():
    with pytest.raises(CannotRunError, match="change the plan over tp or ep; the mesh has dp"):
        prove_subject(meshes.load_model("llama", drop=["*q_proj"]), meshes.DP)


# Input ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "exactly one of devices=N and mesh="),
        ({"devices": 2, "mesh": {"tp": 2}}, "exactly one of devices=N and mesh="),
        ({"mesh": {}}, "the mesh has 1 rank; a sharded step needs at least 2"),
        ({"mesh": {"dp": 1, "tp": 1}}, "the mesh has 1 rank"),
        ({"mesh": {"dp": 0, "tp": 2}}, "axis dp is of size 0"),
        ({"mesh": {"dp": True, "tp": 2}}, "axis dp is of size True"),
        ({"mesh": {"data parallel": 2}}, "has an axis 'data parallel'"),
        ({"mesh": {1: 2}}, "has an axis 1"),
        ({"mesh": {"tp": 2}, "data_axes": ["dp"]}, "data_axes names 'dp'; the mesh has tp"),
        ({"mesh": {"dp": 3}}, r"has shape \(4, 6\); its first dim must divide into 3 parts"),
    ],
)
def test_what_is_no_mesh_is_one_clear_line(arguments, said):
    with pytest.raises(CannotRunError, match=said) as caught:
        prove(meshes.make_net_step(), parallelize=meshes.shard_dp, trials=1, **arguments)
    assert "\n" not in str(caught.value)


def test_a_batch_without_rows_is_refused_and_not_proved_unsplit():
    step = meshes.make_net_step(batch=[object()], loss=None, forward=lambda model, batch: model.head.weight.sum())
    with pytest.raises(CannotRunError, match="holds no tensor with rows to split"):
        prove(step, parallelize=meshes.shard_dp, mesh=meshes.DP, trials=1)


def test_data_axes_may_have_any_name():
    def shard(model, mesh):
        return meshes.fully_shard(model, mesh=mesh["replicas"])

    step = meshes.make_net_step()
    assert prove(step, parallelize=shard, mesh={"replicas": 2}, data_axes=["replicas"], trials=1).ok
    # Every rank takes the whole batch, and the average of equal gradients is right too.
    assert prove(step, parallelize=shard, mesh={"replicas": 2}, trials=1).ok


# Command line --------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    def command(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["shardproof", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    shutil.copy(meshes.__file__, tmp_path / "meshes.py")
    return command


def test_a_certificate_carries_the_mesh_and_replays(run, tmp_path):
    arguments = ["meshes.py:step", "--parallelize", "meshes.py:average_nothing", "--trials", "1"]
    code, _, _ = run("prove", *arguments, "--mesh", "dp=2,tp=2", "--format", "json", "--output", "proof.json")
    assert code == 1
    written = json.loads((tmp_path / "proof.json").read_text())
    assert (written["mesh"], written["data_axes"]) == (meshes.DP_TP, ["dp"])
    code, out, _ = run("check", "proof.json")
    assert (code, out.splitlines()[0].partition(":")[0]) == (1, "HOLDS, and is of a step that is NOT PROVED")
    (tmp_path / "proof.json").write_text(json.dumps(written | {"mesh": {"dp": 1, "tp": 2}}))
    code, out, _ = run("check", "proof.json")
    assert (code, out.splitlines()[0].partition(":")[0]) == (1, "DOES NOT HOLD")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mesh", "dp"], "'dp': give KEY=VALUE"),
        (["--mesh", "dp=2,dp=2"], "give each axis once"),
        (["--mesh", "dp=two"], "give each axis once, with its size"),
        (["--mesh", "dp=2", "--devices", "2"], "exactly one of devices=N and mesh="),
        (["--mesh", "dp=2", "--data-axes", "pp"], "data_axes names 'pp'; the mesh has dp"),
    ],
)
def test_a_mesh_that_is_none_is_exit_code_2(run, options, said):
    code, out, err = run("prove", "meshes.py:step", "--parallelize", "meshes.py:shard_dp", *options)
    assert (code, out) == (2, "")
    assert said in err


# Processes -----------------------------------------------------------------------------------------------------------


def said(proof):
    """All but the last digits of ordinary runs: four ranks' sums come in another order on gloo."""
    return replace(proof, findings=tuple(replace(one, rounding=None, numbers=None) for one in proof.findings))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("parallelize", "right"),
    [(meshes.shard_both, True), (meshes.average_nothing, False), (meshes.disagree_over_tp, False)],
)
def test_spawned_ranks_find_what_simulated_ones_do(parallelize, right):
    step = meshes.make_net_step(steps=2, clip_norm=1.0, optimizer=meshes.make_adam)
    simulated, spawned = (
        prove(step, parallelize=parallelize, mesh=meshes.DP_TP, trials=1, spawn=spawn) for spawn in (False, True)
    )
    assert said(spawned) == said(simulated)
    assert spawned.ok is right


@pytest.mark.processes
@pytest.mark.slow
def test_spawned_llama_ranks_find_what_simulated_ones_do():
    simulated, spawned = (
        prove_subject(meshes.load_llama(), meshes.DP_TP, spawn=spawn, reload=meshes.load_llama)
        for spawn in (False, True)
    )
    assert said(spawned) == said(simulated)
    assert spawned.ok


class Adapted(nn.Module):
    """A frozen layer beside a trained one of low rank."""

    def __init__(self):
        super().__init__()
        self.frozen, self.down, self.up = nn.Linear(6, 4), nn.Linear(6, 2, bias=False), nn.Linear(2, 4, bias=False)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.frozen(x) + self.up(self.down(x))


@pytest.mark.parametrize("spoiled", [False, True])
def test_a_frozen_layer_that_fsdp_leaves_whole_after_the_backward_is_compared_as_a_whole(spoiled):
    """The input of the frozen layer needs no gradient, so no backward of it shards its weight again."""

    def spoil(module, *_):
        whole = next(module.frozen.parameters())
        with torch.no_grad():
            whole[0] *= 2

    def parallelize(model, mesh):
        fully_shard(model.frozen, mesh=mesh)
        for parameter in (*model.down.parameters(), *model.up.parameters()):
            parameter.register_hook(lambda gradient: average(gradient, mesh.size()))
        if spoiled:
            model.up.weight.register_hook(lambda _: spoil(model))
        return model

    generator = torch.Generator().manual_seed(0)
    batch = (torch.randn(4, 6, generator=generator), torch.randn(4, 4, generator=generator))
    optimizer = lambda parameters: torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1)  # noqa: E731
    step = Step(model=Adapted, batch=batch, loss=F.mse_loss, optimizer=optimizer, steps=2)
    proof = prove(step, parallelize=parallelize, mesh={"dp": 2}, trials=2)
    assert proof.ok != spoiled


def average(gradient, size):
    gradient = gradient.clone()
    dist.all_reduce(gradient)
    return gradient / size

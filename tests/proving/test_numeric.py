"""Numbers in the user's own dtypes: right shardings are rounding, paths that only the native dtype takes are found."""

import json
import shutil
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.cli.app import main
from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.findings import FAR_RATIO, ROUNDING_RATIO, Numbers, Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import ACTIVATIONS, Phase
from shardproof.report.text import render_text


def step_in(dtype, **changes):
    batch = tuple(tensor.to(dtype) for tensor in steps.make_batch())
    return steps.make_step(model=lambda: steps.MLP().to(dtype), batch=batch, **changes)


def results(proof):
    return [finding for finding in proof.findings if finding.numbers is not None]


# Right shardings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_right_sharding_is_rounding_in_every_dtype(dtype):
    step = step_in(dtype, steps=3, optimizer=lambda p: torch.optim.AdamW(p, lr=0.1), clip_norm=1.0)
    proof = prove(step, parallelize=steps.parallelize, devices=2, numeric=True)
    assert proof.ok
    assert {finding.verdict for finding in proof.findings} == {Verdict.ROUNDING}
    assert (proof.trials, proof.primes, proof.native.dtype) == (0, (), str(dtype).removeprefix("torch."))
    text = render_text(proof)
    assert text.startswith("WITHIN ROUNDING, NOT PROVED: ")
    assert "numbers only, no exact arithmetic" in text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_proof_carries_the_native_numbers_of_every_tensor(dtype):
    proof = prove(step_in(dtype), parallelize=steps.parallelize, devices=2, trials=1)
    assert proof.ok
    found = {(finding.key.phase, finding.key.name): finding.numbers for finding in proof.findings}
    assert found[Phase.GRADIENT, "up.weight"] is not None
    assert all(numbers.within for numbers in found.values() if numbers is not None)
    assert max(finding.numbers.maxdiff for finding in results(proof)) > 0  # the two did round differently
    assert f"In {proof.native.dtype}: " in render_text(proof)
    assert f"within {ROUNDING_RATIO:g} times the rounding noise" in render_text(proof)


def test_the_users_own_training_is_compared_too():
    proof = prove(steps.make_step_of_four_rows(), candidate=steps.make_training(), devices=2, numeric=True)
    assert {finding.verdict for finding in proof.findings} == {Verdict.ROUNDING}


# Wrong ones -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_gradient_twice_too_large_is_wrong_and_named_so(dtype):
    proof = prove(step_in(dtype), parallelize=steps.scaled_gradient, devices=2, numeric=True)
    assert [(one.key.name, one.verdict, one.cause) for one in proof.roots] == [
        ("up.weight", Verdict.WRONG, Cause(kind=CauseKind.SCALED, factor=Fraction(2), approximate=True))
    ]
    assert proof.roots[0].numbers.ratio > FAR_RATIO
    assert render_text(proof).startswith("NOT WITHIN ROUNDING: ")


class Norm(nn.Module):
    """A norm whose weight has to stay positive, and layers that overflow float16 at large weights."""

    def __init__(self, function, *, wide=False):
        super().__init__()
        self.up, self.down = nn.Linear(6, 32 if wide else 6), nn.Linear(32 if wide else 6, 4)
        self.gain = nn.Parameter(torch.ones(4))
        self.function, self.wide, self.bug = function, wide, ""

    def forward(self, x):
        hidden = self.up(x)
        for _ in range(4 if self.wide else 0):
            hidden = hidden * hidden * 8
        if self.bug == x.dtype:
            hidden = hidden * 1.5
        return self.down(hidden) * self.function(self.gain)


def with_bug(dtype):
    def shard(model, mesh):
        model.bug = dtype
        return model

    return shard


class Shifted(nn.Module):
    """Logits with a shift that a softmax takes no notice of: its gradient is all rounding, and Adam's step is not."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 4)
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return F.log_softmax(self.down(torch.tanh(self.up(x))) + self.shift, -1)


def train_shifted(learning_rate=lambda dtype: 0.1, betas=lambda dtype: (0.9, 0.999)):
    """Data parallel, which adds up the gradient of the shift in another order."""

    def train(run):
        dtype = run.state["shift"].dtype
        model = Shifted().to(dtype)
        model.load_state_dict(dict(run.state))
        run.watch(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate(dtype), betas=betas(dtype))
        for x, y in run.batches():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x.chunk(run.size)[run.rank]), y.chunk(run.size)[run.rank])
            run.record_loss(steps.average(loss))
            loss.backward()
            for parameter in model.parameters():
                parameter.grad = steps.average(parameter.grad)
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return train


def shifted_step():
    return steps.make_step(
        rows=8, model=Shifted, optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=0.1), steps=2
    )


@pytest.mark.parametrize("seed", range(6))
def test_a_gradient_that_is_all_rounding_makes_no_update_wrong(seed):
    proof = prove(shifted_step(), candidate=train_shifted(), devices=2, numeric=True, seed=seed)
    assert proof.ok


IN_FLOAT32 = {
    "learning rate": {"learning_rate": lambda dtype: 0.1001 if dtype == torch.float32 else 0.1},
    "no decay of the mean": {"betas": lambda dtype: (0.9001, 0.999) if dtype == torch.float32 else (0.9, 0.999)},
    "second moment": {"betas": lambda dtype: (0.9, 0.99901) if dtype == torch.float32 else (0.9, 0.999)},
}


@pytest.mark.parametrize("bug", IN_FLOAT32)
def test_an_update_that_is_wrong_in_one_dtype_is_found_beside_its_own_gradients(bug):
    proof = prove(shifted_step(), candidate=train_shifted(**IN_FLOAT32[bug]), devices=2, numeric=True)
    assert not proof.ok
    wrong = {one.key.phase for one in proof.findings if one.verdict is Verdict.WRONG and one.key.step == 0}
    assert wrong - ACTIVATIONS <= {Phase.STATE, Phase.UPDATE}
    assert wrong & {Phase.STATE, Phase.UPDATE}


# Real only near 1, where a norm's weight starts; at drawn values each is NaN.
POSITIVE = [torch.log, torch.sqrt, lambda gain: gain**0.7, lambda gain: torch.acos(gain / 2)]


@pytest.mark.parametrize("function", POSITIVE, ids=["log", "sqrt", "power", "acos"])
@pytest.mark.parametrize("seed", [0, 1])
def test_ordinary_runs_start_where_the_model_does_so_that_a_bug_in_one_dtype_shows(function, seed):
    batch = steps.make_batch(outputs=4)
    step = steps.make_step(model=lambda: Norm(function), batch=batch, steps=1)
    options = {"devices": 2, "numeric": True, "seed": seed, "allow": ["VACUOUS sharding *"]}
    assert prove(step, parallelize=with_bug(None), **options).ok
    wrong = prove(step, parallelize=with_bug(torch.float32), **options)
    assert not wrong.ok
    assert {one.verdict for one in wrong.roots if one.failed} == {Verdict.WRONG}


def test_what_overflows_float16_is_a_finding_and_no_comparison():
    batch = tuple(4 * tensor.half() for tensor in steps.make_batch(outputs=4))
    step = steps.make_step(model=lambda: Norm(torch.sqrt, wide=True).half(), batch=batch, steps=1)
    proof = prove(step, parallelize=with_bug(None), devices=2, numeric=True, allow=["VACUOUS sharding *"])
    assert not proof.ok
    first = next(one for one in proof.roots if one.failed)
    assert first.cause == Cause(kind=CauseKind.NO_NUMBERS_IN_REFERENCE, dtype="float16")
    assert "In float16 one device computes NaN or infinity in " in render_text(proof)


@pytest.mark.parametrize("bug", ["no all-reduce", "bias inside", "swapped shards"])
def test_a_bug_in_the_forward_is_wrong_at_the_first_output(bug):
    proof = prove(steps.make_step(), parallelize=steps.megatron(bug), devices=2, numeric=True)
    assert {(one.key.phase, one.key.name) for one in proof.roots} == {(Phase.OUTPUT, "model")}


@pytest.mark.parametrize(
    ("forget", "cause"),
    [
        ("loss", CauseKind.NOT_COMPUTED),
        ("gradients", CauseKind.NOT_COVERED),
    ],
)
def test_what_is_not_computed_is_wrong_without_numbers(forget, cause):
    training = steps.make_training(forget=[forget])
    proof = prove(steps.make_step_of_four_rows(), candidate=training, devices=2, numeric=True)
    assert not proof.ok
    assert Cause(kind=cause) in {finding.cause for finding in proof.findings}


def test_an_error_smaller_than_rounding_is_not_seen_and_not_called_proved():
    def slightly_off(model, mesh):
        model = steps.parallelize(model, mesh)
        model.down.register_forward_hook(lambda _m, _i, output: output * (1 + 2**-40))
        return model

    proof = prove(steps.make_step(), parallelize=slightly_off, devices=2, numeric=True)
    assert proof.ok
    assert Verdict.PROVED not in {finding.verdict for finding in proof.findings}
    assert not prove(steps.make_step(), parallelize=slightly_off, devices=2, trials=1).ok


# Paths that only the native dtype takes -------------------------------------------------------------------------------


def wrong_only_in(dtype):
    def shard(model, mesh):
        model = steps.parallelize(model, mesh)
        model.up.weight.register_hook(lambda gradient: gradient * 2 if gradient.dtype == dtype else gradient)
        return model

    return shard


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_proved_and_wrong_in_the_native_dtype_is_wrong(dtype):
    proof = prove(step_in(dtype), parallelize=wrong_only_in(dtype), devices=2, trials=1)
    assert [(one.key.phase, one.key.name, one.verdict) for one in proof.roots] == [
        (Phase.GRADIENT, "up.weight", Verdict.WRONG)
    ]
    name = str(dtype).removeprefix("torch.")
    assert proof.roots[0].cause == Cause(kind=CauseKind.ONLY_IN_NATIVE_DTYPE, dtype=name)
    assert proof.roots[0].numbers.far


def test_a_path_of_a_dtype_that_the_user_does_not_have_is_not_taken():
    assert prove(step_in(torch.float32), parallelize=wrong_only_in(torch.bfloat16), devices=2, trials=1).ok


def test_the_first_wrong_activation_of_the_native_dtype_is_the_root():
    def shard(model, mesh):
        model = steps.parallelize(model, mesh)
        model.down.register_forward_hook(lambda _m, _i, out: out * 2 if out.dtype == torch.float32 else out)
        return model

    proof = prove(steps.make_step(), parallelize=shard, devices=2, trials=1)
    assert [(one.key.phase, one.key.name) for one in proof.roots] == [(Phase.OUTPUT, "down")]


# What cannot be measured ----------------------------------------------------------------------------------------------


def numbers(**changes):
    settings = {"exact": False, "approximate": False, "maxdiff": 1.0, "error": 1.0, "noise": 1.0, "scale": 1.0}
    return Numbers(**(settings | changes))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"error": ROUNDING_RATIO}, Verdict.ROUNDING),
        ({"error": ROUNDING_RATIO * 1.01}, Verdict.UNDECIDED),
        ({"error": FAR_RATIO}, Verdict.UNDECIDED),
        ({"error": FAR_RATIO * 1.01}, Verdict.WRONG),
        ({"error": float("nan")}, Verdict.WRONG),
        ({"error": float("inf")}, Verdict.WRONG),
        ({"noise": 0.0}, Verdict.UNDECIDED),
        ({"noise": 0.0, "scale": 0.0, "error": 0.0}, Verdict.VACUOUS),
        ({"noise": 0.0, "scale": 0.0}, Verdict.UNDECIDED),
        ({"noise": float("nan")}, Verdict.VACUOUS),
    ],
)
def test_verdicts_by_ratio(changes, verdict):
    assert numbers(**changes).verdict is verdict


class WithoutHalf(nn.Module):
    """As where a kernel is missing."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4, dtype=torch.float16)

    def forward(self, x):
        if x.dtype == torch.float16:
            raise NotImplementedError("no kernel of half precision")
        return self.linear(x)


def test_a_dtype_that_one_device_cannot_run_is_told_and_the_proof_stands():
    batch = tuple(tensor.half() for tensor in steps.make_batch())
    step = steps.make_step(model=WithoutHalf, batch=batch)
    proof = prove(step, parallelize=lambda model, _mesh: model, devices=2, trials=1, allow=["VACUOUS sharding *"])
    assert proof.ok
    assert proof.native.failed.startswith(
        "NotImplementedError: no kernel of half precision (tests/proving/test_numeric.py:"
    )
    assert "In float16 nothing was compared" in render_text(proof)
    with pytest.raises(CannotRunError, match="does not run in float16 on one device: NotImplementedError"):
        prove(step, parallelize=lambda model, _mesh: model, devices=2, numeric=True, allow=["VACUOUS sharding *"])


class Singular(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x):
        y = self.linear(x)
        return y + torch.linalg.svdvals(y).sum()


def test_an_op_without_an_exact_rule_says_that_numbers_can_stand_in():
    step = steps.make_step(model=Singular)
    with pytest.raises(CannotRunError, match="--numeric, compares its numbers instead, and proves nothing"):
        prove(step, parallelize=lambda model, _mesh: model, devices=2, trials=1, allow=["VACUOUS sharding *"])
    assert prove(step, parallelize=lambda model, _mesh: model, devices=2, numeric=True, allow=["VACUOUS sharding *"]).ok


# Precisions -----------------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.low = nn.Linear(6, 8, dtype=torch.bfloat16)
        self.high = nn.Linear(8, 4)

    def forward(self, x):
        return self.high(F.gelu(self.low(x.to(self.low.weight.dtype))).to(self.high.weight.dtype))


def test_each_parameter_of_a_mixed_model_has_its_own_dtype():
    step = steps.make_step(model=Mixed)
    proof = prove(step, parallelize=lambda model, _mesh: model, devices=2, numeric=True, allow=["VACUOUS sharding *"])
    assert proof.ok
    assert proof.native.dtype == "bfloat16 and float32"
    assert proof.native.collectives == 0


# Reports --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    shutil.copy(Path(steps.__file__), tmp_path / "my_training.py")
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["shardproof", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return command


def test_numeric_on_the_command_line_and_no_certificate(run):
    arguments = ("prove", "my_training.py:step", "--parallelize", "my_training.py:parallelize", "--numeric")
    code, out, _ = run(*arguments, "--format", "json", "--output", "numbers.json")
    assert (code, out) == (0, "")
    content = json.loads(Path("numbers.json").read_text(encoding="utf-8"))
    assert content["native"]["dtype"] == "float32"
    (gradient,) = [one for one in content["findings"] if (one["phase"], one["name"]) == ("gradient", "up.weight")]
    assert gradient["verdict"] == "ROUNDING"
    assert set(gradient["numbers"]) == {"exact", "approximate", "maxdiff", "error", "noise", "ratio"}
    assert gradient["numbers"]["approximate"] is True
    code, _, err = run("check", "numbers.json")
    assert code == 2
    assert "is of --numeric, which proves nothing" in err


def test_a_wrong_sharding_is_exit_code_1_in_numbers_too(run):
    arguments = ("prove", "my_training.py:step", "--parallelize", "my_training.py:scaled_gradient", "--numeric")
    code, out, _ = run(*arguments)
    assert code == 1
    assert "about 2 times too large." in out


@pytest.mark.processes
@pytest.mark.slow
def test_spawned_ranks_have_the_numbers_of_simulated_ones():
    step = steps.make_step()
    simulated, spawned = (
        prove(step, parallelize=steps.parallelize, devices=2, numeric=True, spawn=spawn) for spawn in (False, True)
    )
    assert simulated.ok
    assert [one.numbers for one in simulated.findings] == [one.numbers for one in spawned.findings]

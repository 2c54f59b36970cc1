"""What is saved on some ranks is resumed on others, bit for bit; a save that fails or is killed leaves the last one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.parallel import training
from tests.parallel.models import recipe
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.exact import ExactArithmetic
from shardproof.parallel.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from shardproof.parallel.dropout import PositionalDropout
from shardproof.parallel.sharding import assemble, cut_parameter, sharding_of, split
from shardproof.parallel.state import states_of_optimizer, tensors_of_model
from shardproof.worlds.spawned import SpawnedWorld
from shardproof.worlds.threaded import ThreadedWorld


def run(size, fn, *args):
    return ThreadedWorld(size=size).run(fn, *args)


@pytest.mark.parametrize("plan", ["strings", "ours"])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2), (2, 4), (4, 2)])
def test_every_tensor_comes_back_on_other_ranks_and_the_curve_goes_on(before, after, plan, tmp_path):
    saved = run(before, training.save_after, recipe(plan), tmp_path, 2)
    path, state = saved[0]
    assert path == str(latest_checkpoint(tmp_path))
    resumed = run(after, training.resume, recipe(plan), path, 2)
    uninterrupted = run(after, training.continue_from_values, recipe(plan), state, 2)
    for found, losses, (step, extra, lr) in resumed:
        assert training.same(found, state)
        assert (step, extra, lr) == (2, {"tokens": 32}, 0.02)
        assert torch.equal(losses, uninterrupted[0])
    assert {key.partition("/")[2] for key in state} == {"", "exp_avg", "exp_avg_sq", "step"}


def test_a_planted_difference_is_seen(tmp_path):
    """The comparison above can fail: another value, another learning rate, another state."""
    path, state = run(2, training.save_after, recipe("strings"), tmp_path, 2)[0]
    _, losses, _ = run(2, training.resume, recipe("strings"), path, 2)[0]
    for name in ("norm.weight", "norm.weight/exp_avg", "norm.weight/step"):
        planted = state | {name: state[name] * 1.001}
        assert not torch.equal(run(2, training.continue_from_values, recipe("strings"), planted, 2)[0], losses)


def digits_of(exact, model, optimizer, axis):
    """Every tensor of this rank, as it is in exact arithmetic."""
    held = {name: one.local for name, one in tensors_of_model(model, axis).items()}
    for name, states in states_of_optimizer(model, optimizer, axis).items():
        held |= {f"{name}/{key}": one.local for key, one in states.items()}
    return {name: exact.digits(value).double() for name, value in held.items()}


def step_exactly(size, prepare, *, of_digits=False):
    """One step on each of `size` ranks; `prepare(axis)` gives model and optimizer. Every rank's digits.

    `of_digits`: the parameters are digits already. Exact arithmetic would draw others in the place of parameters'
    values; it takes those of tensors that require no gradient as they are.
    """
    with ExactArithmetic(seed=3) as exact:

        def on_rank(comm):
            axis = training.axis_of(comm)
            model, optimizer = prepare(axis)
            model.requires_grad_(not of_digits)
            with exact.joined():
                for parameter in model.parameters():
                    parameter.view_as(parameter)  # enters
                model.requires_grad_(True)
                training.train(recipe(), model, optimizer, axis, 1)
                return digits_of(exact, model, optimizer, axis)

        return run(size, on_rank)


def whole_of(digits, size):
    """Every full tensor, put together from the ranks' digits."""

    def shardings(comm):
        model, _ = training.build(recipe(), training.axis_of(comm))
        return {name: sharding_of(parameter) for name, parameter in model.named_parameters()}

    by_name = run(size, shardings)[0]
    return {
        name: assemble([one[name] for one in digits], by_name[name.partition("/")[0]]) if first.ndim else first
        for name, first in digits[0].items()
        if name != "seen"
    }


@pytest.mark.parametrize("lose", [None, "norm.weight/exp_avg_sq", "layers.0.attention.wk.weight"])
@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2), (2, 1)])
def test_the_next_step_on_other_ranks_is_the_single_devices_in_exact_arithmetic(before, after, lose, tmp_path):
    model, optimizer = training.build(recipe(), None)
    with ExactArithmetic(seed=3) as exact:
        training.train(recipe(), model, optimizer, None, 2)
        alone = digits_of(exact, model, optimizer, None)

    saved = step_exactly(before, lambda axis: training.build(recipe(), axis))

    def save(comm):
        """The digits as ordinary numbers, of which exact arithmetic makes the same digits again."""
        axis = training.axis_of(comm)
        model, optimizer = training.build(recipe(), axis)
        own = saved[axis.rank]
        for name, one in tensors_of_model(model, axis).items():
            one.local.copy_(own[name])
        for name, parameter in model.named_parameters():
            keys = ["exp_avg", "exp_avg_sq", "step"]
            optimizer.state[parameter] = {key: own[f"{name}/{key}"] for key in keys}
        return str(save_checkpoint(tmp_path, model, optimizer, step=1, axis=axis))

    path = run(before, save)[0]

    def resume(axis):
        model, optimizer = training.build(recipe(), axis, seed=1)
        load_checkpoint(path, model, optimizer, axis=axis)
        if lose is not None:  # as a checkpoint without it would leave it
            name, _, key = lose.partition("/")
            parameter = model.get_parameter(name)
            with torch.no_grad():
                (optimizer.state[parameter][key] if key else parameter).zero_()
        return model, optimizer

    found = whole_of(step_exactly(after, resume, of_digits=True), after)
    alone.pop("seen")
    assert training.same(found, alone) == (lose is None)


def test_without_a_process_group_an_ordinary_model_resumes_what_two_ranks_saved(tmp_path):
    path, state = run(2, training.save_after, recipe("ours"), tmp_path, 2)[0]
    model, optimizer = training.build(recipe(), None, seed=1)
    load_checkpoint(path, model, optimizer)
    assert training.same(training.whole_state(model, optimizer, None), state)
    losses = training.train(recipe(), model, optimizer, None, 1)
    back = save_checkpoint(tmp_path, model, optimizer, step=3)
    again = run(4, training.resume, recipe("ours"), str(back), 1)
    assert all(training.same(found, training.whole_state(model, optimizer, None)) for found, _, _ in again)
    assert torch.isfinite(losses).all()


def numbers_written(path):
    tensors = torch.distributed.checkpoint.FileSystemReader(path).read_metadata().state_dict_metadata.values()
    return sum(chunk.sizes.numel() for tensor in tensors for chunk in tensor.chunks)


@pytest.mark.parametrize("save", ["save_after", "save_beside_data_ranks"])
def test_what_several_ranks_hold_is_written_once(save, tmp_path):
    steps = [1] if save == "save_after" else []
    path, state = run(4, getattr(training, save), recipe("ours"), tmp_path, *steps)[0]
    assert len(list(Path(path).glob("*.distcp"))) == 4
    assert numbers_written(path) == sum(value.numel() for value in state.values())
    assert all(training.same(found, state) for found, _, _ in run(2, training.resume, recipe("ours"), path, 1))


@pytest.mark.slow
@pytest.mark.processes
def test_on_gloo_it_is_the_same(tmp_path):
    path, state = SpawnedWorld(size=2).run(training.save_after, recipe(), str(tmp_path), 2)[0]
    resumed = SpawnedWorld(size=4).run(training.resume, recipe(), path, 1)
    assert all(training.same(found, state) for found, _, _ in resumed)


@pytest.mark.slow
@pytest.mark.processes
def test_a_rank_that_cannot_write_fails_the_save_on_all_and_leaves_the_last(tmp_path):
    said = SpawnedWorld(size=2).run(training.one_rank_cannot_write, recipe(), str(tmp_path))
    assert all("cannot be written to: rank 1: " in one and "No space left on device" in one for one in said)
    assert latest_checkpoint(tmp_path).name == "step-00000001"


@pytest.mark.slow
def test_killed_at_any_moment_of_a_save_the_last_checkpoint_is_whole(tmp_path):
    command = [sys.executable, training.__file__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = [line.split() for line in done.stdout.splitlines()]
    killed = [rest for was, *rest in outcomes if was == "True"]
    # Until it has its name the first one is the last; from then on the second. Never a mixture.
    first, second = ["1", "1.0"], ["2", "2.0"]
    assert killed == [first] * killed.count(first) + [second] * killed.count(second)
    assert killed.count(first) >= 8
    assert outcomes[-1] == ["False", *second]


def test_what_a_killed_save_left_is_not_seen_and_makes_way(tmp_path):
    first = save_checkpoint(tmp_path, *training.small(), step=1)
    (tmp_path / ".step-00000002.part").mkdir()
    (tmp_path / ".step-00000002.part" / "__0_0.distcp").write_bytes(b"half of")
    (tmp_path / "step-00000003").mkdir()  # without a manifest: not finished
    (tmp_path / "notes").mkdir()
    assert latest_checkpoint(tmp_path) == first
    assert latest_checkpoint(tmp_path / "none") is None
    assert latest_checkpoint(save_checkpoint(tmp_path, *training.small(), step=2).parent).name == "step-00000002"
    assert not (tmp_path / ".step-00000002.part").exists()


def save_small(folder, **changes):
    model, optimizer = training.small()
    model(torch.ones(1, 2)).sum().backward()
    for group in optimizer.param_groups:
        group["momentum"] = 0.5
    optimizer.step()
    return save_checkpoint(folder, model, optimizer, **({"step": 1} | changes))


def other(model=None, optimizer=None):
    model = model or nn.Linear(2, 2)
    return model, (optimizer or torch.optim.SGD)(model.parameters(), lr=0.5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: other(nn.Linear(2, 2, bias=False)), "has 1 unexpected tensors: bias"),
        (lambda: other(nn.Sequential(nn.Linear(2, 2))), "does not have 2 tensors: 0.bias, 0.weight"),
        (lambda: other(nn.Linear(3, 2)), r"weight was saved as torch.float32 \[2, 2\]; the model's is .* \[2, 3\]"),
        (lambda: other(nn.Linear(2, 2).double()), "the model's is torch.float64"),
        (lambda: other(optimizer=torch.optim.Adam), "does not have .* settings: amsgrad, "),
        (lambda: other(optimizer=lambda ps, lr: torch.optim.SGD([*ps][:1], lr=lr)), r"parameter groups of \[2\]"),
        (lambda: (other()[0], other()[1]), "2 of the optimizer's parameters are not the model's"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(given, said, tmp_path):
    path = save_small(tmp_path)
    model, optimizer = given()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CannotRunError, match=said):
        load_checkpoint(path, model, optimizer)
    assert training.same(dict(model.state_dict()), before)
    assert not optimizer.state
    assert optimizer.param_groups[0]["lr"] != 0.1


def damage(path, kind):
    if kind == "cut short":
        (file,) = path.glob("*.distcp")
        file.write_bytes(file.read_bytes()[:-100])
    elif kind == "a file lost":
        next(path.glob("*.distcp")).unlink()
    elif kind == "metadata lost":
        (path / ".metadata").unlink()
    elif kind == "no manifest":
        (path / "manifest.json").unlink()
    elif kind == "no JSON":
        (path / "manifest.json").write_text("{")
    elif kind == "no settings":
        said = json.loads((path / "manifest.json").read_text()) | {"settings": [{}]}
        (path / "manifest.json").write_text(json.dumps(said))
    elif kind == "another version":
        (path / "manifest.json").write_text(json.dumps({"version": 99}))
    elif kind == "another dtype":
        text = (path / "manifest.json").read_text()
        (path / "manifest.json").write_text(text.replace('"float32"', '"load"'))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("cut short", "cannot be read: rank 0: "),
        ("a file lost", "cannot be read: rank 0: FileNotFoundError"),
        ("metadata lost", "is damaged: its .metadata is lost"),
        ("no manifest", "is no finished checkpoint: it has no manifest.json"),
        ("no JSON", "has a manifest.json that is damaged"),
        ("no settings", "has a manifest.json that is damaged: KeyError 'params'"),
        ("another version", "is a checkpoint of version 99; this reads 1"),
        ("another dtype", "'load' is no dtype"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line_and_changes_nothing(kind, said, tmp_path):
    path = save_small(tmp_path)
    damage(path, kind)
    model, optimizer = other()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CannotRunError, match=said) as caught:
        load_checkpoint(path, model, optimizer)
    assert "\n" not in str(caught.value)
    assert training.same(dict(model.state_dict()), before)
    assert not optimizer.state


class Odd(torch.optim.SGD):
    """Keeps something that is no tensor."""

    def step(self):
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter]["odd"] = self.keep


@pytest.mark.parametrize(
    ("keep", "said"), [("a word", "state of type str"), (torch.ones(3), r"state of shape \[3\], and its parameter's")]
)
def test_state_that_cannot_be_placed_is_refused(keep, said, tmp_path):
    model, optimizer = other(optimizer=Odd)
    optimizer.keep = keep
    optimizer.step()
    with pytest.raises(CannotRunError, match=said):
        save_checkpoint(tmp_path, model, optimizer, step=1)


def test_a_save_that_cannot_be_is_refused(tmp_path):
    path = save_small(tmp_path)
    with pytest.raises(CannotRunError, match="step-00000001 exists: resume from it"):
        save_small(tmp_path)
    assert load_checkpoint(path, *other()).step == 1
    with pytest.raises(CannotRunError, match="extra cannot be written as JSON"):
        save_small(tmp_path, step=2, extra={"x": object()})
    with pytest.raises(CannotRunError, match="a checkpoint of step -1"):
        save_small(tmp_path, step=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(CannotRunError, match="file cannot be written to"):
        save_small(tmp_path / "file")
    model = nn.Linear(2, 2)
    model.weight = cut_parameter(model.weight, split((2, 2), 0, rank=0, size=2))
    with pytest.raises(CannotRunError, match="weight is sharded for rank 0 of 2; this is rank 0 of 1"):
        save_checkpoint(tmp_path, model, step=2)


def test_dropout_goes_on_with_the_next_mask(tmp_path):
    def make():
        return nn.Sequential(nn.Linear(2, 2), PositionalDropout(0.5, 1))

    x, model, resumed = torch.ones(64, 2), make(), make()
    model(x)
    load_checkpoint(save_checkpoint(tmp_path, model, step=1), resumed)
    restarted = make()
    restarted.load_state_dict(model.state_dict())
    expected = model(x)
    assert torch.equal(resumed(x), expected)
    assert not torch.equal(restarted(x), expected)


def test_without_an_optimizer(tmp_path):
    model, optimizer = training.small()
    path = save_checkpoint(tmp_path, model, step=7)
    with pytest.raises(CannotRunError, match="was saved without an optimizer"):
        load_checkpoint(path, *other())
    loaded = other()[0]
    assert load_checkpoint(path, loaded).step == 7
    assert torch.equal(loaded.weight, model.weight)
    assert load_checkpoint(save_checkpoint(tmp_path, model, optimizer, step=8), other()[0]).step == 8

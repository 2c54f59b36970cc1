"""A small training that is saved and resumed; where spawned ranks find it. Also its own trial of being killed."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from shardproof.parallel.axis import Axis
from shardproof.parallel.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from shardproof.parallel.clipping import clip_gradients
from shardproof.parallel.export import full_tensor, load_model, save_model
from shardproof.parallel.sharding import sharding_of, take
from shardproof.parallel.state import states_of_optimizer, tensors_of_model


@dataclass(frozen=True)
class Recipe:
    """What is trained: `make()` the model, `parallelize(model, mesh)`, `model(*batch)` the loss."""

    make: Any
    parallelize: Any
    batch: Any


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def axis_of(comm):
    return Axis.of(init_device_mesh("cpu", (comm.size,), mesh_dim_names=("tp",)), "tp")


def build(recipe, axis, *, seed=0):
    torch.manual_seed(seed)
    model = recipe.make().double()
    model.register_buffer("seen", torch.zeros(3, dtype=torch.float64))
    if axis is not None:
        recipe.parallelize(model, init_device_mesh("cpu", (axis.size,), mesh_dim_names=("tp",)))
    return model, torch.optim.AdamW(model.parameters(), lr=0.01)


def train(recipe, model, optimizer, axis, steps):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(*recipe.batch)
        loss.backward()
        if axis is None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        else:
            clip_gradients(model.parameters(), 0.5, axis)
        optimizer.step()
        model.seen += 1
        losses.append(loss.detach())
    return torch.stack(losses)


def whole_state(model, optimizer, axis):
    """Every full tensor of the training, by name."""
    found = {name: full_tensor(held, axis).clone() for name, held in tensors_of_model(model, axis).items()}
    for name, states in states_of_optimizer(model, optimizer, axis).items():
        found |= {f"{name}/{key}": full_tensor(held, axis).clone() for key, held in states.items()}
    return found


def save_after(comm, recipe, folder, steps):
    axis = axis_of(comm)
    model, optimizer = build(recipe, axis)
    train(recipe, model, optimizer, axis, steps)
    optimizer.param_groups[0]["lr"] = 0.02
    path = save_checkpoint(folder, model, optimizer, step=steps, axis=axis, extra={"tokens": 16 * steps})
    return str(path), whole_state(model, optimizer, axis)


def resume(comm, recipe, path, steps):
    """From other values: what is not loaded would show."""
    axis = axis_of(comm)
    model, optimizer = build(recipe, axis, seed=1)
    train(recipe, model, optimizer, axis, 1)
    loaded = load_checkpoint(path, model, optimizer, axis=axis)
    state = whole_state(model, optimizer, axis)
    losses = train(recipe, model, optimizer, axis, steps)
    return state, losses, (loaded.step, loaded.extra, optimizer.param_groups[0]["lr"])


def save_beside_data_ranks(comm, recipe, folder):
    """Two ranks along tp, each twice along dp: all four hold the training, two of them the same."""
    mesh = init_device_mesh("cpu", (2, comm.size // 2), mesh_dim_names=("dp", "tp"))
    axis = Axis.of(mesh, "tp")
    torch.manual_seed(0)
    model = recipe.make().double()
    model.register_buffer("seen", torch.zeros(3, dtype=torch.float64))
    recipe.parallelize(model, mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    train(recipe, model, optimizer, axis, 1)
    return str(save_checkpoint(folder, model, optimizer, step=1, axis=axis)), whole_state(model, optimizer, axis)


def continue_from_values(comm, recipe, state, steps):
    """The training as it goes on from these full tensors, put in by hand."""
    axis = axis_of(comm)
    model, optimizer = build(recipe, axis)
    optimizer.param_groups[0]["lr"] = 0.02
    with torch.no_grad():
        model.seen.copy_(state["seen"])
        for name, parameter in model.named_parameters():
            sharding = sharding_of(parameter)
            parameter.copy_(take(state[name], sharding))
            own = {key.rpartition("/")[2]: value for key, value in state.items() if key.startswith(f"{name}/")}
            optimizer.state[parameter] = {k: take(v, sharding) if v.ndim else v.clone() for k, v in own.items()}
    return train(recipe, model, optimizer, axis, steps)


def export(comm, recipe, path):
    axis = axis_of(comm)
    model, _ = build(recipe, axis)
    save_model(path, model, axis=axis)


def import_and_compare(comm, recipe, path):
    """Whether a model of other values is the exported one afterwards."""
    axis = axis_of(comm)
    expected, _ = build(recipe, axis)
    model, _ = build(recipe, axis, seed=1)
    load_model(path, model, axis=axis)
    return all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def one_rank_cannot_write(comm, recipe, folder):
    """The second rank's file fails, as on a full disk."""
    axis = axis_of(comm)
    model, optimizer = build(recipe, axis)
    save_checkpoint(folder, model, optimizer, step=1, axis=axis)
    if axis.rank == 1:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter

        def fail(*_):
            raise OSError(28, "No space left on device")

        FileSystemWriter.write_data = fail
    try:
        save_checkpoint(folder, model, optimizer, step=2, axis=axis)
    except ValueError as error:
        return str(error)


EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree", "os.truncate")


def save_and_be_killed(folder, at):
    """Save step 2, and be killed by the operating system at the `at`-th thing done to the folder."""
    left = [at]

    def watch(event, arguments):
        if event in EVENTS and str(folder) in str(arguments[0]):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    model, optimizer = small()
    model.weight.data.fill_(2)
    sys.addaudithook(watch)
    save_checkpoint(folder, model, optimizer, step=2)


def small():
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, 1)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


def try_being_killed(root):
    """At every moment of a save in turn. Prints, for each, what the latest checkpoint then holds."""
    torch.set_num_threads(1)
    for at in range(1000):
        folder = root / str(at)
        save_checkpoint(folder, *small(), step=1)
        child = os.fork()
        if not child:
            save_and_be_killed(folder, at)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        model, optimizer = small()
        model.weight.data.fill_(9)
        loaded = load_checkpoint(latest_checkpoint(folder), model, optimizer)
        print(killed, loaded.step, *model.weight.unique().tolist(), flush=True)
        if not killed:
            return


if __name__ == "__main__":
    try_being_killed(Path(sys.argv[1]))

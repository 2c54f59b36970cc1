"""One small model, saved as different numbers of ranks save it."""

import torch
from safetensors.torch import save_file

from shardproof.worlds.threaded import ThreadedWorld

DIMS = {"embed.weight": 0, "up.weight": 0, "up.bias": 0, "down.weight": 1}


def make_model(layers=4, seed=0, dtype=torch.float32):
    """The full tensors: of each layer a column-parallel, a row-parallel and a replicated one."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    model = {"embed.weight": draw(48, 8)}
    for layer in range(layers):
        model |= {
            f"layers.{layer}.up.weight": draw(24, 8),
            f"layers.{layer}.up.bias": draw(24),
            f"layers.{layer}.down.weight": draw(8, 24),
            f"layers.{layer}.norm.weight": draw(8),
        }
    return model | {"norm.weight": draw(8)}


def find_dim(name):
    """Along which dim the tensor is split; None where it is replicated."""
    return next((dim for end, dim in DIMS.items() if name.endswith(end)), None)


def take_rank(model, rank, ranks):
    """What one of several tensor-parallel ranks holds."""

    def take(name, tensor):
        dim = find_dim(name)
        return (tensor if dim is None else tensor.chunk(ranks, dim)[rank]).contiguous().clone()

    return {name: take(name, tensor) for name, tensor in model.items()}


def take_stage(model, stage, stages, *, local=True):
    """What a pipeline stage holds: as many layers as the others, numbered from 0 unless the numbers are the model's."""
    layers = 1 + max(int(name.split(".")[1]) for name in model if name.startswith("layers."))
    each = layers // stages
    kept = {}
    for name, tensor in model.items():
        parts = name.split(".")
        if parts[0] == "layers":
            number = int(parts[1])
            if number // each == stage:
                kept[".".join(["layers", str(number % each if local else number), *parts[2:]])] = tensor
        elif stage == (0 if parts[0] == "embed" else stages - 1):
            kept[name] = tensor
    return kept


def save_ranks(folder, model, ranks, name="rank_{}.safetensors"):
    """A folder with a file for each tensor-parallel rank; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(ranks):
        save_file(take_rank(model, rank, ranks), folder / name.format(rank))
    return folder


def save_grid(folder, model, ranks, stages, *, local=True):
    """A folder like Megatron's: mp_rank_TP_PP/model.safetensors; returns it."""
    for stage in range(stages):
        part = take_stage(model, stage, stages, local=local)
        for rank in range(ranks):
            inner = folder / f"mp_rank_{rank:02d}_{stage:03d}"
            inner.mkdir(parents=True, exist_ok=True)
            save_file(take_rank(part, rank, ranks), inner / "model.safetensors")
    return folder


def save_indexed(folder, model, files=3):
    """A folder with an index; returns it."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    names = list(model)
    where = {name: f"model-{i % files + 1:05d}-of-{files:05d}.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: model[name] for name in names if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def save_one(path, model):
    """One safetensors file; returns it."""
    save_file({name: tensor.contiguous().clone() for name, tensor in model.items()}, path)
    return path


def save_torch_ranks(folder, model, ranks):
    """A folder with a file of torch.save for each rank; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(ranks):
        torch.save({"step": 3, "model": take_rank(model, rank, ranks)}, folder / f"rank_{rank}.pt")
    return folder


def save_distributed(folder, model, ranks):
    """A folder of torch.distributed.checkpoint, which so many ranks have written; returns it."""
    ThreadedWorld(size=ranks).run(_save_as_rank, folder, model)
    return folder


def _save_as_rank(comm, folder, model):
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (comm.size,))

    def shard(name, tensor):
        dim = find_dim(name)
        return distribute_tensor(tensor, mesh, [Replicate() if dim is None else Shard(dim)])

    dcp.save({name: shard(name, tensor) for name, tensor in model.items()} | {"step": 3}, checkpoint_id=folder)

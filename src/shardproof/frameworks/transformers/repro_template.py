"""The script that `--repro` writes, without shardproof: its parts between `@` are filled in by `repro.py`."""

TEMPLATE = r'''"""@CLASS@ on @RANKS@ processes by a plan, compared with one process. In float64, on CPUs.

Run:  python @FILE@
or:   torchrun --nproc-per-node @RANKS@ @FILE@

Exit code 0: loss and gradients are those of one process. 1: they are not, or the sharded model fails.
Needs torch and transformers, no network and no checkpoint.
"""

# Written with @VERSIONS@.
@SAID@

import json
import os
import platform
import subprocess
import sys
import tempfile
import time

import torch
import torch.distributed as dist
import transformers
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

@IMPORTS@

RANKS = @RANKS@
TOLERANCE = 1e-8  # of the largest element; rounding in float64 is about 1e-14
CONFIG = json.loads(r"""
@CONFIG@
""")
# @PLAN_SAID@
PLAN = @PLAN@
FIRST = @FIRST@  # the first tensors that are wrong, if they are gradients
MODULE = @MODULE@  # the first module whose output is wrong

# Norms and softmaxes are computed in float32 whatever the model's dtype is. Here they are computed in float64 too.
torch.float32 = torch.float = torch.float64
torch.Tensor.float = torch.Tensor.double
torch.set_default_dtype(torch.float64)


def build():
    """The model, the same in every process. Values are moved off 0 and 1, which would hide mistakes."""
    torch.manual_seed(0)
    config = @CONFIG_CLASS@(**CONFIG)
    config._attn_implementation = "@ATTENTION@"
    config._experts_implementation = "eager"
    model = @CLASS@(config).double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    spread = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.copy_(tensor.nan_to_num() + 0.05 * torch.randn(tensor.shape, generator=spread))
        for tensor in model.buffers():
            if tensor.is_floating_point() and (tensor.isnan().any() or not tensor.any()):
                tensor.copy_(torch.randn(tensor.shape, generator=spread))
    return model


def make_inputs():
    draws = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(shape, generator=draws)

    return @INPUTS@


def shard(model, mesh):
    """As from_pretrained does: apply the plan to weights that are not tied, then tie them."""
    model.config.distributed_config = DistributedConfig(tp_size=RANKS)
    for target, source in model.all_tied_weights_keys.items():
        owner, _, name = target.rpartition(".")
        values = model.get_parameter(source).detach().clone()
        setattr(model.get_submodule(owner), name, torch.nn.Parameter(values))
    model = apply_tensor_parallelism(model, mesh, @EXPAND@)
    model.tie_weights(recompute_mapping=False)
    return model


def list_tensors(outputs):
    """The floating tensors of outputs, in their order."""
    if isinstance(outputs, torch.Tensor):
        return [outputs] if outputs.is_floating_point() else []
    values = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, (list, tuple)) else []
    return [tensor for value in values for tensor in list_tensors(value)]


def run(model):
    """Forward and backward: the loss, all gradients, and the output of MODULE where it is whole."""
    found = {}

    def keep(module, args, output):
        tensors = list_tensors(output)
        if tensors and f"output of {MODULE}" not in found:
            found[f"output of {MODULE}"] = tensors[0].detach().clone()

    if MODULE:
        model.get_submodule(MODULE).register_forward_hook(keep)
    outputs = model(**make_inputs()@OPTIONS@)
@LOSS@
    loss.backward()
    found["loss"] = loss.detach()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        found[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return found


def differ(observed, reference):
    """The largest difference, in units of the largest element."""
    if observed is None or reference is None:
        return 0.0 if observed is reference else float("inf")
    if observed.shape != reference.shape:
        return float("inf")
    scale = reference.abs().max().clamp(min=1e-30) if reference.numel() else torch.tensor(1.0)
    largest = (observed - reference).abs().max() / scale if reference.numel() else torch.tensor(0.0)
    return float("inf") if largest.isnan() else float(largest)


def list_head(tensor):
    """The first elements."""
    return "none" if tensor is None else [float(f"{one:.6g}") for one in tensor.flatten()[:4].tolist()]


def gather_head(tensor):
    """The first elements on every rank."""
    own = torch.full((5,), float("nan"))
    if tensor is not None:
        first = tensor.flatten()[:4]
        own[0], own[1 : 1 + len(first)] = len(first), first
    everywhere = [torch.zeros_like(own) for _ in range(RANKS)]
    dist.all_gather(everywhere, own)
    return ["none" if one[0].isnan() else list_head(one[1 : 1 + int(one[0])]) for one in everywhere]


def compare(rank):
    reference = run(build())
    mesh = init_device_mesh("cpu", (RANKS,), mesh_dim_names=("tp",))
    try:
        observed = run(shard(build(), mesh))
    except Exception as error:
        print(f"rank {rank}: observed: {type(error).__name__}: {error}\nreference: runs in one process", flush=True)
        raise
    if MODULE and observed[f"output of {MODULE}"].shape != reference[f"output of {MODULE}"].shape:
        del observed[f"output of {MODULE}"], reference[f"output of {MODULE}"]  # a shard, as the plan has it
    names = list(reference)
    own = torch.tensor([differ(observed.get(name), reference[name]) for name in names])
    everywhere = [torch.zeros_like(own) for _ in range(RANKS)]
    dist.all_gather(everywhere, own)
    wrong = [name for name, largest in zip(names, torch.stack(everywhere).amax(0).tolist()) if largest > TOLERANCE]
    shown = [name for name in [f"output of {MODULE}", *FIRST] if name in wrong] or wrong[:1]
    for name in shown:
        observed_everywhere = gather_head(observed.get(name))
        if rank == 0:
            print(name)
            for other, head in enumerate(observed_everywhere):
                print(f"  observed on rank {other}: {head}")
            print(f"  reference:          {list_head(reference[name])}")
            largest = max(one[names.index(name)] for one in everywhere)
            print(f"  largest difference over largest element: {largest:.2g}", flush=True)
    if rank == 0:
        print(f"{'DIFFERENT' if wrong else 'EQUAL'}: {len(wrong)} of {len(names)} tensors differ", flush=True)
    dist.barrier()
    return 1 if wrong else 0


def main():
    if "RANK" not in os.environ:
        return launch()
    rank = int(os.environ["RANK"])
    if rank == 0:
        print(f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}")
        print(f"plan: {json.dumps(PLAN)}", flush=True)
    rendezvous = os.environ.get("REPRO_FILE")
    method = f"file://{rendezvous}" if rendezvous else "env://"
    dist.init_process_group("gloo", init_method=method, rank=rank, world_size=RANKS)
    code = compare(rank)
    dist.destroy_process_group()
    return code


def launch():
    """Start a process for each rank; when one fails, end the others."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"WORLD_SIZE": str(RANKS), "REPRO_FILE": os.path.join(folder, "store"), "HF_HUB_OFFLINE": "1"}
        numbers = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(RANKS)]
        command = [sys.executable, __file__]
        ranks = [subprocess.Popen(command, env={**os.environ, **own, **number}) for number in numbers]
        while any(rank.poll() is None for rank in ranks):
            if any(rank.poll() for rank in ranks):
                time.sleep(2)  # what the others have to say
                for rank in ranks:
                    rank.kill()
            time.sleep(0.1)
        return 1 if any(rank.returncode for rank in ranks) else 0


if __name__ == "__main__":
    sys.exit(main())
'''

MODEL_LOSS = "    loss = outputs.loss"
DRAWN_LOSS = """\
    draws = torch.Generator().manual_seed(3)
    loss = sum((one * torch.randn(one.shape, generator=draws)).sum() for one in list_tensors(outputs))"""

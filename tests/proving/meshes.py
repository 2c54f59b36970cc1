"""Shardings over a mesh dp x tp, right ones and others with one bug planted. Importable by spawned ranks."""

import dataclasses

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving.steps import make_sgd, make_step
from torch import nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step
from shardproof.proving.running.target import ProofTarget

DP = {"dp": 2}
DP_TP = {"dp": 2, "tp": 2}


class Net(nn.Module):
    """A norm, an MLP and a head, of odd widths too."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 4, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.down(F.gelu(self.up(self.norm(x)))))


def make_net_in_bfloat16():
    return Net().bfloat16()


def make_adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.1)


def make_net_step(**changes):
    return make_step(**({"model": Net, "rows": 4, "outputs": 3} | changes))


step = make_net_step()

# Right ---------------------------------------------------------------------------------------------------------------


def shard_tp(model, mesh):
    return parallelize_module(model, mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})


def shard_dp(model, mesh, **options):
    for layer in (model.up, model.down):
        fully_shard(layer, mesh=mesh["dp"], **options)
    return fully_shard(model, mesh=mesh["dp"], **options)


def shard_both(model, mesh):
    return shard_dp(shard_tp(model, mesh), mesh)


def shard_root_only(model, mesh):
    return fully_shard(model, mesh=mesh["dp"])


def keep_unsharded(model, mesh):
    return shard_dp(model, mesh, reshard_after_forward=False)


def shard_last_dim(model, mesh):
    return fully_shard(model, mesh=mesh["dp"], shard_placement_fn=lambda parameter: Shard(parameter.ndim - 1))


def in_mixed_precision(model, mesh):
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return shard_dp(model, mesh, mp_policy=policy)


def shard_and_replicate(model, mesh):
    return fully_shard(model, mesh=mesh["dp_replicate", "dp_shard"])


def replicate(model, mesh):
    from torch.distributed._composable.replicate import replicate as replicate_by_ddp

    return replicate_by_ddp(model, device_mesh=mesh["dp"])


def average_by_hooks(model, mesh):
    """Data parallelism by hand, of parameters that are split over tp."""
    group, size = mesh["dp"].get_group(), mesh["dp"].size()

    def average(gradient):
        local = gradient._local_tensor if isinstance(gradient, DTensor) else gradient
        local = local.clone()
        dist.all_reduce(local, group=group)
        local /= size
        if isinstance(gradient, DTensor):
            return DTensor.from_local(local, gradient.device_mesh, gradient.placements, run_check=False)
        return local

    model = shard_tp(model, mesh)
    for parameter in model.parameters():
        parameter.register_hook(average)
    return model


# Wrong ---------------------------------------------------------------------------------------------------------------


def average_nothing(model, mesh):
    return shard_tp(model, mesh)


def average_twice(model, mesh):
    model = shard_both(model, mesh)
    for parameter in model.up.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: parameter.grad.div_(mesh["dp"].size()))
    return model


def sum_only(model, mesh):
    model = shard_both(model, mesh)
    model.up.set_gradient_divide_factor(1.0)
    return model


def leave_partial_over_tp(model, mesh):
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel(output_layouts=Partial())}
    return shard_dp(parallelize_module(model, mesh["tp"], plan), mesh)


def disagree_over_tp(model, mesh):
    """The norm is replicated over tp, and one of its ranks counts the gradient three times."""
    model = shard_both(model, mesh)
    factor = 1 + 2 * mesh["tp"].get_local_rank()
    model.norm.weight.register_post_accumulate_grad_hook(lambda parameter: parameter.grad.mul_(factor))
    return model


# A training of one's own ---------------------------------------------------------------------------------------------


class Training:
    """FSDP2 with tensor parallelism, its loss averaged and its gradients clipped by hand; `bug` plants one."""

    def __init__(self, bug=""):
        self.bug = bug

    def __call__(self, run):
        model = Net().to(run.state["up.weight"].dtype)
        model.load_state_dict(dict(run.state))
        model = shard_both(model, run.mesh)
        run.watch(model)
        dp, optimizer = run.mesh["dp"], make_sgd(model.parameters())
        for batch in run.batches():
            x, y = (tensor.chunk(dp.size())[dp.get_local_rank()] for tensor in batch)
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            run.record_loss(over(dp, loss.detach()) / dp.size())
            loss.backward()
            run.record_gradients()
            norm = self.norm(model, run.mesh)
            for parameter in model.parameters():  # on two meshes
                torch.nn.utils.clip_grads_with_norm_([parameter], 1.0, norm)
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    def norm(self, model, mesh):
        """Of the whole model: a shard once, and of what is replicated over tp the first rank's."""
        total = torch.zeros((), dtype=next(model.parameters()).dtype)
        for parameter in model.parameters():
            split = "tp" in parameter.device_mesh.mesh_dim_names
            if split or mesh["tp"].get_local_rank() == 0 or self.bug == "replicas counted":
                total = total + parameter.grad._local_tensor.square().sum()
        total = over(mesh["tp"], total)
        return (total if self.bug == "shards missed" else over(mesh["dp"], total)).sqrt()


def over(mesh, tensor):
    tensor = tensor.clone()
    dist.all_reduce(tensor, group=mesh.get_group())
    return tensor


def make_step_of_tokens(**changes):
    """A loss over the tokens that count: two of the first two rows, and four of the others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, -100, 1, -100, 2, 0, 1, 2])
    batch = torch.randn(8, 6, generator=generator), labels
    return make_net_step(batch=batch, loss=F.cross_entropy, **changes)


def train_on_tokens(bug):
    def train(run):
        model = Net().to(run.state["up.weight"].dtype)
        model.load_state_dict(dict(run.state))
        model = shard_dp(model, run.mesh)
        run.watch(model)
        dp, optimizer = run.mesh["dp"], make_sgd(model.parameters())
        for batch in run.batches():
            x, labels = (tensor.chunk(dp.size())[dp.get_local_rank()] for tensor in batch)
            optimizer.zero_grad()
            if bug:
                loss = F.cross_entropy(model(x), labels)
            else:
                count = over(dp, (labels >= 0).sum()).item() / dp.size()
                loss = F.cross_entropy(model(x), labels, reduction="sum") / count
            run.record_loss(over(dp, loss.detach()) / dp.size())
            loss.backward()
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return train


# transformers --------------------------------------------------------------------------------------------------------


def load_model(kind, *, count=True, **change):
    """A tiny model, by its own plan over tp and by FSDP2 over dp; one step.

    Its rows have unequal numbers of valid tokens, so that a rank is to divide by its share of all of them (`count`).
    """
    step = dataclasses.replace(tiny_step(kind, {}), steps=1)
    ids, labels = (step.batch["inputs"][name] for name in ("input_ids", "labels"))
    labels[0, -2:] = -100
    valid = int((labels[:, 1:] >= 0).sum())

    def forward(model, batch):
        ids_here, labels_here = (batch["inputs"][name] for name in ("input_ids", "labels"))
        items = valid * len(ids_here) // len(ids)
        return model(input_ids=ids_here, labels=labels_here, use_cache=False, num_items_in_batch=items).loss

    assert valid % len(ids) == 0
    step = dataclasses.replace(step, forward=forward) if count else step
    return ProofTarget(step=step, parallelize=OwnPlan(change=PlanChange(**change)))


def load_llama():
    return load_model("llama")

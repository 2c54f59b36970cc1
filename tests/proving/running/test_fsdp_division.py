"""FSDP2 divides the float64 of a proof as the user's own dtypes are divided."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp._fully_shard import _fsdp_collectives

from shardproof import Step
from shardproof.proving.cause import CauseKind
from shardproof.proving.prove import prove
from shardproof.proving.running.fsdp_division import divided_as_in

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64


def ask(dtype):
    """The factors before and after a reduction over no group, with a divisor of 4."""
    return _fsdp_collectives._get_gradient_divide_factors(None, None, dtype, "cpu", 4.0, True)[:2]


IN_THE_COLLECTIVE, AROUND_IT = ask(F32), ask(F64)


def test_the_two_ways_are_two():
    assert IN_THE_COLLECTIVE != AROUND_IT == ask(F16)


@pytest.mark.parametrize(
    ("dtypes", "as_float32"),
    [
        ([F32], True),
        ([BF16, F32, torch.int64], True),
        ([F64], False),
        ([F16], False),
        ([F16, F32], False),
        ([torch.int64], False),
        ([], False),
    ],
)
def test_float64_is_divided_as_the_own_dtypes_are(dtypes, as_float32):
    with divided_as_in(dtypes):
        assert ask(F64) == (IN_THE_COLLECTIVE if as_float32 else AROUND_IT)
        assert ask(F32) == ask(BF16) == IN_THE_COLLECTIVE
        assert ask(F16) == AROUND_IT
    assert ask(F64) == AROUND_IT


def test_an_error_leaves_pytorch_as_it_was():
    with pytest.raises(ZeroDivisionError), divided_as_in([F32]):
        _ = 1 / 0
    assert ask(F64) == AROUND_IT


class Net(nn.Module):
    def __init__(self, dtype=F32):
        super().__init__()
        self.own, self.common = nn.Linear(4, 3, dtype=dtype), nn.Linear(3, 2, dtype=dtype)

    def forward(self, x):
        return self.common(self.own(x).tanh())


def shard_over_one(model, mesh):
    """`own` is averaged by hand and divided by FSDP2 over a mesh of one rank, as experts on ranks of their own are."""
    single = init_device_mesh("cpu", (mesh.size(), 1), mesh_dim_names=("ranks", "copies"))["copies"]
    fully_shard(model.own, mesh=single)
    model.own.set_gradient_divide_factor(float(mesh.size()))
    for parameter in model.parameters():
        own = parameter in set(model.own.parameters())
        parameter.register_post_accumulate_grad_hook(sum_up if own else average)
    return model


def sum_up(parameter):
    gradient = parameter.grad
    dist.all_reduce(gradient.to_local() if hasattr(gradient, "to_local") else gradient)


def average(parameter):
    dist.all_reduce(parameter.grad)
    parameter.grad.div_(dist.get_world_size())


def prove_in(dtype):
    torch.manual_seed(0)
    batch = (torch.randn(4, 4, dtype=dtype), torch.randn(4, 2, dtype=dtype))
    step = Step(model=lambda: Net(dtype), batch=batch, loss=F.mse_loss, steps=1)
    return prove(step, parallelize=shard_over_one, mesh={"dp": 2}, trials=1)


def test_what_float32_divides_once_is_proved_and_what_float64_divides_twice_is_wrong():
    """torch 2.13 divides twice over one rank, in float16 and float64: docs/findings.md."""
    assert prove_in(F32).ok
    roots = prove_in(F64).roots
    assert {root.key.name for root in roots} == {"own.weight", "own.bias"}
    assert all(root.cause.kind is CauseKind.SCALED and root.cause.factor * 2 == 1 for root in roots)

"""Code that makes tensors in its own dtype runs in float64 and float32 too, and is proved or WRONG as any other is."""

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.running.widening import own_dtypes_widened
from shardproof.proving.step import Step

FLOAT64, FLOAT32, BFLOAT16 = torch.float64, torch.float32, torch.bfloat16
TABLE = torch.randn(8, 8, generator=torch.Generator().manual_seed(4))  # float32, whatever the run computes in
ROWS = torch.tensor([2, 0, 1])


def scatter(h):
    total = torch.zeros(3, 8, dtype=h.dtype)
    total.index_add_(0, ROWS, h)
    return total


FORMS = {
    "factory": lambda h: h @ torch.tril(torch.ones(8, 8)),
    "plain table": lambda h: torch.einsum("bi,ij->bj", h, TABLE),
    "cast": lambda h: F.linear(h.float(), TABLE).to(h.dtype),
    "dtype named": lambda h: torch.matmul(h, torch.eye(8, dtype=torch.float32)),
    "into zeros": lambda h: torch.zeros(3, 8).index_add(0, ROWS, h),
    "written into zeros": lambda h: torch.zeros(3, 8).index_put_((ROWS,), h),
    "one hot": lambda h: h + F.one_hot(ROWS, 8).float() @ TABLE,
    "softmax in float32": lambda h: h.softmax(-1, dtype=torch.float32) @ TABLE,
}


class Formed(nn.Module):
    def __init__(self, form, dtype=None):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8, dtype=dtype), nn.Linear(8, 4, dtype=dtype)
        self.form, self.factor = form, 1.0

    def forward(self, x):
        return self.down(self.form(self.up(x)) * self.factor)


def proof_of(form, factor=1.0, dtype=FLOAT32):
    def shard(model, _mesh):
        model.factor = factor
        return model

    x, y = steps.make_batch(rows=3)
    step = Step(
        model=lambda: Formed(form, dtype), batch=(x.to(dtype), y.to(dtype)), loss=F.mse_loss, steps=1,
        optimizer=steps.make_sgd,
    )  # fmt: skip
    return prove(step, parallelize=shard, devices=2, trials=1, allow=["VACUOUS sharding *"])


@pytest.mark.parametrize("name", FORMS)
def test_what_the_code_makes_in_float32_does_not_stop_a_proof(name):
    assert proof_of(FORMS[name]).ok


@pytest.mark.parametrize("name", ["factory", "into zeros", "softmax in float32"])
def test_a_factor_behind_it_is_wrong(name):
    proof = proof_of(FORMS[name], factor=1.01)
    assert any(one.verdict is Verdict.WRONG for one in proof.findings)


OF_BFLOAT16 = {
    "named": lambda h: h @ TABLE.to(BFLOAT16),
    "written": lambda h: torch.zeros(3, 8, dtype=BFLOAT16).index_add_(0, ROWS, h),
    "norm in float32": lambda h: F.layer_norm(h.float(), (8,)).bfloat16(),
    "type_as": lambda h: h.float().softmax(-1).type_as(h),
}


@pytest.mark.parametrize("name", OF_BFLOAT16)
def test_a_model_of_16_bits_may_name_its_dtype(name):
    assert proof_of(OF_BFLOAT16[name], dtype=BFLOAT16).ok
    assert not proof_of(OF_BFLOAT16[name], factor=2.0, dtype=BFLOAT16).ok


def test_the_dtypes_of_what_is_made():
    x = torch.ones(2, dtype=FLOAT64)
    with own_dtypes_widened(FLOAT64, [FLOAT32]):
        made = [
            torch.zeros(2),
            torch.tensor(0.5),
            x.float(),
            x.to(FLOAT32),
            x.type(FLOAT32),
            torch.ones(2, dtype=FLOAT32),
        ]
        assert {one.dtype for one in made} == {FLOAT64}
        assert torch.tensor([1, 2]).dtype == torch.int64
        assert x.bfloat16().dtype == BFLOAT16  # meant: the model is not built in it
        assert (x @ x.bfloat16()).dtype == FLOAT64
        assert x.view(torch.int64).view(FLOAT64).equal(x)
        assert x.to(torch.ones(2).int()).dtype == torch.int32
        assert x.float().type_as(TABLE).dtype == FLOAT64
        assert x.type_as(x.bfloat16()).dtype == BFLOAT16
        assert (x.bfloat16() * torch.tensor(0.5)).dtype == BFLOAT16  # a number promotes nothing
        assert torch.ops.aten._to_copy(x, dtype=FLOAT32).dtype == FLOAT32  # of autograd's engine
        held = x.bfloat16()
        held.add_(x)
        assert held.dtype == BFLOAT16
        assert torch.get_default_dtype() == FLOAT32
        assert torch.tensor(0.1).item() == 0.1
    with own_dtypes_widened(FLOAT64, [BFLOAT16]):
        assert x.bfloat16().dtype == torch.zeros(2, dtype=BFLOAT16).dtype == FLOAT64
    with own_dtypes_widened(FLOAT32, [BFLOAT16]):
        assert torch.zeros(2, dtype=BFLOAT16).dtype == torch.zeros(2).dtype == FLOAT32
        assert x.to(FLOAT32).dtype == FLOAT32
    with own_dtypes_widened(None, [FLOAT32]):
        assert torch.zeros(2).dtype == x.float().dtype == FLOAT32
    assert torch.zeros(2).dtype == FLOAT32


def test_gradients_come_back_in_the_dtype_of_what_was_converted():
    table = TABLE.clone().requires_grad_()
    x = torch.ones(3, 8, dtype=FLOAT64, requires_grad=True)
    with own_dtypes_widened(FLOAT64, [FLOAT32]):
        (x @ table).sum().backward()
    assert (x.grad.dtype, table.grad.dtype) == (FLOAT64, FLOAT32)


def mixed(model, mesh):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=BFLOAT16, reduce_dtype=FLOAT32)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def test_mixed_precision_beside_a_table_in_float32_is_run_and_called_what_it_is():
    """Autograd's engine converts gradients to float32 where the table has made float32 of bfloat16."""
    generator = torch.Generator().manual_seed(5)
    step = Step(
        model=lambda: Formed(lambda h: (h + TABLE[:1]).to(h.dtype).relu()),
        batch=(torch.randn(4, 6, generator=generator), torch.randn(4, 4, generator=generator)),
        loss=lambda output, target: F.mse_loss(output.float(), target), steps=1, optimizer=steps.make_sgd,
    )  # fmt: skip
    proof = prove(step, parallelize=mixed, mesh={"dp": 2}, trials=1)
    assert {one.cause.kind for one in proof.roots} == {CauseKind.LOWER_DTYPE_COLLECTIVE}

"""PyTorch's context parallelism on the CPU: its ring, head-tail balancing, both ways to pass keys and values on."""

import importlib

import pytest
import torch
import torch.nn.functional as F
from tests.proving.summed_steps import finish_step
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import context_parallel

import shardproof as sp
from shardproof.proving.findings import Verdict
from shardproof.proving.running import context_parallel as context_parallel_on_cpu

ring = importlib.import_module("torch.distributed.tensor.experimental._context_parallel._attention")

WIDTH, HEADS, TOKENS, ROWS = 8, 2, 8, 2


class Attention(nn.Module):
    """With positions, which have to be split as the tokens are."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, y, positions):
        parts = self.qkv(x + positions[..., None]).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return (self.out(attended.transpose(1, 2).flatten(2)) - y).square()


def step():
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(ROWS, TOKENS, WIDTH, generator=generator) for _ in range(2))
    return sp.Step(
        model=Attention,
        batch=(x, y, torch.arange(float(TOKENS)).expand(ROWS, TOKENS)),
        forward=lambda model, batch: model(*batch).mean(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )


def train(run, *, own_positions=True):
    model = run.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mesh = init_device_mesh("cpu", (run.size,))
    for x, y, positions in run.batches():
        buffers = [t.clone() for t in (x, y, positions)]
        optimizer.zero_grad()
        split = buffers if own_positions else buffers[:2]
        with context_parallel(mesh, buffers=split, buffer_seq_dims=[1] * len(split), no_restore_buffers={*split}):
            if not own_positions:
                buffers[2] = buffers[2][:, : buffers[0].shape[1]]
            loss = model(*buffers).mean() / run.size
            loss.backward()
        finish_step(run, model, optimizer, loss)


@pytest.mark.parametrize("devices", [2, 4])
@pytest.mark.parametrize("rotate", ["alltoall", "allgather"])
def test_its_ring_is_proved(devices, rotate, monkeypatch):
    method = ring._RotateMethod.ALL_TO_ALL if rotate == "alltoall" else ring._RotateMethod.ALL_GATHER
    monkeypatch.setattr(ring._cp_options, "rotate_method", method)
    proof = sp.prove(step(), candidate=train, devices=devices, trials=1)
    assert proof.ok, str(proof)


@pytest.mark.processes
def test_so_it_is_on_processes():
    proof = sp.prove(step(), candidate=train, devices=2, trials=1, spawn=True)
    assert proof.ok, str(proof)


def swapped_weights(self, block_out, block_lse, partial):
    """`_SDPAMerger._merge_one` of whole blocks, with the arguments of sigmoid exchanged."""
    block_lse = block_lse.unsqueeze(-1)
    self._should_lse_squeeze = True
    if self._lse is None:
        self._lse, self._out = block_lse, block_out
        return
    start = self._out.shape[2] // 2 if partial else 0
    out, lse = self._out[:, :, start:], self._lse[:, :, start:]
    merged = out - F.sigmoid(lse - block_lse) * (out - block_out)
    self._out = torch.cat([self._out[:, :, :start], merged], 2)
    self._lse = torch.cat([self._lse[:, :, :start], lse - F.logsigmoid(lse - block_lse)], 2)


def first_lse_kept(self, block_out, block_lse, partial):
    """The merged output is right, what the backward is given as its log-sum-exp is that of the first block."""
    before = self._lse
    MERGE(self, block_out, block_lse, partial)
    if before is not None:
        self._lse = before


MERGE = ring._SDPAMerger._merge_one


@pytest.mark.parametrize(("merge", "root"), [(swapped_weights, "input out"), (first_lse_kept, "gradient qkv")])
def test_a_wrong_merge_is_wrong(merge, root, monkeypatch):
    monkeypatch.setattr(ring._SDPAMerger, "_merge_one", merge)
    proof = sp.prove(step(), candidate=train, devices=2, trials=2)
    assert proof.roots[0].verdict is Verdict.WRONG
    assert root in str(proof.roots[0].key), str(proof)


def test_positions_that_are_not_split_as_the_tokens_are_wrong():
    proof = sp.prove(step(), candidate=lambda run: train(run, own_positions=False), devices=2, trials=1)
    assert proof.roots[0].verdict is Verdict.WRONG


def test_a_mask_is_refused_in_one_line():
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(sp.CannotRunError, match="its ring takes none: give is_causal=True"):
        context_parallel_on_cpu._forward(context_parallel_on_cpu._FORWARD, (x, x, x), {"attn_mask": torch.zeros(2, 2)})


def test_plain_attention_is_left_alone():
    context_parallel_on_cpu.let_ring_run(torch.zeros(1))
    assert context_parallel_on_cpu._FORWARD not in DTensor._op_dispatcher._custom_op_handlers

"""Context parallelism by hand: the sequence is split, keys and values go round a ring, the softmax is merged online."""

import pytest
import torch
import torch.distributed as dist
from tests.proving.summed_steps import finish_step
from torch import nn

import shardproof as sp
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase

WIDTH, LENGTH, ROWS = 4, 8, 2


class Passed(torch.autograd.Function):
    """To the next rank, from the one before; the gradient goes back."""

    @staticmethod
    def forward(ctx, x):
        return passed(x, 1)

    @staticmethod
    def backward(ctx, gradient):
        return passed(gradient, -1)


def passed(x, step):
    size, rank = dist.get_world_size(), dist.get_rank()
    received = torch.empty_like(x, memory_format=torch.contiguous_format)
    sends = dist.P2POp(dist.isend, x.contiguous(), (rank + step) % size)
    receives = dist.P2POp(dist.irecv, received, (rank - step) % size)
    for work in dist.batch_isend_irecv([sends, receives]):
        work.wait()
    return received


def ring_attention(q, k, v, bug):
    """Causal, of this rank's queries to the keys of all, with a running maximum. Dao et al. 2022, algorithm 1."""
    size, rank = dist.get_world_size(), dist.get_rank()
    queries = torch.arange(q.shape[1]) + rank * q.shape[1]
    largest, total, out = None, None, None
    for step in range(size):
        keys = torch.arange(k.shape[1]) + (rank - step) % size * k.shape[1]
        scores = (q @ k.mT / WIDTH**0.5).masked_fill(keys > queries[:, None], torch.finfo(q.dtype).min)
        block = scores.detach().amax(-1, keepdim=True)
        now = block if largest is None else torch.maximum(largest, block)
        powers = (scores - now).exp()
        if largest is None:
            total, out = powers.sum(-1, keepdim=True), powers @ v
        else:
            factor = 1.0 if bug == "no rescale" else (largest - now).exp()
            total, out = total * factor + powers.sum(-1, keepdim=True), out * factor + powers @ v
        largest = now
        if step < size - 1:
            k, v = Passed.apply(k), v if bug == "stale values" else Passed.apply(v)
    return out / total


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.ring = None

    def forward(self, x, y):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.ring is None:
            seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
            attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        else:
            attended = ring_attention(q, k, v, self.ring)
        return (self.out(attended) - y).square()


def training(bug):
    def train(run):
        model = run.model()
        model.ring = bug
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in run.batches():
            own = slice(run.rank * LENGTH // run.size, (run.rank + 1) * LENGTH // run.size)
            optimizer.zero_grad()
            loss = model(x[:, own], y[:, own]).sum() / y.numel()
            loss.backward()
            finish_step(run, model, optimizer, loss)

    return train


def step():
    generator = torch.Generator().manual_seed(1)
    batch = tuple(torch.randn(ROWS, LENGTH, WIDTH, generator=generator) for _ in range(2))
    return sp.Step(
        model=Attention,
        batch=batch,
        forward=lambda model, batch: model(*batch).mean(),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )


@pytest.mark.parametrize("devices", [2, 4])
def test_a_ring_with_a_running_maximum_is_proved(devices):
    proof = sp.prove(step(), candidate=training("none"), devices=devices, trials=2)
    assert proof.ok, str(proof)


@pytest.mark.processes
def test_so_it_is_on_processes():
    proof = sp.prove(step(), candidate=training("none"), devices=2, trials=1, spawn=True)
    assert proof.ok, str(proof)


@pytest.mark.parametrize("bug", ["no rescale", "stale values"])
def test_a_wrong_ring_is_wrong_where_the_attention_is(bug):
    proof = sp.prove(step(), candidate=training(bug), devices=2, trials=3)
    assert not proof.ok
    assert [(root.key.phase, root.key.name) for root in proof.roots] == [(Phase.INPUT, "out")]
    assert proof.roots[0].verdict is Verdict.WRONG

"""Linear attention over split sequences: a state goes from rank to rank, and a rank's tokens are an affine map of it.

A gated delta rule (Yang, Kautz and Hatamizadeh 2024): S_t = g_t (S_{t-1} - b_t k_t (S_{t-1}^T k_t)^T) + b_t k_t v_t^T,
o_t = S_t^T q_t. One device goes from token to token; ranks compute their tokens at once, in the chunked form.
"""

import pytest
import torch
import torch.distributed as dist
from tests.proving.planted_bugs import ON_PROCESSES
from tests.proving.summed_steps import finish_step
from torch import nn

import shardproof as sp
from shardproof.proving.findings import Verdict

WIDTH, ROWS, LENGTH = 2, 2, 8


def token_by_token(q, k, v, gate, beta):
    """Of [rows, tokens, width], gates and betas [rows, tokens, 1]."""
    state = torch.zeros(q.shape[0], WIDTH, WIDTH, dtype=q.dtype)
    out = []
    for t in range(q.shape[1]):
        state = gate[:, t, :, None] * state
        error = beta[:, t] * (v[:, t] - (k[:, t, None] @ state)[:, 0])
        state = state + k[:, t, :, None] * error[:, None]
        out.append((q[:, t, None] @ state)[:, 0])
    return torch.stack(out, 1)


class Chunk:
    """Some tokens at once, as a map of the state before them: S -> decay S + K^T (U - W S), and what they read."""

    def __init__(self, q, k, v, gate, beta):
        decay = gate.cumprod(1)
        ratio = torch.ones(q.shape[1], q.shape[1]).tril() * (decay / decay.mT)  # of a token and one before it
        inner = beta * ratio * (k @ k.mT)
        inverse = torch.eye(q.shape[1], dtype=q.dtype) + inner.tril(-1)
        self.errors = torch.linalg.solve_triangular(inverse, beta * v, upper=False)
        self.of_state = torch.linalg.solve_triangular(inverse, beta * decay * k, upper=False)
        self.q, self.decay, self.weights = decay * q, decay[:, -1:], ratio * (q @ k.mT)
        self.last = k * (decay[:, -1:] / decay)

    def read(self, state):
        """What the tokens read, if this is the state before them."""
        return self.q @ state + self.weights @ (self.errors - self.of_state @ state)

    def matrices(self):
        """A and B of the state after them, A S + B."""
        a = self.decay * torch.eye(WIDTH, dtype=self.q.dtype) - self.last.mT @ self.of_state
        return a, self.last.mT @ self.errors


class Sent(torch.autograd.Function):
    """A state to the next rank; its gradient comes back from there."""

    @staticmethod
    def forward(ctx, state, to):
        ctx.to, ctx.shape = to, state.shape
        dist.send(state.contiguous(), to)
        return state.new_zeros(())

    @staticmethod
    def backward(ctx, gradient):
        received = gradient.new_empty(ctx.shape)
        dist.recv(received, ctx.to)
        return received, None


class Received(torch.autograd.Function):
    """The state from the rank before; its gradient goes back to it."""

    @staticmethod
    def forward(ctx, like, source):
        ctx.source = source
        received = torch.empty_like(like)
        dist.recv(received, source)
        return received

    @staticmethod
    def backward(ctx, gradient):
        dist.send(gradient.contiguous(), ctx.source)
        return torch.zeros_like(gradient), None


class Gathered(torch.autograd.Function):
    """All ranks' tensors, stacked; the gradient of each is summed over the ranks."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def passed_on(chunk, bug, ends):
    """From rank to rank: the state before this rank's tokens, and what keeps its message in the graph."""
    a, b = chunk.matrices()
    rank, size = dist.get_rank(), dist.get_world_size()
    state = torch.zeros_like(b)
    if rank:
        state = Received.apply(torch.zeros_like(b, requires_grad=True), rank - 1)
    if bug == "stale state":  # of the batch before
        stale, ends["before"] = ends.get("before", torch.zeros_like(b)), state.detach()
        state = stale + 0 * state
    if bug == "state detached":
        state = state.detach() + 0 * state
    after = b + (state if bug == "state not decayed" else a @ state)
    if rank < size - 1:
        ends["sent"] = Sent.apply(after, rank + 1)
    return state


def scanned(chunk, bug, _ends):
    """All maps of all ranks are gathered, and those before this rank composed."""
    a, b = (Gathered.apply(x) for x in chunk.matrices())
    before = range(dist.get_rank())
    state = 0 * a[0] + 0 * b[0]  # the first rank takes part in the backward of the gathers too
    for rank in reversed(before) if bug == "ranks in another order" else before:
        state = b[rank] + (state if bug == "state not decayed" else a[rank] @ state)
    return state


WAYS = {"passed on": passed_on, "scanned": scanned}


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.gate, self.beta = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 1)
        self.split = None

    def forward(self, x):
        gate, beta = self.gate(x).sigmoid(), self.beta(x).sigmoid()
        given = self.q(x), self.k(x), self.v(x), gate, beta
        if self.split is None:
            return self.out(token_by_token(*given))
        way, bug, ends = self.split
        chunk = Chunk(*given)
        return self.out(chunk.read(WAYS[way](chunk, bug, ends)))


def training(way, bug):
    def train(run):
        model, ends = run.model(), {}
        model.split = way, bug, ends
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in run.batches():
            own = slice(run.rank * LENGTH // run.size, (run.rank + 1) * LENGTH // run.size)
            optimizer.zero_grad()
            loss = (model(x[:, own]) - y[:, own]).square().sum() / y.numel()
            (loss + ends.pop("sent", 0)).backward()
            finish_step(run, model, optimizer, loss)

    return train


def run(way, bug="", ranks=2, **settings):
    generator = torch.Generator().manual_seed(1)
    batch = tuple(torch.randn(ROWS, LENGTH, WIDTH, generator=generator) for _ in range(2))
    step = sp.Step(
        model=Attention,
        batch=batch,
        loss=nn.functional.mse_loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=2 if bug == "stale state" else 1,
    )
    return sp.prove(step, candidate=training(way, bug), devices=ranks, trials=1, **settings)


@pytest.mark.parametrize(("ranks", "spawn"), [(2, False), (4, False), (2, ON_PROCESSES)])
@pytest.mark.parametrize("way", WAYS)
def test_a_state_over_ranks_is_proved(way, ranks, spawn):
    proof = run(way, ranks=ranks, spawn=spawn)
    assert proof.ok, str(proof)


WRONG = [
    ("passed on", "state not decayed", 4),
    ("passed on", "stale state", 2),
    ("passed on", "state detached", 2),
    ("scanned", "state not decayed", 4),
    ("scanned", "ranks in another order", 4),
]


@pytest.mark.parametrize("spawn", [False, ON_PROCESSES])
@pytest.mark.parametrize(("way", "bug", "ranks"), WRONG)
def test_a_wrong_state_is_found(way, bug, ranks, spawn):
    proof = run(way, bug, ranks, spawn=spawn)
    assert proof.roots, str(proof)
    assert {root.verdict for root in proof.roots} == {Verdict.WRONG}, str(proof)
    first = proof.roots[0].key
    # Forward it is what the tokens read; the detached state is right forward.
    assert ("gradient" in first.phase) if bug == "state detached" else first.name == "out", str(proof)

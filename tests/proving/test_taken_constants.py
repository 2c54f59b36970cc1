"""Tables and slopes that ranks compute in another way, a last place away: proved, and said; any farther away: WRONG."""

from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.running.target import ProofTarget
from shardproof.proving.step import Step
from shardproof.report.text import render_text

LENGTH, HEADS, WIDTH = 5, 6, 4
RATIO = 2 ** (-8 / HEADS)

SLOPES = {
    "powers": lambda: [RATIO ** (i + 1) for i in range(HEADS)],
    "products": lambda: torch.full((HEADS,), RATIO, dtype=torch.float64).cumprod(0).tolist(),
    "another head count": lambda: [(RATIO * (1 + 1e-4)) ** (i + 1) for i in range(HEADS)],
    "one head's neighbour": lambda: [RATIO ** (i + 1 + (i == 4)) for i in range(HEADS)],
}


def angles(base):
    return torch.outer(torch.arange(1.0, LENGTH + 1), base ** (-torch.arange(0, WIDTH) / WIDTH))


TABLES = {
    "cosine": lambda: angles(10000.0).cos(),
    "last place": lambda: torch.nextafter(angles(10000.0).cos(), torch.tensor(2.0)),
    "another base": lambda: angles(10001.0).cos(),
    "bfloat16": lambda: angles(10000.0).cos().bfloat16().float(),
}


class Attention(nn.Module):
    """Heads with biases of distance; their inputs times a table. Which slopes and which table can be exchanged."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(WIDTH, HEADS * WIDTH), nn.Linear(HEADS * WIDTH, WIDTH)
        self.register_buffer("table", TABLES["cosine"](), persistent=False)
        self.slopes = SLOPES["powers"]()

    def forward(self, x):
        h = self.inner(x).unflatten(-1, (HEADS, WIDTH)).transpose(0, 1) * self.table
        distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
        slopes = torch.tensor(self.slopes, dtype=h.dtype)
        scores = h @ h.transpose(-1, -2) - slopes[:, None, None] * distance.abs()
        return self.outer((scores.softmax(-1) @ h).transpose(0, 1).flatten(1))


def make_step():
    generator = torch.Generator().manual_seed(2)
    batch = torch.randn(LENGTH, WIDTH, generator=generator), torch.randn(LENGTH, WIDTH, generator=generator)
    return Step(
        model=Attention, batch=batch, loss=F.mse_loss, steps=1,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip


@dataclass(frozen=True)
class Otherwise:
    """The ranks compute slopes and table in this way."""

    slopes: str = "powers"
    table: str = "cosine"

    def change(self, model):
        dtype = model.table.dtype
        model.slopes, model.table = SLOPES[self.slopes](), TABLES[self.table]().to(dtype)
        return model

    def parallelize(self, model, _mesh):
        return self.change(model)

    def train(self, run):
        model = self.change(Attention()).to(next(iter(run.state.values())).dtype)
        model.load_state_dict(run.state)
        run.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in run.batches():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            dist.all_reduce(total := loss.detach() / run.size)
            run.record_loss(total)
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    def __call__(self):
        return ProofTarget(step=make_step(), parallelize=self.parallelize)


@dataclass(frozen=True)
class Trained(Otherwise):
    def __call__(self):
        return ProofTarget(step=make_step(), candidate=self.train)


def proof_of(otherwise, *, spawn=False):
    target = otherwise()
    return prove(
        target.step, parallelize=target.parallelize, candidate=target.candidate, devices=2, trials=1, spawn=spawn,
        reload=otherwise if spawn else None, allow=["VACUOUS sharding *"],
    )  # fmt: skip


@pytest.mark.parametrize("kind", [Otherwise, Trained])
def test_constants_a_last_place_away_are_proved_and_listed(kind):
    proof = proof_of(kind(slopes="products", table="last place"))
    assert proof.ok
    assert {one.verdict for one in proof.findings if not one.allowed} == {Verdict.PROVED}
    taken = {(one.given, one.taken) for one in proof.taken_constants}
    table = set(zip(TABLES["last place"]().flatten().tolist(), TABLES["cosine"]().flatten().tolist(), strict=True))
    assert table <= taken
    assert len(taken) > len(table)
    assert all(given != one and abs(given / one - 1) < 1e-6 for given, one in taken)
    told = f"{len(taken)} constants of the ranks are taken for one device's, from which they differ in the last place: "
    assert told in render_text(proof)


@pytest.mark.parametrize("kind", [Otherwise, Trained])
@pytest.mark.parametrize(
    "changed",
    [{"slopes": "another head count"}, {"slopes": "one head's neighbour"}, {"table": "another base"}],
)
def test_any_farther_away_is_wrong(kind, changed):
    proof = proof_of(kind(**changed))
    assert not proof.ok
    assert any(one.verdict is Verdict.WRONG and one.key.phase is Phase.GRADIENT for one in proof.findings)


def test_a_table_of_16_bits_is_none_of_float32():
    proof = proof_of(Otherwise(table="bfloat16"))
    assert any(one.verdict is Verdict.WRONG and one.key.phase is Phase.GRADIENT for one in proof.findings)
    assert not proof.taken_constants


def test_the_same_constants_are_no_note():
    proof = proof_of(Otherwise())
    assert proof.ok
    assert proof.taken_constants == ()
    assert "last place" not in render_text(proof)


@pytest.mark.processes
@pytest.mark.parametrize("kind", [Otherwise, Trained])
def test_ranks_that_are_processes_say_the_same(kind):
    simulated, spawned = (proof_of(kind(slopes="products", table="last place"), spawn=spawn) for spawn in (False, True))
    assert spawned.ok
    assert spawned.taken_constants == simulated.taken_constants
    assert not proof_of(kind(table="another base"), spawn=True).ok

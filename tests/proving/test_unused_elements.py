"""Rows that no token hits, trained and frozen: held where they should be is proved, in another order is WRONG.

Beside them, frozen weights of which ranks share a part, as in packed projections with fewer key-value heads than ranks.
"""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase

ROWS, WIDTH = 11, 4
IDS = torch.tensor([0, 1, 5, 6, 9, 10])  # not 2, 3, 4, 7, 8


class Table(nn.Embedding):
    """All rows, or those of this rank: `place` has the row of each id here, -1 for one of another rank."""

    place = None

    def forward(self, ids):
        if self.place is None:
            return super().forward(ids)
        at = self.place[ids]
        rows = F.embedding(at.clamp(min=0), self.weight)
        return steps.AllReduceForward.apply(rows.masked_fill(at[..., None] < 0, 0.0))


class Words(nn.Module):
    def __init__(self, frozen):
        super().__init__()
        self.table, self.out = Table(ROWS, WIDTH), nn.Linear(WIDTH, 3)
        self.table.weight.requires_grad_(not frozen)

    def forward(self, ids):
        return self.out(torch.tanh(self.table(ids)))


def contiguous(rank, size):
    return torch.arange(ROWS).tensor_split(size)[rank]


def dealt_out(rank, size):
    return torch.arange(rank, ROWS, size)


def whole(_rank, _size):
    return torch.arange(ROWS)


def split(model, mesh, *, rows_of, held=None):
    """`rows_of(rank, size)`: the rows for which a rank answers, in its order; `held`: those that it holds there."""
    rank, size = mesh.get_local_rank(), mesh.size()
    rows, full = rows_of(rank, size), model.table.weight
    values = full.detach()[held(rows.clone(), rank) if held else rows]
    model.table.weight = nn.Parameter(values.clone(), requires_grad=full.requires_grad)
    if rows_of is not whole:
        model.table.place = torch.full((ROWS,), -1)
        model.table.place[rows] = torch.arange(len(rows))
    return model


def reversed_behind_the_first_two(rows, rank):
    """Rows 2, 3 and 4, none of which is used, where ranks hold contiguous ones."""
    if rank == 0:
        rows[2:5] = rows[2:5].flip(0)
    return rows


def exchanged_between_ranks(rows, _rank):
    rows, before = rows.clone(), rows
    rows[before == 4], rows[before == 7] = 7, 4
    return rows


def make_step(frozen):
    def optimizer(parameters):
        return torch.optim.AdamW([one for one in parameters if one.requires_grad], lr=0.1, weight_decay=0.1)

    batch = (IDS, torch.randn(len(IDS), 3, generator=torch.Generator().manual_seed(1)))
    return steps.make_step(model=partial(Words, frozen), batch=batch, optimizer=optimizer, steps=2)


def run(frozen, devices=2, **settings):
    return prove(
        make_step(frozen), parallelize=partial(split, **settings), devices=devices, trials=1,
        allow=["VACUOUS sharding *"],
    )  # fmt: skip


def failed(proof):
    return {(one.key.phase, one.key.name): (one.verdict, one.cause.kind) for one in proof.findings if one.failed}


@pytest.mark.parametrize("devices", [2, 3])
@pytest.mark.parametrize("rows_of", [contiguous, dealt_out, whole])
@pytest.mark.parametrize("frozen", [False, True])
def test_rows_in_their_place_are_proved(frozen, rows_of, devices):
    assert run(frozen, devices, rows_of=rows_of).ok


@pytest.mark.parametrize("held", [reversed_behind_the_first_two, exchanged_between_ranks])
@pytest.mark.parametrize("rows_of", [contiguous, whole])
@pytest.mark.parametrize("frozen", [False, True])
def test_rows_that_no_token_hits_in_another_order_are_wrong(frozen, rows_of, held):
    found = failed(run(frozen, rows_of=rows_of, held=held))
    assert found == {(Phase.INITIAL, "table.weight"): (Verdict.WRONG, CauseKind.OUT_OF_PLACE)}


def test_rows_that_a_lookup_finds_may_lie_in_any_order():
    def shuffled(rank, size):
        return torch.randperm(ROWS, generator=torch.Generator().manual_seed(0)).tensor_split(size)[rank]

    assert run(True, rows_of=shuffled).ok


# Frozen weights beside adapters -------------------------------------------------------------------------------------

HEADS, SIZE = 4, 2  # query heads; one head of keys and values for all of them


class Attention(nn.Module):
    """Packed [Q; K; V], frozen, with an adapter; multi-query attention."""

    rank, ranks = 0, 1

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(6, (HEADS + 2) * SIZE)
        self.qkv.requires_grad_(False)
        self.down, self.out = nn.Linear(6, 2, bias=False), nn.Linear(HEADS * SIZE, 3)

    def forward(self, x):
        heads = HEADS // self.ranks
        q, k, v = self.qkv(x + self.down(x).sum(-1, keepdim=True)).split([heads * SIZE, SIZE, SIZE], -1)
        q = q.unflatten(-1, (heads, SIZE)).transpose(0, 1)
        mixed = (torch.softmax(q @ k.mT, -1) @ v).transpose(0, 1).flatten(1)
        if self.ranks == 1:
            return self.out(mixed)
        own = self.out.weight.chunk(self.ranks, 1)[self.rank]
        return steps.AllReduceForward.apply(F.linear(mixed, own)) + self.out.bias


def by_heads(model, mesh, *, first=0):
    """Each rank has query heads of its own, and all have the one head of keys and values."""
    model.rank, model.ranks = mesh.get_local_rank(), mesh.size()
    queries = HEADS * SIZE
    start = (model.rank + first) % model.ranks * (queries // model.ranks)
    rows = torch.cat([torch.arange(start, start + queries // model.ranks), torch.arange(queries, queries + 2 * SIZE)])
    model.qkv.weight, model.qkv.bias = (
        nn.Parameter(one.detach()[rows].clone(), requires_grad=False) for one in model.qkv.parameters()
    )

    def total(gradient):
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient

    model.down.weight.register_hook(total)
    model.out.weight.register_hook(total)
    return model


@pytest.mark.parametrize(("first", "right"), [(0, True), (1, False)])
def test_a_frozen_projection_of_which_ranks_share_a_part_is_proved(first, right):
    batch = (torch.randn(5, 6, generator=torch.Generator().manual_seed(3)), torch.randn(5, 3))
    step = steps.make_step(
        model=Attention,
        batch=batch,
        optimizer=lambda parameters: torch.optim.SGD([one for one in parameters if one.requires_grad], lr=0.1),
    )
    proof = prove(step, parallelize=partial(by_heads, first=first), devices=2, trials=1, allow=["VACUOUS *.bias"])
    assert proof.ok == right

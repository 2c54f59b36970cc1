"""Each tensor of a transformer has a derived bound, fused attention and a split vocabulary included; or a reason."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.tensor import Replicate

from shardproof import Step, prove
from shardproof.exact import NoBound
from shardproof.parallel import Column, Row, VocabularyLoss, VocabularyRows, parallelize
from shardproof.proving.records import Key, Phase
from shardproof.proving.running import functions
from shardproof.report.text import render_text

HIDDEN, VOCABULARY = 8, 12


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.head_dim, self.qkv, self.out = 4, nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.norm, self.attention = nn.Embedding(VOCABULARY, HIDDEN), nn.LayerNorm(HIDDEN), Attention()
        self.up, self.down = nn.Linear(HIDDEN, 10), nn.Linear(10, HIDDEN)
        self.head, self.loss = nn.Linear(HIDDEN, VOCABULARY, bias=False), nn.CrossEntropyLoss()

    def forward(self, ids):
        x = self.tokens(ids[:, :-1])
        x = x + self.attention(self.norm(x))
        x = x + self.down(F.gelu(self.up(x)))
        return self.loss(self.head(x).flatten(0, 1), ids[:, 1:].flatten())


WHOLE_LOSS = {"attention.qkv": Column(parts=3), "attention.out": Row(), "up": Column(), "down": Row()}
SPLIT_LOSS = WHOLE_LOSS | {
    "tokens": VocabularyRows(), "head": Column(), "loss": VocabularyLoss(vocabulary=VOCABULARY)
}  # fmt: skip


def gpt_step(tokens=6):
    ids = torch.randint(0, VOCABULARY, (2, tokens), generator=torch.Generator().manual_seed(0))
    return Step(
        model=GPT,
        batch=ids,
        forward=lambda model, batch: model(batch),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )


def by(plan):
    return lambda model, mesh: parallelize(model, mesh, plan)


def unbounded(proof):
    assert proof.ok, render_text(proof)
    return [finding for finding in proof.findings if finding.false_accept is None]


@pytest.mark.parametrize("plan", [WHOLE_LOSS, SPLIT_LOSS], ids=["whole loss", "split loss"])
def test_every_tensor_of_a_transformer_has_a_bound(plan):
    proof = prove(gpt_step(), parallelize=by(plan), devices=2)
    assert not unbounded(proof), render_text(proof)
    assert max(finding.false_accept for finding in proof.findings) < 1e-4
    assert "no derived bound" not in render_text(proof)


@pytest.mark.parametrize(
    ("switched_off", "reason", "at"),
    [
        ("_may_take_apart", NoBound.ATTENTION, Key(0, Phase.INPUT, "attention.out")),
        ("_is_shift", NoBound.SELECTION, Key(0, Phase.INPUT_GRADIENT, "loss")),
    ],
)
def test_without_its_cuts_the_bound_is_lost_there_and_the_report_says_why(switched_off, reason, at, monkeypatch):
    monkeypatch.setattr(functions, switched_off, lambda *_: False)
    proof = prove(gpt_step(tokens=33), parallelize=by(SPLIT_LOSS), devices=2)
    lost = unbounded(proof)
    assert {finding.unbounded.reason for finding in lost if finding.key.phase is not Phase.LOSS} == {reason}
    assert {finding.unbounded.at for finding in lost if finding.key.phase is not Phase.LOSS} == {at}
    assert f"The bound is lost at {at}: " in render_text(proof)


class Wide(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.up, self.down = nn.Linear(3, 4), nn.Linear(4, 4)
        self.head, self.loss = nn.Linear(4, classes, bias=False), nn.CrossEntropyLoss()

    def forward(self, x, labels):
        return self.loss(self.head(self.down(torch.tanh(self.up(x)))), labels)


def wide_step(classes):
    return Step(
        model=lambda: Wide(classes),
        batch=(torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1, classes - 1])),
        forward=lambda model, batch: model(*batch),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_a_cross_entropy_of_32768_classes_has_a_bound(split):
    plan = {"up": Column(), "down": Row()}
    plan |= {"head": Column(), "loss": VocabularyLoss(vocabulary=32_768)} if split else {}
    assert not unbounded(prove(wide_step(32_768), parallelize=by(plan), devices=2))


def test_a_wide_cross_entropy_in_one_op_has_none_and_says_so(monkeypatch):
    monkeypatch.setattr(functions, "_is_over_classes", lambda *_: False)
    proof = prove(wide_step(30_000), parallelize=by({"up": Column(), "down": Row()}), devices=2)
    reasons = {finding.key.phase: finding.unbounded.reason for finding in unbounded(proof)}
    assert reasons == {Phase.LOSS: NoBound.SOFTMAX}  # the logarithm of the sum; its slope has a bound


class Routed(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.down(self.up(x).topk(8, -1).values)


def test_a_selection_is_the_reason_for_all_that_follows_it():
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    step = Step(model=Routed, batch=(x, torch.zeros(5, 4)), loss=F.mse_loss, optimizer=torch.optim.SGD, steps=1)
    proof = prove(step, parallelize=by({"up": Column(output=Replicate())}), devices=2, allow=["*"])
    lost = [finding for finding in proof.findings if finding.unbounded is not None]
    assert {finding.unbounded.reason for finding in lost} == {NoBound.SELECTION}


def test_ranks_with_unequal_shards_have_a_bound():
    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 4)

        def forward(self, x):
            return self.down(self.up(x))

    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    step = Step(
        model=Uneven,
        batch=(x, torch.randn(5, 4, generator=torch.Generator().manual_seed(1))),
        loss=F.mse_loss,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )
    proof = prove(step, parallelize=by({"up": Column(), "down": Row()}), devices=2)
    assert not unbounded(proof), render_text(proof)

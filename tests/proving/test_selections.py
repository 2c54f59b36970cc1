"""What is right only where one of two operands is chosen is found, or the proof says that the other never was."""

import pytest
import torch
from tests.proving.summed_steps import finish_step
from torch import nn

import shardproof as sp
from shardproof.proving import trials
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.records import Phase

WIDTH = 2
# The first trial of seed 13 shows nothing of the last block of four.
SEEDS = [13, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (0, 1, 2))]


def online_softmax(scores, values, bug):
    """Of blocks of scores [rows, keys]: a running maximum. Milakov and Gimelshein 2018, algorithm 3."""
    largest, total, out = None, None, None
    for number, (block, v) in enumerate(zip(scores, values, strict=True)):
        own = block.detach().amax(-1, keepdim=True)
        now = own if largest is None else larger(largest, own, bug)
        powers = (block - (largest if bug == "stale maximum" and number else now)).exp()
        if largest is None:
            total, out = powers.sum(-1, keepdim=True), powers @ v
        else:
            last = bug == "no rescale of the last" and number == len(scores) - 1
            forgets = last or bug in ("no rescale", "no rescale by where")
            factor = 1.0 if forgets else (largest - now).exp()
            kept = 1.0 if bug == "no rescale of the sum" else factor
            total, out = total * kept + powers.sum(-1, keepdim=True), out * factor + powers @ v
        largest = now
    return out / total


def larger(a, b, bug):
    return torch.where(b > a, b, a) if bug in ("by where", "no rescale by where") else torch.maximum(a, b)


def chunked_cross_entropy(logits, labels, bug):
    """Of chunks of the vocabulary: each token's log-sum-exp with a running maximum, less the logit of its label."""
    largest, total = None, None
    for chunk in logits:
        own = chunk.detach().amax(-1)
        now = own if largest is None else torch.maximum(largest, own)
        powers = (chunk - (largest if bug == "stale maximum" and largest is not None else now)[:, None]).exp().sum(-1)
        factor = 1.0 if largest is None or bug == "no rescale" else (largest - now).exp()
        total = powers if total is None else total * factor + powers
        largest = now
    return largest + total.log() - torch.cat(list(logits), -1).gather(-1, labels[:, None])[:, 0]


class Attention(nn.Module):
    """Each row is a token; blocks of keys are met one after the other, from this rank's own on."""

    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.split = None

    def forward(self, x, y):
        if self.split is None:
            k, v = self.kv(x).chunk(2, -1)
            return ((self.q(x) @ k.T).softmax(-1) @ v - y).square().mean()
        rank, blocks, bug = self.split
        own = slice(rank * len(x) // blocks, (rank + 1) * len(x) // blocks)
        keys, values = zip(*(part.chunk(2, -1) for part in self.kv(x).chunk(blocks)), strict=True)
        order = [(rank - step) % blocks for step in range(blocks)]
        q = self.q(x[own])
        out = online_softmax([q @ keys[one].T for one in order], [values[one] for one in order], bug)
        return (out - y[own]).square().sum() / y.numel()


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(WIDTH, 8)
        self.split = None

    def forward(self, x, y):
        if self.split is None:
            return nn.functional.cross_entropy(self.head(x), y)
        rank, parts, bug = self.split
        own = slice(rank * len(x) // parts, (rank + 1) * len(x) // parts)
        return chunked_cross_entropy(self.head(x[own]).chunk(4, -1), y[own], bug).sum() / len(y)


def training(bug):
    def train(run):
        model = run.model()
        model.split = run.rank, run.size, bug
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in run.batches():
            optimizer.zero_grad()
            loss = model(*batch)
            loss.backward()
            finish_step(run, model, optimizer, loss)

    return train


def run(model, bug, *, ranks=2, seed=0, count=1, **settings):
    """As few rows as may be, one for each rank, and one trial: a half of the bugs' draws would not show them."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ranks, WIDTH, generator=generator)
    y = torch.arange(ranks) if model is Classifier else torch.randn(ranks, WIDTH, generator=generator)
    step = sp.Step(
        model=model,
        batch=(x, y),
        forward=lambda model, batch: model(*batch),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        steps=1,
    )
    return sp.prove(step, candidate=training(bug), devices=ranks, trials=count, seed=seed, **settings)


WRONG = [
    (Attention, "no rescale", 2),
    (Attention, "no rescale", 4),
    (Attention, "no rescale by where", 2),
    (Attention, "no rescale of the last", 4),
    (Attention, "no rescale of the sum", 2),
    (Attention, "stale maximum", 2),
    (Classifier, "no rescale", 2),
    (Classifier, "stale maximum", 2),
]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("model", "bug", "ranks"), WRONG)
def test_a_maximum_that_is_forgotten_is_found_whatever_is_drawn(model, bug, ranks, seed):
    proof = run(model, bug, ranks=ranks, seed=seed)
    # UNDECIDED where the same operands happen to be the larger ones in ordinary arithmetic too.
    assert {root.verdict for root in proof.roots} <= {Verdict.WRONG, Verdict.UNDECIDED}, str(proof)
    assert proof.roots


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("model", "bug", "ranks"), [(Attention, "", 2), (Attention, "", 4), (Attention, "by where", 2), (Classifier, "", 2)]
)
def test_the_right_ones_are_proved_with_as_many_trials_as_it_takes(model, bug, ranks, seed):
    proof = run(model, bug, ranks=ranks, seed=seed)
    assert proof.ok, str(proof)


def test_without_further_trials_it_is_proved_only_where_both_sides_were_chosen(monkeypatch):
    monkeypatch.setattr(trials, "_MOST_FOR_CHOICES", 0)
    right, wrong = ([run(Attention, bug, seed=seed) for seed in range(6)] for bug in ("", "no rescale"))
    doubtful = [proof for proof in right if not proof.ok]
    assert 0 < len(doubtful) < len(right)
    for proof in doubtful:
        (finding,) = proof.roots
        assert (finding.verdict, finding.key.phase, finding.cause.kind) == (
            *(Verdict.VACUOUS, Phase.SELECTION),
            CauseKind.ONE_SIDED,
        )
        assert finding.key.name == finding.source_line
        assert "test_selections.py:" in finding.key.name
        assert finding.key.name.endswith(" in larger")
        assert "operand of maximum was chosen" in str(proof)
    assert not any(proof.ok for proof in wrong)


def test_the_finding_can_be_allowed(monkeypatch):
    monkeypatch.setattr(trials, "_MOST_FOR_CHOICES", 0)
    proofs = [
        run(Attention, "", seed=seed, allow=["VACUOUS selection *test_selections.py:* in larger"])
        for seed in (0, 1, 2, 3)
    ]
    assert all(proof.ok for proof in proofs)
    assert any(proof.count.allowed for proof in proofs)


@pytest.mark.slow
@pytest.mark.processes
def test_ranks_that_are_processes_tell_the_same():
    simulated, spawned = (run(Attention, "no rescale", spawn=spawn) for spawn in (False, True))
    assert simulated.trials > 1
    assert simulated.findings == spawned.findings
    assert simulated.seeds == spawned.seeds


class OneWay(nn.Module):
    """Clamps, relu, a ratio that is clipped, and a maximum beside one of its parts."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.scale = nn.Linear(4, 4), nn.Linear(4, 1), nn.Parameter(torch.ones(1))

    def forward(self, x):
        hidden = self.up(x).relu()
        ratio, gain = (self.down(hidden) * self.scale).clamp(-1, 1).exp(), x[:, :1]
        clipped = torch.minimum(ratio * gain, ratio.clamp(0.8, 1.2) * gain)
        largest = torch.maximum(hidden.amax(-1, keepdim=True), hidden[:, :1])
        return (clipped + largest + torch.maximum(hidden, torch.zeros(4)).mean(-1, keepdim=True)).mean()


def train_by_amsgrad(run):
    model = run.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, amsgrad=True)
    for x in run.batches():
        optimizer.zero_grad()
        loss = model(x.chunk(run.size)[run.rank]) / run.size
        loss.backward()
        finish_step(run, model, optimizer, loss)


def test_what_can_go_one_way_alone_is_no_finding():
    step = sp.Step(
        model=OneWay,
        batch=torch.randn(8, 4, generator=torch.Generator().manual_seed(1)),
        forward=lambda model, batch: model(batch),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1, amsgrad=True),
        steps=2,
    )
    proof = sp.prove(step, candidate=train_by_amsgrad, devices=2, trials=2)
    assert proof.ok, str(proof)

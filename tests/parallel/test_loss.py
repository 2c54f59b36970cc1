"""A cross-entropy split by the vocabulary is the whole one: proved with every option, and bugs beside are caught."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, calls_of, check_traffic, make_step, proof_of, random, run
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.parallel import loss as loss_file
from shardproof.parallel.embedding import split_vocabulary
from shardproof.parallel.linear import ColumnLinear
from shardproof.parallel.loss import VocabularyParallelCrossEntropy
from shardproof.parallel.sharding import cut_parameter, split_padded
from shardproof.proving.records import Phase

V, H, T = 7, 4, 9
# Every id, and two ignored; the first and last id of every split among the targets.
TARGETS = torch.arange(T).remainder(V).masked_fill(torch.arange(T).remainder(5) == 3, -100)


class ZLoss(nn.CrossEntropyLoss):
    """The z-loss as one device has it."""

    def __init__(self, z_loss=0.0, **options):
        super().__init__(**options)
        self.z_loss = z_loss

    def forward(self, logits, targets):
        loss = super().forward(logits, targets)
        if not self.z_loss:
            return loss
        highest = logits.amax(-1, keepdim=True)
        log_sum_exp = (logits - highest).exp().sum(-1).log() + highest[..., 0]
        counts = targets != self.ignore_index
        return loss + self.z_loss * log_sum_exp.square().masked_fill(~counts, 0.0).sum() / counts.sum()


class Model(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.head = nn.Linear(H, V)
        self.loss = ZLoss(**options)

    def forward(self, x, targets):
        return self.loss(self.head(x), targets)


def forward(model, batch):
    return model(*batch).square().sum()  # of each token's loss; of a mean, one more thing to get right


def step(ids=TARGETS, **options):
    return make_step(lambda: Model(**options), (random(*ids.shape, H), ids), forward=forward)


def split(model, axis, *, multiple=None):
    sharding = split_vocabulary(model.head.weight.shape, axis, multiple=multiple)
    whole, z_loss = model.head, model.loss.z_loss
    model.loss = VocabularyParallelCrossEntropy.from_loss(model.loss, axis, sharding=sharding, z_loss=z_loss)
    model.head = ColumnLinear.from_linear(whole, axis)
    if multiple is not None:
        bias = split_padded((V,), 0, multiple=multiple, rank=axis.rank, size=axis.size)
        model.head.weight, model.head.bias = cut_parameter(whole.weight, sharding), cut_parameter(whole.bias, bias)


def padded(model, axis):
    split(model, axis, multiple=1)


@pytest.mark.parametrize("devices", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"label_smoothing": 0.1, "z_loss": 0.01}, id="smoothed, z-loss"),
        pytest.param({"label_smoothing": 0.2, "ignore_index": 2, "reduction": "sum"}, id="sum, ignoring an id"),
        pytest.param({"reduction": "none"}, id="each token"),
    ],
)
def test_a_split_cross_entropy_is_proved(options, devices):
    ids = TARGETS.clamp(min=0) if "ignore_index" in options else TARGETS
    proof = proof_of(step(ids, **options), split, devices)
    assert proof.ok, proof.roots


def test_a_padded_vocabulary_and_a_sequence_of_logits_are_proved():
    class Movedim(Model):
        def forward(self, x, targets):
            return self.loss(self.head(x).movedim(-1, 1), targets)

    ids = TARGETS.view(3, 3)
    model = make_step(lambda: Movedim(label_smoothing=0.1), (random(3, 3, H), ids), forward=forward)
    proof = proof_of(model, padded, 4)
    assert proof.ok, proof.roots


def planted(**changes):
    """The split loss with its specification changed."""

    def change(model, axis):
        split(model, axis)
        wrong = {name: value(model.loss.split) for name, value in changes.items()}
        model.loss.split = replace(model.loss.split, **wrong)

    return change


def gathered_logits(model, axis):
    """M28: whole logits to a loss that is split: every rank counts them all, loss + log N."""
    model.loss = VocabularyParallelCrossEntropy.from_loss(
        model.loss, axis, sharding=split_vocabulary(model.head.weight.shape, axis, multiple=None)
    )
    model.loss.split = replace(model.loss.split, start=0, stop=V, width=V)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(gathered_logits, id="M28 whole logits"),
        pytest.param(planted(label_smoothing=lambda loss: 2 * loss.label_smoothing), id="M29 local smoothing"),
        pytest.param(planted(start=lambda loss: loss.start - 1, stop=lambda loss: loss.stop - 1), id="one too early"),
    ],
)
def test_a_planted_bug_is_found_at_the_loss(change):
    proof = proof_of(step(label_smoothing=0.1), change, 2)
    assert not proof.ok
    assert proof.roots[0].key.phase in (Phase.OUTPUT, Phase.LOSS)
    assert proof.roots[0].key.name in ("loss", "model")


def test_a_local_maximum_is_found(monkeypatch):
    """M30: right on paper, wrong as each rank's sum of exponentials has another scale."""
    monkeypatch.setattr(loss_file, "all_reduce_max", lambda tensor, _axis: tensor)
    assert not proof_of(step(), split, 2).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_natively_it_is_pytorchs_own(dtype):
    x, ids = random(T, V).to(dtype), TARGETS

    def on_rank(axis):
        sharding = split_vocabulary((V, H), axis, multiple=None)
        whole = nn.CrossEntropyLoss(label_smoothing=0.1)
        module = VocabularyParallelCrossEntropy.from_loss(whole, axis, sharding=sharding)
        own = x[:, module.split.start : module.split.stop].clone().requires_grad_()
        loss = module(own, ids)
        loss.backward()
        return loss.detach(), own.grad

    logits = x.clone().requires_grad_()
    expected = F.cross_entropy(logits.float(), ids, label_smoothing=0.1)
    expected.backward()
    results = run(3, on_rank)
    torch.testing.assert_close(results[0][0], expected.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in results], -1), logits.grad)


def test_large_logits_do_not_overflow():
    def on_rank(axis):
        sharding = split_vocabulary((4, H), axis, multiple=None)
        module = VocabularyParallelCrossEntropy.from_loss(nn.CrossEntropyLoss(), axis, sharding=sharding)
        return module(torch.tensor([[1e4, 0.0]]) if axis.rank == 1 else torch.zeros(1, 2), torch.tensor([2]))

    assert [float(loss) for loss in run(2, on_rank)] == [0.0, 0.0]


def test_a_gradient_twice_is_not_spoilt_by_the_first():
    with alone(2) as axis:
        module = VocabularyParallelCrossEntropy.from_loss(
            nn.CrossEntropyLoss(), axis, sharding=split_vocabulary((V, H), axis, multiple=None)
        )
        x = random(T, 4).requires_grad_()
        loss = module(x, TARGETS)
        first = torch.autograd.grad(loss, x, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(loss, x)[0])


@pytest.mark.parametrize("size", [2, 3])
def test_the_calls_are_those_predicted(size):
    with alone(size) as axis:
        sharding = split_vocabulary((V, H), axis, multiple=None)
        module = VocabularyParallelCrossEntropy.from_loss(
            nn.CrossEntropyLoss(label_smoothing=0.1), axis, sharding=sharding
        )
        width = sharding.local_shape[0]
        assert check_traffic(module, axis, random(T, width).requires_grad_(), TARGETS.clamp(max=width - 1))
        # One more all-reduce, of the smoothing's sum by itself, would be counted.
        assert calls_of(lambda: loss_file.all_reduce(torch.ones(2), axis))


def test_what_cannot_be_split_says_why():
    with alone(2) as axis:
        sharding = split_vocabulary((V, H), axis, multiple=None)

        def make(loss):
            return VocabularyParallelCrossEntropy.from_loss(loss, axis, sharding=sharding)

        with pytest.raises(CannotRunError, match="class weights"):
            make(nn.CrossEntropyLoss(weight=torch.ones(V)))
        with pytest.raises(CannotRunError, match="give class ids"):
            make(nn.CrossEntropyLoss())(torch.zeros(2, 4), torch.zeros(2, 4))
        with pytest.raises(CannotRunError, match=r"logits \[2, 3\] and targets \[2\] on rank 0"):
            make(nn.CrossEntropyLoss())(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
        for target in (V, -1):
            with pytest.raises(RuntimeError):
                make(nn.CrossEntropyLoss())(torch.zeros(1, 4), torch.tensor([target]))

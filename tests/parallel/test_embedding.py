"""Split embeddings are the whole one: proved with every option, each beside a bug that is caught."""

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, check_traffic, make_step, proof_of, random, run
from torch import nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import gather_shards
from shardproof.parallel.embedding import FeatureParallelEmbedding, VocabularyParallelEmbedding
from shardproof.parallel.sharding import sharding_of
from shardproof.proving.cause import CauseKind
from shardproof.proving.records import Phase

V, H = 7, 6


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, H, padding_idx=2)
        self.after = nn.Linear(H, 3)

    def forward(self, ids):
        return self.after(self.embedding(ids))


# Every row twice, the edges of every split among them; no length divides by another.
IDS = torch.arange(2 * V).remainder(V).view(2, V)
STEP = make_step(Model, (IDS, random(2, V, 3)), loss=F.mse_loss)


class Gathered(nn.Module):
    """The embedding's own output is a shard; the rest of this model wants the whole."""

    def __init__(self, embedding, dim, total):
        super().__init__()
        self.weight = embedding.weight
        self.forward = lambda ids: gather_shards(embedding.forward(ids), embedding.axis, dim=dim, total=total)


def vocabulary(**options):
    def change(model, axis):
        split = VocabularyParallelEmbedding.from_embedding(model.embedding, axis, **options)
        model.embedding = Gathered(split, 1, V) if options.get("output") == Shard(1) else split

    return change


def features(**options):
    def change(model, axis):
        split = FeatureParallelEmbedding.from_embedding(model.embedding, axis, **options)
        model.embedding = Gathered(split, -1, H) if options.get("output") == Shard(-1) else split

    return change


@pytest.mark.parametrize(
    ("change", "devices"),
    [
        pytest.param(vocabulary(), 2, id="uneven rows"),
        pytest.param(vocabulary(), 3, id="three ranks"),
        pytest.param(vocabulary(multiple=1), 4, id="padded"),
        pytest.param(vocabulary(multiple=4), 2, id="padded to fours"),
        pytest.param(vocabulary(output=Shard(1)), 3, id="sequence shards"),
        pytest.param(features(), 2, id="features"),
        pytest.param(features(), 4, id="uneven features"),
        pytest.param(features(output=Shard(-1)), 3, id="features stay split"),
    ],
)
def test_a_split_embedding_is_proved(change, devices):
    proof = proof_of(STEP, change, devices)
    assert proof.ok, proof.roots
    assert (Phase.GRADIENT, "embedding.weight") in {(f.key.phase, f.key.name) for f in proof.findings}


def shifted_bounds(model, axis):
    """M26: the interval is one too far."""
    vocabulary()(model, axis)
    model.embedding.start, model.embedding.stop = model.embedding.start + 1, model.embedding.stop + 1


def whole_padding(model, axis):
    """The padding row's index is not made local: another row loses its gradient."""
    vocabulary()(model, axis)
    model.embedding._local_padding = lambda: 2


def unreduced(model, axis):
    vocabulary()(model, axis)
    split = model.embedding
    split.axis = type(axis)(group=axis.group, name="tp", rank=axis.rank, size=1, by_exchange=True)


@pytest.mark.parametrize(
    ("change", "root", "cause"),
    [
        (shifted_bounds, (Phase.OUTPUT, "embedding"), None),
        (whole_padding, (Phase.GRADIENT, "embedding.weight"), None),
        (unreduced, (Phase.OUTPUT, "embedding"), CauseKind.UNREDUCED),
    ],
)
def test_a_planted_bug_is_found_at_the_embedding(change, root, cause):
    proof = proof_of(STEP, change, 2)
    assert not proof.ok
    assert root in {(f.key.phase, f.key.name) for f in proof.roots}
    named = next(f.cause for f in proof.roots if (f.key.phase, f.key.name) == root)
    assert cause is None or named.kind is cause


def test_padding_stays_zero_and_is_noted():
    def train(axis):
        torch.manual_seed(0)
        embedding = VocabularyParallelEmbedding.from_embedding(nn.Embedding(5, 2), axis, multiple=2)
        embedding(torch.arange(5)).sum().backward()
        return embedding.weight.detach(), embedding.weight.grad, sharding_of(embedding.weight)

    weight, gradient, sharding = run(2, train)[1]
    assert sharding.local_shape == (4, 2)
    assert weight[1:].eq(0).all()
    assert gradient[0].eq(1).all()
    assert gradient[1:].eq(0).all()


def test_an_id_outside_the_vocabulary_raises_as_on_one_device():
    def look_up(axis):
        embedding = VocabularyParallelEmbedding.from_embedding(nn.Embedding(5, 2), axis)
        for ids in ([5], [-1]):
            with pytest.raises(IndexError):
                embedding(torch.tensor(ids))

    run(2, look_up)


@pytest.mark.parametrize("size", [2, 3])
def test_the_calls_are_those_predicted(size):
    ids = torch.arange(6).view(1, 6)
    with alone(size) as axis:
        embedding = nn.Embedding(V, H)
        for output in (Replicate(), Shard(1)):
            assert check_traffic(VocabularyParallelEmbedding.from_embedding(embedding, axis, output=output), axis, ids)
        assert check_traffic(FeatureParallelEmbedding.from_embedding(embedding, axis), axis, ids)
        still = FeatureParallelEmbedding.from_embedding(embedding, axis, output=Shard(-1))
        assert not check_traffic(still, axis, ids)


def test_a_wrong_prediction_is_seen():
    with alone(2) as axis:
        split = VocabularyParallelEmbedding.from_embedding(nn.Embedding(V, H), axis)
        split.output = Shard(1)
        split.forward = lambda ids: F.embedding(ids.clamp(max=3), split.weight)
        with pytest.raises(AssertionError):
            check_traffic(split, axis, torch.arange(6).view(1, 6))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda axis: VocabularyParallelEmbedding.from_embedding(nn.Embedding(1, 2), axis), "a vocabulary of 1 on 2"),
        (
            lambda axis: VocabularyParallelEmbedding.from_embedding(nn.Embedding(5, 2), axis, multiple=8),
            "or a smaller multiple",
        ),
        (
            lambda axis: VocabularyParallelEmbedding.from_embedding(nn.Embedding(5, 2, max_norm=1.0), axis),
            "an embedding with max_norm cannot be split",
        ),
        (
            lambda axis: FeatureParallelEmbedding.from_embedding(nn.Embedding(5, 2, sparse=True), axis),
            "an embedding with sparse cannot be split",
        ),
        (
            lambda axis: FeatureParallelEmbedding.from_embedding(nn.Embedding(5, 2), axis, output=Shard(1)),
            r"give Replicate\(\) or Shard\(-1\)",
        ),
    ],
)
def test_what_cannot_be_split_says_why(make, said):
    with alone(2) as axis, pytest.raises(CannotRunError, match=said):
        make(axis)

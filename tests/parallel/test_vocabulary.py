"""Styles split by the vocabulary put the split layer in place and pass their options on; others are refused."""

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, mesh_of, random, run
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.parallel import CausalLoss, EmbeddingFeatures, VocabularyLoss, VocabularyRows, parallelize
from shardproof.parallel.embedding import FeatureParallelEmbedding, VocabularyParallelEmbedding

V = 7


def ForCausalLMLoss(*args, **kwargs):  # noqa: N802 - transformers' name, by which the style knows it
    raise AssertionError("the split loss takes its place")


class Causal(nn.Module):
    """As much of a transformers model as the style looks at: the head gives each rank its part of the logits."""

    def __init__(self):
        super().__init__()
        self.lm_head = nn.Linear(3, V, bias=False)
        self.loss_function = ForCausalLMLoss


@pytest.mark.parametrize("count", [None, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_causal_loss_predicts_the_next_token(size, count):
    x, labels = random(2, 5, 3), torch.tensor([[0, 6, 2, -100, 3], [1, 5, 4, 6, 0]])
    torch.manual_seed(0)
    weight = Causal().double().lm_head.weight.detach()
    shifted = F.pad(labels, (0, 1), value=-100)[:, 1:].flatten()
    rows = (x @ weight.T).flatten(0, 1)
    if count is None:
        expected = F.cross_entropy(rows, shifted)
    else:
        expected = F.cross_entropy(rows, shifted, reduction="sum") / count

    def on_rank(axis):
        torch.manual_seed(0)
        model = parallelize(Causal().double(), mesh_of(axis), {"lm_head": "colwise", "": CausalLoss()})
        return model.loss_function(model.lm_head(x), labels, vocab_size=V, num_items_in_batch=count).detach()

    for found in run(size, on_rank):
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(found, F.cross_entropy(rows, labels.flatten()))  # without the shift


def test_another_ignore_index_is_refused():
    with alone(2) as axis:
        model = parallelize(Causal(), mesh_of(axis), {"lm_head": "colwise", "": CausalLoss()})
        with pytest.raises(CannotRunError, match="ignore_index is 0; a split loss ignores -100"):
            model.loss_function(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.long), V, ignore_index=0)


def test_embeddings_are_split_by_rows_or_features():
    with alone(2) as axis:
        rows = parallelize(nn.Sequential(nn.Embedding(V, 4)), mesh_of(axis), {"0": VocabularyRows(multiple=6)})[0]
        assert isinstance(rows, VocabularyParallelEmbedding)
        assert rows.weight.shape == (6, 4)
        features = parallelize(nn.Sequential(nn.Embedding(V, 4)), mesh_of(axis), {"0": EmbeddingFeatures()})[0]
        assert isinstance(features, FeatureParallelEmbedding)
        assert features.weight.shape == (V, 2)


@pytest.mark.parametrize(
    ("style", "said"),
    [
        (VocabularyRows(), "needed is an nn.Embedding"),
        (EmbeddingFeatures(), "needed is an nn.Embedding"),
        (VocabularyLoss(vocabulary=V), "needed is an nn.CrossEntropyLoss"),
        (CausalLoss(), "needed is a causal model of transformers"),
    ],
)
def test_modules_of_other_kinds_are_refused(style, said):
    with alone(2) as axis, pytest.raises(CannotRunError, match=said):
        parallelize(nn.Sequential(nn.Linear(2, 2)), mesh_of(axis), {"0": style})

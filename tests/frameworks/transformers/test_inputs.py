"""What a model is called with: token ids at the edges of vocabulary shards, labels, and arguments by name."""

import pytest
import torch
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.inputs import IGNORED, list_inputs, make_labels, probing_ids
from shardproof.worlds.communicator import shard_range


@pytest.mark.parametrize("vocabulary", [64, 61, 33])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_both_edges_of_every_even_shard_of_the_vocabulary_are_probed(vocabulary, ranks):
    ids = set(probing_ids(vocabulary, seed=0).flatten().tolist())
    for rank in range(ranks):
        start, stop = shard_range(vocabulary, rank, ranks)
        assert {start, stop - 1} <= ids, (rank, start, stop)


def test_ids_are_drawn_by_the_seed_and_lie_in_the_vocabulary():
    ids = probing_ids(64, seed=1)
    assert torch.equal(ids, probing_ids(64, seed=1))
    assert not torch.equal(ids, probing_ids(64, seed=2))
    assert 0 <= int(ids.min()) <= int(ids.max()) < 64


def test_a_small_vocabulary_is_probed_as_far_as_there_are_tokens():
    assert set(probing_ids(3, seed=0).flatten().tolist()) <= {0, 1, 2}


def test_each_row_of_the_batch_ignores_as_many_tokens_and_others():
    ignored = make_labels(probing_ids(64, seed=0)) == IGNORED
    assert ignored.sum(1).tolist() == [3, 3]
    assert not torch.equal(ignored[0], ignored[1])


class Configuration:
    vocab_size, hidden_size = 64, 32

    def get_text_config(self):
        return self


class Model(nn.Module):
    config = Configuration()


def inputs_of(forward):
    model = Model()
    model.forward = forward
    return list_inputs(model, seed=0)


def test_ids_come_first_then_embeddings_then_an_encoder_beside_them():
    def forward(input_ids=None, inputs_embeds=None, labels=None, encoder_hidden_states=None):
        pass

    names = [set(one) for one in inputs_of(forward)]
    assert names == [
        {"input_ids", "labels"},
        {"inputs_embeds", "labels"},
        {"input_ids", "labels", "encoder_hidden_states"},
    ]


def test_a_model_without_ids_gets_embeddings():
    def forward(inputs_embeds=None, attention_mask=None):
        pass

    (found,) = inputs_of(forward)
    assert found["inputs_embeds"].shape == (2, 9, 32)


def test_arguments_without_a_default_are_made_by_name():
    def forward(inputs_embeds, num_patches, generation_steps=None):
        pass

    (found,) = inputs_of(forward)
    assert (found["num_patches"], found["generation_steps"]) == (4, 1)


def test_an_argument_that_nothing_is_known_of_is_named():
    def forward(input_ids, hyperspace):
        pass

    with pytest.raises(CannotRunError, match=r"Model\.forward needs hyperspace"):
        inputs_of(forward)

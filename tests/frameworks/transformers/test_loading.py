"""A model loaded sharded from a checkpoint and saved again: every element where it belongs, once."""

import pytest
import torch
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers import ShardedCrashError
from shardproof.frameworks.transformers.loading import (
    check_loading,
    compare_tensors,
    describe_difference,
    number_elements,
)

pytest.importorskip("transformers")

NUMBERS = torch.arange(1.0, 13.0).view(4, 3)


def read_first_shard_everywhere():
    """The planted bug: each rank reads the shard of rank 0."""
    from transformers.distributed.sharding_utils import DtensorShardOperation

    right = DtensorShardOperation._compute_contiguous_slice
    DtensorShardOperation._compute_contiguous_slice = lambda self, intervals, _rank, size: right(
        self, intervals, 0, size
    )


def test_numbers_are_given_once_to_each_element():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    number_elements(model)
    state = [x.reshape(-1) for x in model.state_dict().values() if x.is_floating_point()]
    assert torch.cat(state).sort().values.tolist() == list(range(1, 17))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (NUMBERS, ""),
        (NUMBERS.flip(0), "12 of 12 elements are in another place"),
        (NUMBERS[:2].repeat(2, 1), "6 of 12 elements are missing, 6 of 12 elements are there twice"),
        (NUMBERS[:2], "has shape [2, 3] in place of [4, 3], 6 of 12 elements are missing"),
        (torch.cat([NUMBERS[:3], NUMBERS[3:] + 90]), "3 of 12 elements are missing, 3 of 12 are no elements of it"),
    ],
    ids=["right", "reordered", "doubled", "half", "foreign"],
)
def test_how_a_tensor_of_distinct_numbers_differs(found, said):
    assert describe_difference(NUMBERS, found) == said


def test_tensors_that_are_not_there_or_too_many_are_named():
    found = list(compare_tensors({"a": NUMBERS, "b": NUMBERS}, {"b": NUMBERS, "c": NUMBERS}, 1))
    assert [(one.name, one.where, one.said) for one in found] == [
        ("a", "rank 1", "missing"),
        ("c", "rank 1", "there, and not on a single device"),
    ]


def test_a_model_is_loaded_sharded_and_saved_again_right():
    found = check_loading("llama", {}, 2)
    assert found.ok
    assert found.model == "LlamaForCausalLM"
    assert 0 < found.split < found.tensors


def test_shards_read_from_the_wrong_place_are_seen_on_the_rank_and_in_what_is_saved():
    found = check_loading("llama", {}, 2, prepare=read_first_shard_everywhere)
    name = "model.layers.0.self_attn.q_proj.weight"
    said = {one.where: one.said for one in found.misplaced if one.name == name}
    assert set(said) == {"rank 1", "saved again"}
    assert "are missing" in said["rank 1"]
    assert "are there twice" in said["saved again"]
    assert not any("norm" in one.name for one in found.misplaced)  # whole on every rank


def fail():
    from transformers import PreTrainedModel

    def prepare(_cls, distributed_config, device_map=None):
        if distributed_config is not None:
            raise KeyError("shard")
        return None, device_map, None

    PreTrainedModel.prepare_distribute_model = classmethod(prepare)


def test_what_fails_on_ranks_alone_is_their_code():
    with pytest.raises(ShardedCrashError, match=r"rank \d: LlamaForCausalLM loads on one device .* KeyError: 'shard'"):
        check_loading("llama", {}, 2, prepare=fail)


def test_one_rank_loads_nothing_sharded():
    with pytest.raises(CannotRunError, match="give at least 2"):
        check_loading("llama", {}, 1)

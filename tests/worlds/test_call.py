"""Arguments of collectives: what is refused before any rank waits, and how a call is written."""

import pytest
import torch

from shardproof.worlds.call import call_all_gather, call_all_reduce, call_reduce_scatter, copy_for_one_rank


def test_a_call_is_written_with_dtype_shape_and_dim():
    shard = torch.ones(3, 2, dtype=torch.bfloat16)
    assert str(call_all_gather(shard, dim=-1, total=5, name="h", rank=1, size=2)) == (
        "all_gather 'h' (bfloat16 [3, 5] along dim 1)"
    )
    assert str(call_all_reduce(shard, name="norm")) == "all_reduce 'norm' (bfloat16 [3, 2])"


def test_calls_that_differ_in_one_argument_are_not_equal():
    partial = torch.ones(4, 4)
    call = call_reduce_scatter(partial, dim=0, name="g")
    assert call == call_reduce_scatter(partial.double().float(), dim=-2, name="g")
    for other in (
        call_reduce_scatter(partial, dim=1, name="g"),
        call_reduce_scatter(partial, dim=0, name="h"),
        call_reduce_scatter(partial.double(), dim=0, name="g"),
        call_reduce_scatter(partial[:2], dim=0, name="g"),
    ):
        assert call != other


def test_a_shard_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match=r"is 3 long along dim 0; rank 1 of 2 holds 2 of 5: cut it with shard_range"):
        call_all_gather(torch.ones(3), dim=0, total=5, name="x", rank=1, size=2)


def test_the_copy_for_one_rank_is_contiguous_and_shares_no_memory():
    tensor = torch.ones(2, 3, requires_grad=True).T
    copy = copy_for_one_rank(tensor)
    assert (copy.is_contiguous(), copy.requires_grad) == (True, False)
    copy.zero_()
    assert tensor.sum() == 6

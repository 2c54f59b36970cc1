"""Nested arguments and storages: every tensor is found, kept in its structure, and known to fill its storage or not."""

import pytest
import torch

from shardproof.exact.engine.tensor_trees import (
    covers_storage,
    floats_in,
    in_float64,
    map_tensors,
    tensors_in,
    view_like,
    whole_storage,
)


def test_tensors_are_found_in_order_at_any_depth():
    a, b, c, d = (torch.zeros(n) for n in range(4))
    assert [x.numel() for x in tensors_in((a, [b, {"k": (c, 3)}], 2.0, {"d": d}))] == [0, 1, 2, 3]
    assert tensors_in((1, "a", None, [2.0])) == []
    assert [x.dtype for x in floats_in((torch.ones(1), torch.ones(1).long(), torch.ones(1).bool()))] == [torch.float32]


def test_structures_stay_what_they_are():
    x = torch.tensor([3.0, 1.0])
    found = map_tensors(lambda t: t * 2, (x.max(0), [x, 1], {"k": (x,)}))
    assert isinstance(found[0], torch.return_types.max)
    assert found[0].values == 6
    assert found[1][1] == 1
    assert found[2]["k"][0].tolist() == [6, 2]


def test_floating_dtypes_alone_become_float64():
    assert in_float64((torch.float16, torch.int32)) == (torch.float64, torch.int32)
    assert in_float64({"dtype": torch.bfloat16, "dim": 1}) == {"dtype": torch.float64, "dim": 1}


VIEWS = {
    "itself": (lambda x: x, True),
    "transposed": (lambda x: x.T, True),
    "permuted": (lambda x: x.view(2, 2, 3).permute(2, 0, 1), True),
    "less a row": (lambda x: x[1:], False),
    "every other column": (lambda x: x[:, ::2], False),
    "as many elements, some of them twice": (lambda x: x.as_strided((4, 3), (2, 1)), False),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_covers_its_storage_or_not(name):
    view, covers = VIEWS[name]
    x = torch.arange(12.0).view(4, 3)
    assert covers_storage(view(x)) == covers
    assert whole_storage(view(x)).tolist() == list(range(12))


@pytest.mark.parametrize("name", VIEWS)
def test_the_elements_beside_a_view_stand_where_its_own_do(name):
    view, _ = VIEWS[name]
    x = torch.arange(12.0).view(4, 3)
    assert torch.equal(view_like(x + 100, view(x)), view(x) + 100)

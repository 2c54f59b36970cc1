"""Blocks: every layout is covered once, and none is larger than it should be."""

import math

import pytest
import torch

from shardproof.exact.algebra.blocks import block_size, blocks, is_large, row_blocks


def layouts(numel):
    """Large tensors laid out in every way, and what to broadcast against them."""
    side = math.isqrt(numel) + 1
    x = torch.arange(side * side, dtype=torch.float64).view(side, side)
    yield "contiguous", x, x[0]
    yield "transposed", x.T, x[:, :1]
    yield "every other column", x[:, ::2], x[:1, ::2]
    yield "batch of transposed", x[: side // 2 * 2].view(2, -1, side).transpose(1, 2), x[0, :1]
    yield "one long row", x.view(1, -1), x[0, 0]


@pytest.mark.parametrize("name", [name for name, _, _ in layouts(1)])
def test_blocks_cover_every_layout_once_and_give_the_same_as_the_whole(name):
    large, other = next((x, y) for n, x, y in layouts(3 * block_size()) if n == name)
    target = large.clone(memory_format=torch.preserve_format)
    for part, whole, more in blocks(target, large, other):
        assert part.numel() <= block_size()
        assert torch.equal(part, whole)  # not yet visited
        part.mul_(2).add_(more + 1)
    assert torch.equal(target, 2 * large + other + 1)


@pytest.fixture
def ten_elements(monkeypatch):
    """Blocks of ten elements."""
    monkeypatch.setattr("shardproof.exact.algebra.blocks._ELEMENTS_A_THREAD", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def test_a_block_has_half_a_megabyte_a_thread(monkeypatch):
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert block_size() == 2**16 * threads
        assert not is_large(2**16 * threads, torch.device("cpu"))
        assert is_large(2**16 * threads + 1, torch.device("cpu"))
        assert not is_large(2**16 * threads + 1, torch.device("cuda"))


def shapes(*tensors):
    return [tuple(tuple(x.shape) for x in parts) for parts in blocks(*tensors)]


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.float64)


SHAPES = {
    "one block, untouched": ((zeros(2, 5), zeros(5)), [((2, 5), (5,))]),
    "a vector": ((zeros(25),), [((10,),), ((10,),), ((5,),)]),
    "contiguous is flat": ((zeros(3, 7), zeros(3, 7)), [((10,),) * 2, ((10,),) * 2, ((1,),) * 2]),
    "flat beside one number": ((zeros(3, 7), zeros()), [((10,), (1,)), ((10,), (1,)), ((1,), (1,))]),
    "a row beside": ((zeros(5, 4), zeros(4)), [((2, 4), (1, 4)), ((2, 4), (1, 4)), ((1, 4), (1, 4))]),
    "a column beside": ((zeros(5, 4), zeros(5, 1)), [((2, 4), (2, 1)), ((2, 4), (2, 1)), ((1, 4), (1, 1))]),
    "long rows are cut themselves": (
        (zeros(2, 12), zeros(2, 1)),
        [((10,), (1,)), ((2,), (1,)), ((10,), (1,)), ((2,), (1,))],
    ),
    "rows of a block": ((zeros(2, 10), zeros(2, 1)), [((1, 10), (1, 1))] * 2),
    "three dims": ((zeros(2, 2, 6), zeros(2, 1)), [((1, 6), (1, 1))] * 4),
    "laid out the other way": ((zeros(6, 4).t(), zeros(4, 6)), [((2, 4), (2, 4))] * 3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_shapes_of_blocks(name, ten_elements):
    tensors, wanted = SHAPES[name]
    assert shapes(*tensors) == wanted


def test_a_small_tensor_is_its_own_block(ten_elements):
    x, y = zeros(2, 5), zeros(5)
    ((a, b),) = blocks(x, y)
    assert a is x
    assert b is y


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 30, 2), (12, 1, 3), (25, 2, 2)])
def test_blocks_of_rows_have_whole_rows_last_and_cover_all_once(dim, shape, ten_elements):
    x = torch.arange(float(math.prod(shape))).view(shape)
    y, seen = x.clone(), []
    for a, b in row_blocks(dim, x, y):
        assert torch.equal(a, b)
        assert a.shape[-1] == shape[dim]
        assert a.numel() <= max(10, shape[dim])
        seen += a.reshape(-1).tolist()
    assert sorted(seen) == list(range(math.prod(shape)))


def test_blocks_of_rows_are_as_high_as_they_can_be(ten_elements):
    assert [tuple(a.shape) for (a,) in row_blocks(1, zeros(7, 3))] == [(3, 3), (3, 3), (1, 3)]
    assert [tuple(a.shape) for (a,) in row_blocks(0, zeros(7, 3))] == [(1, 7)] * 3
    assert [tuple(a.shape) for (a,) in row_blocks(0, zeros(12))] == [(12,)]
    assert [tuple(a.shape) for (a,) in row_blocks(2, zeros(2, 2, 12))] == [(1, 12)] * 4

"""What a rank holds of a parameter: cut and put together again, each element counted once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardproof.errors import CannotRunError
from shardproof.parallel.sharding import (
    Piece,
    Section,
    Sharding,
    assemble,
    counted_parts,
    cut_parameter,
    draw,
    replicated,
    set_sharding,
    sharding_of,
    split,
    split_padded,
    split_sections,
    take,
)


def address(*shape):
    """Every element is its own place, from 1 on: padding is 0."""
    count = 1
    for length in shape:
        count *= length
    return torch.arange(1, count + 1, dtype=torch.float64).reshape(shape)


def everywhere(make):
    """Every rank's sharding."""
    first = make(0)
    return [first.on_rank(rank) for rank in range(first.size)]


def check(full, shardings):
    """Cutting and assembling give the full tensor back; what ranks count is every element once."""
    cut = [take(full, sharding) for sharding in shardings]
    assert torch.equal(assemble(cut, shardings[-1]), full)
    counted = [part for local, s in zip(cut, shardings, strict=True) for part in counted_parts(local, s)]
    assert sorted(torch.cat([part.reshape(-1) for part in counted]).tolist()) == full.reshape(-1).tolist()
    return cut


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    dim=st.integers(-3, 2),
    size=st.integers(1, 5),
    multiple=st.integers(1, 3),
)
def test_a_split_and_a_padded_split_of_any_size_are_put_together_again(shape, dim, size, multiple):
    if not -len(shape) <= dim < len(shape):
        dim = 0
    full = address(*shape)
    check(full, everywhere(lambda rank: split(shape, dim, rank=rank, size=size)))
    padded = check(full, everywhere(lambda rank: split_padded(shape, dim, multiple=multiple, rank=rank, size=size)))
    lengths = {local.shape[dim] for local in padded}
    assert len(lengths) == 1
    assert lengths.pop() % multiple == 0


@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 3),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.integers(1, 3),
    size=st.sampled_from([1, 2, 4, 8]),
)
def test_fused_heads_with_shared_kv_heads_are_put_together_again(heads, kv_heads, head_dim, size):
    queries = Section(length=heads * size * head_dim, unit=head_dim)
    kv = Section(length=kv_heads * head_dim, unit=head_dim, shared=True)
    full = address(queries.length + 2 * kv.length, 2)
    check(full, everywhere(lambda rank: split_sections(full.shape, 0, [queries, kv, kv], rank=rank, size=size)))


def test_a_fused_projection_holds_a_block_of_each_section():
    sections = [
        Section(length=8, unit=2),
        Section(length=4, unit=2, shared=True),
        Section(length=4, unit=2, shared=True),
    ]
    at = split_sections((16,), 0, sections, rank=3, size=4)
    assert take(torch.arange(16), at).tolist() == [6, 7, 10, 11, 14, 15]  # query 3, key 1, value 1
    assert at.holders(at.pieces[3][1]) == (2, 3)
    assert [piece.full for piece in at.counted_pieces()] == [6]  # rank 2 counts the key and the value
    assert [piece.full for piece in at.on_rank(2).counted_pieces()] == [4, 10, 14]


def test_uneven_gate_and_up_keep_their_sections():
    halves = [Section(length=5), Section(length=5)]
    cut = check(address(10), everywhere(lambda rank: split_sections((10,), 0, halves, rank=rank, size=3)))
    assert [local.tolist() for local in cut] == [[1, 2, 6, 7], [3, 4, 8, 9], [5, 10]]


def test_a_padded_vocabulary_ends_in_zeros_that_nobody_counts():
    cut = check(address(5, 1), everywhere(lambda rank: split_padded((5, 1), 0, rank=rank, size=4)))
    assert [local[:, 0].tolist() for local in cut] == [[1, 2], [3, 4], [5, 0], [0, 0]]


def test_fewer_indices_than_ranks_leave_ranks_without_any():
    cut = check(address(2), everywhere(lambda rank: split((2,), 0, rank=rank, size=3)))
    assert [local.tolist() for local in cut] == [[1], [2], []]


def test_a_replicated_tensor_is_counted_by_the_first_rank():
    check(address(2, 3), everywhere(lambda rank: replicated((2, 3), rank=rank, size=3)))
    assert counted_parts(torch.tensor(1.0), replicated((), rank=1, size=2)) == ()
    assert len(counted_parts(torch.tensor(1.0), replicated((), rank=0, size=2))) == 1


def test_an_assembly_with_swapped_locals_is_seen():
    full = address(4, 3)
    shardings = everywhere(lambda rank: split((4, 3), 0, rank=rank, size=2))
    cut = [take(full, sharding) for sharding in shardings]
    assert not torch.equal(assemble(cut[::-1], shardings[0]), full)


def test_what_is_cut_is_memory_of_its_own():
    full = address(4)
    for sharding in (replicated((4,), rank=0, size=2), split((4,), 0, rank=0, size=1)):
        take(full, sharding).zero_()
    assert full.tolist() == [1, 2, 3, 4]


def test_a_parameter_carries_its_sharding():
    parameter = torch.nn.Parameter(torch.zeros(2, 3))
    assert sharding_of(parameter) is None
    half = split((4, 3), 0, rank=1, size=2)
    set_sharding(parameter, half)
    assert sharding_of(parameter) is half
    with pytest.raises(CannotRunError, match=r"a parameter of shape \[3, 2\]; its sharding says \[2, 3\]"):
        set_sharding(torch.nn.Parameter(torch.zeros(3, 2)), half)


def test_drawn_parts_are_those_of_the_whole_drawn_alike():
    def fill(tensor):
        return torch.nn.init.xavier_uniform_(tensor, generator=torch.Generator().manual_seed(5))

    full = fill(torch.empty(5, 3))
    first = split((5, 3), 0, rank=0, size=3)
    drawn = [draw(first.on_rank(rank), fill, like=torch.empty(0)) for rank in range(3)]
    assert torch.equal(assemble(drawn, first), full)
    assert not torch.equal(drawn[0], drawn[1])
    assert drawn[0].shape == (2, 3)


def test_a_cut_parameter_keeps_whether_it_is_frozen():
    half = split((4,), 0, rank=1, size=2)
    for frozen in (False, True):
        cut = cut_parameter(torch.nn.Parameter(torch.arange(4.0), requires_grad=not frozen), half)
        assert cut.tolist() == [2, 3]
        assert cut.requires_grad is not frozen
        assert sharding_of(cut) is half


def made(*pieces, lengths=(2, 2)):
    held = tuple(tuple(Piece(local=at, full=full, length=n) for at, full, n in rank) for rank in pieces)
    return Sharding(shape=(4,), dim=0, pieces=held, lengths=lengths, rank=0, size=2)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: split((4,), 1, rank=0, size=2), "has no dim 1"),
        (lambda: split((4,), 0, rank=2, size=2), "rank 2 of 2"),
        (lambda: split_padded((4,), 0, multiple=0, rank=0, size=2), "a multiple of 0"),
        (lambda: split_sections((4,), 0, [Section(length=3)], rank=0, size=2), "sections of 3 in a dim of 4"),
        (lambda: split_sections((4,), 0, [Section(length=4, unit=3)], rank=0, size=2), "units must divide it"),
        (
            lambda: split_sections((4,), 0, [Section(length=4, unit=2, shared=True)], rank=0, size=3),
            "2 heads on 3 ranks: neither divides the other",
        ),
        (
            lambda: made([(0, 0, 2)], [(0, 3, 1)]),
            "a piece at 3 of length 1 in the full tensor: pieces lie side by side",
        ),
        (lambda: made([(0, 0, 2)], [(0, 1, 3)], lengths=(2, 3)), "a piece at 1 of length 3 in the full tensor"),
        (lambda: made([(0, 0, 2)], []), "pieces end at 2 in the full tensor, which is 4 long"),
        (lambda: made([(0, 0, 3)], [(0, 3, 1)]), "pieces end at 3 in a rank's tensor, which is 2 long"),
        (lambda: take(torch.zeros(3), split((4,), 0, rank=0, size=2)), r"a tensor of shape \[3\]"),
        (lambda: assemble([torch.zeros(2)], split((4,), 0, rank=0, size=2)), "1 local tensors"),
        (lambda: assemble([torch.zeros(2), torch.zeros(1)], split((4,), 0, rank=0, size=2)), "rank 1's tensor"),
        (lambda: counted_parts(torch.zeros(3), split((4,), 0, rank=0, size=2)), r"\[3\]; its sharding says \[2\]"),
    ],
)
def test_what_makes_no_sense_says_why(make, said):
    with pytest.raises(CannotRunError, match=said):
        make()

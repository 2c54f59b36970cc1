"""A local tensor is found in a full one by its values, taken and put back as one; near misses are no parts."""

import pytest
import torch

from shardproof.proving.part import Part, find_part

FULL = torch.randperm(120, generator=torch.Generator().manual_seed(3)).double().add(1).view(4, 6, 5)
OTHER = torch.arange(120).view(4, 6, 5)

PARTS = {
    "the whole": (slice(0, 4), slice(0, 6), slice(0, 5)),
    "rows": (slice(1, 3), slice(0, 6), slice(0, 5)),
    "a block of every dim": (slice(2, 4), slice(3, 6), slice(1, 2)),
    "dealt out in turn": (slice(0, 4), slice(1, 6, 2), slice(0, 5)),
    "in an order of their own": (slice(0, 2), torch.tensor([0, 1, 4, 2]), slice(0, 5)),
    "in reverse": (torch.tensor([3, 2, 1, 0]), slice(0, 6), slice(0, 5)),
    "one element": (slice(3, 4), slice(5, 6), slice(4, 5)),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_found_and_is_the_same_part_of_any_other_tensor(name):
    meant = Part(PARTS[name])
    part = find_part(meant.of(FULL), FULL)
    assert part is not None
    assert torch.equal(part.of(OTHER), meant.of(OTHER))
    assert [type(index) for index in part.indices] == [type(index) for index in meant.indices]
    written = torch.zeros_like(OTHER)
    part.put(written, part.of(OTHER) + 1)
    inside = torch.isin(OTHER, meant.of(OTHER).contiguous())
    assert torch.equal(written, torch.where(inside, OTHER + 1, 0))
    written.zero_()
    part.put(written, values=True)
    assert int(written.sum()) == meant.of(OTHER).numel()


def test_slices_are_views_and_rows_are_in_the_order_of_the_part():
    assert Part((slice(1, 3),)).of(OTHER.view(-1)).data_ptr() == OTHER.view(-1)[1:].data_ptr()
    rows = Part((torch.tensor([2, 0]), slice(0, 2))).of(OTHER.view(4, 30))
    assert rows.tolist() == [[60, 61], [0, 1]]


def test_a_number_and_a_vector_are_parts():
    five = torch.tensor(5.0)
    assert find_part(five, five.clone()) == Part(())
    assert find_part(five, five + 1) is None
    written = torch.zeros(())
    Part(()).put(written, five)
    assert torch.equal(written, Part(()).of(five))
    assert find_part(torch.tensor([3.0, 5.0]), torch.tensor([2.0, 3.0, 5.0])) == Part((slice(1, 3, 1),))


def test_values_of_another_dtype_are_found_if_they_are_the_very_same():
    assert find_part(FULL[1:].float(), FULL) is not None
    assert find_part(FULL[1:].float(), FULL + 2**-40) is None


def test_an_empty_tensor_is_a_part():
    part = find_part(FULL[:0], FULL)
    assert part is not None
    assert part.of(OTHER).shape == (0, 6, 5)


def _one_value_changed(tensor, value):
    changed = tensor.clone()
    changed.view(-1)[-1] = value
    return changed


NO_PARTS = {
    "one value is another element's": _one_value_changed(FULL[:2], float(FULL[3, 3, 3])),
    "one value is none": _one_value_changed(FULL[:2], -1.0),
    "one value is NaN": _one_value_changed(FULL[:2], torch.nan),
    "one value is padding": _one_value_changed(FULL[:2], 0.0),
    "the first value is none": -FULL[:2],
    "transposed": FULL[:, :4, :4].transpose(1, 2),
    "two dims in orders of their own": FULL[[2, 0]][:, [4, 1]],
    "of fewer dims": FULL[0],
    "larger": torch.cat([FULL, FULL]),
    "a row twice": FULL[[0, 0, 1]],
}


@pytest.mark.parametrize("name", NO_PARTS)
def test_what_is_not_in_lines_or_not_there_is_no_part(name):
    assert find_part(NO_PARTS[name], FULL) is None


def test_a_value_that_is_there_twice_is_told_by_no_one():
    twice = FULL.clone()
    twice[3] = twice[0]
    assert find_part(FULL[:1], twice) is None
    assert find_part(FULL[1:2], twice) == Part((slice(1, 2, 1), slice(0, 6, 1), slice(0, 5, 1)))

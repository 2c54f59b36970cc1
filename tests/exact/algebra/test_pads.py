"""Pads: of an element's number, the cut's name, the seed and the prime, and of nothing else."""

import hashlib

import torch
from tests.exact.algebra.test_splitmix import mixed

from shardproof.exact.algebra.field import Field
from shardproof.exact.algebra.pads import element_pads

FIELD = Field(2_097_169)
NUMBERS = torch.arange(1000)
PADS = element_pads(FIELD, 1, "cut here", NUMBERS)


def test_a_pad_is_of_the_elements_number_wherever_it_stands():
    some = torch.tensor([[7, 3], [999, 7]])
    assert torch.equal(element_pads(FIELD, 1, "cut here", some), PADS[some])


def test_another_seed_name_or_prime_gives_other_pads():
    others = [(FIELD, 2, "cut here"), (FIELD, 1, "cut there"), (Field(2_097_211), 1, "cut here")]
    for field, key, name in others:
        assert int((element_pads(field, key, name, NUMBERS) == PADS).sum()) < 5


def test_pads_are_the_words_of_splitmix64_from_a_start_that_the_key_gives():
    """In Python's integers, which have no sign: another machine and another version have to give the same."""
    starts = set()
    for key in range(20):
        start = int.from_bytes(hashlib.sha256(f"{key} 2097169 cut here".encode()).digest()[:8], "little")
        words = [mixed(start + 0x9E3779B97F4A7C15 * number) for number in (0, 1, 2, 1000)]
        found = element_pads(FIELD, key, "cut here", torch.tensor([0, 1, 2, 1000]))
        assert found.tolist() == [word % 2_097_169 - FIELD.half for word in words]
        starts.add(start >= 2**63)
    assert starts == {False, True}  # as signed integers, some are negative


def test_padding_gets_no_pad_and_pads_are_canonical():
    assert element_pads(FIELD, 1, "cut here", torch.tensor([-1, 5])).tolist() == [0.0, float(PADS[5])]
    assert FIELD.is_canonical(PADS)
    assert len(set(PADS.tolist())) > 990
    assert PADS[0] != 0  # only padding has none

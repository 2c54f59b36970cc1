"""SplitMix64's finaliser against Python integers, which have no sign and no width."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shardproof.exact.algebra.field import Field
from shardproof.exact.algebra.splitmix import GOLDEN_GAMMA, mix_to_residues

WORD = 2**64 - 1


def mixed(integer):
    z = integer & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20), st.sampled_from([3, 101, 2_097_169]))
def test_residues_are_those_of_the_unsigned_words(integers, prime):
    field = Field(prime)
    found = mix_to_residues(torch.tensor(integers), field)
    assert found.tolist() == [mixed(one) % prime - field.half for one in integers]


def test_the_generator_of_the_paper_gives_its_known_first_words():
    """Seed 1234567: the sequence that reference implementations of SplitMix64 print."""
    words = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert GOLDEN_GAMMA == 0x9E3779B97F4A7C15 - 2**64
    assert [mixed(1234567 + i * (GOLDEN_GAMMA % 2**64)) for i in (1, 2, 3)] == words


@pytest.mark.parametrize("prime", [101, 10_007])
def test_neighbouring_integers_get_residues_that_are_spread_evenly(prime):
    counts = torch.bincount(mix_to_residues(torch.arange(100 * prime), Field(prime)).long() + prime // 2)
    statistic = float(((counts - 100) ** 2 / 100).sum())
    assert abs(statistic - (prime - 1)) < 5 * (2 * (prime - 1)) ** 0.5

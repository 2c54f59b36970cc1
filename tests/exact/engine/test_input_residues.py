"""The residues of a program's variables: of their value and the key alone, spread evenly, the same anywhere."""

import math
import struct
from fractions import Fraction

import pytest
import torch

from shardproof.exact import ExactArithmetic
from shardproof.exact.algebra.degree import VARIABLE
from shardproof.exact.algebra.field import Field, choose_prime
from shardproof.exact.engine.input_residues import KnownNumbers, draw_for_values

P = choose_prime(1)


DRAWN = [58590.0, 190332.0, 834768.0, -1048584.0, 2.0]


def test_drawn_residues_depend_on_value_and_key_alone():
    field = Field(P)
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    drawn = draw_for_values(values, field=field, key=1)
    assert torch.equal(draw_for_values(values.flip(0).view(10, 100), field=field, key=1).flatten().flip(0), drawn)
    assert torch.equal(draw_for_values(values.double(), field=field, key=1), drawn)
    assert (draw_for_values(values, field=field, key=2) == drawn).sum() < 5
    assert field.is_canonical(drawn)


def test_drawn_residues_are_spread_evenly():
    """Chi-squared over 100 cells: 99 degrees of freedom, beyond 150 with probability 7e-4; the seed is fixed."""
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for key in range(3):
        drawn = draw_for_values(values, field=Field(P), key=key)
        counts = torch.histc(drawn, bins=100, min=-(P // 2), max=P // 2)
        assert float(((counts - 1000) ** 2 / 1000).sum()) < 150


def test_numbers_that_programs_initialise_with_keep_their_meaning():
    drawn = draw_for_values(torch.tensor([0.0, 1.0, -0.5, 3 / 64]), field=Field(P), key=1)
    assert drawn.tolist() == [0, 1, Field(P).representative(Fraction(-1, 2)), Field(P).representative(Fraction(3, 64))]


def test_the_digits_are_those_recorded_once_on_another_machine():
    values = torch.tensor([0.3, -1.7, math.pi, 0.5, 2.0])
    assert draw_for_values(values, field=Field(2_097_169), key=7).tolist() == DRAWN
    assert draw_for_values(values, field=Field(2_097_169), key=8).tolist() != DRAWN


def test_multiples_of_a_sixty_fourth_up_to_64_are_themselves_and_no_others():
    field = Field(P)
    plain = [64.0, -64.0, 1 / 64, -63 / 64, 63 + 63 / 64, 0.0]
    others = [64 + 1 / 64, 65.0, -64.5, 1 / 128, 0.3, 63 + 127 / 128]
    drawn = draw_for_values(torch.tensor(plain + others, dtype=torch.float64), field=field, key=1)
    assert drawn[: len(plain)].tolist() == [Field(P).representative(Fraction(x)) for x in plain]
    assert [int(d) for d in drawn[len(plain) :]] != [Field(P).representative(Fraction(x)) for x in others]
    for value, found in zip(others, drawn[len(plain) :].tolist(), strict=True):
        assert found != Field(P).representative(Fraction(value))


def test_drawn_residues_reach_both_ends_of_the_field():
    field = Field(101)
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = draw_for_values(values, field=field, key=0)
    assert (drawn.min(), drawn.max()) == (-50, 50)
    assert len(drawn.unique()) == 101


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_no_residue_is_drawn_for_what_is_not_finite(bad):
    with pytest.raises(FloatingPointError, match="a tensor holds NaN or infinity"):
        draw_for_values(torch.tensor([1.0, bad]), field=Field(P), key=1)


@pytest.mark.parametrize("key", [0, 1, 2**40, 2**63])
def test_a_drawn_residue_is_the_finaliser_of_splitmix64_on_the_bits_of_the_value(key):
    """In Python's integers: Steele, Lea and Flood 2014, figure 15."""
    field, mask = Field(P), 2**64 - 1
    values = [0.3, -1.7, math.pi, 1e-300, -1e300]
    wanted = []
    for value in values:
        mixed = struct.unpack("<Q", struct.pack("<d", value))[0]
        mixed = (mixed + 0x9E3779B97F4A7C15 * (2 * key + 1)) & mask
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        mixed ^= mixed >> 31
        wanted.append(mixed % P - field.half)
    assert draw_for_values(torch.tensor(values, dtype=torch.float64), field=field, key=key).tolist() == wanted


def test_known_numbers_are_found_by_their_value_alone():
    known = KnownNumbers.of([torch.tensor([[0.3, -1.7]]), torch.tensor([65.0]), torch.tensor([])])
    third, other = float(torch.tensor(0.3)), 0.3
    found = known.find(torch.tensor([[third, 65.0], [other, -1e300]], dtype=torch.float64))
    assert found.tolist() == [[True, True], [False, False]]
    assert known.find(torch.tensor([other, torch.inf, torch.nan], dtype=torch.float64)) is None
    assert known.find(torch.tensor([0.3])) is None  # of another precision


@pytest.mark.parametrize("plain", [0.0, 1.0, -0.5, 3 / 64, torch.inf, torch.nan])
def test_numbers_that_keep_their_meaning_are_never_known(plain):
    values = torch.tensor([plain], dtype=torch.float64)
    assert KnownNumbers.of([values]).find(values) is None
    assert KnownNumbers().find(values) is None
    assert KnownNumbers.of([]).find(values) is None


def test_known_numbers_are_sorted_when_the_first_tensor_is_looked_up_and_no_earlier(monkeypatch):
    sorts = []
    unique = torch.Tensor.unique
    monkeypatch.setattr(torch.Tensor, "unique", lambda x: sorts.append(1) or unique(x))
    known = KnownNumbers.of([torch.tensor([0.3, -1.7], dtype=torch.float64)])
    assert known.find(torch.tensor([0.3])) is None  # of another precision: not looked up
    assert not sorts
    found = known.find(torch.tensor([-1.7, 0.25], dtype=torch.float64))
    assert (found.tolist(), known.find(torch.tensor([0.4], dtype=torch.float64)), len(sorts)) == (
        [True, False],
        None,
        1,
    )


def test_variables_that_the_program_changes_are_known_as_they_were_given():
    numbers = torch.tensor([0.3, -1.7], dtype=torch.float64)
    exact = ExactArithmetic(seed=1, variables=[numbers])
    as_given = numbers.clone()
    numbers.zero_()
    with exact:
        copy = as_given.clone()
        assert exact.tags.get(copy).degree == VARIABLE

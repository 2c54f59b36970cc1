"""The residues of a program's variables: of their value and the key alone, spread evenly, the same anywhere."""

import math
from fractions import Fraction

import torch

from shardproof.exact.algebra.field import Field, choose_prime
from shardproof.exact.engine.input_residues import draw_for_values

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

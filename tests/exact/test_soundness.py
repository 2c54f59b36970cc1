"""Wrong programs, small primes: how often they agree with the right one stays within the derived bound.

A pair is two formulas that differ, at one prime, one key and one draw of the inputs: 729,000 of whole
programs, 684,000 of programs in segments. The controls
break an oracle in the ways that the first prototype did, and must be seen to break the bound.
"""

import gc
from dataclasses import replace

import pytest
import torch

from shardproof.exact.algebra.degree import Degree
from shardproof.exact.soundness import (
    PRIMES,
    PROGRAMS,
    SEGMENTED,
    SEGMENTED_PRIMES,
    Inputs,
    gelu_constant,
    in_segments,
    measure,
    other_maximum,
    products,
    relu_element,
    relu_scale,
    scale,
    scaled_alike,
    sqrt_dropped,
    table,
    wide_cross_entropies,
    wide_softmaxes,
)

KEYS = 20


def test_there_are_a_hundred_thousand_pairs():
    assert len(PROGRAMS) * KEYS * sum(PRIMES.values()) >= 100_000
    assert {101, 1009, 10007} == set(PRIMES)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_wrong_program_agrees_no_more_often_than_the_bound_says(program):
    rates = [measure(program, prime, keys=KEYS, rows=rows) for prime, rows in PRIMES.items()]
    assert all(rate.holds for rate in rates), table(rates)
    assert rates[-1].bound < 0.1  # at the largest of them the bound says something
    assert rates[-1].void < 0.01


@pytest.mark.parametrize("program", SEGMENTED, ids=lambda program: program.__name__)
def test_a_wrong_last_segment_agrees_no_more_often_than_its_bound_after_any_number_of_cuts(program):
    rates = [measure(program, prime, keys=KEYS, rows=rows) for prime, rows in SEGMENTED_PRIMES.items()]
    assert all(rate.holds for rate in rates), table(rates)
    assert rates[-1].bound < 0.01


@pytest.mark.parametrize("prime", SEGMENTED_PRIMES)
def test_cuts_by_value_break_the_bound(prime, monkeypatch):
    """A cut that is a function of the residue hands zeros and equal elements on: they add up over 16 cuts."""
    monkeypatch.setattr(Inputs, "cut", lambda inputs, tensor, name: inputs.exact.redraw(tensor, name))
    for program in (in_segments(products, 16), in_segments(scaled_alike, 16)):
        rate = measure(program, prime, keys=KEYS, rows=SEGMENTED_PRIMES[prime])
        assert not rate.holds, table([rate])


@pytest.mark.parametrize(
    ("program", "prime", "smaller"),
    [
        (other_maximum, 1009, {"tops": 0.0}),  # as if maxima met as often as single numbers
        (scale, 1009, {"over": 0.1}),
        (in_segments(wide_softmaxes, 4), 503, {"over": 0.05, "under": 0.05}),
        (in_segments(wide_cross_entropies, 4), 503, {"over": 0.05, "gates": 0.0, "inverses": False}),
    ],
    ids=["maximum", "scale", "softmax", "cross-entropy"],
)
def test_a_bound_that_is_too_small_does_not_hold(program, prime, smaller, monkeypatch):
    assert measure(program, prime, keys=KEYS, rows=2000).holds
    chance = Degree.chance
    monkeypatch.setattr(Degree, "chance", lambda degree, prime: chance(replace(degree, **smaller), prime))
    rate = measure(program, prime, keys=KEYS, rows=2000)
    assert not rate.holds, table([rate])


def test_wrong_programs_do_agree_by_chance_as_often_as_one_point_in_the_field():
    rate = measure(PROGRAMS[0], 101, keys=KEYS, rows=500)
    assert 0.5 / 101 < rate.wrong < 2 / 101


def by_sign(exact):
    """relu by the sign of the representative: gates that are 0 or 1."""
    half = exact.arithmetic.field.half
    for at_zero in (0, 1):
        gate = torch.arange(-half, half + 1) > -at_zero
        exact.arithmetic.oracles._tables[f"gate {at_zero}"] = gate.to(torch.float32)


def with_few_values(name):
    """An oracle that is far from injective: 1024 neighbours have one value, as a hash to few values has."""

    def prepare(exact):
        oracles, half = exact.arithmetic.oracles, exact.arithmetic.field.half
        table = oracles.odd(name) if name == "erf" else oracles.fixing_zero("sqrt")
        oracles._tables[f"{name} odd" if name == "erf" else name] = table[
            (torch.arange(-half, half + 1) // 1024 * 1024 + half).clamp(min=0)
        ]

    return prepare


@pytest.mark.parametrize(
    ("program", "prime", "prepare"),
    [
        (relu_scale, 1009, by_sign),
        (relu_element, 10007, by_sign),
        (relu_scale, 10007, by_sign),
        (gelu_constant, 10007, with_few_values("erf")),
        (sqrt_dropped, 10007, with_few_values("sqrt fixing 0")),
    ],
    ids=["relu", "relu of one element", "relu at a larger prime", "gelu", "sqrt"],
)
def test_a_broken_oracle_breaks_the_bound(program, prime, prepare):
    broken = measure(program, prime, keys=KEYS, rows=PRIMES[prime] * 4, prepare=prepare)
    assert not broken.holds, table([broken])
    gc.collect()  # tables are shared by all that are alive of one key
    assert measure(program, prime, keys=KEYS, rows=PRIMES[prime] * 4).holds

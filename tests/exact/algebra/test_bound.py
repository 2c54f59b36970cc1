"""Bounds: what a degree says, how trials combine, how many are needed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.exact.algebra.residues import check_value_class

from shardproof.exact import NoBound, trials_needed
from shardproof.exact.algebra.bound import Bound, bound_of
from shardproof.exact.algebra.degree import CONSTANT, UNKNOWN, VARIABLE

PRIME = 2_097_169


@given(over=st.integers(1, 1000), exponent=st.integers(1, 15))
def test_the_trials_needed_are_enough_and_no_fewer_are(over, exponent):
    degree, wanted = VARIABLE.power(over), 10.0**-exponent
    trials = trials_needed(degree, prime=PRIME, wanted=wanted)
    assert bound_of(degree, prime=PRIME, trials=trials).probability <= wanted
    if trials > 1:
        assert bound_of(degree, prime=PRIME, trials=trials - 1).probability > wanted


def test_the_default_wanted_is_one_in_a_million_millions():
    assert trials_needed(VARIABLE, prime=PRIME) == 2
    assert trials_needed(VARIABLE.power(40), prime=PRIME) == 3
    assert trials_needed(CONSTANT, prime=PRIME) == 1


def test_no_number_of_trials_is_enough_where_nothing_is_derived():
    assert trials_needed(UNKNOWN, prime=PRIME) is None
    assert trials_needed(VARIABLE.power(PRIME // 2), prime=PRIME) is None
    assert "no derived bound" in str(bound_of(UNKNOWN, prime=PRIME, trials=3))


@pytest.mark.parametrize("wanted", [0, 1, -1e-3, 2])
def test_a_wanted_bound_that_is_no_probability_is_refused(wanted):
    with pytest.raises(ValueError, match="probability above 0 and below 1"):
        trials_needed(VARIABLE, prime=PRIME, wanted=wanted)


def test_void_trials_drawn_again_count_in_all_ways_to_pick_the_others():
    plain = Bound(prime=PRIME, trials=3, per_trial=1e-3)
    again = Bound(prime=PRIME, trials=3, per_trial=1e-3, draws=5)
    assert plain.probability == pytest.approx(1e-9)
    assert again.probability == pytest.approx(10 * 1e-9)  # 5 choose 3
    with pytest.raises(ValueError, match="a draw for each"):
        Bound(prime=PRIME, trials=3, per_trial=1e-3, draws=2)


def test_a_void_trial_has_no_bound():
    bound = bound_of(VARIABLE, prime=PRIME, void=True)
    assert bound.probability is None
    assert "draw again" in str(bound)


# Number by number -----------------------------------------------------------------------------------------------------


def test_a_bound_is_a_value():
    check_value_class(Bound(prime=PRIME, trials=3, per_trial=1e-3), trials=4)
    with pytest.raises(TypeError, match="positional argument"):
        bound_of(VARIABLE, PRIME)
    with pytest.raises(TypeError, match="positional argument"):
        trials_needed(VARIABLE, PRIME)


@pytest.mark.parametrize(
    ("trials", "draws", "chance", "probability"),
    [
        (1, None, 0.25, 0.25),
        (2, None, 0.25, 0.0625),  # to the power of the trials, not to twice it
        (3, None, 0.5, 0.125),
        (1, 1, 0.25, 0.25),
        (2, 3, 0.25, 3 * 0.0625),
        (1, 4, 0.125, 0.5),
        (1, 4, 0.25, 1.0),
        (1, 8, 0.25, 1.0),  # never more than certain
        (2, None, 0.0, 0.0),
    ],
)
def test_the_probability_of_all_trials_together(trials, draws, chance, probability):
    bound = Bound(prime=PRIME, trials=trials, per_trial=chance, draws=draws)
    assert bound.probability == probability


@pytest.mark.parametrize(("trials", "draws"), [(0, None), (-1, None), (0, 0), (0, 3), (3, 2)])
def test_fewer_than_one_trial_or_one_draw_for_each_is_refused(trials, draws):
    with pytest.raises(
        ValueError, match=f"^{trials} trials of {draws} draws; needed is at least one trial, and a draw"
    ):
        Bound(prime=PRIME, trials=trials, per_trial=None, draws=draws)


def test_one_trial_and_as_many_draws_as_trials_are_enough():
    assert Bound(prime=PRIME, trials=1, per_trial=0.5).draws is None
    assert Bound(prime=PRIME, trials=1, per_trial=0.5, draws=1).probability == 0.5
    assert Bound(prime=PRIME, trials=2, per_trial=0.5, draws=2).probability == 0.25


def test_a_bound_without_a_chance_or_of_a_void_trial_has_no_probability():
    assert Bound(prime=PRIME, trials=1, per_trial=None).probability is None
    assert Bound(prime=PRIME, trials=1, per_trial=0.5, void=True).probability is None
    assert not Bound(prime=PRIME, trials=1, per_trial=0.5).void


@pytest.mark.parametrize(
    ("bound", "words"),
    [
        (
            Bound(prime=PRIME, trials=1, per_trial=0.25),
            "a different program agrees at 1 random point with probability at most 0.25",
        ),
        (
            Bound(prime=PRIME, trials=2, per_trial=1e-3),
            "a different program agrees at 2 random points with probability at most 1e-06",
        ),
        (Bound(prime=PRIME, trials=1, per_trial=None), "agreed at 1 random point, no derived bound"),
        (Bound(prime=PRIME, trials=2, per_trial=None), "agreed at 2 random points, no derived bound"),
        (
            Bound(prime=PRIME, trials=2, per_trial=None, reason=NoBound.SOFTMAX),
            "agreed at 2 random points, no derived bound: softmax",
        ),
        (
            Bound(prime=PRIME, trials=2, per_trial=0.25, void=True),
            "void: a division by zero modulo the prime on the way here; draw again with another seed",
        ),
    ],
)
def test_the_words_for_a_bound(bound, words):
    assert str(bound) == words


def test_the_bound_of_a_degree():
    bound = bound_of(VARIABLE.power(3), prime=PRIME)
    assert bound == Bound(prime=PRIME, trials=1, per_trial=3 / PRIME)
    assert bound_of(VARIABLE, prime=PRIME, trials=2, draws=5, void=True) == Bound(
        prime=PRIME, trials=2, per_trial=1 / PRIME, void=True, draws=5
    )
    assert bound_of(VARIABLE, prime=PRIME, lost=NoBound.READ).per_trial is None


def test_a_chance_of_more_than_a_tenth_is_not_called_a_bound():
    assert bound_of(VARIABLE, prime=10).per_trial == 0.1
    assert bound_of(VARIABLE, prime=9).per_trial is None
    assert trials_needed(VARIABLE, prime=9) is None


@pytest.mark.parametrize(
    ("chance", "wanted", "trials"),
    [
        (64, 1 / 64, 1),  # exactly as wanted
        (64, 1 / 63, 1),
        (64, 1 / 65, 2),
        (64, 1 / 64**3, 3),  # the quotient of logarithms may round to just below 3 or just above
        (10, 0.5, 1),  # one at least
        (1000, 1.1e-12, 4),
        (1000, 0.9e-12, 5),
    ],
)
def test_so_many_trials_bring_the_chance_below_what_is_wanted(chance, wanted, trials):
    assert trials_needed(VARIABLE, prime=chance, wanted=wanted) == trials


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("prime", [10, 11, 101, 1009, 2_097_169])
def test_a_power_of_the_chance_is_reached_by_its_exponent(prime, count):
    """Where a rounded logarithm is not an integer, by one trial more or less."""
    per_trial = 1 / prime
    found = trials_needed(VARIABLE, prime=prime, wanted=per_trial**count)
    assert per_trial**found <= per_trial**count
    assert found in (count, count + 1)


@pytest.mark.parametrize("count", [1, 2])
def test_one_trial_more_is_needed_where_the_logarithms_round_to_one_too_few(count):
    wanted = math.nextafter((1 / PRIME) ** count, 0)
    assert math.ceil(math.log(wanted) / math.log(1 / PRIME)) == count
    assert trials_needed(VARIABLE, prime=PRIME, wanted=wanted) == count + 1

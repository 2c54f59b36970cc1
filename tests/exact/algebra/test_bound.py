"""Bounds: what a degree says, how trials combine, how many are needed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardproof.exact import trials_needed
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

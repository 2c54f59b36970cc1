"""The tally keeps the largest difference and its block, counts, and what is settled."""

import math

from shardproof.comparison.blocks import Block
from shardproof.comparison.elementwise import BlockStatistics
from shardproof.comparison.tally import Tally

FIRST, SECOND, THIRD = (Block(start=n, index=(slice(n, n + 1),)) for n in range(3))


def statistics(maxdiff, **changes):
    counts = dict.fromkeys(("nan_actual", "nan_expected", "inf_actual", "inf_expected", "max_ulp"), 0)
    return BlockStatistics(**({"close": True, "maxdiff": maxdiff} | counts | changes))


def test_the_first_block_with_the_largest_difference_is_kept():
    tally = Tally(ulp_limit=8)
    for maxdiff, block in ((0, FIRST), (2, SECOND), (2, THIRD), (1, FIRST)):
        tally.add(statistics(maxdiff), block)
    assert (tally.maxdiff, tally.worst, tally.exact, tally.close) == (2, SECOND, False, True)


def test_nan_is_larger_than_any_number_and_the_first_nan_stays():
    tally = Tally(ulp_limit=8)
    for maxdiff, block in ((9, FIRST), (math.nan, SECOND), (math.inf, THIRD), (math.nan, THIRD)):
        tally.add_difference(maxdiff, block)
    assert math.isnan(tally.maxdiff)
    assert tally.worst is SECOND


def test_ulp_stop_at_their_limit_and_tell_denormals_apart():
    tally = Tally(ulp_limit=8)
    tally.add(statistics(0, max_ulp=3), FIRST)
    assert (tally.exact, tally.max_ulp, tally.ulp_settled) == (False, 3, False)
    tally.add_ulp(100)
    assert (tally.max_ulp, tally.ulp_settled) == (8, True)
    unlimited = Tally(ulp_limit=None)
    unlimited.add_ulp(100)
    assert (unlimited.max_ulp, unlimited.ulp_settled) == (100, False)


def test_counts_add_up_and_one_block_out_of_tolerance_is_enough():
    tally = Tally(ulp_limit=8)
    for close in (True, False, True):
        tally.add(statistics(1, close=close, nan_actual=1, inf_expected=2), FIRST)
    assert (tally.nan_actual, tally.nan_expected, tally.inf_actual, tally.inf_expected) == (3, 0, 0, 6)
    assert not tally.close

"""Small probabilities in words, never smaller than they are."""

import pytest

from shardproof.report.page.probability import compare_to_coins, say_odds


@pytest.mark.parametrize(
    ("probability", "said"),
    [(0.0, "none"), (0.3, "1 in 3"), (2e-3, "1 in 500"), (3e-8, "1 in 33 million"), (1e-18, "1 in 10^18")],
)  # fmt: skip
def test_odds(probability, said):
    assert say_odds(probability) == said


def test_coins():
    assert compare_to_coins(2**-20) == "no likelier than calling 20 coin tosses in a row"
    assert compare_to_coins(0.9) == compare_to_coins(0.0) == ""

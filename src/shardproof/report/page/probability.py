"""A small probability in words that a person can weigh."""

from __future__ import annotations

import math


def say_odds(probability: float) -> str:
    """'1 in 33 million'; 'none' for 0. Rounded so that it never says less than it is."""
    if probability <= 0:
        return "none"
    odds = 1 / probability * (1 + 1e-9)  # 1e-9 is 1 in a billion, whatever the division rounds to
    if odds < 1000:
        return f"1 in {max(1, math.floor(odds))}"
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if size <= odds < size * 1000:
            return f"1 in {math.floor(odds / size)} {word}"
    return f"1 in 10^{math.floor(math.log10(odds))}"


def compare_to_coins(probability: float) -> str:
    """How many coins in a row one would have to call right to be as lucky; empty where that is at most one."""
    if probability <= 0:
        return ""
    tosses = math.floor(-math.log2(probability))
    return f"no likelier than calling {tosses} coin tosses in a row" if tosses > 1 else ""

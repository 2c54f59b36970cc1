"""Logarithms of sums that are split over real processes give the digits of one process."""

import pytest
import torch
from tests.exact import ranks

from shardproof.worlds.spawned import SpawnedWorld

pytestmark = pytest.mark.processes

TIMEOUT = 120.0


def test_log_sums_are_merged_over_ranks():
    wrong = {"sum, own maximum", "scattered sum, own maximum", "gathered sums, no rescale"}
    for found in SpawnedWorld(size=2, timeout=TIMEOUT).run(ranks.merge_log_sums):
        right = found.pop("one device")
        assert {name for name, digits in found.items() if not torch.equal(digits, right)} == wrong


def test_what_a_gathered_tensor_is_a_product_of_is_gathered_with_it():
    for found in SpawnedWorld(size=2, timeout=TIMEOUT).run(ranks.gather_probabilities):
        assert {name for name, pair in found.items() if not torch.equal(*pair)} == {"other rows"}

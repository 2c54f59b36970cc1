"""Ties: which of the candidate's parameters hold the same elements."""

import torch

from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.ties import find_untied

TABLE = torch.arange(1.0, 13.0, dtype=torch.float64).view(4, 3)
BIAS = torch.tensor([-1.0, -2.0], dtype=torch.float64)


def untied(held):
    return find_untied(find_layout({"table": TABLE, "bias": BIAS}, held))


def test_two_parameters_that_hold_one_are_named():
    assert untied({"table": {0: TABLE, 1: TABLE}, "head": {0: TABLE[:2], 1: TABLE[2:]}, "bias": {0: BIAS}}) == {
        "head": "table",
        "table": "head",
    }


def test_so_are_two_on_different_ranks():
    assert untied({"table": {0: TABLE}, "head": {1: TABLE[3:]}, "bias": {1: BIAS}}) == {
        "head": "table",
        "table": "head",
    }


def test_replicas_and_shards_of_one_parameter_are_not():
    assert untied({"table": {0: TABLE, 1: TABLE[:2]}, "bias": {0: BIAS, 1: BIAS}}) == {}

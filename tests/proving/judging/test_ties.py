"""Ties: which of the candidate's parameters hold the same elements."""

from dataclasses import replace

import pytest
import torch

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.layout import find_layout
from shardproof.proving.judging.ties import explain_untied, find_untied
from shardproof.proving.records import Key, Phase

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


def test_padding_of_two_is_nothing_that_they_share():
    zeros = torch.zeros(2, dtype=torch.float64)
    assert untied({"table": {0: TABLE, 1: torch.cat([TABLE[2:], zeros.new_zeros(1, 3)])}, "bias": {0: zeros}}) == {}


def test_a_flat_buffer_beside_the_models_own_parameters_is_no_tie():
    flat = torch.cat([TABLE.flatten(), BIAS])
    held = {"table": {0: TABLE, 1: TABLE}, "bias": {0: BIAS, 1: BIAS}}
    assert untied(held | {"part": {0: flat[:7], 1: flat[7:]}}) == {}
    assert untied(held | {"part": {0: TABLE.flatten()[:6], 1: TABLE.flatten()[6:]}}) == {}  # of one matrix
    assert untied(held | {"head": {0: TABLE, 1: TABLE}}) == {"head": "table", "table": "head"}


def test_of_several_the_first_is_named():
    held = {"bias": {0: BIAS}, "table": {0: TABLE[:2]}, "head": {0: TABLE[1:3]}, "other": {0: TABLE}}
    assert untied(held) == {"table": "head", "head": "table", "other": "table"}


@pytest.mark.parametrize(
    ("phase", "name", "kind", "other"),
    [
        (Phase.GRADIENT, "head", CauseKind.UNEXPLAINED, "table"),
        (Phase.GRADIENT, "table", CauseKind.UNEXPLAINED, "head"),
        (Phase.STATE, "head/exp_avg", CauseKind.UNEXPLAINED, "table"),
        (Phase.UPDATE, "head", CauseKind.UNEXPLAINED, "table"),
        (Phase.GRADIENT, "head", CauseKind.SCALED, None),
        (Phase.GRADIENT, "head", None, None),
        (Phase.GRADIENT, "bias", CauseKind.UNEXPLAINED, None),
        (Phase.OUTPUT, "head", CauseKind.UNEXPLAINED, None),
    ],
)
def test_a_tie_explains_what_nothing_else_does_of_a_parameter(phase, name, kind, other):
    layout = find_layout({"table": TABLE, "bias": BIAS}, {"table": {0: TABLE}, "head": {0: TABLE}, "bias": {0: BIAS}})
    cause = None if kind is None else Cause(kind=kind)
    given = Finding(key=Key(0, phase, name), verdict=Verdict.WRONG, cause=cause, ranks=(0,))
    (found,) = explain_untied([given], layout)
    untied = Cause(kind=CauseKind.UNTIED, parameter=other, mend=Mend.TIE)
    assert found == (given if other is None else replace(given, cause=untied))

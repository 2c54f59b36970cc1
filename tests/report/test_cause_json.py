"""Every cause goes into JSON and comes back the same; what no cause writes is refused in one line."""

import json
from dataclasses import fields, replace
from fractions import Fraction

import pytest

from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind, Mend, Part
from shardproof.proving.records import CollectiveCall
from shardproof.report.cause_json import cause_fields, read_cause
from shardproof.worlds.early_access import EarlyAccess

COLLECTIVE = CollectiveCall(step=1, kind="Gather", ranks=(0, 1), shapes=((2, 3), ()), location="in up")
FULL = Cause(
    kind=CauseKind.SCALED,
    mend=Mend.AVERAGE_GRADIENT,
    approximate=True,
    factor=Fraction(-2, 3),
    axes=("dp", "tp"),
    parameter="up.weight",
    dim=0,
    indices=(2, 5),
    largest=0.25,
    ranks=(0, 3),
    shapes=((2,), ()),
    ranges=((0, 3), (4, 5)),
    parts=(Part(rank=1), Part(rank=0, index=0)),
    elements=0,
    dtype="float32",
    entries=("up.*", "down"),
    operands=("the first operand of maximum", "second"),
    exact_collective=replace(COLLECTIVE, asynchronous=True),
    native_collective=COLLECTIVE,
    forward_collective=COLLECTIVE,
    recomputed_collective=replace(COLLECTIVE, recomputed=True),
    early_access=EarlyAccess(call="send", call_line="a.py:1 in f", access="mul", access_line="", of_input=True),
)
MESH = {"dp": 2, "tp": 2}


def through_json(cause):
    return read_cause(json.loads(json.dumps(cause_fields(cause, MESH), allow_nan=False)))


def test_the_full_cause_has_every_field():
    assert all(getattr(FULL, one.name) != getattr(Cause(kind=CauseKind.SCALED), one.name) for one in fields(Cause)[1:])


@pytest.mark.parametrize("cause", [None, FULL, *(Cause(kind=kind) for kind in CauseKind)], ids=str)
def test_a_cause_comes_back_the_same(cause):
    assert through_json(cause) == cause
    assert repr(through_json(cause)) == repr(cause)  # what is not compared too


def test_what_is_empty_is_left_out_and_the_words_stand_beside():
    cause = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",))
    told = "ranks hold partial values whose sum over tp is right: an all-reduce is missing"
    assert cause_fields(cause, MESH) == {"kind": "missing all-reduce", "axes": ["tp"], "text": told}


def test_the_words_are_not_read_back():
    content = cause_fields(Cause(kind=CauseKind.SCALED, factor=Fraction(2)), MESH)
    assert read_cause(content | {"text": "3 times too large"}).factor == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "bad luck"}, "kind 'bad luck', which is none"),
        ({"kind": 3}, "int where str is needed"),
        ({"mend": "hope"}, "mend 'hope', which is none"),
        ({"luck": 1}, "'luck', which no cause has"),
        ({"approximate": 1}, "int where bool is needed"),
        ({"factor": 2}, "int where str is needed"),
        ({"factor": "2.5"}, "a fraction such as '1/2'"),
        ({"factor": "1/-2"}, "a fraction such as '1/2'"),
        ({"factor": "1/"}, "a fraction such as '1/2'"),
        ({"factor": ""}, "a fraction such as '1/2'"),
        ({"factor": "1/0"}, "divides by zero"),
        ({"factor": "9" * 21}, "a fraction such as '1/2'"),
        ({"axes": "tp"}, "str where list is needed"),
        ({"axes": [1]}, "int where str is needed"),
        ({"ranks": [True]}, "bool where int is needed"),
        ({"shapes": [2]}, "int where list is needed"),
        ({"parts": [{"rank": "0"}]}, "str where int is needed"),
        ({"parts": [{"rank": 0, "index": "0"}]}, "str where int is needed"),
        ({"parts": [{}]}, "NoneType where int is needed"),
        ({"elements": 1.5}, "float where int is needed"),
        ({"exact_collective": {}}, "NoneType where int is needed"),
    ],
)
def test_what_no_cause_writes_is_refused(changes, said):
    with pytest.raises(CannotRunError) as caught:
        read_cause({"kind": "scaled"} | changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["2 times too large", [], 3])
def test_a_sentence_of_an_older_certificate_is_no_cause(content):
    with pytest.raises(CannotRunError, match="where dict is needed"):
        read_cause(content)


def test_a_cause_without_a_kind_is_refused():
    with pytest.raises(CannotRunError, match="without a kind"):
        read_cause({"factor": "2"})

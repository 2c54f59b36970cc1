"""What is known of residues, as numbers and back; worlds/test_process_calls.py sends the messages themselves."""

import pytest

from shardproof.exact.algebra.degree import UNKNOWN, Degree
from shardproof.exact.engine.messages import _decode, _encode
from shardproof.exact.engine.tags import REAL, Tag

INNER = Degree(over=2, gates=1, queries=Degree(over=1, signed=True), loose=True)
TAGS = [REAL, Tag(), Tag(degree=INNER, void=True), Tag(degree=Degree(over=3, monomial=True), roots=True, compared=True)]


@pytest.mark.parametrize("tag", TAGS)
def test_a_tag_comes_back_the_same(tag):
    assert _decode(_encode(tag, known=False)) == (tag, False)


def test_known_constants_are_said():
    assert _decode(_encode(Tag(), known=True)) == (Tag(), True)


def test_a_degree_too_deep_to_be_sent_is_unknown():
    degree = Degree(over=1)
    for _ in range(20):
        degree = Degree(over=1, queries=degree)
    assert _decode(_encode(Tag(degree=degree), known=False))[0].degree == UNKNOWN

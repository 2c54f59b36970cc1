"""The table of relations to other tensors: each is asked in turn, and the first that answers is the cause."""

from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.judging import beside


def test_the_first_relation_that_holds_is_the_cause(monkeypatch):
    causes = [None, Cause(kind=CauseKind.NEVER_STEPPED), Cause(kind=CauseKind.NOT_CLIPPED)]
    monkeypatch.setattr(beside, "RELATIONS", [lambda *_, one=one: one for one in causes])
    assert beside.explain_beside(None, None, None, None) is causes[1]
    monkeypatch.setattr(beside, "RELATIONS", [lambda *_: None])
    assert beside.explain_beside(None, None, None, None) is None


def test_every_relation_is_of_a_kind_of_tensor_of_its_own_or_looks_at_all():
    assert len(set(beside.RELATIONS)) == len(beside.RELATIONS) > 1

"""`prove(evidence=...)`: the same findings, and beside them what a page shows; nothing where it is not asked for."""

import pytest
from tests.proving import steps

from shardproof.proving.evidence import Agreement
from shardproof.proving.prove import prove
from shardproof.proving.records import Key, Phase


@pytest.mark.parametrize("numeric", [False, True])
def test_evidence_changes_no_finding(numeric):
    def run(**settings):
        return prove(steps.step, parallelize=steps.scaled_gradient, devices=2, trials=1, numeric=numeric, **settings)

    without, beside = run(), run(evidence=())
    assert without.evidence is None
    assert without.findings == beside.findings
    weight = Key(0, Phase.GRADIENT, "up.weight")
    assert [sample.rank for sample in beside.evidence.samples[weight]] == [0, 1]
    assert all(bool(sample.differs.all()) for sample in beside.evidence.samples[weight])
    assert {one.agreement for one in beside.evidence.activations} <= {Agreement.EQUAL, Agreement.NOT_COMPARED}


def test_a_right_step_has_its_shards_and_its_collectives():
    seen = prove(steps.step, parallelize=steps.parallelize, devices=2, trials=1, evidence=()).evidence
    assert seen.samples == {}
    assert seen.parameters["up.weight"].boxes[1] == (((4, 8),), ((0, 6),))
    assert seen.parameters["down.weight"].boxes[1] == (((0, 4),), ((4, 8),))
    assert next(call.location for call in seen.collectives if call.kind.startswith("AllReduce")) == "in down"

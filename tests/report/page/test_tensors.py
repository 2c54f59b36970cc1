"""The list of tensors: sections by step and phase, what is known of each, and where each is."""

from tests.report.page.shown import NEW, RIGHT, WRONG, shown

from shardproof.proving.records import Key, Phase
from shardproof.report.page.tensors import list_tensors, name_phase


def test_every_finding_and_every_other_activation_has_a_place():
    listed = list_tensors(shown())
    rows = [row.id for section in listed.sections for row in section.rows]
    assert rows == ["t0", "t1", "t2", "t3", "a0", "a1", "a2"]
    assert listed.ids[WRONG.key] == "t1"
    assert listed.ids[Key(0, Phase.OUTPUT, "up")] == "a0"


def test_only_sections_with_a_first_cause_are_open():
    assert [section.title for section in list_tensors(shown()).sections if section.open] == ["Step 1: gradients"]
    assert not any(section.open for section in list_tensors(shown(RIGHT, NEW)).sections)


def test_a_wrong_tensor_has_its_cause_layout_probe_and_values():
    listed = list_tensors(shown())
    row = next(row for section in listed.sections for row in section.rows if row.id == "t1")
    facts = dict(row.facts)
    assert row.said == "ranks hold partial values whose sum is right: an all-reduce is missing"
    assert facts["Called at"] == "model.py:7 in forward"
    assert facts["Differs"] == "2 of 12 elements, on rank 1"
    assert facts["Layout"].startswith("shape 4 x 3, split along dim 0")
    assert facts["Probed"] == "12 of 12 elements were not zero in some trial"
    assert [one.key for one in row.maps] == ["t1r1"]
    assert set(listed.values) == {"t1r1"}


def test_phases_have_plurals():
    assert [name_phase(Phase.GRADIENT, n) for n in (1, 2)] == ["gradient", "gradients"]
    assert name_phase(Phase.NORM, 1) == "gradient norm"

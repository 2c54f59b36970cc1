"""The step as a picture: modules in order, what is wrong first, collectives where they are, and the one that lacks."""

from dataclasses import replace

from tests.report.page.shown import LOSS, NEW, RIGHT, WRONG, evidence, shown

from shardproof.proving.evidence import Activation, Agreement
from shardproof.proving.records import Key, Phase
from shardproof.report.page.description import Tone
from shardproof.report.page.step_picture import draw_step
from shardproof.report.page.tensors import list_tensors


def drawn(*findings, **changes):
    proof = shown(*findings, **changes)
    picture = draw_step(proof, list_tensors(proof).ids)
    return {row.name: row for row in picture.rows}


def test_modules_stand_in_execution_order_and_the_loss_after_them():
    assert list(drawn()) == ["up", "down", "model", "loss"]


def test_the_first_divergence_is_marked_and_what_follows_is_told_apart():
    rows = drawn()
    assert [name for name, row in rows.items() if row.first] == ["up"]
    (chip,) = rows["up"].parameters
    assert (chip.tone, chip.first, chip.follows, chip.href) == (Tone.BAD, True, False, "#t1")
    (follows,) = drawn(LOSS, NEW, RIGHT)["up"].parameters
    assert (follows.first, follows.follows) == (False, True)
    assert rows["down"].parameters[0].tone is Tone.GOOD


def test_a_right_step_has_no_first_divergence_and_lacks_nothing():
    rows = drawn(LOSS, RIGHT)
    assert not any(row.first for row in rows.values())
    assert not any(one.missing for row in rows.values() for one in (*row.forward_traffic, *row.backward_traffic))


def test_collectives_stand_at_their_module_and_pass():
    rows = drawn()
    assert [one.kind for one in rows["down"].forward_traffic] == ["all-reduce"]
    assert [(one.kind, one.missing) for one in rows["up"].backward_traffic] == [
        ("all-reduce", False),
        ("all-reduce", True),
    ]
    assert rows["down"].backward_traffic == ()


def test_activations_have_their_tone_and_their_shards():
    rows = drawn()
    assert rows["up"].forward[0].tone is Tone.GOOD
    assert len(rows["up"].forward[0].shards.ranks) == 2
    assert rows["down"].forward[0].tone is Tone.OPEN
    assert rows["up"].backward[0].tone is Tone.PLAIN


def test_a_module_stands_before_those_inside_it_and_is_named_below_them():
    names = ("block.attention", "block.mlp", "block", "head")
    seen = tuple(Activation(key=Key(0, Phase.OUTPUT, name), agreement=Agreement.EQUAL) for name in names)
    rows = drawn(LOSS, evidence=replace(evidence(), activations=seen))
    assert [(row.name, row.label, row.depth) for row in rows.values()][:4] == [
        ("block", "block", 0),
        ("block.attention", "attention", 1),
        ("block.mlp", "mlp", 1),
        ("head", "head", 0),
    ]


def test_a_wrong_activation_is_shown_before_a_right_one_of_its_module():
    right = Activation(key=Key(0, Phase.OUTPUT, "up[0]"), agreement=Agreement.EQUAL)
    wrong = Activation(key=Key(0, Phase.OUTPUT, "up[1]"), agreement=Agreement.DIFFERENT)
    rows = drawn(WRONG, evidence=replace(evidence(), activations=(right, wrong)))
    assert [cell.tone for cell in rows["up"].forward] == [Tone.BAD]

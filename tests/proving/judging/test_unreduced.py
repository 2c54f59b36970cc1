"""Partial activations: which of them is told, and of what it is the cause."""

import pytest

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.judging.unreduced import Judged, keep_findings
from shardproof.proving.records import Key, Phase

LOSS = Key(0, Phase.LOSS, "loss")


def gradient(name, step=0):
    return Key(step, Phase.OUTPUT_GRADIENT, name)


def of_parameter(name, step=0):
    return Key(step, Phase.GRADIENT, name)


def right(key):
    return Judged(finding=Finding(key=key, verdict=Verdict.PROVED, elements=4))


def partial(key):
    return Judged(finding=right(key).finding, partial_over=("tp",))


def wrong(key, verdict=Verdict.WRONG):
    return Judged(finding=Finding(key=key, verdict=verdict))


def told(*judged):
    """The names of the partial activations that are told."""
    findings = keep_findings(judged)
    return [one.key.name for one in findings if one.cause and one.cause.kind is CauseKind.UNREDUCED]


def test_a_partial_gradient_is_told_before_the_gradients_that_follow_from_it():
    trial = [right(LOSS), partial(gradient("norm")), partial(gradient("table")), wrong(of_parameter("table.weight"))]
    findings = keep_findings([*trial, wrong(of_parameter("norm.weight"))])
    assert [one.key for one in findings] == [
        LOSS,
        gradient("norm"),
        of_parameter("table.weight"),
        of_parameter("norm.weight"),
    ]
    assert findings[1].cause == Cause(
        kind=CauseKind.UNREDUCED, axes=("tp",), mend=Mend.ALL_REDUCE_IN_BACKWARD, approximate=False
    )
    assert (findings[1].verdict, findings[1].elements) == (Verdict.WRONG, 4)
    assert keep_findings(trial, approximate=True)[1].cause.approximate


def test_without_a_wrong_gradient_it_is_none():
    assert told(partial(gradient("norm")), right(of_parameter("norm.weight"))) == []


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("block.norm.weight", True),  # of the module
        ("block.norm.inner.scale", True),  # of a module within it, of which nothing is recorded
        ("block.norm.seen.weight", False),  # whose own output has a gradient that is no part of a sum
        ("block.weight", False),  # of a module around it
        ("other.weight", False),
        ("block.normal.weight", False),
    ],
)
def test_only_parameters_of_its_module_follow_from_it(name, tells):
    trial = [right(gradient("block.norm.seen")), partial(gradient("block.norm")), wrong(of_parameter(name))]
    assert told(*trial) == (["block.norm"] if tells else [])


@pytest.mark.parametrize("phase", [Phase.OUTPUT, Phase.INPUT_GRADIENT])
def test_a_parameters_gradient_follows_from_its_modules_outputs_gradient_alone(phase):
    seen = right(gradient("norm"))  # before the run
    assert told(seen, partial(Key(0, phase, "norm")), wrong(of_parameter("norm.weight"))) == []
    assert told(seen, partial(gradient("norm")), wrong(of_parameter("norm.weight"))) == ["norm"]


def test_parameters_of_the_whole_model_follow_from_its_output():
    assert told(partial(gradient("model")), wrong(of_parameter("weight"))) == ["model"]
    assert told(partial(gradient("model[1]")), wrong(of_parameter("weight"))) == ["model[1]"]


def test_a_run_ends_at_what_is_right_and_no_sum():
    norm = partial(gradient("norm"))
    assert told(norm, right(gradient("table")), wrong(of_parameter("norm.weight"))) == []
    assert told(norm, right(gradient("table")), partial(gradient("other")), wrong(of_parameter("other.w"))) == ["other"]


def test_a_right_loss_ends_it_and_a_wrong_one_follows_from_it():
    output = partial(Key(0, Phase.OUTPUT, "head"))
    assert told(output, right(LOSS), partial(gradient("norm")), wrong(of_parameter("norm.weight"))) == ["norm"]
    assert told(output, wrong(LOSS)) == ["head"]


def test_the_next_step_has_a_run_of_its_own():
    first, second = partial(gradient("norm")), partial(gradient("norm", step=1))
    assert told(first, wrong(of_parameter("norm.weight", step=1))) == []
    assert told(first, wrong(of_parameter("other.weight")), wrong(Key(1, Phase.OUTPUT, "other"))) == []
    findings = keep_findings([first, second, wrong(of_parameter("norm.weight", step=1))])
    assert findings[0].key == gradient("norm", step=1)


def test_behind_a_wrong_activation_none_is_told():
    norm = [partial(gradient("norm")), wrong(of_parameter("norm.weight"))]
    assert told(wrong(gradient("head")), *norm) == []
    assert told(wrong(gradient("head"), Verdict.UNDECIDED), *norm) == ["norm"]


def test_it_is_told_once():
    norm = partial(gradient("norm"))
    assert told(norm, wrong(of_parameter("norm.weight")), wrong(of_parameter("norm.bias"))) == ["norm"]
    assert told(norm, wrong(gradient("table")), wrong(gradient("inner"))) == ["norm"]
    other = [partial(gradient("other")), wrong(of_parameter("other.weight"))]
    assert told(norm, wrong(of_parameter("norm.weight")), *other) == ["norm"]  # the other may follow from it
    assert told(norm, *other) == ["norm"]  # the first of a run
    assert told(norm, right(gradient("table")), *other) == ["other"]


def test_right_activations_are_no_findings():
    assert keep_findings([right(gradient("norm")), partial(gradient("norm"))]) == []
    undecided = wrong(gradient("norm"), Verdict.UNDECIDED)
    assert keep_findings([undecided]) == [undecided.finding]


def test_modules_of_an_earlier_step_are_not_those_of_a_later_one():
    trial = [partial(gradient("block.norm", step=1)), wrong(of_parameter("block.norm.seen.weight", step=1))]
    assert told(right(gradient("block.norm.seen")), *trial) == ["block.norm"]
    assert told(right(gradient("block.norm.seen", step=1)), *trial) == []

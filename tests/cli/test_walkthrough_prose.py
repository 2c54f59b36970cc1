"""What the walkthrough explains: each sentence for the settings that it is of."""

import pytest

from shardproof.byhand.settings import Settings
from shardproof.cli.walkthrough_prose import (
    describe_activation,
    describe_communication,
    describe_factor,
    describe_loss,
    describe_pipeline,
    describe_share,
    describe_world,
)


def say(describe, *arguments, **settings):
    return "\n".join(describe(Settings(**settings), *arguments))


@pytest.mark.parametrize(("activation", "said"), [("none", "No activation"), ("relu", "relu"), ("gelu", "with erf")])
def test_the_activation(activation, said):
    assert said in say(describe_activation, activation=activation)


def test_the_loss():
    assert "mean squared error" in say(describe_loss)
    assert "softmax cross-entropy" in say(describe_loss, loss="cross-entropy")


@pytest.mark.parametrize(
    ("world", "said"), [("simulated", "in this process"), ("spawned", "gloo processes"), ("launched", "torchrun")]
)
def test_the_world(world, said):
    assert said in say(describe_world, world)


def test_a_width_that_does_not_divide_is_told():
    assert "one feature more" not in say(describe_world, "simulated", widths=(5, 4, 2))  # the input is not split
    assert "one feature more" in say(describe_world, "simulated", widths=(6, 5, 2))


@pytest.mark.parametrize(
    ("splits", "between", "last"),
    [
        (
            ("column", "column"),
            "all-gather forward, reduce-scatter backward",
            "all-gather forward; backward each device",
        ),
        (("column", "row"), "nothing to communicate", "all-reduce forward; backward each device"),
        (("row", "column"), "all-reduce forward, all-reduce backward", "all-gather forward; backward each device"),
        (("row", "row"), "reduce-scatter forward, all-gather backward", "all-reduce forward; backward each device"),
    ],
)
def test_the_collective_between_two_layers_and_after_the_last(splits, between, last):
    said = say(describe_communication, splits=splits).splitlines()
    assert said[2].startswith(f"  layer 1 to layer 2, {splits[0]} to {splits[1]}: {between}")
    assert said[3].startswith(f"  layer 2 to the loss, {splits[1]}: {last}")
    assert ("The bias of a row split is added once" in said[-1]) == ("row" in splits)


def test_one_device_communicates_nothing():
    assert say(describe_communication, devices=1) == "One device alone has nothing to communicate."


def test_the_factor_of_the_loss_at_the_notebooks_width_and_at_another():
    assert "two agree here because O = 2" in say(describe_factor)
    assert "with O = 6, it would be 6/2 times" in say(describe_factor, widths=(6, 4, 6))
    assert "softmax(out) - onehot(class)" in say(describe_factor, loss="cross-entropy")


def test_a_pipeline_says_its_layers_its_microbatches_and_its_schedule():
    settings = {"widths": (6, 5, 4, 3), "splits": ("column",) * 3, "batch_size": 7, "microbatches": 3}
    lines = say(describe_pipeline, **settings).splitlines()
    assert {"stage 0 : layers 1 to 2", "stage 1 : layer 3"} <= set(lines)
    assert "Microbatches of a batch of 7 samples: 1 of 3 and 2 of 2." in lines
    assert lines[-2:] == ["stage 0 | F0  F1  F2  .   .   B0  B1  B2", "stage 1 | .   F0  F1  F2  B0  B1  B2  ."]
    assert "a table of 2 stages by 34 turns" in say(describe_pipeline, microbatches=16)


def test_devices_without_layers_and_a_stage_alone_are_told():
    assert "2 layers for 4 devices: the others hold nothing" in say(describe_pipeline, widths=(6, 4, 4), devices=4)
    assert "One stage alone has nothing to send." in say(describe_pipeline, devices=1)


def test_the_share_of_a_microbatch_is_told():
    assert "B_m/B of its own dout" in "\n".join(describe_share())

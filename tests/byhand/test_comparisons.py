"""Lines of a comparison: names and order are the notebook's; a wrong tensor diverges, and its line alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shardproof.byhand.comparisons import (
    Baseline,
    compare_forward,
    compare_forward_of_ranks,
    compare_forward_of_stages,
    compare_gradients,
    compare_gradients_of_stages,
    compare_updates,
)
from shardproof.byhand.data import Batch
from shardproof.byhand.functions import ACTIVATIONS, LOSSES
from shardproof.byhand.model import Layer, initialise_layers
from shardproof.byhand.n_devices import RankStep
from shardproof.byhand.one_device import take_step
from shardproof.byhand.sign_flips import SignFlips
from shardproof.byhand.tolerance import LayerScale, estimate_scales

LAYERS = initialise_layers((3, 4, 2), seed=0)
BATCH = Batch(x=torch.ones(5, 3), y=torch.zeros(5, 2))
STEP = take_step(LAYERS, BATCH, activation=ACTIVATIONS["none"], loss=LOSSES["mse"], lr=0.1)


def baseline(*, flips=0.0):
    return Baseline(
        reference=STEP,
        scales=estimate_scales(LAYERS, BATCH, loss="mse", lr=0.1),
        sign_flips=SignFlips(count=0, gradients=(LayerScale(W=flips, b=flips),) * 2, dh=(flips,)),
        lr=0.1,
    )


def names(lines):
    return [line.name for line in lines]


def test_names_and_order_are_the_notebooks():
    assert names(compare_forward(STEP, baseline())) == ["forward pass", "loss"]
    assert names(compare_gradients(STEP, baseline())) == ["dW2", "db2", "dW1", "db1"]
    assert names(compare_updates(STEP, baseline())) == ["manual_nW1", "manual_nb1", "manual_nW2", "manual_nb2"]


def test_lines_of_a_pipeline_have_what_is_sent_before_what_is_made_of_it():
    assert names(compare_forward_of_stages(STEP, baseline())) == ["PP - h1", "PP - forward pass", "PP - loss"]
    expected = ["dW2", "db2", "dh1", "dW1", "db1"]
    assert names(compare_gradients_of_stages(STEP, baseline())) == [f"PP - {name}" for name in expected]


@pytest.mark.parametrize(("flips", "approximate"), [(0.0, False), (0.02, True)])
def test_a_wrong_activation_or_gradient_between_stages_diverges(flips, approximate):
    wrong = replace(STEP, h=(STEP.h[0] + 0.01,), dh=(STEP.dh[0] + 0.01,))
    forward = compare_forward_of_stages(wrong, baseline(flips=flips))
    assert [line.name for line in forward if not line.approximate] == ["PP - h1"]
    backward = compare_gradients_of_stages(wrong, baseline(flips=flips))
    assert [line.name for line in backward if not line.approximate] == ([] if approximate else ["PP - dh1"])


def with_gradient(change):
    first, second = STEP.gradients
    return replace(STEP, gradients=(Layer(W=first.W + change, b=first.b), second))


def test_a_wrong_gradient_diverges_and_no_other():
    lines = compare_gradients(with_gradient(0.01), baseline())
    assert [line.name for line in lines if not line.approximate] == ["dW1"]
    assert all(line.exact for line in compare_gradients(STEP, baseline()))


@pytest.mark.parametrize(("flips", "approximate"), [(0.0, False), (0.02, True), (0.005, False)])
def test_the_effect_of_sign_flips_is_allowed_for(flips, approximate):
    lines = compare_gradients(with_gradient(0.01), baseline(flips=flips))
    assert next(line for line in lines if line.name == "dW1").approximate is approximate


def test_only_replicas_that_differ_are_named():
    ranks = [RankStep(tensors={"out": STEP.out + change}, entries=()) for change in (0, 0, 1)]
    lines = compare_forward_of_ranks(ranks, baseline())
    assert names(lines) == ["TP - forward pass", "TP - forward pass_2"]
    assert [line.approximate for line in lines] == [True, False]

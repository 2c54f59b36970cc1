"""The step in a pipeline is PyTorch's, for every size, depth and number of microbatches; and a wrong one is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from tests.byhand.test_n_devices import CLOSE, draw_settings

from shardproof.byhand import pipeline, reference
from shardproof.byhand.data import Batch
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.pipeline import (
    count_stages,
    gather_stages,
    plan_schedule,
    plan_stages,
    share_of_batch,
    split_microbatches,
    train_on_stage,
)
from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import draw_batches, take_steps
from shardproof.worlds.simulated import SimulatedWorld
from shardproof.worlds.spawned import SpawnedWorld


def train(settings, world=SimulatedWorld):
    """The first step of a pipeline, put together, and the stages it was put together from."""
    layers = initialise_layers(settings.widths, seed=settings.seed, dtype=settings.dtype)
    results = world(size=settings.devices).run(train_on_stage, settings, layers, draw_batches(settings)[:1])
    stages = [steps[0] for steps in results]
    return gather_stages(stages, settings), stages


def tensors_of(step):
    layers = [tensor for layer in (*step.gradients, *step.updated) for tensor in (layer.W, layer.b)]
    return [step.out, step.loss, *step.z, *step.h, *step.dh, *layers]


@pytest.mark.parametrize("microbatches", [1, 2, 5])
def test_step_is_pytorchs_in_float64(microbatches):
    @hypothesis_settings(max_examples=25, deadline=None)
    @given(draw_settings())
    def check(settings):
        settings = replace(settings, microbatches=microbatches)
        model = reference.build_model(
            settings.widths, activation=settings.activation, seed=settings.seed, dtype=settings.dtype
        )
        expected = reference.take_step(model, draw_batches(settings)[0], loss=settings.loss, lr=settings.lr)
        actual, _ = train(settings)
        assert len(actual.h) == len(actual.dh) == len(expected.dh) == len(settings.widths) - 2
        for ours, theirs in zip(tensors_of(actual), tensors_of(expected), strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)

    check()


def test_messages_are_those_of_the_schedule():
    settings = Settings(widths=(6, 5, 4, 3), splits=("column",) * 3, devices=3, batch_size=5, samples=5)
    _, stages = train(settings)
    sent = [(one.section, one.tensor, one.source, one.destination, one.bytes) for stage in stages for one in stage.sent]
    assert sent == [
        ("5.1", "h1[0]", 0, 1, 3 * 5 * 4), ("5.1", "h1[1]", 0, 1, 2 * 5 * 4),
        ("5.1", "h2[0]", 1, 2, 3 * 4 * 4), ("5.1", "h2[1]", 1, 2, 2 * 4 * 4),
        ("5.2", "dh1[0]", 1, 0, 3 * 5 * 4), ("5.2", "dh1[1]", 1, 0, 2 * 5 * 4),
        ("5.2", "dh2[0]", 2, 1, 3 * 4 * 4), ("5.2", "dh2[1]", 2, 1, 2 * 4 * 4),
    ]  # fmt: skip


def test_each_stage_has_its_own_layers_and_no_others():
    settings = Settings(widths=(6, 5, 4, 3), splits=("column",) * 3, devices=3)
    _, stages = train(replace(settings, devices=2))
    assert {name for name in stages[0].tensors if name.startswith("dW")} == {"dW1", "dW2"}
    assert {name for name in stages[1].tensors if name.startswith("dW")} == {"dW3"}
    _, stages = train(replace(settings, widths=(6, 5, 3), splits=("column",) * 2))
    assert stages[2] == pipeline.StageStep(tensors={}, sent=())


def test_one_stage_sends_nothing():
    step, stages = train(Settings(devices=1))
    assert stages[0].sent == ()
    assert len(step.dh) == 1


@pytest.mark.processes
def test_stages_on_processes_are_bitwise_those_simulated():
    settings = Settings(widths=(6, 5, 4, 3), splits=("column",) * 3, devices=3, activation="gelu", microbatches=3)
    simulated, spawned = train(settings), train(settings, SpawnedWorld)
    for ours, theirs in zip(tensors_of(spawned[0]), tensors_of(simulated[0]), strict=True):
        assert torch.equal(ours, theirs)
    assert [stage.sent for stage in spawned[1]] == [stage.sent for stage in simulated[1]]


def find_diverged(monkeypatch, name, wrong):
    monkeypatch.setattr(pipeline, name, wrong)
    settings = Settings(widths=(6, 5, 4), devices=2, activation="gelu", batch_size=31, samples=31)
    (report,) = take_steps(settings, SimulatedWorld(size=2))
    return {line.name for line in report.comparisons if not line.approximate}


def test_a_stage_that_skips_its_activation_is_seen(monkeypatch):
    real = pipeline.forward_of_stage

    def skip(stage, layers, x, activation):
        found = real(stage, layers, x, activation)
        return found if stage.ends else replace(found, out=found.z[-1])

    wrong = find_diverged(monkeypatch, "forward_of_stage", skip)
    assert {"PP - h1", "PP - forward pass", "PP - dW2", "PP - dW1"} <= wrong
    assert all(name.startswith("PP") for name in wrong)


def test_a_gradient_sent_back_wrongly_is_seen_where_it_is_sent(monkeypatch):
    real = pipeline.backward_of_stage

    def halve(stage, layers, saved, dout, activation):
        found = real(stage, layers, saved, dout, activation)
        return replace(found, dh=tuple(one / 2 for one in found.dh))

    wrong = find_diverged(monkeypatch, "backward_of_stage", halve)
    assert wrong == {"PP - dh1", "PP - dW1", "PP - db1", "PP - manual_nW1", "PP - manual_nb1"}


def test_stages_are_as_even_as_possible():
    assert [(one.first, one.stop) for one in plan_stages(5, 3)] == [(0, 2), (2, 4), (4, 5)]
    assert [(one.begins, one.ends) for one in plan_stages(2, 5)] == [(True, False), (False, True)]
    assert count_stages(Settings(devices=2)) == 2
    assert count_stages(Settings(devices=1)) == 1


def test_microbatches_are_as_even_as_possible_and_their_shares_are_the_whole():
    batch = Batch(x=torch.arange(7.0).view(7, 1), y=torch.arange(7))
    parts = split_microbatches(batch, 3)
    assert [len(part.x) for part in parts] == [3, 2, 2]
    assert torch.equal(torch.cat([part.y for part in parts]), batch.y)
    assert sum(share_of_batch(part, 7) for part in parts) == pytest.approx(1)
    assert [len(part.x) for part in split_microbatches(batch, 64)] == [1] * 7


def test_the_schedule_has_each_forward_before_its_backward_and_each_stage_after_the_one_before():
    schedule = plan_schedule(3, 4)
    assert [" ".join(cell or "." for cell in row) for row in schedule] == [
        "F0 F1 F2 F3 . . . . B0 B1 B2 B3",
        ". F0 F1 F2 F3 . . B0 B1 B2 B3 .",
        ". . F0 F1 F2 F3 B0 B1 B2 B3 . .",
    ]
    assert plan_schedule(1, 1) == (("F0", "B0"),)

"""Replay: the optimizer on the recorded gradients and states gives the updates that were recorded, and tells others."""

from dataclasses import replace

import pytest
import torch
from tests.proving import steps

from shardproof.proving.records import Key, Phase, UpdateInputs, UpdateStep
from shardproof.proving.running.capture import Recorder, clone_parameters
from shardproof.proving.running.replay import replay_updates
from shardproof.proving.running.training import train

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.1),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.1),
    "per shape": lambda parameters: torch.optim.Adam(
        [{"params": [p for p in parameters if p.ndim == ndim]} for ndim in (1, 2)]
    ),
}


def recorded(step):
    """A plain run's records, and the inputs of its updates."""
    torch.manual_seed(0)
    model, recorder = steps.MLP(), Recorder()
    before = clone_parameters(model)
    train(model, step, step.batch, recorder)

    def of(number, phase):
        found = recorder.records.tensors.items()
        return {key.name: one.values for key, one in found if (key.step, key.phase) == (number, phase)}

    def update(number):
        states = {}
        for name, values in of(number, Phase.STATE).items():
            states.setdefault(name.partition("/")[2], {})[name.partition("/")[0]] = values
        clipped = of(number, Phase.CLIPPED)
        return UpdateStep(
            gradients=clipped or of(number, Phase.GRADIENT),
            clipped=bool(clipped),
            states=states,
            updates=of(number, Phase.UPDATE),
        )

    inputs = UpdateInputs(parameters=before, steps=[update(number) for number in range(step.steps)], ranks=(0,))
    return recorder.records, inputs


def updates(records):
    return {key: one.values for key, one in records.tensors.items() if key.phase in (Phase.STATE, Phase.UPDATE)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_a_replay_gives_the_updates_and_states_of_the_run_in_its_dtypes_and_nearly_in_float64(optimizer, clip_norm):
    step = steps.make_step(optimizer=OPTIMIZERS[optimizer], steps=3, clip_norm=clip_norm)
    records, inputs = recorded(step)
    (replay,) = replay_updates(step, [inputs], in_float64=False)
    wanted, own = updates(records), updates(replay.own)
    assert replay.ranks == (0,)
    assert wanted.keys() == own.keys() == replay.errors.keys() == replay.deviations.keys()
    assert all(torch.equal(own[key], wanted[key]) for key in wanted)
    assert 0 < max(replay.errors.values()) < 1e-5
    assert all(replay.errors[key] == one.difference for key, one in replay.deviations.items())  # it is the same update


def test_gradients_that_were_not_recorded_clipped_are_clipped_here():
    step = steps.make_step(steps=1, clip_norm=0.1)
    records, inputs = recorded(step)
    whole = {key.name: one.values for key, one in records.tensors.items() if key.phase is Phase.GRADIENT}
    bare = UpdateInputs(
        parameters=inputs.parameters,
        steps=[UpdateStep(gradients=whole, clipped=False, states={}, updates={})],
    )
    found, wanted = updates(replay_updates(step, [bare], in_float64=False)[0].own), updates(records)
    assert all(torch.allclose(found[key], wanted[key]) for key in wanted)
    unclipped = steps.make_step(steps=1)
    other = updates(replay_updates(unclipped, [bare], in_float64=False)[0].own)
    assert not all(torch.allclose(other[key], wanted[key]) for key in wanted)


def test_each_step_starts_from_what_the_run_had_so_that_a_wrong_update_is_told_once():
    right = steps.make_step(optimizer=OPTIMIZERS["AdamW"], steps=3)
    records, inputs = recorded(steps.make_step(optimizer=lambda p: torch.optim.AdamW(p, lr=0.11), steps=3))
    (replay,) = replay_updates(right, [inputs], in_float64=False)
    found, wanted = updates(replay.own), updates(records)
    weight = [Key(number, Phase.UPDATE, "up.weight") for number in range(3)]
    assert [not torch.allclose(found[key], wanted[key]) for key in weight] == [True] * 3
    largest = [float((found[key] - wanted[key]).abs().max()) for key in weight]
    assert max(largest) < 0.02  # a step's own difference of 0.01 * sign(g), not the sum of three
    assert all(torch.equal(found[key], wanted[key]) for key in wanted if key.phase is Phase.STATE)
    assert all(0.005 < replay.errors[key] < 0.02 and replay.deviations[key].difference < 1e-5 for key in weight)


def test_in_float64_it_is_float32_that_rounds():
    step = steps.make_step(steps=1)
    _, inputs = recorded(step)
    (replay,) = replay_updates(step, [inputs], in_float64=True)
    assert {values.dtype for values in updates(replay.own).values()} == {torch.float64}
    assert {deviation.epsilon for deviation in replay.deviations.values()} == {2.0**-23}


def test_what_the_run_has_not_recorded_is_not_measured():
    step = steps.make_step(steps=1, optimizer=OPTIMIZERS["AdamW"])
    _, inputs = recorded(step)
    bare = replace(inputs, steps=[replace(inputs.steps[0], states={})])
    (replay,) = replay_updates(step, [bare], in_float64=False)
    assert {key.phase for key, one in replay.deviations.items() if one is None} == {Phase.STATE}


def test_without_an_optimizer_or_with_one_that_cannot_run_there_is_no_replay():
    _, inputs = recorded(steps.make_step(steps=1))

    def fails(parameters):
        raise NotImplementedError

    assert replay_updates(steps.make_step(optimizer=None), [inputs], in_float64=False) == ()
    assert replay_updates(steps.make_step(optimizer=fails), [inputs], in_float64=False) == ()

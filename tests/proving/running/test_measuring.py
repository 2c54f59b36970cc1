"""A run is measured beside an earlier one, tensor by tensor; of parameters nothing is kept."""

import torch

from shardproof.proving.records import Key, Phase
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.measuring import MeasuringRecorder, measure_noise

OUTPUT, WEIGHT = (Phase.OUTPUT, "up"), (Phase.GRADIENT, "up.weight")


def record(recorder, *, tensors=((OUTPUT, 1.0), (WEIGHT, 2.0)), dtype=torch.float64):
    for (phase, name), value in tensors:
        recorder.add(phase, name, torch.full((3,), value, dtype=dtype))
    return recorder


def measuring(earlier, **options):
    return MeasuringRecorder(beside=earlier.records, measure=measure_noise, **options)


def test_tensors_of_parameters_are_measured_as_they_come_and_the_others_when_the_run_has_ended():
    recorder = record(measuring(record(Recorder())), tensors=((OUTPUT, 1.5), (WEIGHT, 2.25)), dtype=torch.float32)
    assert [key.phase for key in recorder.records.tensors] == [Phase.OUTPUT]
    found = recorder.finish()
    assert {key.phase: one.difference for key, one in found.items()} == {Phase.OUTPUT: 0.5, Phase.GRADIENT: 0.25}
    assert not recorder.records.tensors


def test_they_are_kept_where_they_are_asked_for():
    recorder = record(measuring(record(Recorder()), keeps=True), dtype=torch.float32)
    assert len(recorder.finish()) == len(recorder.records.tensors) == 2


def test_what_the_earlier_run_has_not_is_not_measured_and_what_this_one_has_not_neither():
    recorder = record(measuring(record(Recorder(), tensors=[(OUTPUT, 1.0)])), tensors=[(WEIGHT, 1.0)])
    assert recorder.finish() == {}


def test_a_second_tensor_of_a_name_is_another_call():
    twice = [(WEIGHT, 1.0), (WEIGHT, 2.0)]
    recorder = record(measuring(record(Recorder(), tensors=twice)), tensors=twice)
    assert [key.call for key in recorder.finish()] == [0, 1]


def test_the_program_may_change_a_tensor_once_it_is_measured():
    recorder, weight = measuring(record(Recorder())), torch.full((3,), 2.0)
    recorder.add(*WEIGHT, weight)
    weight.zero_()
    assert recorder.finish()[Key(0, *WEIGHT)].difference == 0.0

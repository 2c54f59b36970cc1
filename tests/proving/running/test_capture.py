"""What is recorded is a clone of the rank's own tensor, under the next call of its name, with a heartbeat each."""

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from shardproof.exact import VOID, ExactArithmetic
from shardproof.proving.records import Key, Phase
from shardproof.proving.running.batch import draw_batch
from shardproof.proving.running.capture import Recorder, clone_parameters, match_placements


def test_a_record_stays_when_the_tensor_is_written_to():
    recorder, tensor = Recorder(), torch.ones(3)
    key = recorder.add(Phase.OUTPUT, "up", tensor)
    tensor.add_(1)
    assert recorder.records.tensors[key].values.tolist() == [1, 1, 1]


def test_the_same_name_again_is_the_next_call():
    recorder = Recorder(step=2)
    keys = [recorder.add(Phase.OUTPUT, "up", torch.ones(1)) for _ in range(2)]
    keys.append(recorder.add(Phase.OUTPUT, "up", torch.ones(1), call=1))
    assert keys == [Key(2, Phase.OUTPUT, "up", call) for call in range(3)]
    assert list(recorder.records.tensors) == keys


def test_what_is_not_there_is_missing_and_beats_nothing():
    beats = []
    recorder = Recorder(heartbeat=lambda: beats.append(1))
    missing = recorder.add(Phase.GRADIENT, "bias", None)
    there = recorder.add(Phase.GRADIENT, "weight", torch.ones(1))
    assert (recorder.records.missing, list(recorder.records.tensors)) == ([missing], [there])
    assert beats == [1]


def test_what_is_frozen_is_recorded_as_that():
    recorder = Recorder()
    frozen = recorder.add(Phase.GRADIENT, "bias", None, frozen=True)
    assert (recorder.records.missing, recorder.records.frozen) == ([], [frozen])
    recorder.add(Phase.GRADIENT, "bias", torch.ones(1), frozen=True)
    assert recorder.records.frozen == [frozen]


@pytest.mark.parametrize("values", [torch.tensor([3, 2**40]), torch.tensor([True, False]), torch.tensor([1 + 2j, -3j])])
def test_integers_booleans_and_complex_numbers_mean_themselves(values):
    ordinary, exact = Recorder(), Recorder(exact=ExactArithmetic(seed=1))
    ordinary.add(Phase.BUFFER, "count", values)
    with exact.exact:
        exact.add(Phase.BUFFER, "count", values)
    (plain,), (recorded,) = ordinary.records.tensors.values(), exact.records.tensors.values()
    real = torch.view_as_real(values) if values.is_complex() else values
    assert plain.values.tolist() == real.double().tolist()
    assert recorded.values.tolist() == real.long().tolist()
    assert recorded.chance == 0.0


def test_integers_that_residues_chose_have_no_bound():
    recorder = Recorder(exact=ExactArithmetic(seed=1, record_selections=True))
    x = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with recorder.exact:
        recorder.add(Phase.BUFFER, "chosen", draw_batch(recorder.exact, x).argmax())
    (recorded,) = recorder.records.tensors.values()
    assert recorded.chance == 1.0


def test_two_recorders_share_nothing():
    first, second = Recorder(), Recorder()
    first.add(Phase.LOSS, "loss", torch.ones(()))
    assert not second.records.tensors


def test_in_exact_arithmetic_residues_and_their_bound_are_recorded():
    x = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = ExactArithmetic(seed=1)
    recorder = Recorder(exact=exact)
    with exact:
        drawn = draw_batch(exact, x)
        product, power = drawn * drawn, drawn * drawn * drawn
        recorder.add(Phase.OUTPUT, "product", product)
        recorder.add(Phase.OUTPUT, "power", power)
        expected = exact.digits(product)
    square, cube = recorder.records.tensors.values()
    assert square.values.dtype == torch.int64
    assert torch.equal(square.values, expected)
    assert 0 < square.chance < cube.chance < 1
    assert not (square.values == VOID).any()


def test_a_division_by_zero_is_recorded_as_void():
    exact = ExactArithmetic(seed=1)
    recorder = Recorder(exact=exact)
    x = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with exact:
        recorder.add(Phase.OUTPUT, "whole", 1 / x)
        recorder.add(Phase.OUTPUT, "void", torch.cat([1 / (x - x.clone()), x]))
    whole, void = recorder.records.tensors.values()
    assert not (whole.values == VOID).any()
    assert (void.values == VOID).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize("write", [False, True])
def test_parameters_are_cloned(write):
    model = nn.Linear(2, 3)
    before = clone_parameters(model)
    with torch.no_grad():
        model.bias.add_(int(write))
    assert list(before) == ["weight", "bias"]
    assert torch.equal(before["bias"], model.bias) is not write
    assert not before["bias"].requires_grad


def test_a_plain_gradient_needs_no_placements():
    parameter = nn.Parameter(torch.ones(3))
    gradient = torch.ones(3)
    assert match_placements(gradient, parameter) is gradient
    assert match_placements(None, parameter) is None


class Counting(TorchFunctionMode):
    """Counts the functions that it sees."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_no_function_mode_sees_that_a_tensor_is_recorded():
    with Counting() as counting:
        Recorder().add(Phase.OUTPUT, "up", torch.ones(3))
        assert counting.count == 1  # the ones
    x = torch.linspace(0.5, 1.5, 3).requires_grad_()
    with ExactArithmetic(seed=1) as exact, Counting() as counting:
        y = x * x
        before = counting.count
        Recorder(exact=exact).add(Phase.OUTPUT, "up", y)
        assert counting.count == before > 0


def test_a_tensor_that_exact_arithmetic_has_not_seen_is_taken_in_to_be_recorded():
    buffer = torch.linspace(0.5, 1.5, 3)
    with ExactArithmetic(seed=1) as exact:
        recorder = Recorder(exact=exact)
        key = recorder.add(Phase.BUFFER, "buffer", buffer)
        assert torch.equal(recorder.records.tensors[key].values, exact.digits(buffer))

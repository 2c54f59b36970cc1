"""What goes into and comes out of modules is recorded, with its gradient; the hooks are gone afterwards."""

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof import ExactArithmetic
from shardproof.proving.records import Key, Phase
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.hooks import modules_recorded
from shardproof.proving.running.segments import Segments


def record(model, x, **options):
    recorder = Recorder()
    with modules_recorded(model, recorder, **options):
        model(x).sum().backward()
    return recorder


def test_outputs_computed_inputs_and_their_gradients_in_execution_order():
    records = record(steps.MLP(), torch.randn(5, 6)).records
    assert [(key.phase, key.name) for key in records.tensors] == [
        (Phase.OUTPUT, "up"),
        (Phase.INPUT, "down"),  # after gelu, which is no module
        (Phase.OUTPUT, "down"),
        (Phase.OUTPUT, "model"),
        (Phase.OUTPUT_GRADIENT, "down"),  # the same tensor as the model's output
        (Phase.OUTPUT_GRADIENT, "model"),
        (Phase.INPUT_GRADIENT, "down"),
        (Phase.OUTPUT_GRADIENT, "up"),
    ]


def test_the_numbers_are_those_of_the_program():
    model, x = steps.MLP(), torch.randn(5, 6)
    tensors = record(model, x).records.tensors
    hidden = F.gelu(model.up(x)).detach().requires_grad_()
    model.down(hidden).sum().backward()
    assert torch.equal(tensors[Key(0, Phase.INPUT, "down")].values, hidden.detach())
    torch.testing.assert_close(tensors[Key(0, Phase.INPUT_GRADIENT, "down")].values, hidden.grad)


def test_the_gradient_of_an_input_is_of_that_use_alone():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3, bias=False)

        def forward(self, x):
            hidden = x * 2
            return hidden + self.linear(hidden)

    model = Residual()
    tensors = record(model, torch.ones(1, 3, requires_grad=True)).records.tensors
    through_the_layer = model.linear.weight.detach().sum(0, keepdim=True)
    torch.testing.assert_close(tensors[Key(0, Phase.INPUT_GRADIENT, "linear")].values, through_the_layer)


def test_a_module_called_twice_has_two_calls():
    layer = nn.Linear(3, 3)
    records = record(nn.Sequential(layer, nn.Tanh(), layer), torch.randn(2, 3)).records
    assert [key.call for key in records.tensors if key.phase is Phase.OUTPUT and key.name == "0"] == [0, 1]


def test_no_hook_stays():
    model = steps.MLP()
    recorder = record(model, torch.randn(5, 6))
    count = len(recorder.records.tensors)
    model(torch.randn(5, 6)).sum().backward()
    assert len(recorder.records.tensors) == count
    assert recorder.running == []


def test_the_softmax_of_an_attention_is_recorded_like_a_module():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return torch.softmax(self.linear(x), -1)

    names = {(key.phase, key.name) for key in record(Attention(), torch.randn(2, 4)).records.tensors}
    assert {(Phase.INPUT, "model/softmax"), (Phase.OUTPUT, "model/softmax")} <= names


def test_several_outputs_are_numbered_and_integers_are_left_out():
    class Two(nn.Module):
        def forward(self, x):
            return x * 2, torch.arange(2), x * 3

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, x):
            first, _, second = self.two(x)
            return first + second

    names = [key.name for key in record(Sum(), torch.randn(2, requires_grad=True)).records.tensors]
    assert [name for name in names if name.startswith("two[")][:2] == ["two[0]", "two[1]"]


def test_a_module_that_raises_is_no_longer_running():
    class Failing(nn.Module):
        def forward(self, x):
            raise OverflowError

    model, recorder = nn.Sequential(Failing()), Recorder()
    with pytest.raises(OverflowError), modules_recorded(model, recorder):
        model(torch.ones(1))
    assert recorder.running == []


def test_where_a_module_was_called_is_the_users_line():
    recorder = record(steps.MLP(), torch.randn(5, 6))
    assert recorder.records.source_lines["up"].endswith(" in forward")
    assert "steps.py:" in recorder.records.source_lines["up"]


@pytest.mark.parametrize("cut", [False, True])
def test_at_a_cut_the_program_goes_on_with_fresh_residues(cut):
    model, x = steps.MLP().double(), torch.randn(5, 6, dtype=torch.float64)
    exact = ExactArithmetic(seed=1, random="oracle")
    with exact:
        recorder = Recorder(exact=exact)
        cuts = {(Phase.OUTPUT, "up", 0): {}} if cut else {}
        with modules_recorded(model, recorder, Segments(exact=exact, cuts=cuts)):
            model(x)
        after = exact.digits(F.gelu(model.up(x)))
    # What is recorded at the cut is what the module computed; what follows is computed from other residues.
    assert torch.equal(recorder.records.tensors[Key(0, Phase.INPUT, "down")].values, after) is not cut


class WithoutGradient(torch.autograd.Function):
    """The sum of two tensors; the second has no gradient."""

    @staticmethod
    def forward(ctx, x, y):
        return x + y

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def test_a_function_whose_backward_gives_no_gradient_has_none_recorded():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return WithoutGradient.apply(self.first(x), self.second(x))

    tensors = record(Net(), torch.randn(2, 3)).records.tensors
    assert Key(0, Phase.OUTPUT_GRADIENT, "first") in tensors
    assert Key(0, Phase.OUTPUT, "second") in tensors
    assert Key(0, Phase.OUTPUT_GRADIENT, "second") not in tensors


class FailingBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("no gradient of this")


class FailsInBackward(nn.Module):
    def forward(self, x):
        return FailingBackward.apply(x)


def test_an_error_in_a_backward_tells_which_gradient_came_last():
    model = nn.Sequential(nn.Linear(3, 3), FailsInBackward(), nn.Linear(3, 3), nn.ReLU())
    with pytest.raises(ValueError, match="no gradient of this") as info, modules_recorded(model, Recorder()):
        model(torch.ones(2, 3)).sum().backward()
    assert info.value.__notes__ == ["in the backward, after the output gradient of 1"]


@pytest.mark.parametrize("after_a_backward", [False, True])
def test_an_error_outside_a_backward_has_no_such_note(after_a_backward):
    def run():
        model = nn.Linear(3, 3)
        with modules_recorded(model, Recorder()):
            loss = model(torch.ones(2, 3)).sum()
            if after_a_backward:
                loss.backward()
            return 1 / 0

    with pytest.raises(ZeroDivisionError) as info:
        run()
    assert not hasattr(info.value, "__notes__")

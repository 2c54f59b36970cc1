"""The prover's training step: what it records, in which order; one norm for the whole model."""

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import ACTIVATIONS, Phase
from shardproof.proving.running.capture import Recorder
from shardproof.proving.running.training import states_of, train


def record(step, model=None):
    recorder = Recorder()
    torch.manual_seed(0)
    train(model or steps.MLP(), step, step.batch, recorder)
    return recorder.records


def phases(records):
    found = [(key.step, key.phase) for key in records.tensors if key.phase not in ACTIVATIONS]
    return list(dict.fromkeys(found))


def test_a_step_records_loss_gradients_norm_clipped_gradients_updates_and_state():
    step = steps.make_step(
        steps=2, clip_norm=0.1, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    )
    one = [Phase.LOSS, Phase.GRADIENT, Phase.NORM, Phase.CLIPPED, Phase.STATE, Phase.UPDATE]
    assert phases(record(step)) == [(0, phase) for phase in one] + [(1, phase) for phase in one]


def test_without_an_optimizer_there_is_one_step_of_gradients():
    assert phases(record(steps.make_step(steps=3, optimizer=None))) == [(0, Phase.LOSS), (0, Phase.GRADIENT)]


def test_the_numbers_are_those_of_a_plain_loop():
    step = steps.make_step(steps=3, clip_norm=0.1)
    torch.manual_seed(0)
    model = steps.MLP()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    norms = []
    for _ in range(3):
        optimizer.zero_grad()
        F.mse_loss(model(step.batch[0]), step.batch[1]).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1))
        optimizer.step()
    records = record(step)
    found = {(key.step, key.phase, key.name): one.values for key, one in records.tensors.items()}
    for name, parameter in model.named_parameters():
        assert torch.equal(found[2, Phase.UPDATE, name], parameter.detach())
    assert [found[number, Phase.NORM, "gradient norm"] for number in range(3)] == norms


def test_a_parameter_that_nothing_uses_is_missing_and_its_buffers_recorded():
    class Spare(steps.MLP):
        def __init__(self):
            super().__init__()
            self.spare = nn.Parameter(torch.ones(2))
            self.register_buffer("scale", torch.ones(3))
            self.register_buffer("count", torch.ones(3, dtype=torch.int64))

    records = record(steps.make_step(), Spare())
    assert [(key.phase, key.name) for key in records.missing] == [(Phase.GRADIENT, "spare")]
    assert [key.name for key in records.tensors if key.phase is Phase.BUFFER] == ["scale", "count"]


def test_states_are_moments_and_no_counters():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], amsgrad=True)
    parameter.sum().backward()
    optimizer.step()
    assert list(states_of(optimizer, parameter)) == ["exp_avg", "exp_avg_sq", "max_exp_avg_sq"]


class Momentum(torch.optim.Optimizer):
    """Keeps its state as plain tensors beside a DTensor: of the rank's own part, or of the whole parameter."""

    def __init__(self, parameters, whole=False, decay=0.9):
        super().__init__(parameters, {"whole": whole, "decay": decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                whole = group["whole"]
                read = (lambda x: x.full_tensor()) if whole else (lambda x: x.to_local())
                gradient = parameter.grad if not isinstance(parameter, DTensor) else read(parameter.grad)
                kept = self.state[parameter].setdefault("kept", torch.zeros_like(gradient))
                kept.mul_(group["decay"]).add_(gradient)
                change = kept
                if isinstance(parameter, DTensor):
                    placed = (
                        distribute_tensor(kept, parameter.device_mesh, parameter.placements)
                        if whole
                        else DTensor.from_local(kept, parameter.device_mesh, parameter.placements, run_check=False)
                    )
                    change = placed
                parameter.sub_(change * 0.1)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("decay", [0.9, 0.8])
def test_plain_state_beside_a_dtensor_is_compared(whole, decay):
    seen = []

    def optimizer(parameters):
        seen.append(any(isinstance(one, DTensor) for one in parameters))
        return Momentum(parameters, whole=whole, decay=decay if seen[-1] else 0.9)

    step = steps.make_step(steps=2, optimizer=optimizer)
    proof = prove(step, parallelize=steps.parallelize, devices=2, trials=2)
    assert any(seen)
    assert proof.ok == (decay == 0.9)
    states = {f.key.name for f in proof.findings if f.key.phase is Phase.STATE and f.verdict is Verdict.PROVED}
    assert states >= {"up.weight/kept", "down.weight/kept"}

"""The user's own training step: right ones are proved, wrong averages, norms and updates found, gaps are findings."""

from contextlib import nullcontext
from itertools import islice

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import steps
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.proving.step import Step

NOTHING_SPLIT = ["VACUOUS sharding *"]  # allowed: some trainings take the whole step on every rank


def run(training, **changes):
    step = steps.make_step_of_four_rows(**changes)
    return prove(step, candidate=training, devices=2, trials=1, allow=NOTHING_SPLIT)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_data_parallel_training_is_proved(clip):
    proof = run(steps.make_training(clip=clip), clip_norm=clip)
    assert proof.ok
    phases = {finding.key.phase for finding in proof.findings}
    assert phases >= {Phase.LOSS, Phase.GRADIENT, Phase.UPDATE}
    assert (Phase.NORM in phases) == (clip is not None)
    assert {finding.key.step for finding in proof.findings} == {0, 1}


def data_parallel(synchronised):
    """PyTorch's DistributedDataParallel, whose buckets are memory that nobody has written before the first backward."""

    def training(run):
        model = steps.MLP().to(next(iter(run.state.values())).dtype)
        model.load_state_dict(run.state)
        torch.use_deterministic_algorithms(True)  # fills memory that is not written with NaN
        try:
            replica = nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.0001)
        finally:
            torch.use_deterministic_algorithms(False)
        run.watch(replica.module)
        for x, y in run.batches():
            model.zero_grad()
            rows = slice(2 * run.rank, 2 * run.rank + 2)
            with nullcontext() if synchronised else replica.no_sync():
                loss = F.mse_loss(replica(x[rows]), y[rows])
                loss.backward()
            total = loss.detach().clone()
            dist.all_reduce(total)
            run.record_loss(total / run.size)
            run.record_gradients()

    return training


@pytest.mark.parametrize("synchronised", [True, False])
def test_distributed_data_parallel(synchronised):
    proof = run(data_parallel(synchronised), steps=1, optimizer=None)
    assert proof.ok == synchronised
    if not synchronised:
        assert {finding.key.phase for finding in proof.findings if finding.failed} == {Phase.GRADIENT}


class Counted(nn.Linear):
    """A layer with extra state that is no tensor, as layers with scaling factors have."""

    calls = 0

    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


class WithExtraState(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = Counted(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.down(F.gelu(self.up(x)))


@pytest.mark.parametrize("factor", [1, 2])
def test_extra_state_is_in_the_state_that_a_training_loads(factor):
    def training(run):
        model = WithExtraState().to(next(iter(run.state.values())).dtype)
        model.load_state_dict(run.state)
        run.watch(model)
        for x, y in run.batches():
            loss = F.mse_loss(model(x), y)
            run.record_loss(loss)
            (loss * factor).backward()
            run.record_gradients()

    step = steps.make_step(model=WithExtraState, steps=1, optimizer=None)
    proof = prove(step, candidate=training, devices=2, trials=1, allow=NOTHING_SPLIT)
    assert proof.ok == (factor == 1)


def test_gradients_that_are_not_averaged_are_found():
    proof = run(steps.make_training(forget=["average"]))
    assert not proof.ok
    assert any(finding.key.phase is Phase.GRADIENT for finding in proof.findings if finding.verdict is Verdict.WRONG)


def test_a_training_that_clips_where_the_step_does_not_is_found():
    proof = run(steps.make_training(clip=1.0))
    assert not proof.ok
    assert any(finding.key.phase is Phase.UPDATE for finding in proof.findings if not finding.verdict.ok)


@pytest.mark.parametrize(("forgotten", "phase"), [("loss", "LOSS"), ("gradients", "GRADIENT"), ("update", "UPDATE")])
def test_what_is_not_reported_is_not_proved(forgotten, phase):
    proof = run(steps.make_training(forget=[forgotten]), steps=1)
    assert not proof.ok
    wrong = {finding.key.phase for finding in proof.findings if not finding.verdict.ok}
    assert wrong == {Phase[phase]}


def test_a_training_that_stops_early_is_not_proved():
    proof = run(steps.make_training(steps_taken=1))
    assert {finding.key.step for finding in proof.findings if not finding.verdict.ok} == {1}


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (steps.make_training(forget=["watch"]), "has not called run.watch"),
        (lambda run: run.watch(None), "run.watch was given NoneType"),
        (lambda run: run.watch(torch.nn.Linear(2, 2).double()), "took 0 of 2 steps"),
    ],
)
def test_a_training_that_cannot_be_followed_says_why(training, said):
    with pytest.raises(CannotRunError, match=said):
        run(training)


def train(run, model, batches, factor=1):
    """One device's step on every rank; returns how many batches there were."""
    optimizer, taken = torch.optim.SGD(model.parameters(), lr=0.1), 0
    for x, y in batches:
        model.zero_grad()
        loss = F.mse_loss(model(x), y)
        run.record_loss(loss)
        (loss * factor).backward()
        run.record_gradients()
        optimizer.step()
        run.record_update(optimizer)
        taken += 1
    return taken


@pytest.mark.parametrize(
    ("shard", "factor"), [(None, 1), (steps.parallelize, 1), (steps.scaled_gradient, 1), (None, 3)]
)
def test_the_model_is_built_loaded_sharded_and_watched(shard, factor):
    seen = []

    def training(run):
        model = run.model(shard)
        seen.append(next(model.parameters()).dtype)
        train(run, model, run.batches(), factor)

    assert run(training).ok == (shard is not steps.scaled_gradient and factor == 1)
    assert set(seen) == {torch.float64, torch.float32}


@pytest.mark.parametrize("broken", [lambda model, mesh: None, lambda model, mesh: nn.Identity()], ids=["none", "empty"])
def test_what_shard_returns_has_to_be_a_model(broken):
    with pytest.raises(CannotRunError, match="needed is a Module with parameters"):
        run(lambda run: run.model(broken))


@pytest.mark.parametrize("factor", [1, 2])
def test_batches_may_be_looked_at_first_and_taken_in_epochs(factor):
    taken = []

    def training(run):
        model = run.model()
        x, y = next(iter(run.batches()))
        assert (x.shape, y.shape) == ((4, 6), (4, 4))
        taken.extend(train(run, model, islice(run.batches(), 2), factor) for _ in range(3))

    assert run(training, steps=3).ok == (factor == 1)
    assert taken[:3] == [2, 1, 0]


def test_a_loop_over_all_batches_for_each_epoch_takes_them_once():
    counts = []

    def training(run):
        model = run.model()
        counts.append([train(run, model, run.batches()) for _ in range(2)])

    assert run(training).ok
    assert counts[0] == [2, 0]


def test_exactly_one_of_parallelize_and_candidate():
    with pytest.raises(CannotRunError, match="exactly one of"):
        prove(steps.make_step_of_four_rows(), devices=2)
    with pytest.raises(CannotRunError, match="exactly one of"):
        prove(steps.make_step_of_four_rows(), parallelize=steps.parallelize, candidate=steps.make_training(), devices=2)


@pytest.mark.processes
@pytest.mark.parametrize("load", [steps.load_training, steps.load_training_without_average])
def test_spawned_ranks_find_what_simulated_ones_do(load):
    subject = load()
    simulated, spawned = (
        prove(subject.step, candidate=subject.candidate, devices=2, trials=1, spawn=spawn, reload=load)
        for spawn in (False, True)
    )
    assert spawned == simulated
    assert spawned.ok == (load is steps.load_training)


def by_hand(*, momentum):
    """SGD with momentum, on the parameters themselves, without an optimizer."""

    def train(run):
        model = steps.MLP().to(run.state["up.weight"].dtype)
        model.load_state_dict(dict(run.state))
        run.watch(model)
        buffers = {}
        for x, y in run.batches():
            model.zero_grad()
            loss = F.mse_loss(model(x), y)
            run.record_loss(loss)
            loss.backward()
            run.record_gradients()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    before = buffers.get(name)
                    buffers[name] = parameter.grad.clone() if before is None else before * momentum + parameter.grad
                    parameter.sub_(0.1 * buffers[name])
            run.record_update(None)

    return train


@pytest.mark.parametrize("momentum", [0.9, 0.8])
def test_an_update_by_hand_has_no_state_to_compare_and_its_updates_tell(momentum):
    step = steps.make_step(optimizer=lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9), steps=3)
    proof = prove(step, candidate=by_hand(momentum=momentum), devices=2, trials=1, allow=NOTHING_SPLIT)
    assert proof.ok == (momentum == 0.9)
    assert Phase.STATE not in {finding.key.phase for finding in proof.findings}
    assert {finding.key.step for finding in proof.findings if finding.failed} == (set() if proof.ok else {1, 2})


# Activations in zigzag order ------------------------------------------------------------------------------------------


class Sequence(nn.Module):
    """Every position sees the mean of all: of all ranks' where `average` is set."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer, self.average = nn.Linear(3, 4), nn.Linear(4, 2), None

    def forward(self, x):
        hidden = self.inner(x)
        mean = hidden.mean(1, keepdim=True)
        return self.outer(torch.tanh(hidden) * (mean if self.average is None else self.average(mean)))


def zigzag(*, late_fault=1.0, shift=0, report_late=True):
    """Each of two ranks has the first and last quarter of the sequence, or those between; labels may be shifted."""

    def train(run):
        model = Sequence().to(run.state["inner.weight"].dtype)
        model.load_state_dict(dict(run.state))
        model.average = lambda x: steps.AllReduceForward.apply(steps.AllReduceBackward.apply(x)) / run.size
        run.watch(model)
        own = torch.tensor([[0, 1, 6, 7], [2, 3, 4, 5]][run.rank])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * late_fault)
        for x, y in run.batches():
            optimizer.zero_grad()
            loss = (model(x[:, own]) - y[:, own].roll(shift, 1)).square().sum() / y.numel()
            if not report_late:
                run.record_loss(steps.average(loss) * run.size)
            loss.backward()
            if report_late:
                run.record_loss(steps.average(loss) * run.size)
            for parameter in model.parameters():
                parameter.grad = steps.average(parameter.grad) * run.size
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return train


def prove_zigzag(candidate):
    generator = torch.Generator().manual_seed(3)
    batch = torch.randn(2, 8, 3, generator=generator), torch.randn(2, 8, 2, generator=generator)
    step = Step(model=Sequence, batch=batch, loss=F.mse_loss, optimizer=steps.make_sgd, steps=1)
    return prove(step, candidate=candidate, devices=2, trials=1)


def test_a_right_training_in_zigzag_order_is_proved():
    assert prove_zigzag(zigzag()).ok


def test_an_update_by_another_rate_is_the_first_cause_and_no_activation_in_zigzag_order():
    proof = prove_zigzag(zigzag(late_fault=2.0))
    assert {finding.key.phase for finding in proof.roots} == {Phase.UPDATE}


@pytest.mark.parametrize("report_late", [True, False])
def test_labels_that_are_shifted_within_a_rank_are_found_at_the_loss(report_late):
    proof = prove_zigzag(zigzag(shift=1, report_late=report_late))
    assert [finding.key.phase for finding in proof.roots] == [Phase.LOSS]

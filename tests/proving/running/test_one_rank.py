"""All runs of one device: which are taken, in which order, from which values, and what happens if one cannot run."""

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps

from shardproof.proving.records import SAMPLES, Phase, Precision
from shardproof.proving.running.models import build_model, initial_values
from shardproof.proving.running.one_rank import record_side, run_reference
from shardproof.proving.running.request import RunContext, RunRequest, Start
from shardproof.worlds.threaded import ThreadedWorld


def make_context(step, **request):
    state = {name: tensor.clone() for name, tensor in build_model(step, 0).double().state_dict().items()}
    asked = RunRequest(mesh={"tp": 1}, **request)
    start = Start(state=state)
    return RunContext(step=step, request=asked, exact=start, ordinary=start, arithmetics=asked.make_arithmetics())


@pytest.mark.parametrize("drops", [True, False])
def test_exact_runs_first_then_ordinary_ones_then_the_one_that_draws_if_any_has_dropped(drops):
    context = make_context(steps.make_step(), seeds=(0, 1), native=(Precision.FLOAT64, Precision.OWN), draws=True)
    taken = []

    def take(run):
        taken.append((run.recorder.exact, run.precision, run.masks is not None, run.traced))
        if drops and run.recorder.exact is None:
            F.dropout(torch.ones(2), 0.5)
        return {"number": torch.tensor(len(taken))}

    side = record_side(context, take)
    first, second = context.arithmetics
    assert taken == [
        (first, Precision.FLOAT64, False, False),
        (second, Precision.FLOAT64, False, False),
        (None, Precision.FLOAT64, False, False),
        (None, Precision.OWN, False, False),
        *([(None, Precision.FLOAT64, True, False)] if drops else []),
    ]
    assert side.parameters == {"number": 1}  # those of the first run
    assert (len(side.trials), list(side.native)) == (2, [Precision.FLOAT64, Precision.OWN])


def test_without_ordinary_runs_masks_are_drawn_whether_or_not_anything_drops():
    taken = []
    record_side(make_context(steps.make_step(), draws=True), lambda run: taken.append(run.masks is not None) or {})
    assert taken == [True]


def count_runs_that_draw(comm, context, dropping):
    runs = []

    def take(run):
        runs.append(run.masks is not None)
        if comm.rank in dropping:
            F.dropout(torch.ones(2), 0.5)
        return {}

    record_side(context, take)
    return sum(runs)


@pytest.mark.parametrize(("dropping", "drawn"), [((), 0), ((1,), 1), ((0, 1), 1)])
def test_all_ranks_draw_masks_if_one_of_them_drops(dropping, drawn):
    context = make_context(steps.make_step(), native=(Precision.FLOAT64,), draws=True)
    world = ThreadedWorld(size=2, timeout=60)
    assert world.run(count_runs_that_draw, context, dropping) == [drawn, drawn]


def test_every_run_starts_from_the_full_state():
    context = make_context(steps.make_step(steps=2), seeds=(0, 1), native=(Precision.FLOAT64,))
    side = run_reference(context)
    assert all(torch.equal(side.parameters[name], values) for name, values in context.exact.state.items())
    again = run_reference(make_context(steps.make_step(steps=2), seeds=(1,)))
    for key, one in again.trials[0].tensors.items():
        assert torch.equal(one.values, side.trials[1].tensors[key].values)
        assert one.values.dtype is torch.int64
        assert side.native[Precision.FLOAT64].tensors[key].values.dtype is torch.float64


def test_initial_values_are_recorded_where_they_are_asked_for():
    step = steps.make_step()
    side = run_reference(make_context(step, draws=True))
    expected = initial_values(build_model(step, 0))
    assert all(torch.equal(side.initial[name], values) for name, values in expected.items())
    assert run_reference(make_context(step)).initial == {}


def only_in_float64(model, batch):
    x, y = batch
    if x.dtype != torch.float64:
        raise OverflowError("no kernel")
    return (model(x) - y).square().mean()


def test_a_step_that_does_not_run_in_its_own_dtypes_says_why_and_has_its_other_runs():
    step = steps.make_step(loss=None, forward=only_in_float64)
    context = make_context(step, seeds=(0,), native=(Precision.ROUNDED, *SAMPLES), draws=True)
    side = run_reference(context)
    assert side.failed.startswith("OverflowError: no kernel (")
    assert (len(side.trials), list(side.native), bool(side.initial)) == (1, [Precision.ROUNDED], True)
    with pytest.raises(OverflowError):
        run_reference(make_context(step, native=(Precision.FLOAT32,)))


@pytest.mark.parametrize("fresh", [False, True])
def test_from_fresh_residues_the_second_step_has_the_bound_of_the_first(fresh):
    side = run_reference(make_context(steps.make_step(steps=2), seeds=(0,), fresh=fresh))
    chances = [one.chance for key, one in side.trials[0].tensors.items() if key.phase is Phase.LOSS]
    assert (chances[1] <= chances[0]) is fresh

"""Shardings and trainings that fill their parameters themselves, as init after sharding does, right and with one bug.

They are proved from the prover's values, which are loaded over their own; their own are compared by mean and spread.
"""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from tests.proving import steps
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from shardproof.errors import CannotRunError
from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.report.text import render_text

WIDTH = 200


class Wide(nn.Module):
    """Wide enough to tell a spread. Initialises itself; the biases are zero."""

    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, WIDTH), nn.Linear(WIDTH, 4)
        self.initialise()

    def forward(self, x):
        return self.down(F.gelu(self.up(self.norm(x))))

    def initialise(self):
        for layer, fan in ((self.up, 6), (self.down, WIDTH)):
            nn.init.normal_(layer.weight, std=fan**-0.5)
            nn.init.zeros_(layer.bias)
        self.norm.reset_parameters()


PLAN = {"up": ColwiseParallel(), "down": RowwiseParallel()}


def from_meta(model, mesh, *, change=None):
    model = parallelize_module(model.to("meta"), mesh, PLAN)
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.initialise()
        if change is not None:
            change(model, mesh.get_local_rank())
    return model


def built_there(_model, mesh):
    """The sharding builds the model itself, in float32 whatever dtype it is given."""
    with torch.device("meta"):
        model = Wide()
    return from_meta(model, mesh)


def fully_and_by_plan(model, mesh):
    model = parallelize_module(model.to("meta"), mesh["tp"], PLAN)
    fully_shard(model, mesh=mesh["dp"])
    model.to_empty(device="cpu")
    model.initialise()
    return model


def fan_of_the_shard(model, rank):
    local = model.down.weight.to_local()
    torch.manual_seed(3 + rank)
    nn.init.normal_(local, std=local.shape[1] ** -0.5)


def each_its_own(model, rank):
    torch.manual_seed(3 + rank)
    nn.init.normal_(model.down.weight.to_local(), std=WIDTH**-0.5)


def forgotten(model, _rank):
    """What memory a `to_empty` gives happens to be."""
    model.up.weight.to_local().fill_(0.25)


def replicas_apart(model, rank):
    model.down.bias.to_local().fill_(rank)


def make_step(**changes):
    return steps.make_step(**({"model": Wide, "steps": 2} | changes))


def run(parallelize, **settings):
    return prove(make_step(rows=4), parallelize=parallelize, trials=1, **({"devices": 2} | settings))


def initial(proof):
    found = [one for one in proof.findings if one.key.phase is Phase.INITIAL]
    return {one.key.name: (one.verdict, one.cause.kind if one.cause else None) for one in found}


NAMES = tuple(sorted(name for name, _ in Wide().named_parameters()))


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # returns a view: nothing here writes into it
@pytest.mark.parametrize(
    ("parallelize", "mesh"),
    [
        (from_meta, {"tp": 2}),
        (from_meta, {"tp": 4}),
        (built_there, {"tp": 2}),
        (fully_and_by_plan, {"dp": 2, "tp": 2}),
        (partial(from_meta, change=each_its_own), {"tp": 2}),
    ],
)
def test_init_after_sharding_is_proved_from_the_provers_values_which_the_report_says(parallelize, mesh):
    proof = run(parallelize, devices=None, mesh=mesh)
    assert proof.ok
    assert proof.loaded == NAMES
    assert "into which the prover's values were loaded" in render_text(proof)
    assert {verdict for verdict, _ in initial(proof).values()} == {Verdict.DRAWN}
    assert proof.sharding.split


def test_nothing_is_loaded_where_the_sharding_takes_the_values_that_it_is_given():
    proof = run(lambda model, mesh: parallelize_module(model, mesh, PLAN))
    assert proof.ok
    assert proof.loaded == ()
    assert "were loaded" not in render_text(proof)


@pytest.mark.parametrize(
    ("change", "name", "kind"),
    [
        (fan_of_the_shard, "down.weight", CauseKind.INITIAL_SPREAD),
        (forgotten, "up.weight", CauseKind.INITIAL_CONSTANT),
        (replicas_apart, "down.bias", CauseKind.INITIAL_REPLICAS_DIFFER),
    ],
)
def test_what_is_drawn_otherwise_than_on_one_device_is_wrong(change, name, kind):
    proof = run(partial(from_meta, change=change))
    assert [(one.key.phase, one.key.name, one.cause.kind) for one in proof.roots] == [(Phase.INITIAL, name, kind)]
    assert not proof.ok


def test_a_bug_in_the_step_is_found_from_the_values_loaded():
    def parallelize(model, mesh):
        model = from_meta(model, mesh)
        model.down.register_forward_hook(lambda _module, _inputs, output: output * 2)
        return model

    (root,) = run(parallelize).roots
    assert (root.key.phase, root.key.name, root.verdict) == (Phase.OUTPUT, "down", Verdict.WRONG)


@pytest.mark.parametrize("numeric", [False, True])
def test_values_that_depend_on_those_given_are_not_loaded_over(numeric):
    def halved(model, mesh):
        with torch.no_grad():
            model.down.weight /= mesh.size()
        return parallelize_module(model, mesh, PLAN)

    with pytest.raises(CannotRunError, match=r"down\.weight.* values that are not in the full state"):
        run(halved, numeric=numeric)


def test_numbers_alone_are_compared_from_the_values_loaded():
    assert run(from_meta, numeric=True).ok
    assert not run(partial(from_meta, change=fan_of_the_shard), numeric=True).ok


# A training of the user's own ----------------------------------------------------------------------------------------


def draw_parts(model, run, fan):
    """Rows of `up` and columns of `down`, of which each rank draws its own."""
    torch.manual_seed(40 + run.rank)
    with torch.no_grad():
        for weight, own in ((model.up.weight, 6), (model.down.weight, fan)):
            local = weight.to_local() if hasattr(weight, "to_local") else weight
            nn.init.normal_(local, std=own**-0.5)


def train(run, *, shared, plain=False):
    """`shared`: the fan is taken from the shard."""
    model = Wide().to(next(iter(run.state.values())).dtype)
    if plain:
        up, down = model.up, model.down
        up.weight, up.bias = (nn.Parameter(one.detach().chunk(run.size)[run.rank].clone()) for one in up.parameters())
        down.weight = nn.Parameter(down.weight.detach().chunk(run.size, 1)[run.rank].clone())
        up.register_forward_pre_hook(lambda _module, inputs: steps.AllReduceBackward.apply(*inputs))
        down.forward = lambda x: steps.AllReduceForward.apply(F.linear(x, down.weight)) + down.bias
    else:
        parallelize_module(model, run.mesh, PLAN)
    draw_parts(model, run, WIDTH // run.size if shared else WIDTH)
    run.watch(model)
    for x, y in run.batches():
        model.zero_grad()
        loss = F.mse_loss(model(x), y)
        run.record_loss(loss)
        loss.backward()
        run.record_gradients()


def run_training(**settings):
    step = make_step(optimizer=None, steps=1)
    return prove(step, candidate=partial(train, **settings), devices=2, trials=1)


def test_a_training_that_draws_its_own_values_is_proved_from_the_provers():
    proof = run_training(shared=False)
    assert proof.ok
    assert proof.loaded == NAMES
    assert initial(proof)["down.weight"] == (Verdict.DRAWN, CauseKind.INITIAL_OWN)


def test_a_training_whose_fan_is_that_of_the_shard_is_wrong():
    proof = run_training(shared=True)
    assert [(one.key.name, one.cause.kind) for one in proof.roots] == [("down.weight", CauseKind.INITIAL_SPREAD)]


def test_of_plain_shards_that_are_drawn_the_spread_is_all_that_can_be_told():
    proof = run_training(shared=True, plain=True)
    assert [(one.key.name, one.cause.kind) for one in proof.roots] == [("down.weight", CauseKind.INITIAL_SPREAD)]
    assert proof.loaded == ()
    with pytest.raises(CannotRunError, match="values that are not in the full state"):
        run_training(shared=False, plain=True)

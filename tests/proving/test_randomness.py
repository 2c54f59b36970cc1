"""Dropout and initialisation in a proof: right ones pass, and each bug is seen for its own reason."""

import pytest
import torch
import torch.nn.functional as F
from tests.proving import random_steps, steps
from torch import nn

from shardproof.proving.axes import Axes
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Verdict
from shardproof.proving.judging.masks import judge_masks
from shardproof.proving.prove import prove
from shardproof.proving.records import DrawnMask, Key, Phase
from shardproof.report.text import render_text

# Shardings cut by hand ------------------------------------------------------------------------------------------------


class Megatron(nn.Module):
    def __init__(self, model, rank, size):
        super().__init__()
        self.up, self.down, self.behind, self.early = model.up, model.down, model.behind, False
        self.inside = random_steps.Forking(model.inside.p, random_steps.Tracker(rank))
        own = slice(rank * 16 // size, (rank + 1) * 16 // size)
        self.up.weight = nn.Parameter(model.up.weight.detach()[own].clone())
        self.up.bias = nn.Parameter(model.up.bias.detach()[own].clone())
        self.down.weight = nn.Parameter(model.down.weight.detach()[:, own].clone())

    def forward(self, x):
        h = self.inside(F.gelu(F.linear(steps.AllReduceBackward.apply(x), self.up.weight, self.up.bias)))
        partial = F.linear(h, self.down.weight)
        if self.early:
            return steps.AllReduceForward.apply(self.behind(partial)) + self.down.bias
        return self.behind(steps.AllReduceForward.apply(partial) + self.down.bias)


def megatron(model, mesh):
    return Megatron(model, mesh.get_local_rank(), mesh.size())


def dropped_before_the_sum(model, mesh):
    """Dropout of a partial sum: the bias and the all-reduce come behind it."""
    model = megatron(model, mesh)
    model.early = True
    return model


def draws_shards(alike):
    """A sharding that draws its own shards once the model is cut."""

    def shard(model, mesh):
        model = megatron(model, mesh)
        torch.manual_seed(0 if alike else mesh.get_local_rank())
        for linear in (model.up, model.down):
            nn.init.normal_(linear.weight)
        return model

    return shard


def run(parallelize, *, devices=2, **changes):
    return prove(random_steps.make_dropping_step(**changes), parallelize=parallelize, devices=devices, trials=1)


def found(proof, phase):
    """What is said of each tensor of a phase."""
    return {one.key.name: (one.verdict, one.cause) for one in proof.findings if one.key.phase is phase}


def masks_of(proof):
    return {name: verdict for name, (verdict, _) in found(proof, Phase.MASK).items()}


# Dropout in the arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parallelize", "devices"), [(random_steps.tracked, 2), (random_steps.tracked, 4), (megatron, 3)]
)
def test_a_step_with_dropout_is_proved(parallelize, devices):
    proof = run(parallelize, devices=devices, steps=2)
    assert proof.ok, render_text(proof)
    assert masks_of(proof) == {"inside": Verdict.DRAWN, "behind": Verdict.DRAWN}
    assert {one.verdict for one in proof.findings if one.key.phase is not Phase.MASK} == {Verdict.PROVED}


@pytest.mark.parametrize("wrong", [random_steps.another_probability, random_steps.no_dropout, dropped_before_the_sum])
def test_another_dropout_is_another_function_in_both_arithmetics(wrong):
    proof = run(wrong)
    first = proof.roots[0]
    assert (first.verdict, first.key.phase) == (Verdict.WRONG, Phase.OUTPUT)
    assert first.key.name == ("inside" if wrong is random_steps.another_probability else "behind")
    assert not first.rounding.agrees


class Attending(nn.Module):
    """Attention that drops weights, its heads sharded, in the form that `fused` says."""

    def __init__(self, heads=4, fused=True):
        super().__init__()
        self.qkv, self.out = nn.Linear(6, heads * 12, bias=False), nn.Linear(heads * 4, 4, bias=False)
        self.fused = fused

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (-1, 3, 4)).permute(2, 1, 0, 3)
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25)
        else:
            mixed = F.dropout((q @ k.transpose(-1, -2) / 2).softmax(-1), 0.25) @ v
        return self.out(mixed.transpose(0, 1).flatten(1))


def by_heads(model, mesh):
    model = random_steps.parallelize_module(
        model, mesh, {"qkv": random_steps.ColwiseParallel(), "out": random_steps.RowwiseParallel()}
    )
    torch.manual_seed(100 + mesh.get_local_rank())
    return model


def by_heads_written_out(model, mesh):
    model.fused = False
    return by_heads(model, mesh)


@pytest.mark.parametrize("parallelize", [by_heads, by_heads_written_out])
def test_attention_that_drops_weights_is_proved_fused_or_not(parallelize):
    proof = run(parallelize, model=Attending)
    assert proof.ok, render_text(proof)
    assert masks_of(proof) == {"model": Verdict.DRAWN}


def test_heads_that_share_one_mask_of_weights_are_seen():
    def share(model, mesh):
        model = by_heads(model, mesh)
        torch.manual_seed(100)
        return model

    proof = run(share, model=Attending)
    assert [(root.key.name, root.key.phase) for root in proof.roots] == [("model", Phase.MASK)]


# Masks ----------------------------------------------------------------------------------------------------------------


def test_shards_that_share_one_mask_are_wrong():
    """M47: every rank's generator is the same, and each drops the same places of another shard."""
    proof = run(random_steps.naive)
    assert [(root.key.name, root.key.phase, root.ranks) for root in proof.roots] == [("inside", Phase.MASK, (0, 1))]
    assert proof.roots[0].cause == Cause(kind=CauseKind.MASK_SHARED, mend=Mend.GENERATOR_FOR_EACH_SHARD)
    assert masks_of(proof)["behind"] is Verdict.DRAWN
    text = render_text(proof)
    assert text.startswith("NOT PROVED")
    assert "dropout mask: inside: WRONG\n    ranks share one mask" in text
    assert "Drawn by the ranks for themselves, which is not wrong:\n  step 1, dropout mask: behind: " in text


@pytest.mark.parametrize("parallelize", [random_steps.tracked_behind, random_steps.seeded_by_rank])
def test_replicas_that_drop_different_elements_are_wrong(parallelize):
    proof = run(parallelize)
    assert [root.key.name for root in proof.roots] == ["behind"]
    assert proof.roots[0].cause == Cause(kind=CauseKind.MASK_REPLICAS_DIFFER)
    assert masks_of(proof)["inside"] is Verdict.DRAWN


def test_masks_cut_from_that_of_one_device_are_proved_with_their_bound():
    proof = run(random_steps.cut_from_the_whole)
    assert proof.ok
    assert masks_of(proof) == {"inside": Verdict.PROVED, "behind": Verdict.PROVED}
    inside, behind = (one for one in proof.findings if one.key.phase is Phase.MASK)
    assert inside.elements == 2 * 8 * 16
    assert 2.0**-128 <= inside.false_accept < 2.0**-100  # a few values are too close to another one to have a place
    assert (behind.elements, behind.false_accept) == (2 * 8 * 4, 2.0**-32)


def test_where_dtensor_draws_a_cpu_cannot_tell():
    proof = run(random_steps.as_dtensor)
    assert proof.ok
    verdict, cause = found(proof, Phase.MASK)["inside"]
    assert verdict is Verdict.DRAWN
    assert cause == Cause(kind=CauseKind.MASK_BY_DTENSOR)


def test_too_few_elements_to_tell_are_vacuous_and_more_steps_tell():
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(3, 6, generator=generator), torch.randn(3, 4, generator=generator)
    few = run(random_steps.naive, batch=batch)
    verdict, cause = found(few, Phase.MASK)["inside"]
    assert (verdict, few.ok) == (Verdict.VACUOUS, False)
    assert cause == Cause(kind=CauseKind.MASK_TOO_SMALL, elements=24, mend=Mend.MORE_ELEMENTS)
    assert masks_of(run(random_steps.naive, batch=batch, steps=2))["inside"] is Verdict.WRONG
    assert run(random_steps.tracked, batch=batch).ok


def test_ranks_along_a_data_axis_may_share_a_mask_which_is_said():
    def average(model, mesh):
        for parameter in model.parameters():
            parameter.register_hook(lambda gradient: steps.average(gradient))
        return model

    proof = prove(random_steps.make_dropping_step(), parallelize=average, mesh={"dp": 2}, trials=1)
    assert proof.ok, render_text(proof)
    assert found(proof, Phase.MASK)["inside"] == (
        Verdict.DRAWN,
        Cause(kind=CauseKind.MASK_SHARED_ALONG_DATA),
    )


def drawn(values, mask):
    return DrawnMask(values=torch.tensor(values, dtype=torch.float64), mask=torch.tensor(mask))


def test_masks_are_laid_out_by_value_and_what_is_there_twice_has_no_place():
    key = Key(0, Phase.MASK, "drop")
    whole = {key: drawn([1.0, 2.0, 3.0, 3.0], [True, False, True, False])}
    swapped = [{key: drawn([3.0, 2.0], [False, False])}, {key: drawn([3.0, 1.0 + 1e-15], [True, True])}]
    (finding,) = judge_masks(whole, swapped, Axes(sizes={"tp": 2}))
    assert (finding.verdict, finding.false_accept) == (Verdict.PROVED, 0.5)
    swapped[1] = {key: drawn([3.0, 1.0], [True, False])}
    (finding,) = judge_masks(whole, swapped, Axes(sizes={"tp": 2}))
    assert finding.verdict is Verdict.DRAWN


def train_with_dropout(tracked):
    """A training of one's own, tensor parallel."""

    def train(run):
        model = random_steps.Dropping().to(next(iter(run.state.values())).dtype)
        model.load_state_dict(dict(run.state))
        model = (random_steps.tracked if tracked else random_steps.naive)(model, run.mesh)
        run.watch(model)
        optimizer = steps.make_sgd(model.parameters())
        for x, y in run.batches():
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            run.record_loss(loss)
            loss.backward()
            run.record_gradients()
            optimizer.step()
            run.record_update(optimizer)

    return train


@pytest.mark.parametrize("tracked", [True, False])
def test_masks_in_a_training_of_ones_own(tracked):
    proof = prove(random_steps.make_dropping_step(steps=2), candidate=train_with_dropout(tracked), devices=2, trials=1)
    assert proof.ok is tracked, render_text(proof)
    assert [(root.key.name, root.key.phase) for root in proof.roots] == ([] if tracked else [("inside", Phase.MASK)])


@pytest.mark.processes
@pytest.mark.parametrize("parallelize", [random_steps.tracked, random_steps.naive])
def test_ranks_in_processes_draw_as_ranks_in_threads_do(parallelize):
    simulated = run(parallelize)
    spawned = prove(random_steps.make_dropping_step(), parallelize=parallelize, devices=2, trials=1, spawn=True)
    assert spawned == simulated
    assert {one.key.phase for one in spawned.findings} >= {Phase.MASK, Phase.INITIAL}


# Initial values -------------------------------------------------------------------------------------------------------


def initialising(change):
    """A sharding that cuts what it is given, and initialises anew what has only been built."""

    def shard(model, mesh):
        own = is_as_built(model)
        model = megatron(model, mesh)
        if own:
            with torch.no_grad():
                change(model, mesh.get_local_rank())
        return model

    return shard


def is_as_built(model):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = type(model)().up.weight
    return built.dtype == model.up.weight.dtype and torch.equal(built, model.up.weight)


def alike(model, _rank):
    torch.manual_seed(7)
    nn.init.normal_(model.up.weight)


def each_its_own(model, rank, times=1.0):
    torch.manual_seed(7 + rank)
    bound = times * model.up.in_features**-0.5
    nn.init.uniform_(model.up.weight, -bound, bound)


def each_too_wide(model, rank):
    each_its_own(model, rank, times=4.0)


def replicas_apart(model, rank):
    nn.init.constant_(model.down.bias, 0.5 + rank)


def all_ones(model, _rank):
    nn.init.ones_(model.up.bias)


INITIALISATIONS = {
    "alike": (alike, {"up.weight": (Verdict.WRONG, Cause(kind=CauseKind.INITIAL_REPEATED))}),
    "replicas apart": (replicas_apart, {"down.bias": (Verdict.WRONG, Cause(kind=CauseKind.INITIAL_REPLICAS_DIFFER))}),
    "each its own": (
        each_its_own,
        {
            "up.weight": (
                Verdict.DRAWN,
                Cause(kind=CauseKind.INITIAL_OWN),
            )
        },
    ),
    "a constant": (
        all_ones,
        {
            "up.bias": (
                Verdict.WRONG,
                Cause(kind=CauseKind.INITIAL_CONSTANT),
            )
        },
    ),
    "as given": (lambda _model, _rank: None, {"all parameters": (Verdict.PROVED, None)}),
}


def test_numbers_that_spread_otherwise_than_one_devices_are_wrong():
    verdict, cause = found(run(initialising(each_too_wide)), Phase.INITIAL)["up.weight"]
    assert (verdict, cause.kind) == (Verdict.WRONG, CauseKind.INITIAL_SPREAD)
    assert 3 < float(cause.factor) < 5


@pytest.mark.parametrize("name", INITIALISATIONS)
def test_initial_values_are_those_of_one_device_or_said_not_to_be(name):
    change, expected = INITIALISATIONS[name]
    proof = run(initialising(change))
    assert found(proof, Phase.INITIAL) == expected
    wrong = [key for key, (verdict, _) in expected.items() if verdict is Verdict.WRONG]
    assert [root.key.name for root in proof.roots] == wrong
    assert proof.ok is (not wrong)


def test_equal_shards_of_a_parameter_that_repeats_itself_are_right():
    class Repeating(random_steps.Dropping):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.up.weight.copy_(torch.randn(8, 6).repeat(2, 1))

    assert found(run(megatron, model=Repeating), Phase.INITIAL) == {"all parameters": (Verdict.PROVED, None)}


def test_shards_that_are_drawn_anew_are_wrong_where_they_spread_otherwise_or_repeat():
    """M45: nothing else can be said of them."""
    wider = found(run(draws_shards(alike=False)), Phase.INITIAL)
    assert {name: cause.kind for name, (_, cause) in wider.items()} == dict.fromkeys(
        ("up.weight", "down.weight"), CauseKind.INITIAL_SPREAD
    )
    proof = run(draws_shards(alike=True))
    assert {(one.key.name, one.key.phase, one.verdict) for one in proof.findings} == {
        ("up.weight", Phase.INITIAL, Verdict.WRONG),
        ("down.weight", Phase.INITIAL, Verdict.WRONG),
    }
    assert len(proof.roots) == 2

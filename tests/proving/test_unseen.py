"""Nothing passes unseen: what no gradient reaches, buffers of every dtype, buffers of zeros, frozen parameters.

Each right sharding stands beside one with a bug that only this shows.
"""

from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.proving import steps
from torch import nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from shardproof.proving.cause import CauseKind
from shardproof.proving.findings import Verdict
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase


class Base(steps.MLP):
    """A two-layer perceptron whose output passes through `after`; `wrong` plants the bug."""

    wrong = False

    def forward(self, x):
        return self.after(super().forward(x))

    def after(self, y):
        return y


def shard(*, wrong=False):
    def parallelize(model, mesh):
        model.wrong = wrong
        return steps.parallelize(model, mesh)

    return parallelize


def run(model, parallelize, **settings):
    settings = {"steps": 2} | settings
    return prove(steps.make_step(model=model, **settings), parallelize=parallelize, devices=2, trials=1)


def failed(proof):
    """By what fails, its first verdict and kind of cause."""
    return {
        (one.key.phase, one.key.name): (one.verdict, one.cause and one.cause.kind)
        for one in reversed(proof.findings)
        if one.failed
    }


# No gradient on either side ------------------------------------------------------------------------------------------


class Branch(Base):
    """A head for outputs of another kind, which this batch does not have."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 4)

    def after(self, y):
        return y if len(y) == 5 else self.other(y) * (2 if self.wrong else 1)


class Experts(Base):
    """Row i goes to expert i, and nothing to the last ones."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ParameterList(torch.ones(4) for _ in range(7))

    def after(self, y):
        return torch.stack(
            [
                row * scale * (2 if self.wrong and k > 4 else 1)
                for k, (row, scale) in enumerate(zip(y, self.experts, strict=False))
            ]
        )


@pytest.mark.parametrize(
    ("model", "names"), [(Branch, {"other.weight", "other.bias"}), (Experts, {"experts.5", "experts.6"})]
)
@pytest.mark.parametrize("wrong", [False, True])
def test_what_no_gradient_reaches_is_not_proved_right_or_wrong(model, names, wrong):
    proof = run(model, shard(wrong=wrong))
    unreached = (Verdict.VACUOUS, CauseKind.NO_GRADIENT)
    assert failed(proof) == {(Phase.GRADIENT, name): unreached for name in names}
    assert {one.key.step for one in proof.findings if one.failed} == {0}


class Alternating(Base):
    """One of two scales in turn, as a discriminator and a generator are trained."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ParameterList(torch.ones(4) for _ in range(2))
        self.calls = 0

    def after(self, y):
        self.calls += 1
        return y * self.scales[self.calls % 2]


def test_what_a_later_step_reaches_is_proved():
    assert run(Alternating, shard()).ok


# Frozen --------------------------------------------------------------------------------------------------------------


class Frozen(Base):
    """The first layer does not train, and neither does a scale without a dim."""

    def __init__(self):
        super().__init__()
        self.up.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(0.7), requires_grad=False)

    def after(self, y):
        return y * self.scale


def thawed(model, mesh):
    model = steps.parallelize(model, mesh)
    model.up.requires_grad_(True)
    return model


def freezes(model, mesh):
    model = steps.parallelize(model, mesh)
    model.down.bias.requires_grad_(False)
    return model


def as_plain_tensors(model, mesh):
    """The frozen layer is no parameter here: copies of its rows are kept in attributes; its parameters idle."""
    rank, rows = mesh.get_local_rank(), 8 // mesh.size()
    weight, bias = (p.detach().clone().chunk(mesh.size())[rank] for p in (model.up.weight, model.up.bias))
    down = model.down
    own = down.weight.detach()[:, rank * rows : (rank + 1) * rows].clone()
    down.weight = nn.Parameter(own)

    def forward(x):
        h = steps.AllReduceForward.apply(F.linear(F.gelu(F.linear(x, weight, bias)), down.weight))
        return (h + down.bias) * model.scale

    model.forward = forward
    return model


@pytest.mark.parametrize("parallelize", [steps.parallelize, as_plain_tensors])
def test_frozen_parameters_are_proved_without_being_allowed(parallelize):
    proof = run(Frozen, parallelize, steps=3)
    assert proof.ok
    updates = [one for one in proof.findings if one.key.phase is Phase.UPDATE and one.key.name.startswith("up.")]
    assert updates
    assert all(one.false_accept for one in updates)  # of a variable, and no constant


@pytest.mark.parametrize(
    ("parallelize", "name", "kind"),
    [(thawed, "up.weight", CauseKind.UNFROZEN), (freezes, "down.bias", CauseKind.FROZEN)],
)
def test_what_is_frozen_on_one_side_only_is_wrong(parallelize, name, kind):
    assert failed(run(Frozen, parallelize))[Phase.GRADIENT, name] == (Verdict.WRONG, kind)


# Every element is held, and padding stays unused ---------------------------------------------------------------------


class KeyBias(nn.Module):
    """A table of nine rows, of which the batch takes five, and a bias of the keys, which softmax ignores."""

    def __init__(self):
        super().__init__()
        self.table, self.keys = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.start = None

    def forward(self, ids):
        if self.start is None:
            x = self.table(ids)
        else:
            own = (ids >= self.start) & (ids < self.start + len(self.table.weight))
            at = (ids - self.start).clamp(0, len(self.table.weight) - 1)
            x = steps.AllReduceForward.apply(F.embedding(at, self.table.weight) * own[..., None])
        return torch.softmax(x @ self.keys(x).mT, -1) @ x


def split_table(*, lose=None, rows=5, zero_bias=(), freeze=False):
    def parallelize(model, mesh):
        rank, full = mesh.get_local_rank(), model.table.weight.detach()
        part = F.pad(full, (0, 0, 0, 1))[rank * rows : rank * rows + 5].clone()
        if lose is not None and rank * rows <= lose < rank * rows + 5:
            part[lose - rank * rows] = 0
        model.table.weight, model.start = nn.Parameter(part), rank * rows
        if rank in zero_bias:
            nn.init.zeros_(model.keys.bias)
            model.keys.bias.requires_grad_(not freeze)
        return model

    return parallelize


def prove_table(parallelize):
    batch = (torch.tensor([[0, 3, 5, 6, 1]]), torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(2)))
    step = steps.make_step(model=KeyBias, batch=batch, optimizer=lambda p: torch.optim.AdamW(p, lr=0.1))
    return prove(step, parallelize=parallelize, devices=2, trials=1)


@pytest.mark.parametrize(
    ("fault", "name", "kind"),
    [
        ({}, "", None),
        ({"lose": 8}, "table.weight", CauseKind.LOST),  # a row that no token of the batch is
        ({"rows": 4}, "table.weight", CauseKind.HELD_TWICE),
        ({"zero_bias": (0, 1)}, "keys.bias", CauseKind.ZEROED),
        ({"zero_bias": (1,)}, "keys.bias", CauseKind.ZEROED),
    ],
)
def test_every_element_is_held_as_it_should_be(fault, name, kind):
    proof = prove_table(split_table(**fault))
    assert proof.ok is (kind is None)
    initial = {one.key.name: one.cause.kind for one in proof.findings if one.key.phase is Phase.INITIAL and one.cause}
    assert initial == ({name: kind} if kind else {})


class BiasBefore(nn.Module):
    """A layer whose bias is added before the reduction, on the first rank alone."""

    def __init__(self, model, *, trains):
        super().__init__()
        self.up, self.down = model.up, model.down
        rank, half = dist.get_rank(), 4
        own = slice(rank * half, (rank + 1) * half)
        self.up.weight, self.up.bias = (nn.Parameter(p.detach()[own].clone()) for p in (self.up.weight, self.up.bias))
        self.down.weight = nn.Parameter(self.down.weight.detach()[:, own].clone())
        if rank:
            self.down.bias = nn.Parameter(torch.zeros_like(self.down.bias), requires_grad=trains)

    def forward(self, x):
        h = F.gelu(self.up(steps.AllReduceBackward.apply(x)))
        return steps.AllReduceForward.apply(self.down(h))


@pytest.mark.parametrize("steps_taken", [1, 2])
@pytest.mark.parametrize("trains", [False, True])
def test_zeros_beside_a_bias_are_right_while_they_are_constant(trains, steps_taken):
    proof = run(steps.MLP, lambda model, _mesh: BiasBefore(model, trains=trains), steps=steps_taken)
    assert proof.ok is not trains
    if trains:
        found = failed(proof)
        assert found[Phase.INITIAL, "down.bias"] == (Verdict.WRONG, CauseKind.ZEROED)
        assert found[Phase.GRADIENT, "down.bias"] == (Verdict.WRONG, CauseKind.PADDING_USED)


class PaddedHead(nn.Module):
    """Logits over a vocabulary of seven on two ranks of four rows each, the last one padding."""

    def __init__(self, model, *, masked):
        super().__init__()
        self.head, self.masked = model.head, masked
        rank = dist.get_rank()
        self.head.weight = nn.Parameter(F.pad(self.head.weight.detach(), (0, 0, 0, 1))[rank * 4 : rank * 4 + 4].clone())

    def forward(self, x):
        own = F.linear(steps.AllReduceBackward.apply(x), self.head.weight)
        return Gathered.apply(own)[:, : 7 if self.masked else 8]


class Gathered(torch.autograd.Function):
    """All-gather of the last dim forward, this rank's part backward."""

    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts, -1)

    @staticmethod
    def backward(ctx, grad):
        return grad.chunk(dist.get_world_size(), -1)[dist.get_rank()]


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 7, bias=False)

    def forward(self, x):
        return self.head(x)


@pytest.mark.parametrize("masked", [True, False])
def test_padded_rows_of_a_vocabulary_are_right_while_their_logits_are_masked(masked):
    batch = (steps.make_batch()[0], torch.tensor([0, 6, 3, 2, 5]))
    proof = run(Head, lambda model, _mesh: PaddedHead(model, masked=masked), batch=batch, loss=F.cross_entropy)
    assert proof.ok is masked


# Buffers -------------------------------------------------------------------------------------------------------------


class Buffered(Base):
    def __init__(self):
        super().__init__()
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int32))
        self.register_buffer("scratch", torch.arange(3.0) / 7, persistent=False)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4), persistent=False)

    def after(self, y):
        self.begun.fill_(value=True)
        self.seen += 1
        return (y - self.mean) / self.variance.sqrt()


class BooleanStays(Buffered):
    def after(self, y):
        y = super().after(y)
        self.begun.fill_(not self.wrong)
        return y


class CountsTwice(Buffered):
    def after(self, y):
        self.seen[1] += int(self.wrong)
        return super().after(y)


class LeavesOutTheMean(Buffered):
    def after(self, y):
        return y / self.variance.sqrt() if self.wrong else super().after(y)


class LeavesOutTheVariance(Buffered):
    def after(self, y):
        return y - self.mean if self.wrong else super().after(y)


@pytest.mark.parametrize("model", [BooleanStays, CountsTwice, LeavesOutTheMean, LeavesOutTheVariance])
def test_buffers_of_every_dtype_and_of_zeros_and_ones_are_watched(model):
    assert run(model, shard()).ok
    assert not run(model, shard(wrong=True)).ok


def lose(name, rank=None):
    def parallelize(model, mesh):
        model = steps.parallelize(model, mesh)
        if rank in (None, dist.get_rank()):
            value = getattr(model, name)
            delattr(model, name)
            setattr(model, name, value)  # now a plain attribute
        return model

    return parallelize


@pytest.mark.parametrize(
    ("name", "rank", "lacking"),
    [("seen", None, (0, 1)), ("scratch", 1, (1,)), ("variance", None, (0, 1)), ("begun", 0, (0,))],
)
def test_a_buffer_that_ranks_lack_is_wrong(name, rank, lacking):
    proof = run(Buffered, lose(name, rank), steps=1)
    assert failed(proof) == {(Phase.BUFFER, name): (Verdict.WRONG, CauseKind.BUFFER_GONE)}
    assert [one.cause.ranks for one in proof.findings if one.failed] == [lacking]


def adds_a_buffer(model, mesh):
    model = steps.parallelize(model, mesh)
    model.register_buffer("offset", torch.tensor([mesh.get_local_rank()]))
    return model


def test_a_buffer_of_the_candidate_alone_is_listed():
    proof = run(Buffered, adds_a_buffer)
    assert proof.ok
    assert proof.own_buffers == ("offset",)
    assert run(Buffered, shard()).own_buffers == ()


class Sharded(Base):
    """A bias in a buffer, of the first layer's features."""

    def __init__(self):
        super().__init__()
        self.register_buffer("bias", torch.zeros(8))

    def forward(self, x):
        return self.down(torch.tanh(self.up(x) + self.bias))


def cut_buffer(model, mesh, own=None):
    model = steps.parallelize(model, mesh)
    own = mesh.get_local_rank() if own is None else own
    model.bias = model.bias.chunk(mesh.size())[own].clone()
    return model


def test_a_buffer_may_be_sharded():
    assert run(Sharded, cut_buffer).ok
    assert not run(Sharded, lambda model, mesh: cut_buffer(model, mesh, own=0)).ok


def train(run, *, wrong=False, load_all=True):
    """Data parallel; loads the whole state or the parameters alone."""
    model = LeavesOutTheMean().to(run.state["up.weight"].dtype)
    model.wrong = wrong
    if load_all:
        model.load_state_dict(dict(run.state))
    else:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(run.state[name])
    run.watch(model)
    optimizer = steps.make_sgd(model.parameters())
    for x, y in run.batches():
        optimizer.zero_grad()
        loss = F.mse_loss(model(x.chunk(run.size)[run.rank]), y.chunk(run.size)[run.rank])
        run.record_loss(steps.average(loss))
        loss.backward()
        for parameter in model.parameters():
            parameter.grad = steps.average(parameter.grad)
        run.record_gradients()
        optimizer.step()
        run.record_update(optimizer)


@pytest.mark.parametrize("load_all", [True, False])
def test_buffers_of_a_training_of_ones_own_are_watched(load_all):
    step = steps.make_step_of_four_rows(model=LeavesOutTheMean)
    right, wrong = (
        prove(step, candidate=lambda run, wrong=wrong: train(run, wrong=wrong, load_all=load_all), devices=2, trials=1)
        for wrong in (False, True)
    )
    assert right.ok
    assert not wrong.ok


# Something is split --------------------------------------------------------------------------------------------------


def matches_nothing(model, mesh):
    return parallelize_module(model, mesh, {"block.up": ColwiseParallel(), "block.down": RowwiseParallel()})


def own_rows(model, mesh):
    """Rows of the batch for each rank along an axis that is no data axis; whole parameters."""
    rank, size = mesh.get_local_rank(), mesh.size()
    whole = model.forward
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: dist.all_reduce(gradient := gradient.clone()) or gradient)
    model.up.register_forward_pre_hook(lambda _module, inputs: (inputs[0].chunk(size)[rank],))

    def forward(x):
        parts = [torch.empty(len(x) // size, 4, dtype=x.dtype) for _ in range(size)]
        return GatherRows.apply(whole(x), parts)

    model.forward = forward
    return model


class GatherRows(torch.autograd.Function):
    """All-gather of rows forward, this rank's rows backward."""

    @staticmethod
    def forward(ctx, x, parts):
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, grad):
        return grad.chunk(dist.get_world_size())[dist.get_rank()], None


def test_a_plan_that_matches_nothing_is_no_proof_and_says_which_entries():
    proof = run(steps.MLP, matches_nothing)
    assert failed(proof) == {(Phase.SHARDING, "tp"): (Verdict.VACUOUS, CauseKind.NOTHING_SPLIT)}
    (found,) = proof.roots
    assert found.cause.entries == proof.sharding.unmatched == ("block.up", "block.down")
    assert (proof.sharding.split, proof.sharding.parameters) == (0, 4)


def test_numbers_alone_do_not_pass_where_nothing_is_split():
    settings = {"devices": 2, "numeric": True}
    idle = prove(steps.make_step(), parallelize=lambda model, _mesh: model, **settings)
    assert not idle.ok
    assert prove(steps.make_step(), parallelize=steps.parallelize, **settings).ok


def test_nothing_split_can_be_allowed():
    proof = prove(steps.make_step(), parallelize=lambda m, _mesh: m, devices=2, trials=1, allow=["VACUOUS sharding *"])
    assert proof.ok
    assert proof.count.allowed == 1


def test_rows_of_each_ranks_own_are_a_split():
    proof = prove(steps.make_step(rows=4), parallelize=own_rows, devices=2, trials=1)
    assert proof.ok
    assert proof.sharding.split == 0


def over_tp_alone(model, mesh):
    return steps.parallelize(model, mesh["tp"])


def over_tp_by_another_name(model, mesh):
    return matches_nothing(model, mesh["tp"])


@pytest.mark.parametrize("axis", ["dp", "rep"])
def test_an_axis_of_replicas_is_told_beside_one_that_splits(axis):
    step = steps.make_step(rows=4)
    sizes = {axis: 2, "tp": 2}

    def average(model, mesh):
        model = over_tp_alone(model, mesh)
        for parameter in model.parameters():
            parameter.register_hook(partial(mean_over, mesh[axis].get_group()))
        return model

    proof = prove(step, parallelize=average if axis == "dp" else over_tp_alone, mesh=sizes, trials=1)
    assert proof.ok
    assert proof.sharding.split == 3
    assert proof.sharding.idle == (() if axis == "dp" else ("rep",))


def mean_over(group, gradient):
    """The mean of a gradient over a group; a DTensor's stays one."""
    gradient = gradient.clone()
    local = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    dist.all_reduce(local, group=group)
    return gradient.div_(2)


def test_a_plan_that_matches_nothing_beside_a_data_axis_is_no_proof():
    def parallelize(model, mesh):
        model = over_tp_by_another_name(model, mesh)
        for parameter in model.parameters():
            parameter.register_hook(partial(mean_over, mesh["dp"].get_group()))
        return model

    proof = prove(steps.make_step(rows=4), parallelize=parallelize, mesh={"dp": 2, "tp": 2}, trials=1)
    assert failed(proof) == {(Phase.SHARDING, "tp"): (Verdict.VACUOUS, CauseKind.NOTHING_SPLIT)}


def load(run):
    model = steps.MLP().to(run.state["up.weight"].dtype)
    model.load_state_dict(dict(run.state))
    run.watch(model)
    return model


def update_own_parameters(run):
    """Every rank takes the whole batch, and keeps the optimizer's state of its own parameters (ZeRO-1)."""
    model = load(run)
    owned = list(model.named_parameters())[run.rank :: run.size]
    optimizer = torch.optim.Adam([parameter for _, parameter in owned], lr=0.1)
    for x, y in run.batches():
        loss = F.mse_loss(model(x), y)
        run.record_loss(loss)
        model.zero_grad()
        loss.backward()
        run.record_gradients()
        optimizer.step()
        for number, parameter in enumerate(model.parameters()):
            dist.broadcast(parameter.data, src=number % run.size)
        run.record_update(optimizer)


def update_own_rows(run, factor=1.0):
    """Every rank takes the whole batch, updates its part of all parameters in one vector, and gathers the others'."""
    model = load(run)
    for x, y in run.batches():
        loss = F.mse_loss(model(x), y)
        run.record_loss(loss)
        model.zero_grad()
        loss.backward()
        run.record_gradients()
        with torch.no_grad():
            vector = torch.cat([one.reshape(-1) for one in model.parameters()])
            gradient = torch.cat([one.grad.reshape(-1) for one in model.parameters()])
            own = slice(run.rank * len(vector) // run.size, (run.rank + 1) * len(vector) // run.size)
            updated = vector[own] - 0.1 * factor * gradient[own]
            parts = [torch.empty_like(updated) for _ in range(run.size)]
            dist.all_gather(parts, updated)
            whole, at = torch.cat(parts), 0
            for one in model.parameters():
                one.copy_(whole[at : at + one.numel()].view_as(one))
                at += one.numel()
        run.record_update(None)


@pytest.mark.parametrize(
    ("training", "optimizer", "ok"),
    [
        (update_own_parameters, lambda parameters: torch.optim.Adam(parameters, lr=0.1), True),
        (update_own_rows, steps.make_sgd, True),
        (partial(update_own_rows, factor=0.5), steps.make_sgd, False),
    ],
)
def test_an_optimizer_of_which_each_rank_has_its_part_is_a_split(training, optimizer, ok):
    proof = prove(steps.make_step(optimizer=optimizer, steps=2), candidate=training, devices=2, trials=1)
    assert proof.ok == ok
    assert proof.sharding.idle == ()


def same_rows(run):
    """Data parallel, where every rank has been given the same rows: there is no sampler."""
    model = load(run)
    for x, y in run.batches():
        model.zero_grad()
        loss = F.mse_loss(model(x), y)
        run.record_loss(loss)
        loss.backward()
        for parameter in model.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= run.size
        run.record_gradients()


def test_a_data_parallel_training_whose_ranks_have_the_same_rows_is_no_proof():
    step = steps.make_step(optimizer=None)
    proof = prove(step, candidate=same_rows, mesh={"dp": 2}, trials=1)
    assert failed(proof) == {(Phase.SHARDING, "dp"): (Verdict.VACUOUS, CauseKind.NOTHING_SPLIT)}

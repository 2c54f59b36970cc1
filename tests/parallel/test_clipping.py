"""Clipping by the whole model's norm: proved on a decoder, beside norms that count too much or too little."""

import math

import pytest
import torch
import torch.distributed as dist
from tests.parallel.models import OURS, STRINGS, Decoder, forward, make_batch
from tests.parallel.ranks import alone, make_step, random, run
from torch import nn

from shardproof.errors import CannotRunError
from shardproof.parallel import parallelize, sharding_of
from shardproof.parallel.axis import Axis
from shardproof.parallel.clipping import clip_gradients, gradient_norm
from shardproof.parallel.sharding import Section, cut_parameter, replicated, set_sharding, split_padded, split_sections
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase


def build(heads, kv_heads):
    return Decoder(heads, kv_heads, tied=True)


def local_norm(parameters, max_norm, axis):
    """Each rank's own norm: what `torch.nn.utils.clip_grad_norm_` does with plain tensors."""
    return torch.nn.utils.clip_grad_norm_(parameters, max_norm)


def counting_replicas(parameters, max_norm, axis):
    """Everything that a rank holds is counted by it, as one all-reduce of squares does."""
    for parameter in parameters:
        found = sharding_of(parameter)
        if found.dim is None:  # pretend that each rank has a piece of its own
            set_sharding(
                parameter,
                split_sections(
                    (parameter.shape[0] * axis.size, *parameter.shape[1:]),
                    0,
                    [Section(length=parameter.shape[0] * axis.size)],
                    rank=axis.rank,
                    size=axis.size,
                ),
            )
    return clip_gradients(parameters, max_norm, axis)


def counting_tied_twice(parameters, max_norm, axis):
    largest = max(parameters, key=lambda parameter: parameter.numel())
    twin = nn.Parameter(largest.detach())
    twin.grad = largest.grad
    set_sharding(twin, sharding_of(largest))
    norm = gradient_norm([*parameters, twin], axis)
    torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def make_training(clip, plan, heads, kv_heads):
    def train(run):
        model = build(heads, kv_heads).to(run.state["embedding.weight"].dtype)
        model.load_state_dict(dict(run.state))
        model = parallelize(model, run.mesh, plan)
        run.watch(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for batch in run.batches():
            optimizer.zero_grad()
            loss = model(*batch)
            run.record_loss(loss)
            loss.backward()
            run.record_gradients()
            norm = clip(list(model.parameters()), 0.5, Axis.of(run.mesh, "tp"))
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    return train


def proof_of(clip, devices, plan=STRINGS, heads=4, kv_heads=2):
    step = make_step(lambda: build(heads, kv_heads), make_batch(8), forward=forward, steps=1, clip_norm=0.5)
    return prove(step, candidate=make_training(clip, plan, heads, kv_heads), devices=devices, trials=1)


@pytest.mark.parametrize("plan", [STRINGS, OURS], ids=["strings", "ours"])
@pytest.mark.parametrize("devices", [2, 4])  # of four, two hold each KV head
def test_clipping_is_proved(plan, devices):
    proof = proof_of(clip_gradients, devices, plan)
    assert proof.ok, proof.roots
    assert {Phase.NORM, Phase.UPDATE} <= {finding.key.phase for finding in proof.findings}


@pytest.mark.parametrize("wrong", [local_norm, counting_replicas, counting_tied_twice])
def test_a_norm_that_counts_otherwise_is_found(wrong):
    proof = proof_of(wrong, 2)
    assert {finding.key.phase for finding in proof.roots} == {Phase.NORM}


def make_training_beside_data_ranks(*, late):
    """Half of the rows for each rank along dp; `late` averages the gradients only after clipping."""

    def average(tensor, group):
        tensor = tensor.detach().clone()
        dist.all_reduce(tensor, group=group)
        return tensor / group.size()

    def train(run):
        model = build(4, 2).to(run.state["embedding.weight"].dtype)
        model.load_state_dict(dict(run.state))
        model = parallelize(model, run.mesh, STRINGS)
        run.watch(model)
        axis, data = Axis.of(run.mesh, "tp"), run.mesh.get_group("dp")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for ids, targets in run.batches():
            rows = targets.view(ids.shape).chunk(data.size())[data.rank()]
            loss = model(ids.chunk(data.size())[data.rank()], rows.flatten())
            run.record_loss(average(loss, data))
            loss.backward()
            norm = clip_gradients(model.parameters(), 0.5, axis) if late else None
            for parameter in model.parameters():
                parameter.grad = average(parameter.grad, data)
            run.record_gradients()
            norm = clip_gradients(model.parameters(), 0.5, axis) if norm is None else norm
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    return train


@pytest.mark.parametrize("late", [False, True])
def test_beside_data_parallel_ranks_the_norm_is_of_averaged_gradients(late):
    ids, _ = make_batch(8)
    step = make_step(lambda: build(4, 2), (ids, ids.flip(0).flatten()), forward=forward, steps=1, clip_norm=0.5)
    training = make_training_beside_data_ranks(late=late)
    proof = prove(step, candidate=training, mesh={"dp": 2, "tp": 2}, trials=1)
    assert proof.ok != late, proof.roots


def test_on_one_rank_it_is_pytorchs_bit_for_bit():
    one, other = (nn.Linear(5, 7), nn.Linear(5, 7))
    other.load_state_dict(one.state_dict())
    for model in (one, other):
        model(random(3, 5).float()).square().sum().backward()
    with alone(1) as axis:
        assert torch.equal(
            clip_gradients(one.parameters(), 0.1, axis), torch.nn.utils.clip_grad_norm_(other.parameters(), 0.1)
        )
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(one.parameters(), other.parameters(), strict=True))


SHAPE = (6, 4)


def shardings(rank, size):
    """A fused projection of which ranks share a part, a padded vocabulary, and a replica."""
    heads = [Section(length=4, unit=1), Section(length=2, unit=1, shared=True)]
    return [
        split_sections(SHAPE, 0, heads, rank=rank, size=size),
        split_padded(SHAPE, 0, multiple=3, rank=rank, size=size),
        replicated(SHAPE, rank=rank, size=size),
    ]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.5, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_any_norm_of_shared_padded_and_replicated_parameters(size, dtype, norm_type):
    full = [random(*SHAPE, seed=seed).to(dtype) for seed in range(3)]
    full[2].mul_(100)  # the replica's share of the norm is the largest

    def on_rank(axis):
        parameters = []
        for gradient, sharding in zip(full, shardings(axis.rank, axis.size), strict=True):
            parameter = cut_parameter(torch.zeros(SHAPE, dtype=dtype), sharding)
            parameter.grad = cut_parameter(gradient, sharding).detach()
            parameters.append(parameter)
        norm = clip_gradients(parameters, 1.0, axis, norm_type=norm_type)
        return norm, parameters[2].grad

    norms, clipped = zip(*run(size, on_rank), strict=True)
    wide = torch.promote_types(dtype, torch.float32)
    wanted = torch.cat([gradient.reshape(-1) for gradient in full]).double().norm(norm_type)
    assert all(norm.dtype == wide and torch.equal(norm, norms[0]) for norm in norms)
    # So many numbers added, each a product rounded once: well within 100 roundings.
    assert abs(norms[0].double() - wanted) <= 100 * torch.finfo(wide).eps * wanted
    assert all(torch.equal(gradient, clipped[0]) for gradient in clipped)


def test_a_rank_that_counts_nothing_and_one_without_gradients_take_part():
    def on_rank(axis):
        parameter = cut_parameter(torch.zeros(3), replicated((3,), rank=axis.rank, size=axis.size))
        empty = gradient_norm([parameter], axis)
        parameter.grad = torch.tensor([0.0, 3.0, 4.0])
        return empty.item(), clip_gradients([parameter, parameter], 2.5, axis).item(), parameter.grad.tolist()

    for empty, norm, gradient in run(2, on_rank):
        assert (empty, norm) == (0, 5)
        assert gradient == pytest.approx([0, 1.5, 2], rel=1e-6)  # 2.5 / (5 + 1e-6)


def with_gradient(**noted):
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, math.nan])
    if noted:
        set_sharding(parameter, replicated((2,), **noted))
    return parameter


@pytest.mark.parametrize(
    ("parameter", "options", "said"),
    [
        (with_gradient(), {}, "carries no sharding"),
        (with_gradient(rank=1, size=2), {}, "sharded for rank 1 of 2; this is rank 0 of 2"),
        (with_gradient(rank=0, size=2), {"max_norm": 0.0}, "max_norm is 0.0"),
        (with_gradient(rank=0, size=2), {"max_norm": math.nan}, "max_norm is nan"),
        (with_gradient(rank=0, size=2), {"norm_type": 0.0}, "norm_type is 0.0"),
    ],
)
def test_what_cannot_be_clipped_says_why(parameter, options, said):
    with alone(2) as axis, pytest.raises(CannotRunError, match=said):
        clip_gradients([parameter], **({"max_norm": 1.0, "axis": axis} | options))


def test_a_norm_that_is_not_finite_is_an_error_if_asked_for_and_clips_nothing():
    parameter = with_gradient()
    with alone(1) as axis:
        with pytest.raises(CannotRunError, match="norm is nan: nothing was clipped"):
            clip_gradients([parameter], 1.0, axis, error_if_nonfinite=True)
        assert parameter.grad[0] == 1
        assert clip_gradients([parameter], 1.0, axis).isnan()

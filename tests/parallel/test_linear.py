"""A split linear layer is the whole one: proved with every option at 2, 3 and 4 ranks, and bugs beside are caught.

Three layers, cheapest first: outputs and gradients against nn.Linear, proofs, gloo processes.
"""

import copy
from dataclasses import replace

import pytest
import torch
from tests.parallel.ranks import alone, calls_of, check_traffic, proof_of, random, run
from tests.parallel.split_linear import (
    FEATURES,
    SEQUENCE,
    SPLITS,
    WHOLE,
    H,
    I,
    O,
    S,
    average_over_dp,
    column,
    parallelize,
    row,
    step_of_mlp,
    train_on_rank,
)
from torch import nn
from torch.distributed.tensor import Partial, Shard
from torch.utils._python_dispatch import TorchDispatchMode

from shardproof.errors import CannotRunError
from shardproof.parallel import collectives, products
from shardproof.parallel.collectives import Pending
from shardproof.parallel.linear import ColumnLinear, RowLinear
from shardproof.parallel.sharding import Section, assemble, sharding_of, take
from shardproof.proving.cause import Cause, CauseKind
from shardproof.proving.prove import prove
from shardproof.proving.records import Phase
from shardproof.worlds.communicator import shard_range
from shardproof.worlds.spawned import SpawnedWorld

COLUMNS = [(column, i, o) for i in (WHOLE, FEATURES, Shard(0), Shard(1)) for o in (FEATURES, WHOLE)]
ROWS = [(row, i, o) for i in (FEATURES, WHOLE) for o in (WHOLE, FEATURES, Shard(0), Shard(1))]


# Against nn.Linear ---------------------------------------------------------------------------------------------------


def part(tensor, placement, axis):
    if placement == WHOLE:
        return tensor
    start, stop = shard_range(tensor.shape[placement.dim], axis.rank, axis.size)
    return tensor.narrow(placement.dim, start, stop - start)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_and_gradients_are_those_of_the_whole_layer(size, bias):
    """For inputs of two to four dims, contiguous or not, some of whose shards are empty."""
    linear = nn.Linear(I, H, bias=bias).double()

    def on_rank(axis):
        for make, given, wanted in COLUMNS + ROWS:
            for shape in ((S, I), (S, 3, I), (2, S, 3, I)):
                x = random(*shape, seed=3)
                check(axis, make, given, wanted, x)
                check(axis, make, given, wanted, random(*shape[::-1], seed=3).permute(*reversed(range(x.ndim))))

    def check(axis, make, given, wanted, x):
        expected = linear(x.requires_grad_())
        cotangent = random(*expected.shape, seed=4)
        gradients = torch.autograd.grad(expected, [x, *linear.parameters()], cotangent)
        unequal = {"length": x.shape[given.dim]} if make is column and given != WHOLE else {}
        layer = make(linear, axis, input=given, output=wanted, **unequal)
        own = part(x.detach(), given, axis).requires_grad_()
        actual = layer(own)
        close(actual, part(expected, wanted, axis))
        found = torch.autograd.grad(actual, [own, *layer.parameters()], part(cotangent, wanted, axis))
        close(found[0], part(gradients[0], given, axis))
        for gradient, whole, parameter in zip(found[1:], gradients[1:], layer.parameters(), strict=True):
            close(gradient, take(whole, sharding_of(parameter)))

    def close(actual, expected):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)

    run(size, on_rank)


def test_weights_are_the_whole_layers_under_its_names():
    linear = nn.Linear(I, H)
    linear.bias.requires_grad_(False)

    def on_rank(axis):
        for layer in (column(linear, axis), row(linear, axis)):
            assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
            assert [p.requires_grad for p in layer.parameters()] == [True, False]
            yield layer

    columns, rows = zip(*run(3, lambda axis: list(on_rank(axis))), strict=True)
    for layers in (columns, rows):
        for name in ("weight", "bias"):
            locals_ = [getattr(layer, name) for layer in layers]
            whole = assemble([p.detach() for p in locals_], sharding_of(locals_[0]))
            assert torch.equal(whole, getattr(linear, name))


def test_sections_are_cut_each_by_itself():
    linear = nn.Linear(I, 10)
    sections = [Section(length=6, unit=2), Section(length=4, unit=2)]
    z = linear(torch.ones(I)).detach()
    found = run(2, lambda axis: column(linear, axis, sections=sections)(torch.ones(I)).detach())
    torch.testing.assert_close(found, [z[[0, 1, 2, 3, 6, 7]], z[[4, 5, 8, 9]]])


def test_under_autocast_products_are_in_its_dtype_and_gradients_in_the_parameters():
    def on_rank(axis):
        layer = row(nn.Linear(I, O), axis, input=WHOLE)
        with torch.autocast("cpu", torch.bfloat16):
            z = layer(torch.ones(3, I, requires_grad=True))
        z.sum().backward()
        return z.dtype, layer.weight.grad.dtype, layer.bias.grad.dtype

    assert run(2, on_rank) == [(torch.bfloat16, torch.float32, torch.float32)] * 2


def test_a_copy_of_a_layer_stands_among_the_same_ranks():
    linear = nn.Linear(I, O)

    def on_rank(axis):
        layer = column(linear, axis, output=WHOLE)
        other = copy.deepcopy(layer)
        assert other.axis is axis
        assert other.weight is not layer.weight
        return other(torch.ones(I))

    torch.testing.assert_close(run(2, on_rank)[1], linear(torch.ones(I)))


def test_a_second_derivative_is_refused_and_not_wrong():
    def on_rank(axis):
        x = torch.ones(2, I, requires_grad=True)
        (gradient,) = torch.autograd.grad(column(nn.Linear(I, O), axis)(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()

    run(2, on_rank)


# What is communicated, computed and kept -----------------------------------------------------------------------------


@pytest.mark.parametrize("by_exchange", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_each_option_calls_what_its_table_says(size, by_exchange):
    with alone(size) as alike:
        axis = replace(alike, by_exchange=by_exchange)
        for make, given, wanted in COLUMNS + ROWS:
            layer = make(nn.Linear(8, 8), axis, input=given, output=wanted)
            x = torch.ones(4, 4, 8)
            if given != WHOLE:
                x = x.chunk(size, given.dim)[0]
            check_traffic(layer, axis, x.clone().requires_grad_())


def test_an_input_without_a_gradient_costs_no_collective_backward():
    with alone(2) as axis:
        for given in (WHOLE, FEATURES, SEQUENCE):
            z = column(nn.Linear(8, 8), axis, input=given)(torch.ones(2, 4, 4 if given == FEATURES else 8))
            assert not calls_of(lambda z=z: z.sum().backward())


class Log(TorchDispatchMode):
    """Products, sums and collectives, as they begin."""

    def __init__(self, ops):
        super().__init__()
        self.ops = ops

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name = op._schema.name.split("::")[1]
        if name in ("mm", "sum", "alltoall_base_"):
            self.ops.append(name)
        return op(*args, **(kwargs or {}))


def log_backward(z, monkeypatch):
    ops, wait = [], Pending.wait
    monkeypatch.setattr(Pending, "wait", lambda self: (ops.append("wait"), wait(self))[1])
    loss = z.sum()
    with Log(ops):
        loss.backward()
    return ops


@pytest.mark.parametrize(
    ("make", "given", "products_first"),
    [(column, WHOLE, 1), (column, FEATURES, 2), (column, SEQUENCE, 1), (row, WHOLE, 1)],
)
def test_weight_gradients_are_computed_while_the_inputs_is_on_its_way(make, given, products_first, monkeypatch):
    with alone(2) as axis:
        x = torch.ones(2, 4, 4 if given == FEATURES else 8, requires_grad=True)
        z = make(nn.Linear(8, 8), axis, input=given)(x)
        ops = log_backward(z, monkeypatch)
    assert ops == ["mm"] * products_first + ["alltoall_base_", "mm", "sum", "wait"]


def test_nothing_is_computed_or_kept_for_a_frozen_weight(monkeypatch):
    kept = []
    with alone(2) as axis:
        for make in (column, row):
            linear = nn.Linear(8, 8).requires_grad_(False)
            x = torch.ones(4, 8 if make is column else 4, requires_grad=True)
            with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.shape), t)[1], lambda t: t):
                z = make(linear, axis)(x)
            assert log_backward(z, monkeypatch) == ["mm"] + ["alltoall_base_", "wait"] * (make is column)
    assert kept == [(4, 8), (8, 4)]  # the weights' shards, and no input


# Proofs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("devices", [2, 3, 4])
@pytest.mark.parametrize("split", SPLITS)
def test_every_split_is_proved(split, devices):
    proof = proof_of(step_of_mlp(), SPLITS[split], devices)
    assert proof.ok, proof.roots


@pytest.mark.parametrize("split", SPLITS)
def test_without_biases_too_and_with_ranks_that_hold_nothing(split):
    proof = proof_of(step_of_mlp(bias=False, hidden=2), SPLITS[split], 3)
    assert proof.ok, proof.roots


@pytest.mark.parametrize("split", SPLITS)
def test_by_the_librarys_own_collectives_too(split):
    proof = proof_of(step_of_mlp(), lambda model, axis: SPLITS[split](model, replace(axis, by_exchange=False)), 3)
    assert proof.ok, proof.roots


def test_beside_data_parallel_ranks_too():
    mesh = {"dp": 2, "tp": 2}
    assert prove(step_of_mlp(), parallelize=average_over_dp, mesh=mesh, trials=1).ok
    proof = prove(step_of_mlp(), parallelize=parallelize, mesh=mesh, trials=1)  # nobody averages over dp
    assert {f.key.phase for f in proof.roots} == {Phase.GRADIENT}


def unreduced(tensor, axis, **_):
    return tensor


def start_unreduced(tensor, axis):
    return Pending(work=None, finish=lambda: tensor)


def start_own_only(parts, axis, *, dim):
    return Pending(work=None, finish=lambda: parts[axis.rank])


def gather_reversed(x, axis, *, dim, total=None):
    return torch.cat(collectives.start_all_gather(x, axis, dim=dim, total=total).wait()[::-1], dim)


def sum_and_cut(whole, axis, *, dim):
    return collectives.reduce_scatter(whole, axis, dim=dim)


# Each bug: the split, what it puts in place of which function of products.py, the first wrong tensor, and its cause.
BUGS = {
    "row output not reduced": (
        "column_row", "all_reduce", unreduced, (Phase.OUTPUT, "down"), CauseKind.UNREDUCED,
    ),
    "column input gradient not reduced": (
        "column_row", "start_all_reduce", start_unreduced,
        (Phase.OUTPUT_GRADIENT, "first"), CauseKind.UNREDUCED,
    ),
    "column shards gathered in another order": (
        "columns_gathered", "all_gather", gather_reversed, (Phase.OUTPUT, "up"), None,
    ),
    "hidden gradient not summed": (
        "column_column", "start_reduce_scatter", start_own_only, (Phase.INPUT_GRADIENT, "down"), None,
    ),
    "gathered output's gradient summed": (
        "columns_gathered", "own_shard", sum_and_cut, (Phase.INPUT_GRADIENT, "down"), CauseKind.SCALED,
    ),
    "sequence gradient not summed": (
        "by_sequence", "start_reduce_scatter", start_own_only, (Phase.OUTPUT_GRADIENT, "first"), None,
    ),
    "sequence not summed": (
        "by_sequence", "reduce_scatter", lambda x, axis, *, dim: collectives.own_shard(x, axis, dim=dim),
        (Phase.OUTPUT, "down"), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found_at_its_place(bug, monkeypatch):
    split, name, planted, place, cause = BUGS[bug]
    monkeypatch.setattr(products, name, planted)
    proof = proof_of(step_of_mlp(hidden=8), SPLITS[split], 2)
    assert not proof.ok
    first = proof.roots[0]
    assert (first.key.phase, first.key.name) == place
    assert cause is None or first.cause.kind is cause
    assert cause is not CauseKind.SCALED or first.cause.factor == 2


def test_a_bias_on_every_rank_is_found():
    def change(model, axis):
        SPLITS["column_row"](model, axis)
        model.down.register_forward_hook(lambda layer, _inputs, z: z + layer.bias * (axis.size - 1))

    proof = proof_of(step_of_mlp(), change, 2)
    assert (proof.roots[0].key.phase, proof.roots[0].key.name) == (Phase.OUTPUT, "down")
    assert proof.roots[0].cause == Cause(kind=CauseKind.SAME_VECTOR_OFF)


# gloo, and refusals --------------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_on_gloo_the_proof_is_the_same():
    """Up to its bounds: gloo ranks whose degrees differ, as unequal shards' do, agree on none."""
    spawned, simulated = (
        prove(step_of_mlp(), parallelize=parallelize, devices=2, trials=1, spawn=spawn) for spawn in (True, False)
    )
    assert [(f.key, f.verdict) for f in spawned.findings] == [(f.key, f.verdict) for f in simulated.findings]
    assert spawned.ok


@pytest.mark.processes
@pytest.mark.parametrize(("split", "size"), [("column_column", 2), ("by_sequence", 3)])
def test_training_on_gloo_is_training_on_one_device(split, size):
    losses, weight = train_on_rank(None, None)
    for found, other in SpawnedWorld(size=size).run(train_on_rank, split):
        torch.testing.assert_close(found, losses, rtol=1e-12, atol=0)
        torch.testing.assert_close(other, weight, rtol=1e-12, atol=1e-14)
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (column, {"output": Shard(1)}, r"ColumnLinear with output .*: give Shard\(-1\) or Replicate\(\)"),
        (column, {"input": Partial()}, r"ColumnLinear with input .*: give Replicate\(\) or Shard\(dim\)"),
        (row, {"input": Shard(0)}, r"RowLinear with input .*: give Shard\(-1\) or Replicate\(\)"),
        (row, {"output": Partial()}, r"RowLinear with output .*: give Replicate\(\) or Shard\(dim\)"),
        (column, {"sections": [Section(length=3)]}, "sections of 3 in a dim of 8"),
        (column, {"sections": [Section(length=8)], "output": WHOLE}, r"sections are cut, so keep Shard\(-1\)"),
        (row, {"sections": [Section(length=8)], "input": WHOLE}, r"sections come cut, so keep Shard\(-1\)"),
    ],
)
def test_what_cannot_be_split_is_refused(make, options, told):
    with alone(2) as axis, pytest.raises(CannotRunError, match=told):
        make(nn.Linear(8, 8), axis, **options)


def test_an_input_of_the_wrong_kind_is_refused():
    with alone(2) as axis:
        linear = nn.Linear(8, 8)
        for layer, features in ((column(linear, axis), 4), (row(linear, axis), 8), (row(linear, axis, input=WHOLE), 9)):
            with pytest.raises(CannotRunError, match=f"got {features} features, in shape .*; rank 0 of 2 needs"):
                layer(torch.ones(3, features))
        with pytest.raises(CannotRunError, match="3 long along dim 1; rank 0 of 2 along 'tp' holds 2 of 4"):
            column(linear, axis, input=SEQUENCE, length=4)(torch.ones(2, 3, 8))


def test_a_layer_says_what_it_is():
    with alone(2) as axis:
        assert isinstance(column(nn.Linear(6, 8), axis), ColumnLinear)
        assert repr(row(nn.Linear(6, 8, bias=False), axis)) == (
            "RowLinear(in_features=6, out_features=8, bias=False, input=S(-1), output=R, rank 0 of 2 along 'tp')"
        )
        assert isinstance(row(nn.Linear(6, 8), axis), RowLinear)

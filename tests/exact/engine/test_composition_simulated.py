"""Exact arithmetic around simulated ranks: a DTensor step has the digits of one process, and a planted bug has not."""

from contextlib import contextmanager

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from tests.exact import ranks
from torch import nn
from torch.distributed._local_tensor import LocalTensor, LocalTensorMode
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardproof.exact import ExactArithmetic
from shardproof.exact.engine.entry import inner_tensors


@contextmanager
def world(size):
    dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def give_each_rank_its_own(model, size):
    """Replace each parameter by one that every simulated rank has a copy of: the ranks' updates are their own."""
    for module in model.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            copies = LocalTensor({rank: p.detach().clone() for rank in range(size)})
            setattr(module, name, nn.Parameter(copies))
    return model


def train_on_simulated_ranks(name, size, *, shard_inside=False, plant=None):
    x, y = ranks.batch()
    with world(size):
        model = give_each_rank_its_own(ranks.build(), size)
        if not shard_inside:
            with LocalTensorMode(size):
                ranks.parallelize(model, size)
        with ExactArithmetic(seed=ranks.SEED, check=True) as exact:
            with LocalTensorMode(size):
                if shard_inside:
                    ranks.parallelize(model, size)
                if plant is not None:
                    plant(model)
                found = ranks.train(model, ranks.optimizer_of(name, model.parameters()), x, y)
            return {key: [exact.digits(inner) for inner in inner_tensors(t)] for key, t in found.items()}


def same(found, alone):
    return {key: all(torch.equal(digits, alone[key]) for digits in found[key]) for key in alone}


@pytest.mark.parametrize(
    ("name", "size", "shard_inside"),
    [("sgd", 2, True), ("adamw", 4, False), ("adamw foreach", 2, False)],
)
def test_a_tensor_parallel_step_has_the_digits_of_one_process(name, size, shard_inside):
    alone = ranks.train_alone(name)
    found = train_on_simulated_ranks(name, size, shard_inside=shard_inside)
    assert same(found, alone) == dict.fromkeys(alone, True)


def test_a_bias_counted_on_every_rank_is_seen():
    def add_bias_everywhere(model):
        model.down.register_forward_hook(lambda module, _inputs, output: output + module.bias.to_local())

    found = train_on_simulated_ranks("sgd", 2, plant=add_bias_everywhere)
    assert not same(found, ranks.train_alone("sgd"))["loss"]


def test_a_lost_part_of_a_gradient_is_seen_through_the_clipping():
    """The clip coefficient is an oracle: a wrong norm cannot hide behind it."""

    def lose_a_part(model):
        def hook(grad):
            local = grad.to_local()
            kept = local * LocalTensor({0: torch.tensor(1.0), 1: torch.tensor(0.0)})
            return DTensor.from_local(kept, grad.device_mesh, grad.placements)

        model.up.bias.register_hook(hook)

    alone, found = ranks.train_alone("sgd"), train_on_simulated_ranks("sgd", 2, plant=lose_a_part)
    assert not same(found, alone)["norm"]
    assert not same(found, alone)["down.weight"]


def locals_of(exact, tensor):
    return [exact.digits(inner) for inner in inner_tensors(tensor)]


def test_functional_collectives_on_simulated_ranks():
    drawn = [nn.Parameter(ranks.own(rank)) for rank in range(4)]
    with world(4), ExactArithmetic(seed=1, check=True) as exact:
        alone = [x.detach() * 3 for x in drawn]
        total = exact.digits(sum(alone))
        average = exact.digits(sum(alone) / 4)
        highest = exact.digits(torch.stack(alone).amax(0))
        everything = exact.digits(torch.cat(alone))
        with LocalTensorMode(4):
            mine = LocalTensor(dict(enumerate(x.clone() for x in alone)))
            group = dist.group.WORLD
            summed = functional.all_reduce(mine, "sum", group)
            averaged = functional.all_reduce(mine, "avg", group)
            maximum = functional.all_reduce(mine, "max", group)
            gathered = functional.all_gather_single(mine, 0, group)
            part = functional.reduce_scatter_single(gathered, "sum", 0, group)
            assert isinstance(summed, functional.AsyncCollectiveTensor)
            several = [x.wait() for x in (summed, averaged, maximum, gathered, part)]
            again = functional.all_reduce(mine, "sum", group) * 2 + 1  # used without waiting
        sums, averages, maxima, gathers, parts = (locals_of(exact, x) for x in several)
        doubled = locals_of(exact, again)
        wanted = exact.digits(sum(alone) * 2 + 1)
        assert [exact.bound(x).per_trial is not None for x in inner_tensors(several[0])] == [True] * 4
    assert all(torch.equal(x, total) for x in sums)
    assert all(torch.equal(x, average) for x in averages)
    assert all(torch.equal(x, highest) for x in maxima)
    assert all(torch.equal(x, everything) for x in gathers)
    assert all(torch.equal(x, wanted) for x in doubled)
    assert len(parts) == 4
    assert not torch.equal(total, highest)


def test_a_sum_over_ranks_has_the_degree_of_a_sum():
    parameters = [nn.Parameter(torch.randn(3, generator=torch.Generator().manual_seed(rank))) for rank in range(4)]
    with world(4), ExactArithmetic(seed=1) as exact:
        quotients = [1 / (p + 1) for p in parameters]
        with LocalTensorMode(4):
            mine = LocalTensor(dict(enumerate(x.detach() + 1 for x in quotients)))
            total = functional.all_reduce(mine, "sum", dist.group.WORLD).wait()
        one = exact.bound(quotients[0] + 1).per_trial
        assert [exact.bound(x).per_trial > one for x in inner_tensors(total)] == [True] * 4


def test_a_partial_sum_is_summed_and_a_lost_one_is_seen():
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    w = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    with world(2), ExactArithmetic(seed=1) as exact:
        whole = exact.digits(x @ w)
        with LocalTensorMode(2):
            mesh = init_device_mesh("cpu", (2,))
            a, b = distribute_tensor(x, mesh, [Shard(1)]), distribute_tensor(w, mesh, [Shard(0)])
            product = a @ b
            assert product.placements == (Partial(),)
            summed, partial = product.full_tensor(), product.to_local()
        assert all(torch.equal(d, whole) for d in locals_of(exact, summed))
        assert not any(torch.equal(d, whole) for d in locals_of(exact, partial))


def test_tensors_of_a_sharded_model_come_back_bit_for_bit():
    with world(2):
        model = give_each_rank_its_own(ranks.build(), 2).to(torch.bfloat16)
        with LocalTensorMode(2):
            ranks.parallelize(model, 2)
        before = {name: [t.clone() for t in inner_tensors(p)] for name, p in model.named_parameters()}
        x, _ = ranks.batch()

        def fail():
            with ExactArithmetic(seed=1), LocalTensorMode(2):
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                model(x).sum().backward()
                torch.optim.SGD(model.parameters(), lr=0.1).step()
                raise KeyError("in the middle")

        with pytest.raises(KeyError):
            fail()
        for name, p in model.named_parameters():
            assert isinstance(p, DTensor)
            assert p.dtype == torch.bfloat16
            assert p.grad is None
            for inner, old in zip(inner_tensors(p), before[name], strict=True):
                assert inner.dtype == torch.bfloat16
                assert torch.equal(inner, old)

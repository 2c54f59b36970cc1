"""Shapes of results on DTensors are worked out once for all ranks that are threads, and for equal arguments alone."""

from types import SimpleNamespace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor._sharding_prop import ShardingPropagator

from shardproof.worlds.shared_shapes import describe_call, shapes_shared
from shardproof.worlds.threaded import ThreadedWorld


@pytest.fixture
def asked(monkeypatch):
    """The ops of which PyTorch has worked out a shape."""
    found, compute = [], ShardingPropagator._propagate_tensor_meta_non_cached

    def note(self, op_schema):
        found.append(op_schema.op)
        return compute(self, op_schema)

    monkeypatch.setattr(ShardingPropagator, "_propagate_tensor_meta_non_cached", note)
    return found


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_ranks_ask_once(asked, ranks):
    found = ThreadedWorld(size=ranks).run(scale)
    assert found == [[((4, 3), torch.float32), ((4, 3), torch.float64), ((3,), torch.float32)]] * ranks
    assert asked.count(torch.ops.aten.mul.Tensor) == 2  # in each dtype
    assert asked.count(torch.ops.aten.sum.dim_IntList) == 1


def scale(comm):
    mesh = init_device_mesh("cpu", (comm.size,))
    rows = distribute_tensor(torch.arange(12.0).view(4, 3), mesh, [Shard(0)])
    return [(tuple(one.shape), one.dtype) for one in (rows * 2, rows.to(torch.float64) * 2, rows.sum(0))]


def schema(*arguments, **named):
    return SimpleNamespace(op=torch.ops.aten.mul.Tensor, args_schema=arguments, kwargs_schema=named)


def spec(*shape, dtype=torch.float32):
    meta = SimpleNamespace(shape=shape, stride=(1,) * len(shape), dtype=dtype)
    return SimpleNamespace(tensor_meta=meta, mesh=SimpleNamespace(device_type="cpu"))


def test_equal_calls_have_one_key():
    assert describe_call(schema(spec(2, 3), 2, dim=[0])) == describe_call(schema(spec(2, 3), 2, dim=[0]))


@pytest.mark.parametrize(
    "other",
    [
        schema(spec(2, 4), 2),
        schema(spec(2, 3, dtype=torch.float64), 2),
        schema(spec(2, 3), 2.0),
        schema(spec(2, 3), True),
        schema(spec(2, 3), 2, dim=0),
    ],
    ids=["shape", "dtype", "float", "bool", "named"],
)
def test_whatever_a_shape_or_dtype_depends_on_is_in_the_key(other):
    assert describe_call(schema(spec(2, 3), 2)) != describe_call(other)
    assert describe_call(schema(spec(2, 3), 1)) != describe_call(schema(spec(2, 3), True))


def test_an_argument_of_another_kind_is_not_looked_up():
    with shapes_shared(), pytest.raises(AttributeError):  # PyTorch's own, which has no propagator here
        ShardingPropagator._propagate_tensor_meta_non_cached(None, schema(object()))


def test_outside_pytorch_is_as_it_was():
    before = ShardingPropagator._propagate_tensor_meta_non_cached
    with shapes_shared():
        assert ShardingPropagator._propagate_tensor_meta_non_cached is not before
    assert ShardingPropagator._propagate_tensor_meta_non_cached is before

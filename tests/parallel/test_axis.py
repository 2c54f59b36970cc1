"""An axis is what one rank sees of a mesh, and stays itself in a copy."""

import copy

import pytest
from tests.parallel.ranks import alone
from torch.distributed.device_mesh import init_device_mesh

from shardproof.errors import CannotRunError
from shardproof.parallel.axis import Axis
from shardproof.worlds.threaded import ThreadedWorld


def positions(comm):
    mesh = init_device_mesh("cpu", (2, 3), mesh_dim_names=("dp", "tp"))
    return [(axis.name, axis.rank, axis.size, axis.by_exchange) for axis in (Axis.of(mesh, n) for n in ("dp", "tp"))]


def test_an_axis_is_this_ranks_position_along_it():
    for rank, found in enumerate(ThreadedWorld(size=6).run(positions)):
        assert found == [("dp", rank // 3, 2, True), ("tp", rank % 3, 3, True)]


def test_an_axis_that_the_mesh_has_not_is_refused():
    with alone(2):
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
        with pytest.raises(CannotRunError, match="no axis 'dp'; its axes are: tp"):
            Axis.of(mesh, "dp")
        with pytest.raises(CannotRunError, match="needs mesh_dim_names"):
            Axis.of(init_device_mesh("cpu", (2,)), "tp")


def test_a_copy_is_the_axis_itself():
    with alone(2) as axis:
        assert copy.deepcopy([axis])[0] is axis

"""Making a world of a kind, and which modules that imports."""

import subprocess
import sys

import pytest

from shardproof.errors import CannotRunError
from shardproof.worlds.make import make_world
from shardproof.worlds.simulated import SimulatedWorld
from shardproof.worlds.spawned import SpawnedWorld


def test_make_world_gives_the_kind_that_was_asked_for():
    assert make_world("simulated", size=3) == SimulatedWorld(size=3)
    assert make_world("spawned", size=3, timeout=9.0) == SpawnedWorld(size=3, timeout=9.0)


@pytest.mark.parametrize("kind", ["simulated", "spawned"])
def test_a_size_is_needed(kind):
    with pytest.raises(CannotRunError, match=f"^a {kind} world needs to know how many ranks it has"):
        make_world(kind)


def test_worlds_load_nothing_heavy():
    code = """
import sys
import torch
before = set(sys.modules)
import shardproof.worlds.launched, shardproof.worlds.simulated, shardproof.worlds.spawned, shardproof.worlds.ledger
heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy")
print(sorted(name for name in set(sys.modules) - before if name.startswith(heavy)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""Residues of a small prime, drawn, and Python's integers modulo it."""

import dataclasses

import pytest
import torch

from shardproof.exact.algebra.degree import VARIABLE
from shardproof.exact.algebra.field import Field
from shardproof.exact.algebra.lift import Lift
from shardproof.exact.algebra.oracles import Oracles
from shardproof.exact.algebra.residue import Arithmetic

PRIME = 10007
FIELD = Field(PRIME)
M = Arithmetic(field=FIELD, oracles=Oracles(field=FIELD, key=0), lift=Lift(field=FIELD))


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-FIELD.half, FIELD.half + 1, shape, generator=generator).double()


def residue(tensor):
    return M.residue(tensor, VARIABLE)


def modulo(tensor):
    rest = tensor.long() % PRIME
    return torch.where(rest > FIELD.half, rest - PRIME, rest)


def same(found, want):
    return torch.equal(found.tensor.long(), modulo(want))


def check_value_class(value, **change):
    """The class has slots, and takes its fields by name alone; it refuses `change`, a field and a new value, if given.

    Values that are made several times for each op are not frozen.
    """
    for name, new in change.items():
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, new)
    assert not hasattr(value, "__dict__")
    with pytest.raises(TypeError, match="positional argument"):
        type(value)(*(getattr(value, field.name) for field in dataclasses.fields(value)))

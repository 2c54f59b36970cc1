"""Leaving the field: where a residue would become a Python number, a branch or another library's array."""

from __future__ import annotations

from typing import Final

from torch import Tensor
from torch._C import _to_dlpack as to_dlpack

# Python-level functions that read memory without an ATen op that the mode could see.
READS_MEMORY: Final = frozenset({Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, to_dlpack})

# They print the representatives; nothing is computed from what is printed.
DISPLAYS: Final = frozenset({Tensor.__repr__, Tensor.__format__})

# ATen ops whose result is a Python number or bool.
READS_NUMBER: Final = frozenset({"_local_scalar_dense", "item", "equal", "is_nonzero", "allclose"})
# Those among them that read one number.
READS_ONE: Final = frozenset({"_local_scalar_dense", "item", "is_nonzero"})

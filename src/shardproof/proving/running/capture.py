"""Capture: what is recorded of a tensor, on one device or on one rank.

Always a clone of the rank's own plain tensor: collectives write in place, after a hook has seen the tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardproof.proving.records import Recorded
from shardproof.worlds.processgroup import say_nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from shardproof.exact import ExactArithmetic


def local_value(tensor: Tensor) -> Tensor:
    """This rank's own plain tensor: a DTensor's local one, the result of a collective under way."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        tensor = tensor._local_tensor  # noqa: SLF001 - to_local() would record an autograd node
    if isinstance(tensor, AsyncCollectiveTensor):
        tensor = tensor.wait()
    return tensor


def capture_exactly(exact: ExactArithmetic, tensor: Tensor, *, beat: Callable[[], None] = say_nothing) -> Recorded:
    """A tensor's residues, cloned (collectives write in place), with what is known of them."""
    beat()
    local = local_value(tensor)
    bound = exact.bound(local)
    return Recorded(
        values=exact.digits(local, symbols=True),
        chance=1.0 if bound.per_trial is None else bound.per_trial,
        void=bound.void,
    )


def capture_natively(tensor: Tensor, *, beat: Callable[[], None] = say_nothing) -> Recorded:
    """A tensor's numbers, cloned."""
    beat()
    return Recorded(values=local_value(tensor).detach().clone())

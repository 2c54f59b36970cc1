"""Which optimizers are right on shards: the elementwise ones, which update each element from its own history alone.

An optimizer that uses a tensor as a whole (Muon's orthogonalisation, Adafactor's row means, LAMB's norms, L-BFGS's
inner products) would treat a rank's shard as the full tensor, and silently train another model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torch import optim

from shardproof.errors import CannotRunError
from shardproof.parallel.sharding import sharding_of

if TYPE_CHECKING:
    from torch import Tensor

# PyTorch's own classes. A subclass may do anything, so it is not in the set.
ELEMENTWISE: frozenset[type[optim.Optimizer]] = frozenset(
    {
        optim.ASGD,
        optim.Adadelta,
        optim.Adagrad,
        optim.Adam,
        optim.AdamW,
        optim.Adamax,
        optim.NAdam,
        optim.RAdam,
        optim.RMSprop,
        optim.Rprop,
        optim.SGD,
    }
)

O = TypeVar("O", bound=optim.Optimizer)


def check_optimizer(optimizer: O) -> O:
    """Refuse an optimizer that would treat a shard as the full tensor.

    An optimizer that handles shards itself declares it with the attribute `shard_aware = True`, of its class or of the
    object. `save_checkpoint` and `load_checkpoint` make the same check.

    Returns:
        The optimizer.

    Raises:
        CannotRunError: a parameter is split, and the optimizer is neither in `ELEMENTWISE` nor `shard_aware`.
    """
    if type(optimizer) in ELEMENTWISE or getattr(optimizer, "shard_aware", False) is True:
        return optimizer
    split = [parameter for group in optimizer.param_groups for parameter in group["params"] if is_split(parameter)]
    if split:
        raise CannotRunError(
            f"{type(optimizer).__name__} is not known to be elementwise, and {len(split)} of its parameters are split "
            "over ranks: take one of torch.optim's elementwise ones, or set shard_aware = True if it knows of shards"
        )
    return optimizer


def is_split(parameter: Tensor) -> bool:
    """Whether a rank's tensor is a shard of a larger one."""
    sharding = sharding_of(parameter)
    return sharding is not None and sharding.dim is not None and sharding.size > 1

"""Styles that communicate a module's inputs and outputs; they split no parameters.

They register hooks and leave the module itself unchanged, so they fit modules of any framework.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import Partial, Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import (
    gather_shards,
    gather_shards_sum_gradients,
    sum_gradients,
    sum_gradients_together,
    sum_partials,
    sum_partials_take_shard,
    take_shard,
)
from shardproof.parallel.linear import REPLICATE
from shardproof.parallel.styles import Change
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.styles import Site
    from shardproof.parallel.traffic import CollectiveName

    Placement = Replicate | Shard | Partial


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A change of a tensor's placement; the gradient goes from `target` back to `source`.

    Attributes:
        source: the placement before.
        target: the placement after.
    """

    source: Placement
    target: Placement

    def __post_init__(self) -> None:
        if isinstance(self.target, Partial) and self.source != self.target:
            raise CannotRunError(
                f"a tensor cannot be moved from {self.source!r} to {self.target!r}: give Replicate() or Shard"
            )

    def __call__(self, x: Tensor, axis: Axis) -> Tensor:
        """Move a tensor; its shards must be equally long."""
        if self.source == self.target:
            return x
        if isinstance(self.source, Partial):
            if isinstance(self.target, Shard):
                return sum_partials_take_shard(x, axis, dim=self.target.dim)
            return sum_partials(x, axis)
        if isinstance(self.source, Shard):
            x = gather_shards(x, axis, dim=self.source.dim)
        return take_shard(x, axis, dim=self.target.dim) if isinstance(self.target, Shard) else x

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        if self.source == self.target:
            return Traffic()
        if isinstance(self.source, Partial):
            if isinstance(self.target, Shard):
                return Traffic(forward=("reduce_scatter",), backward=("all_gather",))
            return Traffic(forward=("all_reduce",))
        gathers: tuple[CollectiveName, ...] = ("all_gather",)
        return Traffic(
            forward=gathers if isinstance(self.source, Shard) else (),
            backward=gathers if isinstance(self.target, Shard) else (),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedInput:
    """An input of several column-split projections: one collective for all of them, where each would make its own.

    Of a replicated tensor: identity forward, all-reduce backward. Of shards of the sequence: all-gather forward,
    reduce-scatter backward. The projections must be `Column(input_shared=True)`.

    Attributes:
        source: placement of the input, `Replicate()` or `Shard(dim)`.
        argument: its position, or its keyword.
    """

    source: Replicate | Shard = REPLICATE
    argument: int | str = 0

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        traffic = Traffic(backward=("all_reduce",))
        if isinstance(self.source, Shard):
            traffic = Traffic(forward=("all_gather",), backward=("reduce_scatter",))
        hook = _InputHook(axis=site.axis, moves={self.argument: self._share})
        return Change(module=site.module, install=hook.install, traffic=((site.axis, traffic),))

    def _share(self, x: Tensor, axis: Axis) -> Tensor:
        if isinstance(self.source, Shard):
            return gather_shards_sum_gradients(x, axis, dim=self.source.dim)
        return sum_gradients(x, axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Changes the placements of a module's inputs and outputs, as torch's `PrepareModuleInput` and `Output`.

    Attributes:
        inputs: by position or keyword.
        outputs: by position; a single tensor is at 0.
    """

    inputs: Mapping[int | str, Move] = field(default_factory=dict)
    outputs: Mapping[int, Move] = field(default_factory=dict)

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        entering = _InputHook(axis=site.axis, moves=dict(self.inputs))
        leaving = _OutputHook(axis=site.axis, moves=dict(self.outputs))

        def install(module: nn.Module) -> None:
            entering.install(module)
            leaving.install(module)

        moves = [*self.inputs.values(), *self.outputs.values()]
        traffic = tuple((site.axis, move.traffic) for move in moves)
        return Change(module=site.module, install=install, traffic=traffic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Experts, each split by its width: outputs are all-reduced forward, the inputs' gradients backward, together.

    The module is called with hidden states, experts' indices and experts' weights, as in transformers. Hidden states
    and weights are replicated inputs that each rank uses differently.
    """

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        leaving = Move(source=Partial(), target=Replicate())
        traffic = Traffic(forward=("all_reduce",), backward=("all_reduce",))

        def install(module: nn.Module) -> None:
            _InputHook(axis=site.axis, moves={}, together=(0, 2)).install(module)
            _OutputHook(axis=site.axis, moves={0: leaving}).install(module)

        return Change(module=site.module, install=install, traffic=((site.axis, traffic),))


@dataclass(frozen=True, slots=True, kw_only=True)
class DividedInput:
    """Divides the input by the number of ranks: for a replicated expert, whose outputs are summed over the ranks."""

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        hook = _InputHook(axis=site.axis, moves={0: lambda x, axis: x / axis.size})
        return Change(module=site.module, install=hook.install)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryKeys:
    """Multi-head latent attention's `kv_a` projection, whose last features are the rotary keys of every head.

    The other features enter a column-split layer, which sums their gradient. The rotary keys go directly to this rank's
    heads, so they need identity forward, all-reduce backward. Their number is the model config's `qk_rope_head_dim`.
    """

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        width = getattr(getattr(site.model, "config", None), "qk_rope_head_dim", None)
        if not isinstance(width, int):
            raise CannotRunError(
                f"{site.name}: the model's configuration has no qk_rope_head_dim, the number of rotary keys"
            )

        def enter(x: Tensor, axis: Axis) -> Tensor:
            latent, rotary = x.split([x.shape[-1] - width, width], -1)
            return torch.cat([latent, sum_gradients(rotary, axis)], -1)

        hook = _OutputHook(axis=site.axis, moves={0: enter})
        traffic = ((site.axis, Traffic(backward=("all_reduce",))),)
        return Change(module=site.module, install=hook.install, traffic=traffic)


@dataclass(frozen=True, slots=True, kw_only=True)
class _InputHook:
    """A hook that moves inputs before a forward.

    Attributes:
        axis: the ranks.
        moves: by position or keyword.
        together: positions and keywords of replicated inputs that each rank uses differently: their gradients are
            summed in one message.
    """

    axis: Axis
    moves: Mapping[Any, Callable[[Tensor, Axis], Tensor]]
    together: tuple[Any, ...] = ()

    def install(self, module: nn.Module) -> None:
        """Register the hook on a module."""
        module.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        positional, named = list(args), dict(kwargs)

        def values_with(key: int | str) -> Any:
            values: Any = positional if isinstance(key, int) else named
            missing = key >= len(positional) if isinstance(key, int) else key not in named
            if missing or not isinstance(values[key], Tensor):
                raise CannotRunError(
                    f"{type(module).__name__} is called without a tensor as argument {key!r}; its style moves that one"
                )
            return values

        for key, move in self.moves.items():
            values = values_with(key)
            values[key] = move(values[key], self.axis)
        # One that requires no gradient has none to send.
        summed = [key for key in self.together if values_with(key)[key].requires_grad]
        if summed:
            entered = sum_gradients_together([values_with(key)[key] for key in summed], self.axis)
            for key, x in zip(summed, entered, strict=True):
                values_with(key)[key] = x
        return tuple(positional), named


@dataclass(frozen=True, slots=True, kw_only=True)
class _OutputHook:
    """A hook that moves outputs after a forward."""

    axis: Axis
    moves: Mapping[int, Callable[[Tensor, Axis], Tensor]]

    def install(self, module: nn.Module) -> None:
        """Register the hook on a module."""
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, _args: Any, output: Any) -> Any:
        values = list(output) if isinstance(output, tuple | list) else [output]
        for position, move in self.moves.items():
            if position >= len(values) or not isinstance(values[position], Tensor):
                raise CannotRunError(
                    f"{type(module).__name__} returns no tensor at {position}; its style moves that one"
                )
            values[position] = move(values[position], self.axis)
        return type(output)(values) if isinstance(output, tuple | list) else values[0]

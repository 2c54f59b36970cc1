"""Whole experts on ranks of their own: tokens go to the ranks of their experts, and what comes of them comes back.

For a module that is called as transformers calls its experts: with hidden states [T, h], the experts' indices [T, k]
and their weights [T, k]; it has an attribute `num_experts`, and parameters with a dim of so many first.

    hidden states, weights     this rank's tokens: its shard of those that all ranks have, or all of its own
    pairs of token, expert     sorted by expert, so by rank; each rank tells the others how many it sends to each expert
    rows                       exchanged; the experts' own forward on them, with local indices and weights of one
    rows                       exchanged back, weighted, and summed for each token
    outputs                    gathered, where all ranks have the same tokens

No token is dropped. The router's weights get their gradient on the rank of the token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import gather_shards, own_shard, take_shard
from shardproof.parallel.exchange import all_to_all, exchange_rows
from shardproof.parallel.linear import REPLICATE
from shardproof.parallel.sharding import Section, Sharding, cut_parameter, sharding_of, split_sections
from shardproof.parallel.styles import Change
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.parallel.axis import Axis
    from shardproof.parallel.styles import Site

_ARGUMENTS: Final = ("hidden_states", "top_k_index", "top_k_weights")
_OWN_TOKENS: Final = Shard(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeExperts:
    """Experts, each whole on one rank; for the experts' module, or for one of its parameters [experts, ...].

    Attributes:
        input: `Replicate()`: all ranks have the same tokens, and each sends its shard of them to the experts.
            `Shard(0)`: each rank has tokens of its own (a data axis); an expert's gradient is then that of the sum of
            the ranks' losses, and to be divided by the number of ranks where the loss is their mean.
    """

    input: Replicate | Shard = REPLICATE

    def __post_init__(self) -> None:
        if self.input not in (REPLICATE, _OWN_TOKENS):
            raise CannotRunError(f"WholeExperts(input={self.input!r}): give Replicate() or Shard(0), by tokens")

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        experts = getattr(site.module, "num_experts", None)
        parameters = dict(site.module.named_parameters(recurse=False))
        if not isinstance(experts, int) or not parameters or any(p.shape[0] != experts for p in parameters.values()):
            raise CannotRunError(
                f"{site.name} is a {type(site.module).__name__} with num_experts {experts!r}; needed is a module whose "
                "own parameters have a dim of num_experts first"
            )
        inner = [name for name, _ in site.module.named_parameters() if name not in parameters]
        if inner:
            raise CannotRunError(
                f"{site.name}.{inner[0]} is used by all experts: its gradient would be that of a rank's own; take it "
                "out of the experts"
            )
        shardings = {name: self.cut(parameter, site.axis) for name, parameter in parameters.items()}
        dispatch = _Dispatch(axis=site.axis, experts=experts, own_tokens=self.input == _OWN_TOKENS)

        def install(module: nn.Module) -> None:
            for name, sharding in shardings.items():
                parameter = module.get_parameter(name)
                if sharding_of(parameter) is None:  # an entry of its own may have cut it
                    module._parameters[name] = cut_parameter(parameter, sharding)  # noqa: SLF001 - it keeps its place
            dispatch.install(module)

        return Change(module=site.module, install=install, traffic=((site.axis, dispatch.traffic),))

    def cut(self, parameter: Tensor, axis: Axis) -> Sharding:
        """Along the experts, the first dim.

        Raises:
            CannotRunError: the ranks cannot share the experts.
        """
        experts = parameter.shape[0]
        if experts % axis.size:
            raise CannotRunError(f"{experts} experts on {axis.size} ranks: each rank needs as many whole experts")
        return split_sections(parameter.shape, 0, [Section(length=experts)], rank=axis.rank, size=axis.size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """What a call of the experts needs to bring their outputs back.

    Attributes:
        weights: [T, k], of this rank's tokens.
        order: the pairs of token and expert, by expert, as they were sent.
        sent: rows to each rank.
        received: rows of each rank.
        tokens: of all ranks, where all have the same.
    """

    weights: Tensor
    order: Tensor
    sent: Sequence[int]
    received: Sequence[int]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dispatch:
    """Hooks that bring tokens to the experts of a module and their outputs back.

    Attributes:
        axis: the ranks.
        experts: of all ranks.
        own_tokens: each rank has tokens of its own.
        calls: the call that is running, if there is one.
    """

    axis: Axis
    experts: int
    own_tokens: bool
    calls: list[_Call] = field(default_factory=list)

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        there_and_back = Traffic(forward=("all_to_all",) * 3, backward=("all_to_all",) * 2)
        if self.own_tokens:
            return there_and_back
        return there_and_back + Traffic(forward=("all_gather",), backward=("all_gather",) * 2)

    def install(self, module: nn.Module) -> None:
        """Register the hooks on a module, which then counts its own experts alone."""
        vars(module).update(num_experts=self.experts // self.axis.size)
        module.register_forward_pre_hook(self.send, with_kwargs=True)
        module.register_forward_hook(self.bring_back)

    def send(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        """The rows for this rank's experts, their local indices and weights of one, in place of the tokens."""
        hidden, ids, weights = _read_arguments(module, args, kwargs)
        tokens = len(hidden)
        if not self.own_tokens:
            hidden, weights = (take_shard(x, self.axis, dim=0) for x in (hidden, weights))
            ids = own_shard(ids, self.axis, dim=0)
        pairs = ids.reshape(-1)
        order = pairs.argsort(stable=True)
        counts = torch.bincount(pairs, minlength=self.experts)
        each = [self.experts // self.axis.size] * self.axis.size
        theirs = all_to_all(counts, self.axis, sent=each, received=each).view(self.axis.size, -1)
        sent, received = counts.view(self.axis.size, -1).sum(1).tolist(), theirs.sum(1).tolist()
        rows = exchange_rows(hidden[order // ids.shape[1]], self.axis, sent=sent, received=received)
        local = torch.arange(theirs.shape[1], device=ids.device).repeat(self.axis.size)
        local = local.repeat_interleave(theirs.flatten())
        self.calls[:] = [_Call(weights=weights, order=order, sent=sent, received=received, tokens=tokens)]
        if not len(rows):  # one row of zeros, so that experts and the exchange are part of the backward on every rank
            rows, local = F.pad(rows, (0, 0, 0, 1)), local.new_zeros(1)
        return (rows, local.unsqueeze(-1), rows.new_ones(len(rows), 1)), {}

    def bring_back(self, _module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        """The experts' outputs for the tokens that the module was called with."""
        call = self.calls.pop()
        rows = output[: sum(call.received)]
        rows = exchange_rows(rows, self.axis, sent=call.received, received=call.sent)
        weighted = rows * call.weights.flatten()[call.order].unsqueeze(-1)
        empty = rows.new_zeros(len(call.weights), rows.shape[1])
        found = empty.index_add(0, call.order // call.weights.shape[1], weighted)
        return found if self.own_tokens else gather_shards(found, self.axis, dim=0, total=call.tokens)


def _read_arguments(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Tensor]:
    given = {**dict(zip(_ARGUMENTS, args, strict=False)), **kwargs}
    found = [given.get(name) for name in _ARGUMENTS]
    if len(args) > len(_ARGUMENTS) or set(given) != set(_ARGUMENTS) or not all(isinstance(x, Tensor) for x in found):
        raise CannotRunError(
            f"{type(module).__name__} is called with {len(args)} arguments and {', '.join(kwargs) or 'no keywords'}; "
            f"needed are three tensors: {', '.join(_ARGUMENTS)}"
        )
    return [x for x in found if x is not None]

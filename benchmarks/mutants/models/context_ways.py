"""How queries of one rank meet the keys of all: heads for tokens (Ulysses), gathered keys, rings; with their backwards.

Each way is a function `way(lines, group) -> attend`, which stands in the place of `attend_alone`. Tensors are
[rows, tokens, heads, channels].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed._functional_collectives import all_to_all_single_autograd

from benchmarks.mutants.models.context_attention import HEAD, Mask, Tokens, repeat_heads, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch.distributed import ProcessGroup

    Attend = Callable[[Tensor, Tensor, Tensor, Tokens, Mask, Tensor | None], Tensor]

TOKENS, HEADS = 1, 2  # dims


def exchange(x: Tensor, scatter: int, gather: int, group: ProcessGroup) -> Tensor:
    """Each rank's part of one dim for its part of another, by one all-to-all of a buffer."""
    parts = x.unflatten(scatter, (group.size(), -1)).movedim(scatter, 0).contiguous()
    received = torch.empty_like(parts)
    dist.all_to_all_single(received, parts, group=group)
    return received.movedim(0, gather).flatten(gather, gather + 1)


def exchange_lists(x: Tensor, scatter: int, gather: int, group: ProcessGroup) -> Tensor:
    """The same by an all-to-all of lists."""
    parts = [part.contiguous() for part in x.chunk(group.size(), scatter)]
    received = [torch.empty_like(part) for part in parts]
    dist.all_to_all(received, parts, group=group)
    return torch.cat(received, gather)


class Exchanged(torch.autograd.Function):
    """All-to-all of one dim for another forward, the inverse backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scatter: int, gather: int, group: ProcessGroup, way: Callable[..., Tensor]) -> Any:
        ctx.given = scatter, gather, group, way
        return way(x, scatter, gather, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        scatter, gather, group, way = ctx.given
        return way(gradient, gather, scatter, group), None, None, None, None


def exchange_functionally(x: Tensor, scatter: int, gather: int, group: ProcessGroup, _by: Any) -> Tensor:
    """The same by PyTorch's functional collective, which has a backward of its own."""
    parts = x.unflatten(scatter, (group.size(), -1)).movedim(scatter, 0).contiguous()
    received = all_to_all_single_autograd(parts, [1] * group.size(), [1] * group.size(), group)
    return received.movedim(0, gather).flatten(gather, gather + 1)


def gathered(x: Tensor, group: ProcessGroup) -> Tensor:
    """All ranks' tokens, in the order of the ranks; not differentiable."""
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(group.size())]
    dist.all_gather(parts, x, group=group)
    return torch.cat(parts, TOKENS)


class Gathered(torch.autograd.Function):
    """All-gather of tokens forward, reduce-scatter backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return gathered(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        parts = gradient.unflatten(TOKENS, (ctx.group.size(), -1)).movedim(TOKENS, 0).contiguous()
        own = torch.empty_like(parts[0])
        dist.reduce_scatter(own, list(parts), group=ctx.group)
        return own, None


def passed(x: Tensor, group: ProcessGroup, step: int = 1) -> Tensor:
    """To a later rank of the ring, from an earlier one; not differentiable."""
    rank, size = group.rank(), group.size()
    x = x.detach().contiguous()
    received = torch.empty_like(x)
    to, source = (dist.get_global_rank(group, (rank + by) % size) for by in (step, -step))
    sends, receives = dist.P2POp(dist.isend, x, to, group), dist.P2POp(dist.irecv, received, source, group)
    for work in dist.batch_isend_irecv([sends, receives]):
        work.wait()
    return received


class Passed(torch.autograd.Function):
    """To the next rank forward, back to the one before backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: ProcessGroup) -> Tensor:
        ctx.group = group
        return passed(x, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return passed(gradient, ctx.group, -1), None


def all_tokens(tokens: Tokens, group: ProcessGroup) -> Tokens:
    """Places and documents of all ranks' tokens."""
    return Tokens(*(gathered(x, group) for x in tokens))


def after_sinks(scores: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Maximum and sum of exponentials that an online softmax starts from: those of the sinks alone, or nothing."""
    if sinks is None:
        return None
    largest = sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    return largest.detach(), (largest - largest.detach()).exp()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLines:
    """The lines that a bug changes.

    Attributes:
        exchange: of heads for tokens and back, with its backward.
        by: the collective that it exchanges by.
        gather: keys or values of all ranks, with its backward.
        queries: the tokens of the queries, as the mask is told of them.
        keys: those of all keys, as the mask is told of them, of this rank's own.
        keys_pass, values_pass: keys and values go on in a ring, with the backward.
        rescale: what was summed before, from how much the maximum has grown.
        start: what an online softmax starts from, of its sinks.
        sum_block: the exponentials of a block, beside the sinks; and the maximum that was taken away.
        own_sinks: those of a rank's heads, of this rank's number and how many ranks there are.
        edge: how many keys of the rank before a window of so many reaches.
        backward_keys: in a backward by hand, the keys that go on.
        sum_query_gradients: in a backward by hand, of the blocks.
        saved: in a backward by hand, the log-sum-exp that it starts from, of all blocks and of the rank's own.
    """

    by: Callable[[Tensor, int, int, ProcessGroup], Tensor] = exchange
    exchange: Callable[..., Tensor] = Exchanged.apply
    gather: Callable[[Tensor, ProcessGroup], Tensor] = Gathered.apply
    queries: Callable[[Tokens], Tokens] = lambda own: own
    keys: Callable[[Tokens, ProcessGroup], Tokens] = all_tokens
    keys_pass: Callable[[Tensor, ProcessGroup], Tensor] = Passed.apply
    values_pass: Callable[[Tensor, ProcessGroup], Tensor] = Passed.apply
    rescale: Callable[[Tensor], Tensor] = torch.exp
    start: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor] | None] = after_sinks
    sum_block: Callable[[Tensor, Tensor | None, Tensor], Tensor] = lambda powers, _sinks, _now: powers.sum(-1, True)
    own_sinks: Callable[[Tensor, int, int], Tensor] = lambda sinks, rank, ranks: sinks.chunk(ranks)[rank]
    edge: Callable[[int], int] = lambda window: window - 1
    backward_keys: Callable[[Tensor, ProcessGroup], Tensor] = passed
    sum_query_gradients: Callable[[list[Tensor]], Tensor] = lambda blocks: torch.stack(blocks).sum(0)
    saved: Callable[[Tensor, Tensor], Tensor] = lambda every, _own: every


def ulysses(lines: AttentionLines, group: ProcessGroup) -> Attend:
    """All tokens of some heads, in the place of some tokens of all heads (Jacobs et al. 2023)."""

    def attend(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, sinks: Tensor | None) -> Tensor:
        if k.shape[HEADS] < group.size():
            k, v = (repeat_heads(x, q.shape[HEADS]) for x in (k, v))
        q, k, v = (lines.exchange(x, HEADS, TOKENS, group, lines.by) for x in (q, k, v))
        seen = mask.sees(*(lines.keys(tokens, group) for _ in range(2)))
        own = None if sinks is None else lines.own_sinks(sinks, group.rank(), group.size())
        return lines.exchange(weigh(q, k, v, seen, own), TOKENS, HEADS, group, lines.by)

    return attend


def gather_keys(lines: AttentionLines, group: ProcessGroup) -> Attend:
    """Own queries, keys and values of all ranks: as Llama 3 was trained."""

    def attend(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, sinks: Tensor | None) -> Tensor:
        k, v = (lines.gather(x, group) for x in (k, v))
        return weigh(q, k, v, mask.sees(lines.queries(tokens), lines.keys(tokens, group)), sinks)

    return attend


def neighbour_keys(lines: AttentionLines, group: ProcessGroup) -> Attend:
    """Of a sliding window that is no longer than a shard: the last keys of the rank before, by one message.

    The first rank is sent those of the last, which it does not see.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, sinks: Tensor | None) -> Tensor:
        assert mask.window is not None
        assert mask.window - 1 <= q.shape[TOKENS]
        edge = slice(q.shape[TOKENS] - lines.edge(mask.window), None)
        k = torch.cat([lines.keys_pass(k[:, edge], group), k], TOKENS)
        v = torch.cat([lines.values_pass(v[:, edge], group), v], TOKENS)
        keys = Tokens(*(torch.cat([passed(x[:, edge], group), x], TOKENS) for x in tokens))
        return weigh(q, k, v, mask.sees(lines.queries(tokens), keys), sinks)

    return attend


def online(
    q: Tensor, blocks: Iterator[tuple[Tensor, Tensor, Tensor]], sinks: Tensor | None, lines: AttentionLines
) -> Tensor:
    """softmax(q k^T) v with a running maximum, of blocks (k, v, seen). Dao et al. 2022, algorithm 1."""
    heads, q = q.shape[HEADS], q.transpose(1, 2)
    largest, total, out = None, None, None
    for keys, values, seen in blocks:
        k, v = (repeat_heads(x, heads).transpose(1, 2) for x in (keys, values))
        scores = (q @ k.mT / HEAD**0.5).masked_fill(~seen, torch.finfo(q.dtype).min)
        block = scores.detach().amax(-1, keepdim=True)
        start = lines.start(scores, sinks) if largest is None else None
        if start is not None:
            (largest, total), out = start, torch.zeros_like(q)
        now = block if largest is None else torch.maximum(largest, block)
        powers = (scores - now).exp()
        if largest is None:
            total, out = lines.sum_block(powers, sinks, now), powers @ v
        else:
            factor = lines.rescale(largest - now)
            total, out = total * factor + lines.sum_block(powers, sinks, now), out * factor + powers @ v
        largest = now
    return (out / total).transpose(1, 2)


def ring(lines: AttentionLines, group: ProcessGroup) -> Attend:
    """Keys and values go round; autograd goes back through the messages (Liu et al. 2023)."""

    def attend(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, sinks: Tensor | None) -> Tensor:
        def blocks() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            keys, values, owners = k, v, tokens
            for left in reversed(range(group.size())):
                yield keys, values, mask.sees(lines.queries(tokens), owners)
                if left:
                    keys, values = lines.keys_pass(keys, group), lines.values_pass(values, group)
                    owners = Tokens(*(passed(x, group) for x in owners))

        return online(q, blocks(), sinks, lines)

    return attend


def blocks_in_order(lines: AttentionLines, group: ProcessGroup) -> Attend:
    """Gathered keys, a block after the other from the first: those that a window or a document hides come first."""

    def attend(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, sinks: Tensor | None) -> Tensor:
        seen = mask.sees(lines.queries(tokens), lines.keys(tokens, group))
        of_each = [lines.gather(x, group).chunk(group.size(), TOKENS) for x in (k, v)]
        return online(q, zip(*of_each, seen.chunk(group.size(), -1), strict=True), sinks, lines)

    return attend


class Ring(torch.autograd.Function):
    """A ring merged by log-sum-exps forward; backward, gradients of keys and values go round with them."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, how: tuple[ProcessGroup, AttentionLines]
    ) -> Tensor:
        group, lines = how
        ctx.given = mask, tokens, how
        out, lse, own = None, None, None
        keys, values, owners = k, v, tokens
        for left in reversed(range(group.size())):
            seen = mask.sees(tokens, owners)
            if seen.any():  # blocks of which no query sees anything are left out
                scores = _scores(q, keys, seen)
                block_lse = scores.logsumexp(-1, keepdim=True)
                from_lse = block_lse.masked_fill(block_lse == float("-inf"), 0.0)  # a query that sees nothing here
                block = (scores - from_lse).exp() @ values.transpose(1, 2)
                if out is None:
                    out, lse, own = block, block_lse, block_lse
                else:
                    both = torch.logaddexp(lse, block_lse)
                    out = (lse - both).exp() * out + (block_lse - both).exp() * block
                    lse = both
            if left:
                keys, values = passed(keys, group), passed(values, group)
                owners = Tokens(*(passed(x, group) for x in owners))
        ctx.save_for_backward(q, k, v, out, lines.saved(lse, own))
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        mask, tokens, (group, lines) = ctx.given
        q, k, v, out, lse = ctx.saved_tensors
        gradient = gradient.transpose(1, 2)
        delta = (gradient * out).sum(-1, keepdim=True)
        dq, dk, dv = [], torch.zeros_like(k), torch.zeros_like(v)
        owners = tokens
        for left in reversed(range(group.size())):
            seen = mask.sees(tokens, owners)
            if seen.any():
                weights = (_scores(q, k, seen) - lse).exp()
                inner = weights * (gradient @ v.transpose(1, 2).mT - delta) / HEAD**0.5
                dq.append((inner @ k.transpose(1, 2)).transpose(1, 2))
                dk = dk + (inner.mT @ q.transpose(1, 2)).transpose(1, 2)
                dv = dv + (weights.mT @ gradient).transpose(1, 2)
            dk, dv = passed(dk, group), passed(dv, group)
            if left:
                k, v = lines.backward_keys(k, group), passed(v, group)
                owners = Tokens(*(passed(x, group) for x in owners))
        return lines.sum_query_gradients(dq), dk, dv, None, None, None


def _scores(q: Tensor, k: Tensor, seen: Tensor) -> Tensor:
    return (q.transpose(1, 2) @ k.transpose(1, 2).mT / HEAD**0.5).masked_fill(~seen, float("-inf"))


def ring_by_hand(lines: AttentionLines, group: ProcessGroup) -> Attend:
    """A ring whose backward is written out, as ring-flash-attention and Transformer Engine have it; without sinks."""

    def attend(q: Tensor, k: Tensor, v: Tensor, tokens: Tokens, mask: Mask, sinks: Tensor | None) -> Tensor:
        assert sinks is None
        k, v = (repeat_heads(x, q.shape[HEADS]) for x in (k, v))
        return Ring.apply(q, k, v, tokens, mask, (group, lines))

    return attend


WAYS: Mapping[str, Callable[[AttentionLines, ProcessGroup], Attend]] = {
    "Ulysses": ulysses,
    "gathered keys": gather_keys,
    "neighbour's keys": neighbour_keys,
    "ring": ring,
    "blocks in order": blocks_in_order,
    "ring by hand": ring_by_hand,
}

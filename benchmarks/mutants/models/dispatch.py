"""Ways in which ranks bring the tokens of a mixture to experts of their own, and the lines that a bug changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_to_all_single_autograd

from benchmarks.mutants.collectives import Copy, Gather, Reduce, ReduceScatter, all_reduced, gathered
from benchmarks.mutants.models.routed import Chosen, Routed, add_up, kept_pairs, positions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed.device_mesh import DeviceMesh


class Exchange(torch.autograd.Function):
    """All-to-all of rows with these splits forward, with the splits changed about backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.splits, ctx.group = (received, sent), group
        return _exchange(x, received, sent, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        received, sent = ctx.splits
        return _exchange(grad, sent, received, ctx.group), None, None, None


def _exchange(x: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
    y = x.new_empty(sum(received), x.shape[1])
    dist.all_to_all_single(y, x.contiguous(), received, sent, group=group)
    return y


def exchange_functionally(x: Tensor, received: list[int], sent: list[int], group: dist.ProcessGroup) -> Tensor:
    """The same by PyTorch's functional collective, which has a backward of its own."""
    return all_to_all_single_autograd(x, received, sent, group)


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchLines:
    """The lines that a bug changes.

    Attributes:
        exchange: rows with splits, to the ranks and back.
        enter: what all ranks hold alike enters what each does apart: the tokens.
        enter_weights: the same, of the routing weights.
        leave: partial outputs of all ranks -> the whole.
        collect: partial outputs of all ranks' tokens -> this rank's tokens.
        restore: rows in the order of experts -> in the order in which they came; the second argument is that order.
        weigh: what comes back for each pair.
        average: the gradient of a parameter that every rank holds.
        average_experts: the gradient of the experts of a rank: of how many shares of the batch it is the sum.
        counts_before: each expert's pairs on this rank -> on the ranks before it.
        sum_counts: each expert's pairs on this rank -> on all ranks.
        auxiliary_scale: what an injected loss is scaled by; the argument is the number of ranks.
        run: the experts on the rows that arrived.
    """

    exchange: Callable[..., Tensor] = Exchange.apply
    enter: Callable[[Tensor], Tensor] = Copy.apply
    enter_weights: Callable[[Tensor], Tensor] = Copy.apply
    leave: Callable[[Tensor], Tensor] = Reduce.apply
    collect: Callable[[Tensor], Tensor] = ReduceScatter.apply
    restore: Callable[[Tensor, Tensor], Tensor] = lambda rows, order: rows[order.argsort()]
    weigh: Callable[[Tensor, Tensor], Tensor] = lambda rows, _weights: rows
    average: Callable[[Tensor, int], Tensor] = lambda grad, ranks: all_reduced(grad) / ranks
    average_experts: Callable[[Tensor, int], Tensor] = lambda grad, shares: grad / shares
    counts_before: Callable[[Tensor], Tensor] = lambda counts: gathered(counts[None])[: dist.get_rank()].sum(0)
    sum_counts: Callable[[Tensor], Tensor] = all_reduced
    auxiliary_scale: Callable[[int], float] = lambda _ranks: 1.0
    run: Callable[[nn.Module, Tensor, Tensor], Tensor] = lambda experts, rows, counts: experts(rows, counts)


def by_all_to_all(model: Routed, x: Tensor, chosen: Chosen, lines: DispatchLines, group: dist.ProcessGroup) -> Tensor:
    """Each pair of a token and an expert to its rank and back, as many as there are: none is dropped for room."""
    ranks = dist.get_world_size(group)
    pairs = kept_pairs(model, chosen)
    ids = chosen.ids.flatten()[pairs]
    order = ids.argsort(stable=True)
    pairs, counts = pairs[order], torch.bincount(ids, minlength=model.mixture.experts)
    theirs = torch.empty_like(counts)
    dist.all_to_all_single(theirs, counts, group=group)
    per_rank = theirs.view(ranks, -1)
    sent, received = counts.view(ranks, -1).sum(1).tolist(), per_rank.sum(1).tolist()
    arrived = lines.exchange(x[pairs // model.mixture.chosen], received, sent, group)
    expert = torch.arange(per_rank.shape[1]).repeat(ranks).repeat_interleave(per_rank.flatten())
    by_expert = expert.argsort(stable=True)
    done = lines.restore(lines.run(model.experts, arrived[by_expert], per_rank.sum(0)), by_expert)
    rows = lines.exchange(done, sent, received, group)
    return add_up(x, lines.weigh(rows, chosen.weights.flatten()[pairs, None]), pairs, chosen)


def by_gathering(model: Routed, x: Tensor, chosen: Chosen, lines: DispatchLines, _group: dist.ProcessGroup) -> Tensor:
    """All tokens to every rank, which runs its own experts; the sums of their outputs are scattered."""
    everywhere = Chosen(ids=gathered(chosen.ids), weights=Gather.apply(chosen.weights))
    return lines.collect(_own_experts(model, Gather.apply(x), everywhere, lines))


def by_summing(model: Routed, x: Tensor, chosen: Chosen, lines: DispatchLines, _group: dist.ProcessGroup) -> Tensor:
    """Every rank has the same tokens, and runs its own experts; the outputs are summed."""
    mine = Chosen(ids=chosen.ids, weights=lines.enter_weights(chosen.weights))
    return lines.leave(_own_experts(model, lines.enter(x), mine, lines))


def _own_experts(model: Routed, x: Tensor, chosen: Chosen, lines: DispatchLines) -> Tensor:
    """The outputs of this rank's experts for all of these tokens; zero for tokens that go elsewhere alone."""
    each = len(model.experts.up)
    local = chosen.ids.flatten() - each * dist.get_rank()
    pairs = ((local >= 0) & (local < each)).nonzero()[:, 0]
    pairs = pairs[local[pairs].argsort(stable=True)]
    counts = torch.bincount(local[pairs], minlength=each)
    return add_up(x, lines.run(model.experts, x[pairs // model.mixture.chosen], counts), pairs, chosen)


def by_buffers(model: Routed, x: Tensor, chosen: Chosen, lines: DispatchLines, _group: dist.ProcessGroup) -> Tensor:
    """A place for each pair in a buffer of `capacity` rows for each expert; what finds no place is dropped."""
    capacity, experts = model.mixture.capacity, model.mixture.experts
    assert capacity is not None
    ids = chosen.ids.flatten()
    pairs = kept_pairs(model, chosen)
    place = ids[pairs] * capacity + positions(model, ids)[pairs]
    rows = x.new_zeros(experts * capacity, x.shape[1]).index_add(0, place, x[pairs // model.mixture.chosen])
    own = lines.collect(rows)  # a place is filled by one rank
    counts = torch.full((experts // dist.get_world_size(),), capacity)
    return add_up(x, Gather.apply(lines.run(model.experts, own, counts))[place], pairs, chosen)


WAYS: Final = {
    "all-to-all": by_all_to_all,
    "gathered tokens": by_gathering,
    "summed outputs": by_summing,
    "buffers": by_buffers,
}


def split_experts(way: str, lines: DispatchLines | None = None) -> Callable[[nn.Module, DeviceMesh], nn.Module]:
    """Whole experts on ranks of their own.

    Args:
        way: one of `WAYS`. Of "summed outputs" all ranks have the same tokens; of the others each has its own.
        lines: of it; all right if not given.
    """
    lines = lines or DispatchLines()

    def parallelize(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        names = mesh.mesh_dim_names or ()
        group = mesh.get_group("ep" if "ep" in names else 0)
        ranks, rank, shares = dist.get_world_size(group), dist.get_rank(group), dist.get_world_size()
        for name in ("up", "down"):
            whole = getattr(model.experts, name).detach()
            setattr(model.experts, name, nn.Parameter(whole.chunk(ranks)[rank].clone()))
        model.dispatch = lambda moe, x, chosen: WAYS[way](moe, x, chosen, lines, group)
        if way == "summed outputs":
            return model
        model.counts_before, model.sum_counts = lines.counts_before, lines.sum_counts
        model.auxiliary_scale = lines.auxiliary_scale(shares)
        copies = mesh.get_group("dp") if len(names) > 1 else None

        def average(parameter: nn.Parameter) -> None:
            if parameter is model.experts.up or parameter is model.experts.down:
                if copies is not None:
                    dist.all_reduce(parameter.grad, group=copies)
                parameter.grad = lines.average_experts(parameter.grad, shares)
            else:
                parameter.grad = lines.average(parameter.grad, shares)

        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(average)
        return model

    return parallelize

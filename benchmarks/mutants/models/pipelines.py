"""A model in stages: PyTorch's schedules of pipelines, 1F1B by hand, and the lines that a bug changes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.configuration import Configuration
from benchmarks.mutants.lines import unchanged
from benchmarks.mutants.steps import sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from shardproof.proving.running.candidate import Run

    Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

HIDDEN, VOCABULARY, TOKENS, IGNORED = 8, 12, 5, -100
CLIP_NORM = 0.5
SINGLE = ("GPipe", "1F1B")  # schedules of one stage on each rank
LOOPED = ("Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble")  # of two: the stages go around
V_SHAPED = ("ZBVZeroBubble", "DualPipeV")  # of two: the stages come back
SCHEDULES = (*SINGLE, *LOOPED, *V_SHAPED)
BY_HAND = "1F1B by hand"


class Layer(nn.Module):
    """x + down(gelu(up(norm(x))))."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, 12), nn.Linear(12, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Language(nn.Module):
    """A table, layers, and a head, which may have the table's weight."""

    def __init__(self, layers: int, *, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Stage(nn.Module):
    """Some of the layers, under the names that they have in the model; the first has the table, the last the head."""

    def __init__(
        self,
        model: Language,
        layers: Iterable[int],
        *,
        is_first: bool,
        is_last: bool,
        finish: Callable[[Tensor], Tensor] = unchanged,
    ) -> None:
        super().__init__()
        self.finish = finish
        self.layers = nn.ModuleDict({str(i): model.layers[i] for i in layers})
        self.embed = model.embed if is_first else None
        self.norm, self.head = (model.norm, model.head) if is_last else (None, None)

    def forward(self, x: Tensor) -> Tensor:
        if self.embed is not None:
            x = self.embed(x)
        for layer in self.layers.values():
            x = layer(x)
        return self.finish(x) if self.head is None else self.head(self.norm(x))


def layers_of(stage: int, stages: int, layers: int) -> range:
    """As many for each stage, and one more for the first ones if they do not divide."""
    each, more = divmod(layers, stages)
    start = stage * each + min(stage, more)
    return range(start, start + each + (stage < more))


def stages_of(rank: int, ranks: int, schedule: str) -> tuple[int, ...]:
    """Which stages a rank has."""
    if schedule in V_SHAPED:
        return rank, 2 * ranks - 1 - rank
    return (rank, rank + ranks) if schedule in LOOPED else (rank,)


def share(logits: Tensor, targets: Tensor, valid: Tensor, _microbatches: int) -> Tensor:
    """A microbatch's share of the mean over all valid tokens; shares are summed."""
    return _cross_entropy(logits, targets, "sum") / valid


def mean(logits: Tensor, targets: Tensor, _valid: Tensor, microbatches: int) -> Tensor:
    """A microbatch's mean over its own tokens, of so many: the same where all have as many."""
    return _cross_entropy(logits, targets, "mean") / microbatches


def _cross_entropy(logits: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction=reduction)


def summed(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """Over the ranks of the group, as a new tensor; alone where there is none."""
    x = x.detach().clone()
    if group is not None:
        dist.all_reduce(x, group=group)
    return x


def norm_of(parameters: Mapping[str, nn.Parameter], held_twice: set[str], group: dist.ProcessGroup | None) -> Tensor:
    """Of the whole model's gradient: the stages' squares summed, what two stages hold counted once."""
    counted = [p.grad.square().sum() for name, p in parameters.items() if name not in held_twice]
    return summed(torch.stack(counted).sum(), group).sqrt()


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineLines:
    """The lines that a bug changes.

    Attributes:
        layers_of: the layers of a stage, of how many stages and layers.
        stages_of: the stages of a rank, of how many ranks, in a schedule.
        loss: of a microbatch; shares of the loss that are summed.
        scales: whether the schedule divides gradients by the number of microbatches.
        targets: of the whole batch, as the last stage has them.
        sum_tied: the gradient of what the first and the last stage hold, over these two.
        sum_copies: a gradient over data-parallel copies.
        norm: of all gradients.
        total: what the loss of a rank's own stages is for the others.
        finish: what a stage does with its result.
        received: by hand, the activation that a microbatch of this number goes on with, of those received.
        order: by hand, of the microbatches in the backward.
        start: by hand, what comes before each microbatch's backward; the arguments are its number and the parameters.
    """

    layers_of: Callable[[int, int, int], Iterable[int]] = layers_of
    stages_of: Callable[[int, int, str], tuple[int, ...]] = stages_of
    loss: Callable[[Tensor, Tensor, Tensor, int], Tensor] = share
    scales: bool = False
    targets: Callable[[Tensor], Tensor] = unchanged
    sum_tied: Callable[[Tensor, dist.ProcessGroup | None], Tensor] = summed
    sum_copies: Callable[[Tensor, dist.ProcessGroup | None], Tensor] = summed
    norm: Callable[[Mapping[str, nn.Parameter], set[str], dist.ProcessGroup | None], Tensor] = norm_of
    total: Callable[[Tensor, dist.ProcessGroup | None], Tensor] = summed
    finish: Callable[[Tensor], Tensor] = unchanged
    received: Callable[[list[Tensor], int], Tensor] = lambda messages, number: messages[number]
    order: Callable[[deque[Any]], Any] = lambda waiting: waiting.popleft()
    start: Callable[[int, Sequence[nn.Parameter]], None] = lambda _number, _parameters: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """How a model is trained in stages.

    Attributes:
        schedule: of `SCHEDULES`, or by hand.
        layers: how many the model has.
        microbatches: how many.
        rows: of the batch.
        tied: whether the head has the table's weight.
        padded: how many targets are ignored: 'unequal' numbers in the microbatches, or 'none'.
        sharded: whether the copies of a stage share out its parameters by FSDP2, which averages gradients over them.
        clipped: by the norm of all gradients.
        optimizer: of each rank's stages.
        lines: that a bug changes.
    """

    schedule: str = "GPipe"
    layers: int = 4
    microbatches: int = 4
    rows: int = 8
    tied: bool = False
    padded: str = "unequal"
    sharded: bool = False
    clipped: bool = False
    optimizer: Optimizer = sgd
    lines: PipelineLines = field(default_factory=PipelineLines)

    def make_step(self) -> Step:
        """The step on one device."""
        generator = torch.Generator().manual_seed(5)
        ids = torch.randint(VOCABULARY, (self.rows, TOKENS), generator=generator)
        ids.view(-1)[:VOCABULARY] = torch.arange(VOCABULARY)  # every row of the table is used
        targets = torch.randint(VOCABULARY, (self.rows, TOKENS), generator=generator)
        if self.padded == "unequal":
            for row in range(self.rows):
                targets[row, : row % TOKENS] = IGNORED
        return Step(
            model=partial(Language, self.layers, tied=self.tied),
            batch=(ids, targets),
            loss=partial(_cross_entropy, reduction="mean"),
            optimizer=self.optimizer,
            clip_norm=CLIP_NORM if self.clipped else None,
            steps=2,
        )

    def train(self, run: Run) -> None:
        """The training step of one rank, on a mesh with an axis pp, and dp or tp beside it."""
        lines, groups = self.lines, _Groups(run)
        model = Language(self.layers, tied=self.tied).to(next(iter(run.state.values())).dtype)
        model.load_state_dict(dict(run.state))
        if "tp" in groups.names:
            for layer in model.layers:
                parallelize_module(layer, run.mesh["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        numbers = lines.stages_of(groups.rank, groups.ranks, self.schedule)
        count = groups.ranks * len(numbers)
        stages = [
            Stage(
                model,
                lines.layers_of(number, count, self.layers),
                is_first=number == 0,
                is_last=number == count - 1,
                finish=lines.finish,
            )
            for number in numbers
        ]
        if self.sharded:
            for stage in stages:
                for layer in stage.layers.values():
                    fully_shard(layer, mesh=run.mesh["dp"])
                fully_shard(stage, mesh=run.mesh["dp"])
        run.watch(*stages)
        parameters = {name: p for stage in stages for name, p in stage.named_parameters()}
        own = list(dict.fromkeys(parameters.values()))
        optimizer = self.optimizer(own)
        ends = groups.ends() if self.tied and lines.stages_of(0, groups.ranks, self.schedule)[-1] != count - 1 else None
        forward_backward = self._by_hand(stages[0], groups) if self.schedule == BY_HAND else None
        if forward_backward is None:
            forward_backward = self._by_pytorch(stages, numbers, count, groups)
        for batch in run.batches():
            optimizer.zero_grad()
            ids, targets = (t.chunk(groups.copies)[groups.copy] for t in batch)
            valid = summed((targets != IGNORED).sum(), groups.data)
            averaged = groups.copies if self.sharded else 1
            loss = forward_backward(ids, lines.targets(targets), valid / averaged) / averaged
            run.record_loss(lines.total(summed(loss, groups.data), groups.stages))
            if ends is not None and (0 in numbers or count - 1 in numbers):
                shared = parameters["embed.weight" if 0 in numbers else "head.weight"]
                shared.grad = lines.sum_tied(shared.grad, ends)
            if groups.data is not None and not self.sharded:
                for parameter in own:
                    parameter.grad = lines.sum_copies(parameter.grad, groups.data)
            run.record_gradients()
            norm = None
            if self.clipped:
                norm = lines.norm(parameters, {"head.weight"} if self.tied else set(), groups.stages)
                torch.nn.utils.clip_grads_with_norm_(own, CLIP_NORM, norm)
            optimizer.step()
            run.record_update(optimizer, norm=norm)

    def _by_pytorch(
        self, stages: list[Stage], numbers: Sequence[int], count: int, groups: _Groups
    ) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        from torch.distributed.pipelining import PipelineStage, schedules

        lines, valid = self.lines, torch.ones(())

        def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
            return lines.loss(logits, targets, valid, self.microbatches)

        made = [
            PipelineStage(stage, number, count, torch.device("cpu"), group=groups.stages)
            for stage, number in zip(stages, numbers, strict=True)
        ]
        schedule: Any = getattr(schedules, f"Schedule{self.schedule}")(
            made[0] if self.schedule in SINGLE else made,
            self.microbatches,
            loss_fn=loss_of,
            scale_grads=lines.scales,
        )

        def forward_backward(ids: Tensor, targets: Tensor, tokens: Tensor) -> Tensor:
            nonlocal valid
            valid = tokens
            losses: list[Tensor] = []
            given = (ids,) if 0 in numbers else ()
            wanted = {"target": targets, "losses": losses} if count - 1 in numbers else {}
            schedule.step(*given, **wanted)
            return torch.stack(losses).sum() if losses else _nothing(stages)

        return forward_backward

    def _by_hand(self, stage: Stage, groups: _Groups) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """One forward, one backward, as Megatron has it: warm-up, steady state, cool-down."""
        lines, rank, ranks = self.lines, groups.rank, groups.ranks
        is_first, is_last = rank == 0, rank == ranks - 1
        dtype = next(stage.parameters()).dtype

        def exchange(sent: list[tuple[Tensor, int]], received: list[tuple[Tensor, int]]) -> None:
            ops = [dist.P2POp(dist.isend, x, groups.global_rank(to), groups.stages) for x, to in sent]
            ops += [dist.P2POp(dist.irecv, x, groups.global_rank(source), groups.stages) for x, source in received]
            for work in dist.batch_isend_irecv(ops) if ops else ():
                work.wait()

        def forward_backward(ids: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
            rows, wanted = ids.chunk(self.microbatches), targets.chunk(self.microbatches)
            waiting: deque[tuple[int, Tensor, Tensor]] = deque()
            losses: list[Tensor] = []
            messages: list[Tensor] = []
            counts = [0, 0]

            def buffer() -> Tensor:
                messages.append(torch.empty(len(rows[0]), TOKENS, HIDDEN, dtype=dtype))
                return messages[-1]

            def forward() -> Tensor:
                number = counts[0]
                counts[0] += 1
                given = rows[number] if is_first else lines.received(messages, number).requires_grad_()
                output = stage(given)
                if is_last:
                    output = lines.loss(output, wanted[number], valid, self.microbatches)
                    losses.append(output.detach())
                waiting.append((number, given, output))
                return output

            def backward(gradient: Tensor | None) -> Tensor | None:
                lines.start(counts[1], list(stage.parameters()))
                counts[1] += 1
                _, given, output = lines.order(waiting)
                output.backward(gradient)
                return None if is_first else given.grad

            warm_up = min(ranks - 1 - rank, self.microbatches)
            steady = self.microbatches - warm_up
            for _ in range(warm_up):
                x = None if is_first else buffer()
                exchange([], [] if x is None else [(x, rank - 1)])
                exchange([(forward().detach(), rank + 1)], [])
            x = None if is_first else buffer()
            if x is not None and steady:
                exchange([], [(x, rank - 1)])
            for number in range(steady):
                output = forward()
                gradient = None if is_last else torch.empty(output.shape, dtype=dtype)
                if gradient is not None:
                    exchange([(output.detach(), rank + 1)], [(gradient, rank + 1)])
                sent = backward(gradient)
                x = None if is_first or number == steady - 1 else buffer()
                if sent is not None:
                    exchange([(sent, rank - 1)], [] if x is None else [(x, rank - 1)])
            for _ in range(warm_up):
                gradient = torch.empty(len(rows[0]), TOKENS, HIDDEN, dtype=dtype)
                exchange([], [(gradient, rank + 1)])
                sent = backward(gradient)
                if sent is not None:
                    exchange([(sent, rank - 1)], [])
            return torch.stack(losses).sum() if losses else _nothing([stage])

        return forward_backward


def _nothing(stages: Sequence[Stage]) -> Tensor:
    return torch.zeros((), dtype=next(stages[0].parameters()).dtype)


class _Groups:
    """Of a mesh with an axis pp, and of dp or tp beside it."""

    def __init__(self, run: Run) -> None:
        mesh = run.mesh
        self.names = mesh.mesh_dim_names or ()
        self.stages = mesh["pp"].get_group()
        self.rank, self.ranks = mesh["pp"].get_local_rank(), mesh["pp"].size()
        self.data = mesh["dp"].get_group() if "dp" in self.names else None
        self.copy, self.copies = (mesh["dp"].get_local_rank(), mesh["dp"].size()) if self.data is not None else (0, 1)

    def global_rank(self, stage: int) -> int:
        return dist.get_global_rank(self.stages, stage)

    def ends(self) -> dist.ProcessGroup | None:
        """The group of the first and the last rank of this pipeline, made by all ranks; None on the others."""
        rows = [dist.get_process_group_ranks(self.stages)]
        every: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(every, rows[0])
        found = None
        for ranks in sorted({(one[0], one[-1]) for one in every}):
            group = dist.new_group(list(ranks))
            found = group if dist.get_rank() in ranks else found
        return found


def pipelined(name: str, pipeline: Pipeline, mesh: Mapping[str, int], **settings: Any) -> Configuration:
    """A model trained in stages, under its name and the sizes of the mesh's axes."""
    name = f"{name}, {' x '.join(f'{axis} {size}' for axis, size in mesh.items())}"
    return Configuration(name=name, make_step=pipeline.make_step, candidate=pipeline.train, mesh=mesh, **settings)

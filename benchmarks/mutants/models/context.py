"""A decoder whose sequences are split over ranks: its masks, positions and labels, its training, the lines of a bug."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.configuration import Configuration
from benchmarks.mutants.models.context_attention import HEAD, Mask, Tokens, attend_alone
from benchmarks.mutants.models.context_ways import WAYS, AttentionLines
from benchmarks.mutants.models.training import load_unwatched
from benchmarks.mutants.steps import sgd
from shardproof.proving.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.proving.running.candidate import Run

    Optimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

HIDDEN, VOCABULARY, LENGTH, ROWS, IGNORED = 8, 12, 16, 2, -100
CLIP_NORM = 0.5
DOCUMENTS = ((5, 7, 4), (3, 10, 3), (10, 1, 5), (2, 10, 4))  # lengths in each row; few end where a shard does


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Of the model.

    Attributes:
        heads: of the queries.
        kv_heads: of keys and values.
        layers: of the decoder.
        places: positions in a document that there may be.
        sinks: whether each head has a learned logit beside the keys', of no value (GPT-OSS).
        mask: which keys a query sees.
        tied: whether the head has the table's weight.
    """

    heads: int = 4
    kv_heads: int = 4
    layers: int = 1
    places: int = 10
    sinks: bool = False
    mask: Mask = field(default_factory=Mask)
    tied: bool = False


class Attention(nn.Module):
    """Of tokens [rows, tokens, HIDDEN]; how they attend to those of other ranks is an attribute."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.q = nn.Linear(HIDDEN, sizes.heads * HEAD)
        self.k, self.v = (nn.Linear(HIDDEN, sizes.kv_heads * HEAD) for _ in range(2))
        self.out = nn.Linear(sizes.heads * HEAD, HIDDEN)
        self.sinks = nn.Parameter(torch.randn(sizes.heads)) if sizes.sinks else None
        self.mask, self.attend = sizes.mask, attend_alone

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (-1, HEAD)) for part in (self.q, self.k, self.v))
        return self.out(self.attend(q, k, v, tokens, self.mask, self.sinks).flatten(2))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + down(gelu(up(norm(x))))."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention_norm, self.norm = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.attention = Attention(sizes)
        self.up, self.down = nn.Linear(HIDDEN, 12), nn.Linear(12, HIDDEN)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        x = x + self.attention(self.attention_norm(x), tokens)
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Decoder(nn.Module):
    """Tables of tokens and of positions in a document, layers, and a head."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, HIDDEN), nn.Embedding(sizes.places, HIDDEN)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm, self.head = nn.LayerNorm(HIDDEN), nn.Linear(HIDDEN, VOCABULARY, bias=False)
        if sizes.tied:
            self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, positions: Tensor, tokens: Tokens) -> Tensor:
        x = self.embed(ids) + self.place(positions)
        for layer in self.layers:
            x = layer(x, tokens)
        return self.head(self.norm(x))


class Sequences(NamedTuple):
    """What is split: each [rows, tokens]. `index` is the place in the sequence, `positions` that in the document."""

    ids: Tensor
    labels: Tensor
    positions: Tensor
    index: Tensor
    documents: Tensor


def shift_labels(ids: Tensor, documents: Tensor) -> Tensor:
    """Each token's successor in its document; the last token of a document has none."""
    following, same = ids.roll(-1, 1), documents.roll(-1, 1) == documents
    same[:, -1] = False
    return following.masked_fill(~same | (documents < 0), IGNORED)


def prepare(ids: Tensor, documents: Tensor) -> Sequences:
    """Labels, positions and places of whole sequences."""
    index = torch.arange(ids.shape[1]).expand_as(ids)
    starts = documents != F.pad(documents, (1, 0), value=-2)[:, :-1]
    positions = index - index.masked_fill(~starts, 0).cummax(1).values
    return Sequences(ids, shift_labels(ids, documents), positions, index, documents)


def sum_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Over the tokens that have a label."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The mean over all labels, on one device."""
    all_of = prepare(*batch)
    logits = model(all_of.ids, all_of.positions, Tokens(all_of.index, all_of.documents))
    return sum_losses(logits, all_of.labels) / (all_of.labels != IGNORED).sum()


def contiguous(x: Tensor, rank: int, ranks: int) -> Tensor:
    """One part of dim 1."""
    return x.chunk(ranks, 1)[rank]


def zigzag(x: Tensor, rank: int, ranks: int) -> Tensor:
    """A part from the head and one from the tail, so that causal work is balanced: Megatron's order."""
    parts = x.chunk(2 * ranks, 1)
    return torch.cat([parts[rank], parts[2 * ranks - 1 - rank]], 1)


def split(all_of: Sequences, cut: Callable[[Tensor, int, int], Tensor], rank: int, ranks: int) -> Sequences:
    """The tokens of a rank."""
    return Sequences(*(cut(x, rank, ranks) for x in all_of))


def summed(x: Tensor, groups: Sequence[dist.ProcessGroup]) -> Tensor:
    """Over the ranks of all these groups, as a new tensor."""
    x = x.detach().clone()
    for group in groups:
        dist.all_reduce(x, group=group)
    return x


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextLines:
    """The lines that a bug changes.

    Attributes:
        attention: those of the attention.
        split: the tokens of a rank, in an order.
        count: how many labels all ranks have, of this rank's number.
        scale: the share of the loss that goes backward, on so many ranks that split sequences.
        sum_gradients: over the ranks of the groups.
    """

    attention: AttentionLines = field(default_factory=AttentionLines)
    split: Callable[[Sequences, Callable[..., Tensor], int, int], Sequences] = split
    count: Callable[[Tensor, Sequence[dist.ProcessGroup]], Tensor] = summed
    scale: Callable[[Tensor, int], Tensor] = lambda share, _ranks: share
    sum_gradients: Callable[[Tensor, Sequence[dist.ProcessGroup]], Tensor] = summed


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """How a decoder is trained on parts of sequences, on a mesh with an axis cp, and dp or tp beside it.

    Attributes:
        way: how a rank's queries meet the keys of others, of `WAYS`.
        sizes: of the model.
        order: which tokens a rank has.
        rows: of the batch.
        padded: whether the last tokens of each row are padding.
        sharded: whether the ranks with tokens of their own share out parameters by FSDP2.
        clipped: by the norm of all gradients.
        optimizer: of the parameters.
        steps: how many.
        lines: that a bug changes.
    """

    way: str = "ring"
    sizes: Sizes = field(default_factory=Sizes)
    order: Callable[[Tensor, int, int], Tensor] = contiguous
    rows: int = ROWS
    padded: bool = False
    sharded: bool = False
    clipped: bool = False
    optimizer: Optimizer = sgd
    steps: int = 1
    lines: ContextLines = field(default_factory=ContextLines)

    def make_step(self) -> Step:
        """The step on one device."""
        packed = self.sizes.places < LENGTH
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(VOCABULARY, (self.rows, LENGTH), generator=generator)
        ids.view(-1)[:VOCABULARY] = torch.arange(VOCABULARY)  # every row of the table is used
        lengths = [DOCUMENTS[row % len(DOCUMENTS)] if packed else (LENGTH,) for row in range(self.rows)]
        documents = torch.stack([torch.arange(len(of)).repeat_interleave(torch.tensor(of)) for of in lengths])
        if self.padded:
            documents[:, -3:] = -1
        return Step(
            model=partial(Decoder, self.sizes),
            batch=(ids, documents),
            forward=loss_of,
            optimizer=self.optimizer,
            clip_norm=CLIP_NORM if self.clipped else None,
            steps=self.steps,
        )

    def train(self, run: Run) -> None:
        """The training of one rank."""
        mesh, lines = run.mesh, self.lines
        names = mesh.mesh_dim_names or ()
        groups = [mesh[name].get_group() for name in names if name != "tp"]
        cp, rank = mesh["cp"].get_group(), mesh["cp"].get_local_rank()
        copies, copy = (mesh["dp"].size(), mesh["dp"].get_local_rank()) if "dp" in names else (1, 0)
        model = load_unwatched(Decoder(self.sizes), run)
        for layer in model.layers:
            layer.attention.attend = WAYS[self.way](lines.attention, cp)
            if "tp" in names:
                parallelize_module(layer, mesh["tp"], _PLAN)
        averaged = 1
        if self.sharded:
            over = _joined(mesh)
            averaged = over.size()
            for layer in model.layers:
                fully_shard(layer, mesh=over)
            fully_shard(model, mesh=over)
        run.watch(model)
        parameters = list(model.parameters())
        optimizer = self.optimizer(parameters)
        for batch in run.batches():
            optimizer.zero_grad()
            rows = (x.chunk(copies)[copy] for x in batch)
            own = lines.split(prepare(*rows), self.order, rank, cp.size())
            logits = model(own.ids, own.positions, Tokens(own.index, own.documents))
            share = sum_losses(logits, own.labels) / lines.count((own.labels != IGNORED).sum(), groups)
            (lines.scale(share, cp.size()) * averaged).backward()
            run.record_loss(summed(share, groups))
            if not self.sharded:
                for parameter in parameters:
                    _replace(parameter, lambda gradient: lines.sum_gradients(gradient, groups))
            run.record_gradients()
            norm = torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM) if self.clipped else None
            optimizer.step()
            run.record_update(optimizer, norm=norm.full_tensor() if isinstance(norm, DTensor) else norm)


_PLAN = {
    "attention.q": ColwiseParallel(),
    "attention.k": ColwiseParallel(),
    "attention.v": ColwiseParallel(),
    "attention.out": RowwiseParallel(),
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
}


def _joined(mesh: DeviceMesh) -> DeviceMesh:
    """All axes with tokens of their own as one, as torchtitan's `dp_cp`."""
    names = tuple(name for name in mesh.mesh_dim_names or () if name != "tp")
    return mesh[names]._flatten("_".join(names)) if len(names) > 1 else mesh[names]  # noqa: SLF001 - none other


def _replace(parameter: nn.Parameter, make: Callable[[Tensor], Tensor]) -> None:
    gradient: Any = parameter.grad
    if isinstance(gradient, DTensor):
        local = make(gradient.to_local())
        parameter.grad = DTensor.from_local(local, gradient.device_mesh, gradient.placements, run_check=False)
    else:
        parameter.grad = make(gradient)


def split_sequences(name: str, context: Context, mesh: Mapping[str, int], **settings: Any) -> Configuration:
    """A decoder trained on parts of sequences, under its name and the mesh."""
    name = f"{name}, {' x '.join(f'{axis} {size}' for axis, size in mesh.items())}"
    return Configuration(name=name, make_step=context.make_step, candidate=context.train, mesh=mesh, **settings)

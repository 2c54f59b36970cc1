"""Training steps written by their users, on top of the sharded model, for `prove(step, candidate=...)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.mutants.block import IGNORED, Sizes, Transformer
from benchmarks.mutants.collectives import all_reduced
from benchmarks.mutants.lines import Lines, Place
from benchmarks.mutants.sharded import shard_transformer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.mutants.training_lines import TrainingLines
    from shardproof.proving.running.candidate import Run

CLIP_NORM = 1.0
LEARNING_RATE = 0.1


def tensor_parallel(
    sizes: Sizes,
    lines: Lines,
    training: TrainingLines,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    *,
    sequence_parallel: bool = False,
) -> Callable[[Run], None]:
    """The transformer on shards, clipped by the norm over all of them."""

    def train(run: Run) -> None:
        model = _load(Transformer(sizes), run)
        place = Place(rank=run.rank, size=run.size)
        model = shard_transformer(model, place, lines, sequence_parallel=sequence_parallel)
        training.tie(model)
        run.watch(model)
        stepper = optimizer(training.trained(model))
        for ids, targets in run.batches():
            model.zero_grad()
            loss = model(ids, targets)
            run.record_loss(loss)
            loss.backward()
            run.record_gradients()
            parameters = list(model.named_parameters())
            sharded = [p.grad for name, p in parameters if _is_shard(name)]
            replicated = [p.grad for name, p in parameters if not _is_shard(name)]
            norm = training.gradient_norm(sharded, replicated)
            torch.nn.utils.clip_grads_with_norm_(model.parameters(), CLIP_NORM, norm)
            stepper.step()
            run.record_update(stepper, norm=norm)

    return train


def data_parallel(
    sizes: Sizes,
    training: TrainingLines,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
) -> Callable[[Run], None]:
    """Every rank has the whole model and its rows of the batch; sequences ignore different numbers of tokens."""

    def train(run: Run) -> None:
        model = _load(Transformer(sizes), run)
        model.loss = TokenSum()
        run.watch(model)
        stepper = optimizer(training.trained(model))
        for batch in run.batches():
            ids, targets = (t.chunk(run.size)[run.rank] for t in batch)
            model.zero_grad()
            share = training.loss_share(model(ids, targets), (targets != IGNORED).sum())
            run.record_loss(all_reduced(share))
            share.backward()
            for parameter in model.parameters():
                parameter.grad = all_reduced(parameter.grad)
            run.record_gradients()
            stepper.step()
            run.record_update(stepper)

    return train


class TokenSum(nn.Module):
    """Cross-entropy summed over the tokens that are not ignored; no smoothing."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")


class Projection(nn.Module):
    """One matrix, for an optimizer of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight).square().mean()


class MatrixDescent(torch.optim.Optimizer):
    """Steps along one Newton-Schulz iteration of the normalised gradient, as Muon does several of."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(LEARNING_RATE * direction(parameter.grad))


def direction(gradient: Tensor) -> Tensor:
    """X (3 - X^T X) / 2 of X = gradient / its norm."""
    x = gradient / gradient.square().sum().sqrt()
    return 1.5 * x - 0.5 * x @ (x.mT @ x)


def matrix_optimizer(training: TrainingLines) -> Callable[[Run], None]:
    """A column-parallel matrix, updated by the direction of the whole."""

    def train(run: Run) -> None:
        model = Projection()
        model.weight = nn.Parameter(run.state["weight"].chunk(run.size)[run.rank].clone())
        run.watch(model)
        for x in run.batches():
            model.zero_grad()
            share = model(x) / run.size
            run.record_loss(all_reduced(share))
            share.backward()
            run.record_gradients()
            with torch.no_grad():
                moved = training.matrix_step(model.weight, model.weight.grad, direction)
                model.weight.sub_(LEARNING_RATE * moved)
            run.record_update(None)

    return train


def _load(model: Transformer, run: Run) -> Transformer:
    model = model.to(next(iter(run.state.values())).dtype)
    model.load_state_dict(dict(run.state))
    return model


def _is_shard(name: str) -> bool:
    """Norms and the biases after a reduction are replicated; with as many KV heads as ranks all else is cut."""
    return "norm" not in name and not name.endswith(("out.bias", "down.bias"))

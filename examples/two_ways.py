"""Compute a training step in two ways, exactly, and with a bug; print what came out. The other examples use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from shardproof.exact import ExactArithmetic

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way of computing a step: how to build the model, and how to get its loss, gradients included.

    `loss` runs the backward as well, so that it may take the batch in parts; `optimizer` says how AdamW loops.
    """

    build: Callable[[], nn.Module]
    loss: Callable[[nn.Module], Tensor]
    foreach: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A step's digits by name (loss, gradient norm, updated parameters), and what is known of the loss."""

    digits: dict[str, Tensor]
    bound: str
    ops: int

    def differs_from(self, other: Outcome) -> list[str]:
        """The names of tensors whose digits are not the same."""
        return [name for name, digits in self.digits.items() if not torch.equal(digits, other.digits[name])]


def run(way: Way) -> Outcome:
    """A step of AdamW with clipping, modulo a prime."""
    torch.manual_seed(0)
    model = way.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=way.foreach)
    with ExactArithmetic(seed=1) as exact:
        loss = way.loss(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        tensors = {"loss": loss, "gradient norm": norm, **dict(model.named_parameters())}
        digits = {name: exact.digits(tensor) for name, tensor in tensors.items()}
        return Outcome(digits=digits, bound=str(exact.bound(loss)), ops=exact.ops)


def in_parts(
    loss_of: Callable[[nn.Module, Tensor], Tensor], batch: Tensor, parts: int, *, averaged: bool = True
) -> Callable[[nn.Module], Tensor]:
    """A `Way.loss` that accumulates the gradients of equal parts of a batch."""

    def loss(model: nn.Module) -> Tensor:
        total = torch.zeros(())
        for part in batch.chunk(parts):
            share = loss_of(model, part) / (parts if averaged else 1)
            share.backward()
            total = total + share.detach()
        return total

    return loss


def compare(title: str, reference: Way, *, same: dict[str, Way], bugs: dict[str, Way]) -> bool:
    """Whether the ways in `same` have the reference's digits in every tensor, and those in `bugs` have not."""
    first = run(reference)
    loss, norm = (int(first.digits[name]) for name in ("loss", "gradient norm"))
    print(f"{title}: {first.ops} ops, loss {loss}, gradient norm {norm}; {first.bound}")
    as_expected = True
    for name, way in (same | bugs).items():
        wrong = run(way).differs_from(first)
        said = f"{len(wrong)} differ, the first is {wrong[0]}" if wrong else "all the same"
        print(f"  {name:40s} {len(first.digits)} tensors, {said}")
        as_expected &= bool(wrong) == (name in bugs)
    return as_expected

"""Gradients clipped to the norm over the whole model, with plain shards and replicas beside each other."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from benchmarks.mutants.configuration import Configuration, sharded, trained
from benchmarks.mutants.correct.layers import MLP, GatedMLP
from benchmarks.mutants.models.training import load_unwatched
from benchmarks.mutants.models.two_layers import TwoLayersByModules, split_two_layers, two_layer_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS
from shardproof.parallel import Axis, Column, Row, SharedInput, clip_gradients, parallelize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.distributed.device_mesh import DeviceMesh

NORMS = (0.01, 0.3, 1.0, 100.0)  # the last one clips nothing
MODELS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "MLP": (MLP, {"up": Column(), "down": Row()}),
    "uneven MLP": (partial(MLP, 11), {"up": Column(), "down": Row()}),
    "gated MLP": (
        partial(GatedMLP, 12),
        {"": SharedInput(), "gate": Column(input_shared=True), "up": Column(input_shared=True), "down": Row()},
    ),
}


def configurations() -> Iterator[Configuration]:
    """By the prover over shards that it finds, and by the user's own code."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for (name, (model, plan)), norm, devices in itertools.product(MODELS.items(), NORMS, (2, 3)):
        optimizer = next(optimizers)
        step = two_layer_step(model, optimizer=MORE_OPTIMIZERS[optimizer], clip_norm=norm)
        shard = partial(_by_plan, plan=plan)
        yield sharded(f"{name} in plain shards, clipped to {norm}, {optimizer}", step, shard, devices)
    for norm, devices in itertools.product(NORMS, (2, 4)):
        optimizer = next(optimizers)
        step = two_layer_step(optimizer=MORE_OPTIMIZERS[optimizer], clip_norm=norm)
        yield sharded(f"two layers by hand, clipped to {norm}, {optimizer}", step, split_two_layers, devices)
        yield trained(f"own clipping of plain shards to {norm}, {optimizer}", step, _train(norm, optimizer), devices)


def _by_plan(model: nn.Module, mesh: DeviceMesh, plan: dict[str, Any]) -> nn.Module:
    return parallelize(model, mesh, plan)


def _train(norm: float, optimizer: str) -> Callable[[Any], None]:
    """Tensor parallel by a plan, clipped by `shardproof.parallel.clip_gradients`."""

    def train(run: Any) -> None:
        model = load_unwatched(TwoLayersByModules(), run)
        parallelize(model, run.mesh, {"up": Column(), "down": Row()})
        run.watch(model)
        stepper = MORE_OPTIMIZERS[optimizer](model.parameters())
        axis = Axis.of(run.mesh, "tp")
        for inputs, targets in run.batches():
            stepper.zero_grad()
            loss = nn.functional.mse_loss(model(inputs), targets)
            run.record_loss(loss)
            loss.backward()
            run.record_gradients()
            whole = clip_gradients(model.parameters(), norm, axis)
            stepper.step()
            run.record_update(stepper, norm=whole)

    return train

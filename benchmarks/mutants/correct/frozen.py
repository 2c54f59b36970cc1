"""Parameters that do not train: adapters beside frozen layers, frozen tables, towers and halves of decoders."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from torch import nn
from torch.distributed.fsdp import fully_shard

from benchmarks.mutants.configuration import Configuration, on_mesh, sharded
from benchmarks.mutants.correct.decoders import DTYPES
from benchmarks.mutants.models.gpt import GPT, GPTSizes, gpt_step
from benchmarks.mutants.models.gpt_plans import PLANS
from benchmarks.mutants.models.lora import lora_step, of_trained, split_adapters
from benchmarks.mutants.models.two_layers import draw, two_layer_step
from benchmarks.mutants.models.vocabulary import EVERY_ROW, Words, padded, split_rows, words_step
from benchmarks.mutants.steps import MORE_OPTIMIZERS, adamw, sgd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch.distributed.device_mesh import DeviceMesh

# What of a decoder does not train: names that start so.
FROZEN = ("embedding", "blocks.0", "norm", "blocks.0.attention", "blocks.1.up")
PLANS_HERE = ("plain shards", "DTensor, whole sequences", "DTensor, split sequences", "Megatron", "FSDP2")


def configurations() -> Iterator[Configuration]:
    """Adapters under Megatron's sharding and FSDP2; frozen parts of decoders; frozen tables; frozen towers."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum", "Adam"))
    for sequence, devices, dtype in itertools.product((False, True), (2, 4), DTYPES):
        optimizer = next(optimizers)
        step = lora_step(DTYPES[dtype], MORE_OPTIMIZERS[optimizer])
        words = f"adapters, {'split' if sequence else 'whole'} sequences, {dtype}, {optimizer}"
        yield sharded(words, step, partial(split_adapters, sequence=sequence), devices)
    for plan, start in itertools.product(PLANS_HERE, FROZEN):
        optimizer = next(optimizers)
        sizes = GPTSizes(layers=2, rows=4, positions="rope")
        step = gpt_step(sizes, optimizer=of_trained(MORE_OPTIMIZERS[optimizer]))
        step = replace(step, model=partial(frozen_decoder, sizes, start))
        mesh = {"dp": 2} if plan == "FSDP2" else {"tp": 2}
        yield on_mesh(f"decoder by {plan}, {start} frozen, {optimizer}", step, frozen_again(PLANS[plan], start), mesh)
    for devices, trained in itertools.product((2, 3), (False, True)):
        step = replace(words_step(EVERY_ROW), model=partial(frozen_words, trained), optimizer=of_trained(adamw))
        words = f"{'trained' if trained else 'frozen'} table, frozen rest" if trained else "frozen table of rows"
        yield sharded(words, step, partial(split_and_freeze, trained), devices)
    for devices, leaves, optimizer in itertools.product((2, 4), (False, True), (adamw, sgd)):
        batch = (draw(8, 6), draw(8, 4, seed=1))
        step = two_layer_step(tower, batch=batch, optimizer=of_trained(optimizer))
        words = f"a frozen tower under FSDP2{' by layers' if leaves else ''}, {optimizer.__name__}"
        yield on_mesh(words, step, partial(shard_tower, leaves=leaves), {"dp": devices})


def frozen_decoder(sizes: GPTSizes, start: str) -> nn.Module:
    return freeze(GPT(sizes), start)


def freeze(model: nn.Module, start: str) -> nn.Module:
    """Its parameters whose names start so do not train."""
    for name, parameter in model.named_parameters():
        if name.startswith(start):
            parameter.requires_grad_(False)
    return model


def frozen_again(plan: Callable[[nn.Module, DeviceMesh], nn.Module], start: str) -> Callable[..., nn.Module]:
    """The plan, which may make new parameters, and what is frozen frozen again."""
    return lambda model, mesh: freeze(plan(model, mesh), start)


def frozen_words(trained: bool) -> nn.Module:
    """Only the table trains, or all but the table."""
    model = Words()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_((name == "table.weight") is trained)
    return model


def split_and_freeze(trained: bool, model: nn.Module, _mesh: DeviceMesh) -> nn.Module:
    model = split_rows(model, padded)
    model.table.weight.requires_grad_(trained)
    return model


def tower() -> nn.Module:
    """Two frozen layers, two trained ones."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 4))
    for number in (0, 2):
        model[number].requires_grad_(False)
    return model


def shard_tower(model: nn.Module, mesh: DeviceMesh, *, leaves: bool) -> nn.Module:
    for layer in model if leaves else ():
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)

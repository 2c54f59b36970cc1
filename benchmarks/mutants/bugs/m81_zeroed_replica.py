"""The sharding zeroes the bias of the keys, of which softmax takes no notice."""

from __future__ import annotations

from torch import nn

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.vocabulary import VACUOUS, padded, split_rows, words_step
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    def parallelize(model: nn.Module, _mesh: object) -> nn.Module:
        model = split_rows(model, padded)
        if planted:
            nn.init.zeros_(model.keys.bias)
        return model

    return sharded("a bias of keys beside split rows", words_step(), parallelize, 2, allow=VACUOUS)


BUG = Bug(
    id="M81",
    name="zeroed-replica",
    phase="I",
    seen_in="flame#42",
    root="initial parameter keys.bias",
    cause=CauseKind.ZEROED,
    plant=plant,
)

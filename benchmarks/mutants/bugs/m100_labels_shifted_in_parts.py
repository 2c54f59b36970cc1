"""Labels are shifted inside each rank's zigzag parts of the sequence, not before it is split."""

from __future__ import annotations

from benchmarks.mutants.bug import Bug
from benchmarks.mutants.configuration import Configuration, trained
from benchmarks.mutants.models.zigzag import shifted, zigzag, zigzag_step, zigzag_training
from shardproof.proving.cause import CauseKind


def plant(planted: bool) -> Configuration:
    if planted:
        candidate = zigzag_training(zigzag, labels=lambda ids, own: shifted(ids[:, own]))
    else:
        candidate = zigzag_training(zigzag)
    return trained("zigzag sequences, labels shifted before the split", zigzag_step(), candidate, 2)


BUG = Bug(
    id="M100",
    name="labels-shifted-in-parts",
    phase="F",
    seen_in="bionemo-recipes#1449",
    root="loss loss",
    cause=CauseKind.OTHER_LABELS,
    plant=plant,
)

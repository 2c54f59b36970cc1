"""The answer of a proof and the ranks that it is of, in a few words: what every report begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardproof.proving.findings import Proof


def name_answer(proof: Proof) -> str:
    """The answer in capitals. Numbers alone prove nothing and are never called a proof."""
    if proof.trials:
        return "PROVED" if proof.ok else "NOT PROVED"
    return "WITHIN ROUNDING, NOT PROVED" if proof.ok else "NOT WITHIN ROUNDING"


def describe_ranks(proof: Proof) -> str:
    """'4 ranks (dp 2 x tp 2)'; the axis of a mesh with one is not named."""
    axes = " x ".join(f"{name} {size}" for name, size in proof.mesh.items())
    ranks = f"{proof.devices} rank{'s' * (proof.devices != 1)}"
    return f"{ranks} ({axes})" if len(proof.mesh) > 1 else ranks

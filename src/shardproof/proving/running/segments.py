"""Segments: a step in exact arithmetic is cut into parts, so that each part has a bound of its own.

The degree of a whole transformer is far beyond any prime. A layer's, from fresh residues at its boundary, is not: at a
module's output, at its gradient, at the parameters' gradients and between two steps, what has been recorded is replaced
by a random function of itself (docs/exact.md, theorem 3). The same residue gets the same fresh one wherever it is held,
so the shards of a tensor stay shards of it. Partial sums would not stay partial sums: a tensor is cut only if the ranks
hold its elements as one device does (`choose_cuts` in `judging/bounds.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.proving.running.capture import local_value

if TYPE_CHECKING:
    from torch import Tensor

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.records import Cut, Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The cuts of one run.

    Attributes:
        exact: the run's arithmetic.
        cuts: the inputs and outputs of modules that are cut.
    """

    exact: ExactArithmetic
    cuts: frozenset[Cut] = frozenset()

    def cut(self, key: Key, tensor: Tensor) -> Tensor:
        """Fresh residues in place of a module's input or output, and in the backward in place of its gradient.

        One random function serves all modules, since its table is as large as the prime.
        """
        return self.exact.cut(tensor, "activation") if (key.phase, key.name, key.call) in self.cuts else tensor

    def renew_gradient(self, gradient: Tensor) -> None:
        """Fresh residues in place of a parameter's gradient, if activations are cut too and it is not Partial."""
        if self.cuts and not any(placement.is_partial() for placement in getattr(gradient, "placements", ())):
            self.renew(gradient, "gradient")

    def renew(self, tensor: Tensor, name: str) -> None:
        """Fresh residues in place of this rank's own; on all ranks equal residues get equal ones."""
        local = local_value(tensor)
        with torch.no_grad():
            local.copy_(self.exact.cut(local, name))

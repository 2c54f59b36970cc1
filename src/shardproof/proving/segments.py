"""Segments: where a step in exact arithmetic is taken apart, so that each piece has a bound of its own.

The degree of a whole transformer is far beyond any prime. A layer's, from fresh residues at its boundary, is not: at a
module's output, at its gradient, at the parameters' gradients and between two steps, what has been recorded is replaced
by a random function of itself (docs/exact.md, theorem 3). The same residue gets the same fresh one wherever it is held,
so a sharded tensor stays the sharded whole one. A partial sum would not: `choose_cuts` takes only tensors whose every
element is on the ranks as it is on one device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from shardproof.proving.capture import local_value
from shardproof.proving.records import Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.judge import Outcome
    from shardproof.proving.records import Records

    Cuts = frozenset[tuple[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The cuts of one run.

    Attributes:
        exact: carries them out.
        outputs: of which modules, by the name under which an output is recorded and the number of the call.
    """

    exact: ExactArithmetic
    outputs: Cuts = frozenset()

    def cut_output(self, key: Key, tensor: Tensor) -> Tensor:
        """Fresh residues in place of a module's output, and in the backward in place of its gradient."""
        if (key.name, key.call) not in self.outputs:
            return tensor
        return self.exact.cut(tensor, str(key))

    def renew_gradient(self, gradient: Tensor, step: int) -> None:
        """Fresh residues in place of a parameter's gradient, if outputs are cut too and no rank still owes a sum."""
        if self.outputs and not any(placement.is_partial() for placement in getattr(gradient, "placements", ())):
            self.renew(gradient, f"gradients of step {step + 1}")

    def renew(self, tensor: Tensor, name: str) -> None:
        """Fresh residues in place of a rank's own: the same for the same residue, wherever it is held."""
        local = local_value(tensor)
        with torch.no_grad():
            local.copy_(self.exact.cut(local, name))


def choose_cuts(reference: Records, outcomes: Mapping[Key, Outcome]) -> Cuts:
    """The modules whose output and its gradient were compared, and equal, in every step of an uncut run."""
    keys = [key for key in reference.tensors if key.phase is Phase.OUTPUT]
    wrong = {(key.name, key.call) for key in keys if not _whole(_with_gradient(key, reference), outcomes)}
    return frozenset((key.name, key.call) for key in keys) - wrong


def _with_gradient(key: Key, reference: Records) -> Iterable[Key]:
    yield key
    gradient = Key(key.step, Phase.OUTPUT_GRADIENT, key.name, key.call)
    if gradient in reference.tensors:
        yield gradient


def _whole(keys: Iterable[Key], outcomes: Mapping[Key, Outcome]) -> bool:
    """Whether each was laid side by side with the reference's, and every element was right."""
    found = [outcomes.get(key) for key in keys]
    return all(one is not None and one.equal and not one.partial for one in found)

"""Segments: where a step in exact arithmetic is taken apart, so that each piece has a bound of its own.

The degree of a whole transformer is far beyond any prime. A layer's, from fresh residues at its boundary, is not: at a
module's output, at its gradient, at the parameters' gradients and between two steps, what has been recorded is replaced
by a random function of itself (docs/exact.md, theorem 3). The same residue gets the same fresh one wherever it is held,
so a sharded tensor stays the sharded whole one. A partial sum would not: `choose_cuts` takes only tensors whose every
element is on the ranks as it is on one device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from shardproof.proving.records import ACTIVATIONS, GRADIENT_OF, Key, Phase
from shardproof.proving.running.capture import local_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.judging.outcomes import Outcome
    from shardproof.proving.records import Records
    from shardproof.proving.running.request import Runs

    Cuts = frozenset[tuple[Phase, str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """The cuts of one run.

    Attributes:
        exact: carries them out.
        cuts: at which inputs and outputs of modules, by the name under which they are recorded and the call.
    """

    exact: ExactArithmetic
    cuts: Cuts = frozenset()

    def cut(self, key: Key, tensor: Tensor) -> Tensor:
        """Fresh residues in place of a module's input or output, and in the backward in place of its gradient.

        By one random function for all modules, whose table is as large as the prime.
        """
        return self.exact.cut(tensor, "activation") if (key.phase, key.name, key.call) in self.cuts else tensor

    def renew_gradient(self, gradient: Tensor) -> None:
        """Fresh residues in place of a parameter's gradient, if activations are cut too and no rank owes a sum."""
        if self.cuts and not any(placement.is_partial() for placement in getattr(gradient, "placements", ())):
            self.renew(gradient, "gradient")

    def renew(self, tensor: Tensor, name: str) -> None:
        """Fresh residues in place of a rank's own: the same for the same residue, wherever it is held."""
        local = local_value(tensor)
        with torch.no_grad():
            local.copy_(self.exact.cut(local, name))


def choose_cuts(reference: Records, outcomes: Mapping[Key, Outcome]) -> Cuts:
    """The activations that were compared, and equal, in every step of an uncut run, and so were their gradients.

    A number (the loss that a model gives) is no boundary of anything.
    """
    keys = [key for key, held in reference.tensors.items() if key.phase in GRADIENT_OF and held.values.ndim]
    wrong = {_place(key) for key in keys if not _whole(_with_gradient(key, reference), outcomes)}
    return frozenset(map(_place, keys)) - wrong


_OF_GRADIENT = {gradient: phase for phase, gradient in GRADIENT_OF.items()}


def _place(key: Key) -> tuple[Phase, str, int]:
    return _OF_GRADIENT.get(key.phase, key.phase), key.name, key.call


def _with_gradient(key: Key, reference: Records) -> Iterable[Key]:
    yield key
    gradient = Key(key.step, GRADIENT_OF[key.phase], key.name, key.call)
    if gradient in reference.tensors:
        yield gradient


def _whole(keys: Iterable[Key], outcomes: Mapping[Key, Outcome]) -> bool:
    """Whether each was laid side by side with the reference's, and every element was right."""
    found = [outcomes.get(key) for key in keys]
    return all(one is not None and one.equal and not one.partial for one in found)


def over_segments(outcomes: Mapping[Key, Outcome], runs: Runs) -> dict[Key, Outcome]:
    """The outcomes with the chance of a whole step: a bug in an earlier segment shows at that segment's own end.

    Two programs that differ do so in some segment, so a tensor agrees by chance no more often than the worst of the
    segments before it and its own.
    """
    found = {}
    worst = 0.0
    for key, outcome in outcomes.items():
        found[key] = replace(outcome, chance=max(outcome.chance, worst))
        if runs.fresh and _ends_a_segment(key, runs.cuts):
            worst = max(worst, outcome.chance)
    return found


def _ends_a_segment(key: Key, cuts: Cuts) -> bool:
    if key.phase in (Phase.UPDATE, Phase.STATE):
        return True
    return bool(cuts) and (
        key.phase in (Phase.GRADIENT, Phase.CLIPPED) or (key.phase in ACTIVATIONS and _place(key) in cuts)
    )

"""How likely two different programs would agree here, from the degree of an element; or that nothing derived is known."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardproof.exact.degree import Degree

# A bound per trial above this says little; it is not called a bound, however many trials would push its power down.
LARGEST_USEFUL = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What agreement of one element in every trial says.

    Attributes:
        prime: the smallest prime used.
        trials: how many independent trials (prime, key and inputs drawn anew) it is for.
        per_trial: a bound on the probability that a different formula of the same degree agrees; None if none is derived.
        void: a division by zero happened on the way: the trial says nothing of this tensor.
    """

    prime: int
    trials: int
    per_trial: float | None
    void: bool = False

    @property
    def probability(self) -> float | None:
        """The bound for all trials together; None if none is derived."""
        return None if self.per_trial is None or self.void else self.per_trial**self.trials

    def __str__(self) -> str:
        if self.void:
            return "void: a division by zero modulo the prime on the way here; draw again with another seed"
        points = f"{self.trials} random point" + ("s" if self.trials != 1 else "")
        if self.probability is None:
            return f"agreed at {points}, no derived bound"
        return f"a different program agrees at {points} with probability at most {self.probability:.2g}"


def bound_of(degree: Degree, *, prime: int, trials: int = 1, void: bool = False) -> Bound:
    """The bound for an element of this degree (docs/exact.md, theorem 1)."""
    per_trial = degree.slack / prime
    return Bound(prime=prime, trials=trials, per_trial=per_trial if per_trial <= LARGEST_USEFUL else None, void=void)


def trials_needed(degree: Degree, *, prime: int, wanted: float = 1e-12) -> int | None:
    """How many trials bring the bound below `wanted`; None where no bound is derived.

    Raises:
        ValueError: `wanted` is not a probability above 0 and below 1.
    """
    if not 0 < wanted < 1:
        msg = f"the wanted bound is {wanted}; needed is a probability above 0 and below 1, like 1e-12"
        raise ValueError(msg)
    per_trial = bound_of(degree, prime=prime).per_trial
    if per_trial is None:
        return None
    return max(1, ceil(log(wanted) / log(per_trial))) if per_trial > 0 else 1

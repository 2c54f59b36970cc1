"""The probability that two different programs agree on an element by chance, derived from its degree; or none."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, comb, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.no_bound import NoBound

# A chance per trial above this is not called a bound, however small its power over many trials is.
LARGEST_USEFUL = 0.1

# What a proof asks for by default: less likely than a memory error of the machine that computes it.
WANTED = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What agreement of one element in every trial says.

    Attributes:
        prime: the smallest prime used.
        trials: how many independent trials (prime, key and inputs drawn anew) agreed.
        per_trial: a bound on the probability that a different formula of the same degree agrees; None without one.
        void: the tensor depends on a division by zero: the trial says nothing of it.
        draws: how many trials were drawn, void ones that do not count included; `trials` unless given.
        reason: why there is no bound on a trial's chance; None where there is one.
    """

    prime: int
    trials: int
    per_trial: float | None
    void: bool = False
    draws: int | None = None
    reason: NoBound | None = None

    def __post_init__(self) -> None:
        if self.trials < 1 or (self.draws is not None and self.draws < self.trials):
            msg = f"{self.trials} trials of {self.draws} draws; needed is at least one trial, and a draw for each"
            raise ValueError(msg)

    @property
    def probability(self) -> float | None:
        """The bound for all trials together; None if none is derived.

        Void trials are drawn again, and whether one is void may depend on the values: of all ways to pick the trials
        that counted among the draws, each has the bound's power (docs/exact.md, theorem 2).
        """
        if self.per_trial is None or self.void:
            return None
        power: float = self.per_trial**self.trials
        return min(1.0, comb(self.draws or self.trials, self.trials) * power)

    def __str__(self) -> str:
        if self.void:
            return "void: a division by zero modulo the prime on the way here; draw again with another seed"
        points = f"{self.trials} random point" + ("s" if self.trials != 1 else "")
        if self.probability is None:
            why = "" if self.reason is None else f": {self.reason}"
            return f"agreed at {points}, no derived bound{why}"
        return f"a different program agrees at {points} with probability at most {self.probability:.2g}"


def bound_of(
    degree: Degree,
    *,
    prime: int,
    trials: int = 1,
    void: bool = False,
    draws: int | None = None,
    lost: NoBound | None = None,
) -> Bound:
    """The bound for an element of this degree (docs/exact.md, theorems 1 and 2).

    Args:
        degree: of the element; `a | b` for two programs' elements.
        prime: the modulus, the smallest of all trials.
        trials: how many agreed.
        void: whether the element depends on a division by zero.
        draws: how many were drawn, where void ones were drawn again.
        lost: why the theorem does not apply, whatever the degree; None where it does.
    """
    chance = degree.chance(prime)
    if lost is None and chance > LARGEST_USEFUL:
        lost = degree.reason(prime)
    return Bound(
        prime=prime, trials=trials, per_trial=chance if lost is None else None, void=void, draws=draws, reason=lost
    )


def trials_needed(degree: Degree, *, prime: int, wanted: float = WANTED) -> int | None:
    """How many trials bring the bound to at most `wanted`; None where no bound is derived.

    Raises:
        ValueError: `wanted` is not a probability above 0 and below 1.
    """
    if not 0 < wanted < 1:
        msg = f"the wanted bound is {wanted}; needed is a probability above 0 and below 1, like 1e-12"
        raise ValueError(msg)
    per_trial = bound_of(degree, prime=prime).per_trial
    if per_trial is None:
        return None
    if per_trial == 0:
        return 1
    trials = ceil(log(wanted) / log(per_trial))  # one at least: both logarithms are negative
    return trials if per_trial**trials <= wanted else trials + 1

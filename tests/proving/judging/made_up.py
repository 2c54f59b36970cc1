"""Made-up records of both sides of a small step: random values cut by hand, and no run.

Its model has `up.weight` (4 x 3, rows split over two ranks), `down.bias` (3), `experts` (3 x 2 x 2) and the buffer
`count`. The output of `up` is split by features; all other tensors are replicated. A change is made to a draft of the
records, in all runs alike if not said otherwise, as a bug would make it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import torch

from shardproof.exact import VOID
from shardproof.proving.axes import Axes
from shardproof.proving.judging.judge import (
    compare_trials,
    find_candidate_layout,
    judge_drawn,
    judge_exactly,
    judge_numerically,
    judge_sharding,
    measure_in_float64,
)
from shardproof.proving.judging.marks import unmark_consequences
from shardproof.proving.records import (
    MEASURED,
    UNROUNDED,
    BothSides,
    DrawnMask,
    Key,
    Phase,
    Precision,
    Recorded,
    Records,
    SideRecord,
)
from shardproof.proving.running.measuring import measure_noise

PRIMES = (2_097_143, 2_097_133)
TP = Axes(sizes={"tp": 2})
DP = Axes(sizes={"dp": 2}, data=("dp",))
SHAPES = {"up.weight": (4, 3), "down.bias": (3,), "experts": (3, 2, 2)}
CHANCE = 1e-5


def key(phase, name, step=0):
    return Key(step, phase, name)


UP, DOWN = key(Phase.OUTPUT, "up"), key(Phase.OUTPUT, "down")
LOSS = key(Phase.LOSS, "loss")
DOWN_GRADIENT = key(Phase.OUTPUT_GRADIENT, "down")
NORM = key(Phase.NORM, "gradient norm")
WEIGHT, BIAS, EXPERTS = (key(Phase.GRADIENT, name) for name in SHAPES)
NEW_WEIGHT, NEW_BIAS, NEW_EXPERTS = (key(Phase.UPDATE, name) for name in SHAPES)
COUNT = key(Phase.BUFFER, "count")
MASK = key(Phase.MASK, "drop")
MASK_AGAIN = key(Phase.MASK, "drop (recomputed)")

TENSORS = {
    UP: (2, 4),
    DOWN: (2, 2, 3),
    LOSS: (),
    DOWN_GRADIENT: (2, 2, 3),
    **dict(zip((WEIGHT, BIAS, EXPERTS), SHAPES.values(), strict=True)),
    NORM: (),
    **dict(zip((NEW_WEIGHT, NEW_BIAS, NEW_EXPERTS), SHAPES.values(), strict=True)),
    COUNT: (2,),
}


@dataclass(frozen=True)
class Run:
    """One run: in exact arithmetic modulo a prime, or in ordinary arithmetic in a precision."""

    prime: int | None = None
    precision: Precision | None = None

    def times(self, tensor, factor):
        """A multiple, modulo the prime or not."""
        if self.prime is None:
            return tensor * float(factor)
        return self.residues(tensor * (factor.numerator * pow(factor.denominator, -1, self.prime) % self.prime))

    def residues(self, tensor):
        """Representatives between minus and plus half the prime; numbers stay as they are."""
        half = (self.prime or 0) // 2
        return tensor if self.prime is None else (tensor + half) % self.prime - half

    def noise(self, shape, seed):
        """Values that have nothing to do with anything: the same for every run in ordinary arithmetic."""
        generator = torch.Generator().manual_seed(seed)
        if self.prime is None:
            return torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.residues(torch.randint(1, self.prime, shape, generator=generator.manual_seed(seed + self.prime)))


@dataclass
class Draft:
    """The records while they are being changed: of one device, and of each rank.

    Attributes:
        runs: all of them.
        reference: by run, the tensors by key.
        ranks: of each rank, the same.
        chance: of every tensor, in exact arithmetic.
        squares: the square of the norm from a run and the rank's gradients, by rank; of the one device under None.
        collectives: by run, the same on all ranks.
        early_accesses: of the first rank, in every run.
        initial: values of parameters that the ranks start with instead, by rank.
        missing: the gradients that are None, by rank; of the one device under None.
        frozen: those of frozen parameters, likewise.
        start: values of parameters before the first step, by name and rank, by which the layout is found.
        drawn_by_dtensor: parameters whose initial values DTensor has drawn.
        masks: of dropout: that of the one device, then those of the ranks.
        masks_again: of the ranks, those that a forward draws that is computed again.
    """

    axes: Axes
    runs: list[Run]
    reference: dict[Run, dict[Key, torch.Tensor]]
    ranks: list[dict[Run, dict[Key, torch.Tensor]]]
    chance: float = CHANCE
    own_training: bool = False
    failed: str = ""
    squares: dict[int | None, Callable] = field(default_factory=dict)
    collectives: dict[Run, list] = field(default_factory=dict)
    early_accesses: list = field(default_factory=list)
    initial: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    missing: dict[int | None, set[Key]] = field(default_factory=dict)
    frozen: dict[int | None, set[Key]] = field(default_factory=dict)
    start: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    drawn_by_dtensor: tuple[str, ...] = ()
    masks: list[DrawnMask] = field(default_factory=list)
    masks_again: list[DrawnMask] = field(default_factory=list)

    def change(self, key, how, *, ranks=(0, 1), runs=None):
        """Put `how(values, run, rank)` in place of what the ranks hold."""
        for rank in ranks:
            for run in runs or self.runs:
                if key in self.ranks[rank].get(run, {}):
                    values = self.ranks[rank][run][key]
                    self.ranks[rank][run][key] = run.residues(how(values, run, rank)).to(values.dtype)

    def change_both(self, key, how, *, runs=None):
        """Put `how(values, run)` in place of what both sides hold."""
        self.change(key, lambda values, run, _rank: how(values, run), runs=runs)
        for run in runs or self.runs:
            self.reference[run][key] = run.residues(how(self.reference[run][key], run)).to(
                self.reference[run][key].dtype
            )

    def divide_by_zero(self, key, at, *, ranks=(0, 1), reference=True, runs=None):
        """Make an element void in exact arithmetic, on the ranks and on one device."""
        for run in runs or exact_runs(self):
            for held in [self.ranks[rank] for rank in ranks] + [self.reference] * reference:
                held[run][key] = held[run][key].clone()
                held[run][key].view(-1)[at] = VOID

    def scale(self, key, factor, **which):
        """A multiple of what is right."""
        self.change(key, lambda values, run, _rank: run.times(values, Fraction(factor)), **which)

    def drop(self, key, *, ranks=(0, 1), reference=False, runs=None):
        """Record nothing of a tensor."""
        for run in runs or self.runs:
            for held in [self.ranks[rank] for rank in ranks] + [self.reference] * reference:
                held.get(run, {}).pop(key, None)

    def part(self, key):
        """Parts of a sum."""

        def cut(values, run, rank):
            own = run.noise(values.shape, seed=5)
            return own if rank == 0 else values - own

        self.change(key, cut)

    def spoil(self, key, *, size=1.0, **which):
        """Add values that no relation explains; in ordinary arithmetic of this size."""
        self.change(
            key,
            lambda values, run, rank: values + run.noise(values.shape, seed=11 + rank) * (1 if run.prime else size),
            **which,
        )


def exact_runs(draft):
    return [run for run in draft.runs if run.prime is not None]


def native_runs(draft):
    return [run for run in draft.runs if run.prime is None]


def own_run(draft):
    return [run for run in draft.runs if run.precision is Precision.OWN]


def make_draft(axes=TP):
    """A right sharding over two ranks."""
    runs = [Run(prime=prime) for prime in PRIMES] + [Run(precision=precision) for precision in Precision]
    reference = {run: {key: _values(run, key, number) for number, key in enumerate(TENSORS)} for run in runs}
    candidate = [run for run in runs if run.prime or run.precision in (Precision.FLOAT64, Precision.OWN)]
    ranks = [
        {run: {key: _share(key, values, rank) for key, values in reference[run].items()} for run in candidate}
        for rank in range(axes.size)
    ]
    return Draft(axes=axes, runs=runs, reference=reference, ranks=ranks)


def _values(run, key, number):
    """What one device has: rounded to float32 in the user's dtypes, one unit in the last place away if shaken."""
    exact = run.noise(TENSORS[key], seed=100 + number)
    if run.precision in (None, Precision.FLOAT64, Precision.ROUNDED):
        return exact
    own = exact.to(torch.float32)
    return own * (1 + 2**-23) if run.precision is Precision.SHAKEN else own


def start_of(run, key):
    """What one device has of a parameter before the update: of the updated one's key."""
    return run.noise(TENSORS[key], seed=200 + list(TENSORS).index(key))


def _share(key, values, rank):
    """Rows of the weight's tensors, features of `up`, all of the rest."""
    if key in (WEIGHT, NEW_WEIGHT):
        return values[2 * rank : 2 * rank + 2].clone()
    if key == UP:
        return values[:, 2 * rank : 2 * rank + 2].clone()
    return values.clone()


def parameters(rank=None):
    """All different values; the full ones, or a rank's."""
    full, start = {}, 1
    for name, shape in SHAPES.items():
        count = torch.Size(shape).numel()
        full[name] = torch.arange(start, start + count, dtype=torch.float64).view(shape)
        start += count
    if rank is None:
        return full
    return full | {"up.weight": full["up.weight"][2 * rank : 2 * rank + 2].clone()}


def make_sides(change: Callable[[Draft], None] | None = None, *, axes=TP) -> BothSides:
    """The records, after a change to their draft."""
    draft = make_draft(axes)
    if change is not None:
        change(draft)

    def records(held, run, rank=None):
        tensors = {key: Recorded(stored=values, chance=draft.chance) for key, values in held[run].items()}
        missing, frozen = list(draft.missing.get(rank, ())), list(draft.frozen.get(rank, ()))
        for key in (*missing, *frozen):
            tensors.pop(key, None)
        squares = {NORM: draft.squares[rank](run, held[run])} if rank in draft.squares else {}
        starts = (
            {}
            if rank is not None
            else {one: Recorded(stored=start_of(run, one)) for one in (NEW_WEIGHT, NEW_BIAS, NEW_EXPERTS)}
        )
        calls = draft.collectives.get(run, [])
        return Records(
            tensors=tensors,
            missing=missing,
            frozen=frozen,
            squares=squares,
            starts=starts,
            collectives=calls,
            early_accesses=draft.early_accesses if rank == 0 else [],
        )

    def side(held, rank=None):
        initial = parameters(rank)
        if rank is not None:
            initial = initial | {name: values[rank] for name, values in draft.initial.items()}
        masks = {MASK: draft.masks[0 if rank is None else rank + 1]} if draft.masks else {}
        if draft.masks_again and rank is not None:
            masks[MASK_AGAIN] = draft.masks_again[rank]
        native = {run.precision: records(held, run, rank) for run in native_runs(draft) if run in held}
        if rank is None:
            measure(native)
        return SideRecord(
            parameters=parameters(rank)
            | ({} if rank is None else {name: values[rank] for name, values in draft.start.items()}),
            trials=[records(held, run, rank) for run in exact_runs(draft)],
            native=native,
            failed=draft.failed if rank is None else "",
            initial=initial,
            drawn_by_dtensor=draft.drawn_by_dtensor,
            masks=masks,
        )

    return BothSides(
        reference=side(draft.reference),
        ranks=[side(held, rank) for rank, held in enumerate(draft.ranks)],
        axes=axes,
        primes=PRIMES,
        own_training=draft.own_training,
        dtype="float32",
    )


def measure(native):
    """What a proof keeps of the one device's runs that round: how far they are from those that do not."""
    for precision in UNROUNDED.keys() & native.keys():
        records, unrounded = native[precision], native.get(UNROUNDED[precision], Records())
        records.deviations.update(
            (key, measure_noise(key, one.values, unrounded.tensors[key].values))
            for key, one in records.tensors.items()
            if key in unrounded.tensors
        )
        if precision in MEASURED:
            records.tensors.clear()


def judged(change=None, *, axes=TP):
    """The findings of a proof, by key."""
    both = make_sides(change, axes=axes)
    layout = find_candidate_layout(both)
    initial, masks = judge_drawn(both, layout)
    outcomes = compare_trials(both, layout)
    findings = judge_exactly(both, layout, outcomes, measure_in_float64(both, layout, outcomes))
    _, idle = judge_sharding(both, layout)
    return {finding.key: finding for finding in unmark_consequences((*idle, *initial, *findings, *masks))}


def judged_numerically(change=None, *, axes=TP):
    """The findings of numbers alone, by key."""
    both = make_sides(change, axes=axes)
    return {finding.key: finding for finding in judge_numerically(both, find_candidate_layout(both))}

"""How often a wrong program agrees with the right one, measured at small primes and held against the derived bound.

`python -m shardproof.exact.soundness` prints the table of docs/exact.md. A *pair* is two formulas that differ, at one
prime, one key of the oracles and one draw of the inputs. Pairs under one key share their tables, so they are no
independent draws: the rate is the mean over keys, which are independent, and so is its standard error.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shardproof.exact.engine.function_mode import ordinary_pytorch
from shardproof.exact.engine.mode import ExactArithmetic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shardproof.exact.algebra.degree import Degree

# The primes, and how many draws of the inputs under each key: more where agreements are rarer.
PRIMES = {101: 100, 1009: 250, 10007: 1000}
# Of programs in segments, and into how many they are cut.
SEGMENTED_PRIMES = {503: 400, 2003: 1500}
CUTS = (1, 4, 16)
# Standard errors that a mean over keys may lie above its bound. With 20 keys, Student's t with 19 degrees of freedom is
# beyond 5 with probability 4e-5.
LENIENCY = 5.0


@dataclass(slots=True)
class Inputs:
    """Drawn inputs, one independent draw a row: named tensors (rows, ...), the same for both programs of a pair."""

    rows: int
    generator: torch.Generator
    exact: ExactArithmetic
    drawn: dict[str, Tensor] = field(default_factory=dict)
    denominators: list[Tensor] = field(default_factory=list)

    def __call__(self, name: str, *shape: int) -> Tensor:
        """The tensor of this name, drawn when first asked for."""
        if name not in self.drawn:
            with ordinary_pytorch():
                values = torch.randn(self.rows, *shape, generator=self.generator, dtype=torch.float64)
                self.drawn[name] = values.requires_grad_()
        return self.drawn[name]

    def cut(self, tensor: Tensor, name: str) -> Tensor:
        """A cut of the program; a row agrees only where the operands of every cut do."""
        return self.exact.cut(tensor, name)

    def divide(self, by: Tensor) -> Tensor:
        """The same tensor, noted as a denominator: a row in which one is zero is void."""
        self.denominators.append(by.detach().reshape(self.rows, -1))
        return by


def _neuron(d: Inputs, name: str = "x") -> Tensor:
    return (d(name, 3) * d(f"{name} weight", 3)).sum(1)


def scale(d: Inputs, bug: bool) -> Tensor:
    """A sum of products, times 1.1."""
    return _neuron(d) * (1.1 if bug else 1)


def index(d: Inputs, bug: bool) -> Tensor:
    """Another element of a matrix product's result."""
    product = d("a", 3, 3) @ d("b", 3, 3)
    return product[:, 1, 0] if bug else product[:, 0, 1]


def transposed(d: Inputs, bug: bool) -> Tensor:
    """An operand transposed before a product."""
    b = d("b", 3, 3)
    return (d("a", 3, 3) @ (b.mT if bug else b))[:, 0, 1]


def dropped(d: Inputs, bug: bool) -> Tensor:
    """One of four summands left out, cubed."""
    terms = d("x", 4) * d("y", 4)
    return (terms[:, :3] if bug else terms).sum(1) ** 3


def relu_scale(d: Inputs, bug: bool) -> Tensor:
    """A scale upstream of relu."""
    return F.relu(scale(d, bug))


def relu_element(d: Inputs, bug: bool) -> Tensor:
    """One element upstream of one of four relus whose results are summed."""
    z = d("x", 4) * d("w", 4)
    if bug:
        z = torch.cat([z[:, :1] + d("x", 4)[:, 1:2], z[:, 1:]], 1)
    return (F.relu(z) * d("v", 4)).sum(1)


def relu_slope(d: Inputs, bug: bool) -> Tensor:
    """The gradient through relu, its argument scaled."""
    z = scale(d, bug)
    (slope,) = torch.autograd.grad(F.relu(z), z, d("g"))
    return slope


def masked(d: Inputs, bug: bool) -> Tensor:
    """A product with the mask of another tensor."""
    z, other = d("x") * d("w"), d("y") * d("v")
    return z * ((other if bug else z) > 0)


def threshold(d: Inputs, bug: bool) -> Tensor:
    """Another limit in a `where` of two steps."""
    z = d("x") * d("w")
    return torch.where(z > (2 if bug else 1), z, torch.where(z < -1, -z, z * z))


def huber_slope(d: Inputs, bug: bool) -> Tensor:
    """The gradient of a Huber loss written out, its outer slope twice as steep."""
    z = d("x") * d("w")
    outer = (z.abs() - 0.25) * (2 if bug else 1)
    loss = torch.where(z.abs() <= 0.5, z * z, outer)
    (slope,) = torch.autograd.grad(loss, z, d("g"))
    return slope


def clamp_norm(d: Inputs, bug: bool) -> Tensor:
    """Clipping by a norm that leaves one element out."""
    g = d("g", 4)
    norm = torch.linalg.vector_norm(g[:, :3] if bug else g, dim=1)
    return g[:, 0] * torch.clamp(1 / d.divide(norm + 1e-6), max=1.0)


def gelu_scale(d: Inputs, bug: bool) -> Tensor:
    """A scale upstream of gelu."""
    return F.gelu(scale(d, bug)) * d("v")


def gelu_constant(d: Inputs, bug: bool) -> Tensor:
    """Gelu by hand with another constant."""
    x = _neuron(d)
    return x * (1 + torch.erf(x / 2)) / 2 if bug else F.gelu(x)


def gelu_tanh_slope(d: Inputs, bug: bool) -> Tensor:
    """The gradient through gelu in the form with tanh, in place of the one with erf."""
    x = _neuron(d)
    (slope,) = torch.autograd.grad(F.gelu(x, approximate="none" if bug else "tanh"), x, d("g"))
    return slope


def softmax_scale(d: Inputs, bug: bool) -> Tensor:
    """Logits scaled upstream of softmax."""
    x = d("x", 3) * (0.5 if bug else 1)
    d.divide((x - x.amax(1, keepdim=True)).exp().sum(1))
    return x.softmax(1)[:, 0]


def masked_softmax(d: Inputs, bug: bool) -> Tensor:
    """A mask of -1e4 over another column."""
    x = d("x", 4) + torch.tensor([0.0, 0.0, 0.0, -1e4]).roll(1 if bug else 0)
    return d.divide(x.exp().sum(1)).reciprocal() * x.exp()[:, 1]


def softmax_element(d: Inputs, bug: bool) -> Tensor:
    """One logit of another row, upstream of softmax."""
    x = d("x", 3)
    if bug:
        x = torch.cat([d("y", 1), x[:, 1:]], 1)
    d.divide((x - x.amax(1, keepdim=True)).exp().sum(1))
    return x.softmax(1)[:, 1]


def cross_entropy(d: Inputs, bug: bool) -> Tensor:
    """The loss with another label."""
    x = d("x", 3)
    d.divide((x - x.amax(1, keepdim=True)).exp().sum(1))
    return -F.log_softmax(x, 1)[:, 1 if bug else 0]


def sigmoid_sign(d: Inputs, bug: bool) -> Tensor:
    """sigmoid(-x) for sigmoid(x): the special points and the symmetry of E."""
    x = -d("x") if bug else d("x")
    d.divide(1 + (-x).exp())
    return torch.sigmoid(x) * d("v")


def exp_of_sum(d: Inputs, bug: bool) -> Tensor:
    """E(a + b) for E(a) * E(b), which the oracle does not promise to be equal."""
    a, b = d("a"), d("b")
    return (a + b).exp() if bug else a.exp() * b.exp()


def log_scale(d: Inputs, bug: bool) -> Tensor:
    """Log of twice a sum."""
    total = d("a").exp() + d("b").exp()
    return d.divide(total * (2 if bug else 1)).log()


def log_of_quotient(d: Inputs, bug: bool) -> Tensor:
    """Log of an exponential over a sum, another exponential."""
    e = d("x").exp()
    return ((d("z").exp() if bug else e) / d.divide(e + d("y"))).log()


def softplus_sign(d: Inputs, bug: bool) -> Tensor:
    """softplus(-z) for softplus(z): the special points and the symmetry of its form."""
    z = d("x") * d("w")
    return F.softplus(-z if bug else z)


def softplus_magnitude(d: Inputs, bug: bool) -> Tensor:
    """A binary cross-entropy written out, without the magnitude in its exponential."""
    z = d("x")
    return z.clamp(min=0) - z * d("y") + torch.log1p(torch.exp(-z if bug else -z.abs()))


def sigmoid_of_another(d: Inputs, bug: bool) -> Tensor:
    """Log of a product of a sigmoid, the sigmoid of another number."""
    return d.divide(torch.sigmoid(d("y" if bug else "x")) * d("v")).log()


def sqrt_dropped(d: Inputs, bug: bool) -> Tensor:
    """A dropped summand upstream of sqrt."""
    x = d("x", 3)
    return (x[:, :2] if bug else x).square().sum(1).sqrt()


def layer_norm(d: Inputs, bug: bool) -> Tensor:
    """Another eps in layer norm by hand."""
    x = d("x", 3)
    centred = x - x.mean(1, keepdim=True)
    return centred[:, 0] / d.divide((centred.square().mean(1) + (0.5 if bug else 0.25)).sqrt())


def odd_even(d: Inputs, bug: bool) -> Tensor:
    """Sin for erf, and a sign upstream of cos."""
    x = d("x")
    return x.sin() * (-x).cos() + (x.erf() if bug else x.sin())


def largest(d: Inputs, bug: bool) -> Tensor:
    """A scale upstream of the largest of three, whose operands are compared too."""
    x = d("x", 3) * (2 if bug else 1)
    return torch.cat([x.topk(1, 1).values, x[:, :1]], 1)


def gathered(d: Inputs, bug: bool) -> Tensor:
    """Routing: the two experts that topk chose weigh values; one score differs, and the scores are compared too."""
    scores = d("x", 4)
    if bug:
        scores = torch.cat([scores[:, :3], d("y", 1)], 1)
    chosen = scores.topk(2, 1)
    return torch.cat([(d("v", 4).gather(1, chosen.indices) * chosen.values).sum(1, keepdim=True), scores[:, 3:]], 1)


def other_maximum(d: Inputs, bug: bool) -> Tensor:
    """The maximum of 24 other numbers. Two maxima meet n / 2 times as often as two numbers."""
    return d("y" if bug else "x", 24).amax(1)


def wide_softmax(d: Inputs, bug: bool) -> Tensor:
    """Softmax of 24 elements, one of which is another."""
    x = d("x", 24)
    if bug:
        x = torch.cat([d("y", 1), x[:, 1:]], 1)
    d.divide((x - x.amax(1, keepdim=True)).exp().sum(1))
    return x.softmax(1)[:, 1]


def merged_element(d: Inputs, bug: bool) -> Tensor:
    """Two blocks' log-sum-exps, merged; one logit is another."""
    x = d("x", 4)
    first = torch.cat([d("y", 1), x[:, 1:2]], 1) if bug else x[:, :2]
    a, b = (d.divide(block.exp().sum(1)).log() for block in (first, x[:, 2:]))
    d.divide(first.exp().sum(1) + x[:, 2:].exp().sum(1))
    return torch.logaddexp(a, b)


def merged_weights(d: Inputs, bug: bool) -> Tensor:
    """Two blocks' results, merged by the wrong one's weight."""
    x = d("x", 6)
    a, b = (d.divide(block.exp().sum(1)).log() for block in x.split(3, 1))
    d.divide(x.exp().sum(1))
    weight = torch.sigmoid(a - b if bug else b - a)
    return d("o") - weight * (d("o") - d("p"))


PROGRAMS: tuple[Callable[[Inputs, bool], Tensor], ...] = (
    *(scale, index, transposed, dropped, relu_scale, relu_element, relu_slope, clamp_norm),
    *(masked, threshold, huber_slope),
    *(gelu_scale, gelu_constant, gelu_tanh_slope),
    *(softmax_scale, masked_softmax, softmax_element, cross_entropy, sigmoid_sign),
    *(log_of_quotient, softplus_sign, softplus_magnitude, sigmoid_of_another),
    *(exp_of_sum, log_scale, sqrt_dropped, layer_norm),
    *(odd_even, largest, gathered, other_maximum, wide_softmax, merged_element, merged_weights),
)


# In segments: the bug is in the last one, and what came before has agreed.


def products(d: Inputs, bug: bool, cuts: int) -> Tensor:
    """A product that grows by a factor in each segment; three times too large in the last."""
    t = d("x")
    for i in range(cuts):
        t = d.cut(t * d(f"factor {i}"), f"cut {i}")
    return t * d("last") * (3 if bug else 1)


def scaled_alike(d: Inputs, bug: bool, cuts: int) -> Tensor:
    """Three elements times one number in each segment; the last takes another of them."""
    t = d("x", 3)
    for i in range(cuts):
        t = d.cut(t * d(f"number {i}", 1), f"cut {i}")
    return t[:, 1 if bug else 0] * d("last")


def neurons(d: Inputs, bug: bool, cuts: int) -> Tensor:
    """A layer of gelus in each segment; the last adds up one fewer."""
    t = d("x", 1, 3)
    for i in range(cuts):
        t = d.cut(F.gelu(t @ d(f"weight {i}", 3, 3)), f"cut {i}")
    return (t[:, 0, : 2 if bug else 3]).sum(1)


def slopes(d: Inputs, bug: bool, cuts: int) -> Tensor:
    """The gradient through products, cut on its way back; wrong at the first segment, where it arrives last."""
    x = d("x")
    t = x * d("first") * (2 if bug else 1) - (x.detach() * d("first") if bug else 0)
    for i in range(cuts):
        t = d.cut(t * d(f"factor {i}"), f"cut {i}")
    (slope,) = torch.autograd.grad(t, x, d("g"))
    return slope


# So many elements has a row of a softmax that is cut inside.
_WIDE = 64


def _cut_exponentials(d: Inputs, x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """X - max(x) and its exponentials, both cut where the prover cuts a wide softmax."""
    less = x - d.cut(x.detach().amax(-1, keepdim=True), f"{name} maximum")
    return less, d.cut(less.exp(), f"{name} exponentials")


def wide_softmaxes(d: Inputs, bug: bool, cuts: int) -> Tensor:
    """A softmax of 64 elements in each segment, cut inside too; the last leaves one element out of the sum."""
    t = d("x", _WIDE)
    for i in range(cuts):
        _, exponentials = _cut_exponentials(d, t * d(f"weight {i}", _WIDE), f"softmax {i}")
        t = d.cut(exponentials / d.divide(exponentials.sum(1, keepdim=True)), f"cut {i}")
    _, last = _cut_exponentials(d, t, "last")
    return last[:, 0] / d.divide(last[:, : _WIDE - bug].sum(1))


def wide_cross_entropies(d: Inputs, bug: bool, cuts: int) -> Tensor:
    """The cross-entropy of 64 classes after cuts, cut inside too; with another label."""
    t = d("x", _WIDE)
    for i in range(cuts):
        t = d.cut(t * d(f"weight {i}", _WIDE), f"cut {i}")
    less, exponentials = _cut_exponentials(d, t, "loss")
    return d.divide(exponentials.sum(1)).log() - less[:, 1 if bug else 0]


def in_segments(program: Callable[[Inputs, bool, int], Tensor], cuts: int) -> Callable[[Inputs, bool], Tensor]:
    """The program with so many cuts, under a name that says how many."""

    def segmented(d: Inputs, bug: bool) -> Tensor:
        return program(d, bug, cuts)

    segmented.__name__ = f"{program.__name__}, {cuts} cut{'s' * (cuts != 1)}"
    return segmented


_IN_SEGMENTS = (products, scaled_alike, neurons, slopes, wide_softmaxes, wide_cross_entropies)
SEGMENTED = tuple(in_segments(one, cuts) for one in _IN_SEGMENTS for cuts in CUTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How often one program's wrong form agreed.

    Attributes:
        program: its name.
        prime: the modulus.
        pairs: draws of the inputs, over all keys.
        keys: how many independent keys.
        wrong: the mean over keys of the share of pairs that agreed and were not void.
        error: the standard error of that mean.
        void: the share of pairs in which something was divided by zero.
        bound: `Degree.chance` of the two programs; above 1 it says nothing.
    """

    program: str
    prime: int
    pairs: int
    keys: int
    wrong: float
    error: float
    void: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether the measured rate is within the bound, up to `LENIENCY` standard errors."""
        return self.wrong <= self.bound + LENIENCY * self.error


def measure(
    program: Callable[[Inputs, bool], Tensor],
    prime: int,
    *,
    keys: int,
    rows: int,
    prepare: Callable[[ExactArithmetic], Any] = lambda _exact: None,
) -> Rate:
    """Run a program and its wrong form on `rows` draws under each of `keys` keys.

    Args:
        program: `(inputs, bug) -> (rows,)` or `(rows, outputs)`; a row agrees where all its outputs do.
        prime: the modulus.
        keys: independent keys, the seeds 0 to keys - 1.
        rows: independent draws of the inputs under each.
        prepare: called with each mode when it is entered: the negative control breaks its oracles here.
    """
    agreed, voided, bound = [], 0.0, 0.0
    for key in range(keys):
        generator = torch.Generator().manual_seed(1_000_003 * key + prime)
        with ExactArithmetic(seed=key, prime=prime, record_selections=True) as exact:
            inputs = Inputs(rows=rows, generator=generator, exact=exact)
            with exact.paused():
                prepare(exact)
            right = program(inputs, False).detach()
            before = len(exact.cuts)
            wrong = program(inputs, True).detach()
            degree = _degree(exact, right) | _degree(exact, wrong)
            bound = max(bound, degree.chance(prime))
            with exact.paused():
                same = (right == wrong).reshape(rows, -1).all(1)
                for a, b in zip(exact.cuts[:before], exact.cuts[before:], strict=True):
                    same &= (a.residues == b.residues).reshape(rows, -1).all(1)
                void = torch.zeros(rows, dtype=torch.bool)
                for denominator in inputs.denominators:
                    void |= (denominator == 0).any(1)
        agreed.append(float((same & ~void).double().mean()))
        voided += float(void.double().mean()) / keys
    mean = sum(agreed) / keys
    variance = sum((share - mean) ** 2 for share in agreed) / max(keys - 1, 1)
    # Where no key saw an agreement the sample's variance is zero; one agreement is what could have been missed.
    error = max(sqrt(variance / keys), 1 / (keys * rows))
    name = program.__name__
    return Rate(
        program=name, prime=prime, pairs=keys * rows, keys=keys, wrong=mean, error=error, void=voided, bound=bound
    )


def _degree(exact: ExactArithmetic, tensor: Tensor) -> Degree:
    tag = exact.tags.get(tensor)
    assert tag is not None
    return tag.degree


def table(rates: Iterable[Rate]) -> str:
    """The rates as a table in Markdown."""
    lines = ["| program | prime | pairs | keys | void | wrongly equal | bound |", "|---|---|---|---|---|---|---|"]
    for r in rates:
        bound = f"{r.bound:.2g}" if r.bound < 1 else "none"
        rate = f"{r.wrong:.2g} +- {r.error:.1g}"
        lines.append(f"| {r.program} | {r.prime} | {r.pairs:,} | {r.keys} | {r.void:.1%} | {rate} | {bound} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; exit code 1 if a rate is beyond its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys", type=int, default=20, help="independent keys for each program and prime")
    parser.add_argument("--times", type=int, default=1, help="times as many draws of the inputs under each key")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rates = [
        measure(program, prime, keys=options.keys, rows=rows * options.times)
        for program in PROGRAMS
        for prime, rows in PRIMES.items()
    ]
    rates += [
        measure(program, prime, keys=options.keys, rows=rows * options.times)
        for program in SEGMENTED
        for prime, rows in SEGMENTED_PRIMES.items()
    ]
    print(table(rates))
    print(f"\n{sum(r.pairs for r in rates):,} pairs")
    return 0 if all(rate.holds for rate in rates) else 1


if __name__ == "__main__":
    raise SystemExit(main())

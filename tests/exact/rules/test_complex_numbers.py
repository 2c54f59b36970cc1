"""Complex numbers against Python's integers: every op, forward and backward, as formulas in two parts."""

from itertools import starmap

import pytest
import torch
from tests.exact.rules.integers import ORACLES as O
from tests.exact.rules.integers import Z, check, mode, sixteenths

from shardproof.exact import UnsupportedOpError
from shardproof.exact.rules.complex_numbers import joined, parts

COUNT = 6


class C:
    """A complex number of two residues."""

    def __init__(self, real, imaginary=0):
        self.real, self.imag = Z(real), Z(imaginary)

    def __add__(self, other):
        return C(self.real + other.real, self.imag + other.imag)

    def __sub__(self, other):
        return C(self.real - other.real, self.imag - other.imag)

    def __mul__(self, other):
        return C(self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real)

    def __truediv__(self, other):
        return self * other.conj() * C(1 / other.size)

    @property
    def size(self):
        return self.real * self.real + self.imag * self.imag

    def conj(self):
        return C(self.real, -self.imag)


def numbers(start):
    """A leaf whose last dim holds the parts, and the complex numbers that they are."""
    found = sixteenths(2 * COUNT, start)
    x = torch.tensor([float(n) for n in found], dtype=torch.float64).view(COUNT, 2).requires_grad_()
    return x, [C(*pair) for pair in zip(found[::2], found[1::2], strict=True)]


HALF = Z(1) / 2

# name: (torch function of two complex tensors, its values, the derivative by each operand or None)
OPS = {
    "mul": (lambda x, y: x * y, lambda a, b: a * b, (lambda a, b: b, lambda a, b: a)),
    "add": (lambda x, y: x + y, lambda a, b: a + b, (lambda a, b: C(1), lambda a, b: C(1))),
    "add, times a number": (
        lambda x, y: torch.add(x, y, alpha=2),
        lambda a, b: a + b * C(2),
        (lambda a, b: C(1), lambda a, b: C(2)),
    ),
    "sub": (lambda x, y: x - y, lambda a, b: a - b, (lambda a, b: C(1), lambda a, b: C(-1))),
    "a number less": (lambda x, y: 1 - x, lambda a, b: C(1) - a, (lambda a, b: C(-1), None)),
    "div": (lambda x, y: x / y, lambda a, b: a / b, (lambda a, b: C(1) / b, lambda a, b: C(-1) * a / (b * b))),
    "div by a number": (lambda x, y: x / 2, lambda a, b: a * C(HALF), (lambda a, b: C(HALF), None)),
    "div by a complex number": (lambda x, y: x / (1 + 1j), lambda a, b: a * C(HALF, -HALF), None),
    "reciprocal": (lambda x, y: x.reciprocal(), lambda a, b: C(1) / a, (lambda a, b: C(-1) / (a * a), None)),
    "neg": (lambda x, y: -x, lambda a, b: C(-1) * a, (lambda a, b: C(-1), None)),
    "times a number": (lambda x, y: x * 0.5, lambda a, b: a * C(HALF), (lambda a, b: C(HALF), None)),
    "times i": (lambda x, y: x * 1j, lambda a, b: a * C(0, 1), (lambda a, b: C(0, 1), None)),
    "square": (lambda x, y: x.square(), lambda a, b: a * a, (lambda a, b: a + a, None)),
    "cube": (lambda x, y: x**3, lambda a, b: a * a * a, (lambda a, b: C(3) * a * a, None)),
    "inverse square": (lambda x, y: x**-2, lambda a, b: C(1) / (a * a), None),
    "conj": (lambda x, y: x.conj() * y, lambda a, b: a.conj() * b, (None, lambda a, b: a.conj())),
    "conj of conj": (lambda x, y: x.conj().conj() + 0, lambda a, b: a, (lambda a, b: C(1), None)),
    "conj in memory": (lambda x, y: x.conj().resolve_conj() * 1, lambda a, b: a.conj(), None),
    "outer": (lambda x, y: torch.outer(x, y)[1], None, None),
    "exp": (
        lambda x, y: x.exp(),
        lambda a, b: C(O.exp(a.real) * O.even("cos", a.imag, 1), O.exp(a.real) * O.odd("sin", a.imag)),
        None,
    ),
}


def cotangent(y):
    return torch.view_as_real(y) * torch.arange(1.0, 2 * COUNT + 1, dtype=torch.float64).view(COUNT, 2)


@pytest.mark.parametrize("name", OPS)
def test_an_op(name):
    function, value, slopes = OPS[name]
    (x, a), (y, b) = numbers(0), numbers(50)
    with mode() as exact:
        found = function(torch.view_as_complex(x), torch.view_as_complex(y))
        values = [a[1] * other for other in b] if value is None else list(starmap(value, zip(a, b, strict=True)))
        check(exact.digits(found), [[z.real, z.imag] for z in values])
        if slopes is None:
            return
        cotangent(found).sum().backward()
        weights = [C(2 * i + 1, 2 * i + 2) for i in range(COUNT)]
        for leaf, slope in zip((x, y), slopes, strict=True):
            if slope is not None:
                wanted = [w * slope(p, q).conj() for w, p, q in zip(weights, a, b, strict=True)]
                check(exact.digits(leaf.grad), [[z.real, z.imag] for z in wanted])


def total(row):
    found = C(0)
    for x in row:
        found += x
    return found


# name: (torch function of two complex tensors of 6 elements, its values)
OF_MANY = {
    "sum": (lambda x, y: x.sum(), lambda a, b: [total(a)]),
    "sum of rows": (lambda x, y: x.view(2, 3).sum(-1), lambda a, b: [total(a[:3]), total(a[3:])]),
    "mean": (lambda x, y: x.mean(), lambda a, b: [total(a) * C(Z(1) / 6)]),
    "cumsum": (lambda x, y: x.cumsum(0)[2], lambda a, b: [total(a[:3])]),
    "mm": (
        lambda x, y: x.view(2, 3) @ y.view(3, 2),
        lambda a, b: [total(a[3 * i + k] * b[2 * k + j] for k in range(3)) for i in range(2) for j in range(2)],
    ),
    "real times complex": (
        lambda x, y: x.real.view(2, 3).to(torch.complex64) @ y.view(3, 2),
        lambda a, b: [total(C(a[3 * i + k].real) * b[2 * k + j] for k in range(3)) for i in range(2) for j in range(2)],
    ),
    "dot": (lambda x, y: x @ y, lambda a, b: [total(p * q for p, q in zip(a, b, strict=True))]),
    "vdot": (lambda x, y: torch.vdot(x, y), lambda a, b: [total(p.conj() * q for p, q in zip(a, b, strict=True))]),
    "einsum": (
        lambda x, y: torch.einsum("ij,kj->i", x.view(2, 3), y.view(2, 3).conj()),
        lambda a, b: [total(a[3 * i + j] * b[3 * k + j].conj() for k in range(2) for j in range(3)) for i in range(2)],
    ),
    "cat and index": (lambda x, y: torch.cat((x, y))[torch.tensor([7, 0])], lambda a, b: [b[1], a[0]]),
    "where": (lambda x, y: torch.where(torch.arange(6) < 3, x, y), lambda a, b: [*a[:3], *b[3:]]),
    "masked": (lambda x, y: x.masked_fill(torch.arange(6) < 5, 0), lambda a, b: [C(0)] * 5 + [a[5]]),
    "written into": (
        lambda x, y: torch.zeros(3, dtype=torch.complex64).index_put((torch.tensor([2, 0, 1]),), x[:3]),
        lambda a, b: [a[1], a[2], a[0]],
    ),
    "added up": (
        lambda x, y: torch.zeros(2, dtype=torch.complex64).index_add(0, torch.tensor([1, 0, 1]), x[:3]),
        lambda a, b: [a[1], a[0] + a[2]],
    ),
    "baddbmm": (
        lambda x, y: torch.baddbmm(x[:1].view(1, 1, 1), x.view(1, 1, 6), y.view(1, 6, 1), beta=2, alpha=3),
        lambda a, b: [a[0] * C(2) + C(3) * total(p * q for p, q in zip(a, b, strict=True))],
    ),
}


@pytest.mark.parametrize("name", OF_MANY)
def test_an_op_of_many_numbers(name):
    function, values = OF_MANY[name]
    (x, a), (y, b) = numbers(0), numbers(50)
    with mode() as exact:
        found = function(torch.view_as_complex(x), torch.view_as_complex(y))
        check(exact.digits(found), [[z.real, z.imag] for z in values(a, b)])
        assert exact.bound(found).probability < 1e-4


def test_sizes_and_norms():
    x, a = numbers(0)
    with mode() as exact:
        z = torch.view_as_complex(x)
        check(exact.digits(z.abs()), [O.sqrt(c.size) for c in a])
        check(exact.digits(z.abs() ** 2), [c.size for c in a])
        check(exact.digits(torch.linalg.vector_norm(z) ** 2), [sum((c.size for c in a), Z(0))])
        (z.abs() ** 2).sum().backward()
        check(exact.digits(x.grad), [[2 * c.real, 2 * c.imag] for c in a])


def test_polar_numbers_made_inside_are_constants():
    angles = torch.outer(torch.arange(3.0), 1 / 100 ** (torch.arange(2) / 2).double())
    outside = torch.polar(torch.ones(3, 2, dtype=torch.float64), angles)
    cosine = angles.cos()
    with mode() as exact:
        inside = torch.polar(torch.ones(3, 2), torch.outer(torch.arange(3.0), 1 / 100 ** (torch.arange(2) / 2)))
        assert inside.dtype == torch.complex128
        assert torch.equal(exact.digits(inside), exact.digits(outside))
        assert torch.equal(exact.digits(inside.real), exact.digits(cosine))
        sine = exact.digits(inside.imag)
        assert not torch.equal(sine, exact.digits(inside.real))


def test_polar_numbers_of_residues():
    x, a = numbers(0)
    with mode() as exact:
        found = torch.polar(x[:, 0], x[:, 1])
        check(
            exact.digits(found),
            [[c.real * O.even("cos", c.imag, 1), c.real * O.odd("sin", c.imag)] for c in a],
        )


# Rotary embeddings ----------------------------------------------------------------------------------------------------


def rotated(x, angles):
    """Llama: neighbours are the parts of complex numbers, which are multiplied by exp(i * angle)."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).type_as(x)


def rotated_by_hand(x, angles):
    even, odd = x[..., ::2], x[..., 1::2]
    pairs = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
    return torch.stack(pairs, -1).flatten(-2)


WRONG = {
    "rotated the other way": lambda x, angles: rotated(x, -angles),
    "halves for neighbours": lambda x, angles: rotated(x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2), angles),
    "conjugate": lambda x, angles: torch.view_as_real(
        torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)).conj().resolve_conj()
        * torch.polar(angles * 0 + 1, angles)
    ).flatten(-2),
    "positions shifted by one": lambda x, angles: rotated(x, angles.roll(1, 0)),
    "other base": lambda x, angles: rotated(x, angles * 1.5),
}


def digits_of(function):
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    angles = torch.outer(torch.arange(5.0), 1 / 10000 ** (torch.arange(4) / 4))
    with mode() as exact:
        y = function(x, angles)
        (y * torch.arange(1.0, 81).view(2, 5, 8)).sum().backward()
        return exact.digits(y), exact.digits(x.grad)


def test_a_rotation_is_one_of_sines_and_cosines():
    right = digits_of(rotated)
    assert all(torch.equal(a, b) for a, b in zip(right, digits_of(rotated_by_hand), strict=True))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rotation_is_seen(name):
    for a, b in zip(digits_of(rotated), digits_of(WRONG[name]), strict=True):
        assert not torch.equal(a, b)


# What is not there ----------------------------------------------------------------------------------------------------

REFUSED = {
    "a root": torch.sqrt,
    "a fractional power": lambda z: z**1.5,
    "a Fourier transform": torch.fft.fft,
    "a logarithm": torch.log,
    "a fill that is no zero": lambda z: z.masked_fill(torch.arange(COUNT) < 2, 0.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_functions_are_refused(name):
    x, _ = numbers(0)
    with pytest.raises(UnsupportedOpError, match=r"complex numbers|no exact rule"), mode():
        REFUSED[name](torch.view_as_complex(x))


def test_parts_and_joined_are_inverse():
    z = torch.complex(torch.arange(3.0), torch.ones(3))
    assert torch.equal(joined(*parts(z)), z)
    assert torch.equal(parts(z.conj())[1], -torch.ones(3))
    assert parts(2 + 3j) == (2.0, 3.0)
    assert parts(2.5) == (2.5, None)

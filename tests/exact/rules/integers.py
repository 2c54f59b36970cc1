"""Arithmetic modulo a prime on Python's integers, to hold the rules against: no torch in it but the oracles' tables."""

from fractions import Fraction

from shardproof.exact import ExactArithmetic
from shardproof.exact.engine.function_mode import ordinary_pytorch

PRIME = 2097143
_shared = {}


class Z:
    """A residue; operators as of a field."""

    def __init__(self, value):
        value = value.value if isinstance(value, Z) else value
        if isinstance(value, float):
            value = Fraction(value)
        if isinstance(value, Fraction):
            value = value.numerator * pow(value.denominator, -1, PRIME)
        self.value = value % PRIME

    def __add__(self, other):
        return Z(self.value + Z(other).value)

    def __sub__(self, other):
        return Z(self.value - Z(other).value)

    def __rsub__(self, other):
        return Z(other) - self

    def __mul__(self, other):
        return Z(self.value * Z(other).value)

    def __neg__(self):
        return Z(-self.value)

    def __truediv__(self, other):
        return Z(self.value * pow(Z(other).value, -1, PRIME))

    def __rtruediv__(self, other):
        return Z(other) / self

    def __pow__(self, exponent):
        return Z(pow(self.value, exponent, PRIME))

    def __eq__(self, other):
        return self.value == Z(other).value

    __radd__, __rmul__ = __add__, __mul__

    def __hash__(self):
        return hash(self.value)

    def __repr__(self):
        return f"Z({self.balanced})"

    @property
    def balanced(self):
        return self.value - PRIME if self.value > PRIME // 2 else self.value


def mode():
    """Exact arithmetic at the prime, with the tables of the call before."""
    exact = ExactArithmetic(seed=5, prime=PRIME, check=True)
    _shared.setdefault("oracles", exact.arithmetic.oracles)
    exact.arithmetic.oracles = _shared["oracles"]
    return exact


class Oracles:
    """The functions that nothing is known of, one residue at a time."""

    def __init__(self):
        self._oracles = mode().arithmetic.oracles
        self._tables = {}

    def _at(self, kind, build, x):
        with ordinary_pytorch():
            if kind not in self._tables:
                self._tables[kind] = build()
            return Z(int(self._tables[kind][Z(x).balanced + PRIME // 2]))

    def any(self, name, x):
        return self._at(name, lambda: self._oracles.permutation(name), x)

    def odd(self, name, x):
        return self._at(f"odd {name}", lambda: self._oracles.odd(name), x)

    def even(self, name, x, at_zero=0):
        return self._at(f"even {name}", lambda: self._oracles.even(name, at_zero=at_zero), x)

    def gate(self, x):
        """[x > 0] as a number."""
        return self._at("gate", lambda: self._oracles.gate(at_zero=0), x)

    def exp(self, x):
        return self._at("exp", self._oracles.exp, x)

    def log(self, x):
        return self._at("log", self._oracles.log, x)

    def sqrt(self, x):
        return self._at("sqrt", lambda: self._oracles.fixing_zero("sqrt"), x)

    def order(self, x):
        return self.any("order", x).balanced

    def largest(self, numbers):
        return max(numbers, key=self.order)

    def sigmoid(self, x):
        return 1 / (1 + self.exp(-x))

    def softmax(self, row):
        exps = [self.exp(x) for x in row]
        return [e / sum(exps, Z(0)) for e in exps]

    def logsumexp(self, row):
        return self.log(sum((self.exp(x) for x in row), Z(0)))


ORACLES = Oracles()


def sixteenths(count, start=0):
    """Different nonzero multiples of 1/16 between -64 and 64, which keep their meaning as leaves."""
    return [Fraction((37 * (i + start) * (i + start + 3) + 11 * i + 5) % 2041 - 1020 or 7, 16) for i in range(count)]


def nested(numbers, *shape):
    """A flat list as nested lists."""
    numbers = list(numbers)
    for size in reversed(shape[1:]):
        numbers = [numbers[i : i + size] for i in range(0, len(numbers), size)]
    return numbers


def flat(value):
    """Nested lists as a flat one."""
    return [y for x in value for y in flat(x)] if isinstance(value, list | tuple) else [value]


def check(digits, expected):
    """Every element is the one expected."""
    found, wanted = digits.reshape(-1).tolist(), [Z(x).balanced for x in flat(expected)]
    assert found == wanted, [(i, a, b) for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b][:5]

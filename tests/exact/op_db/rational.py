"""Does a float64 number stand for the same rational number as a residue? Python integers and fractions only."""

from fractions import Fraction
from math import isfinite

LOWEST = -1.7976931348623157e308


def stands_for(number, residue, prime, scale=1.0):
    """Whether `residue` is a rational number that float64 arithmetic may give as `number`.

    Candidates are the number itself and the continued fraction convergents within 2**-44 of it, relatively to `scale`,
    the size of the numbers that met on the way: a few of some two million residues, so that a wrong one passes by
    chance about once in 10**5.
    """
    if number == float("-inf") or number == LOWEST:
        return residue == number
    if not isfinite(number) or residue != round(residue):
        return False
    return any(_residue(candidate, prime) == residue % prime for candidate in _candidates(number, scale))


def _residue(fraction, prime):
    if fraction.denominator % prime == 0:
        return None
    return fraction.numerator * pow(fraction.denominator, -1, prime) % prime


def _candidates(number, scale):
    value = Fraction(number)
    tolerance = max(abs(value), Fraction(scale)) / 2**44
    yield value
    if abs(value) < tolerance:  # what is left of a sum that cancels
        yield Fraction(0)
    rest, h, k = value, (0, 1), (1, 0)
    for _ in range(24):
        term = rest.numerator // rest.denominator
        h, k = (h[1], term * h[1] + h[0]), (k[1], term * k[1] + k[0])
        near = Fraction(h[1], k[1])
        if abs(near - value) <= tolerance:
            yield near
        if rest == term or k[1] > 2**26:
            return
        rest = 1 / (rest - term)

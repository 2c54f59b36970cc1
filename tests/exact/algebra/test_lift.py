"""The lift, against Python's fractions: what a constant stands for, at which precision, and the same anywhere."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shardproof.exact.algebra.field import Field, choose_prime
from shardproof.exact.algebra.lift import LOWEST, PRECISION, Lift

P = choose_prime(1)


def lift():
    return Lift(field=Field(P))


def residue(number):
    number = Fraction(number)
    value = number.numerator * pow(number.denominator, -1, P) % P
    return value - P if value > (P - 1) // 2 else value


def simplest_by_search(value, bits):
    """The rational of smallest denominator within half an ulp, by trying every denominator."""
    for under in range(1, 2000):
        over = round(Fraction(value) * under)
        if abs(Fraction(over, under) - Fraction(value)) * 2**bits <= abs(Fraction(value)):
            return Fraction(over, under)
    return None


@settings(max_examples=300, deadline=None)
@given(over=st.integers(-999, 999), under=st.integers(1, 999))
def test_a_quotient_of_small_numbers_is_lifted_to_itself_from_a_scalar_and_from_a_tensor(over, under):
    number = Fraction(over, under)
    assert lift().number(float(number)) == residue(number)
    assert lift().tensor(torch.tensor([float(number)], dtype=torch.float64)).item() == residue(number)


@settings(max_examples=200, deadline=None)
@given(over=st.integers(-30, 30), under=st.integers(1, 30), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_a_tensor_is_lifted_at_the_precision_of_its_dtype(over, under, dtype):
    value = torch.tensor([over / under]).to(dtype)
    short = abs(over) * under < 2 ** (3 * PRECISION[dtype] // 4)  # longer ones are not told from square roots
    if short and simplest_by_search(float(value), PRECISION[dtype]) == Fraction(over, under):
        assert lift().tensor(value).item() == residue(Fraction(over, under))
    if float(value) != over / under:
        assert lift().number(float(value)) != residue(Fraction(over, under))  # as a Python number it is another


@pytest.mark.parametrize("number", ["0.1", "0.5", "0.25", "0.02", "0.01", "0.9"])
def test_common_constants_in_bfloat16(number):
    value = torch.tensor([float(number)]).to(torch.bfloat16)
    assert lift().tensor(value).item() == residue(simplest_by_search(float(value), PRECISION[torch.bfloat16]))


@pytest.mark.parametrize(
    "number", ["1e-5", "1e-6", "1e-8", "1e-12", "0.999", "0.95", "3e-4", "1e-20", "1e20", "-2.5e-30"]
)
def test_constants_are_what_they_are_written_as(number):
    assert lift().number(float(number)) == residue(Fraction(number))


@pytest.mark.parametrize("number", ["1e-20", "3e25", "1e-8"])
def test_tiny_and_huge_constants_in_float32_are_what_they_are_written_as(number):
    assert lift().tensor(torch.tensor([float(number)])).item() == residue(Fraction(number))


@pytest.mark.parametrize(
    ("computed", "meant"), [(0.1 * 3, "0.3"), (1 - 0.9, "0.1"), (1 / 3 * 3 / 7, "1/7"), (0.1 + 0.2, "3/10")]
)
def test_a_constant_computed_in_float64_with_roundings_is_the_simple_one_beside_it(computed, meant):
    assert lift().number(computed) == residue(Fraction(meant))


@pytest.mark.parametrize("factor", [1 + 2**-20, 1 + 2**-40, 1.0000001, 1 - 1e-9])
def test_a_constant_that_differs_by_more_than_roundings_is_another(factor):
    for constant in (0.1, 0.3, 1 / 3, 64**-0.5, 80**-0.5, 0.999):
        assert lift().number(constant * factor) != lift().number(constant)


# Roots ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3, 5, 8, 12, 40, 48, 64, 80, 96, 128, 160, 256, 704, 4096])
def test_the_square_root_of_a_small_integer_squares_to_it_and_its_inverse_to_its_inverse(d):
    for value, square in ((math.sqrt(d), Fraction(d)), (d**-0.5, Fraction(1, d)), (-math.sqrt(d), Fraction(d))):
        found = lift().number(value)
        assert found * found % P == residue(square) % P
    assert lift().number(math.sqrt(d)) * lift().number(d**-0.5) % P == 1
    assert lift().number(1 / math.sqrt(d)) == lift().number(d**-0.5)
    assert lift().number(-math.sqrt(d)) == -lift().number(math.sqrt(d))


def test_roots_multiply():
    found = {d: lift().number(math.sqrt(d)) for d in (2, 3, 6, 10, 5, 15)}
    assert found[2] * found[3] % P == found[6] % P
    assert found[3] * found[5] % P == found[15] % P
    assert found[2] * found[5] % P == found[10] % P


def test_a_root_that_the_field_does_not_have_is_a_generic_number():
    assert lift().number(2 ** (1 / 3)) ** 3 % P != 2
    assert lift().number(2 ** (1 / 3)) == lift().number(2 ** (1 / 3))


@pytest.mark.parametrize("d", [6, 8, 12, 64, 80, 128])
def test_a_fourth_root_has_the_square_root_as_its_square(d):
    field = Field(choose_prime(3))
    one = Lift(field=field)
    fourth = one.number(d**-0.25)
    assert field.representative(fourth**2) == one.number(d**-0.5)
    assert field.representative(fourth**4) == field.representative(Fraction(1, d))
    assert one.number((1 / math.sqrt(d)) ** 0.5) == fourth
    assert one.number(d**-0.25 * (1 + 2**-30)) != fourth


# Snaps ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1.2345678e200, -9.87654321e-200])
def test_a_number_whose_fourth_power_is_beyond_float64_is_lifted_all_the_same(number):
    assert lift().number(number) == residue(Fraction(str(number)))
    one, other = lift().tensor(torch.tensor([number, 2 * number], dtype=torch.float64)).tolist()
    assert one != other


def test_a_generic_constant_snaps_to_an_earlier_one_within_a_few_ulps_and_is_listed():
    one = lift()
    first = one.number(math.pi)
    again = math.nextafter(math.nextafter(math.pi, 4), 4)
    assert one.number(again) == first
    assert [(snap.given, snap.taken) for snap in one.snaps] == [(again, math.pi)]
    assert one.number(math.pi * (1 + 2**-40)) != first
    assert len(one.snaps) == 1


def test_the_same_float_at_another_precision_is_another_number():
    one = lift()
    tenth = torch.tensor([0.1]).to(torch.bfloat16)
    in_bfloat16, as_scalar = one.tensor(tenth).item(), one.number(float(tenth))
    assert in_bfloat16 != as_scalar
    other = lift()
    assert (other.number(float(tenth)), other.tensor(tenth).item()) == (as_scalar, in_bfloat16)  # in any order


# Whole tensors --------------------------------------------------------------------------------------------------------


def test_a_large_table_of_generic_numbers_is_lifted_element_by_element_alike():
    table = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = lift().tensor(table)
    assert Field(P).is_canonical(whole)
    parts = torch.cat([Lift(field=Field(P)).tensor(part) for part in table.split(9_999)])
    assert torch.equal(whole, parts)
    assert torch.equal(lift().tensor(-table), -whole)


def test_a_denominator_that_the_prime_divides_is_no_error():
    field = Field(101)
    table = torch.randn(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert field.is_canonical(Lift(field=field).tensor(table))
    assert Lift(field=field).number(1 / 101) == Lift(field=field).number(1 / 101)


def test_symbols_stay_and_other_infinities_are_refused():
    values = torch.tensor([float("-inf"), torch.finfo(torch.float32).min, 0.5])
    assert lift().tensor(values).tolist()[:2] == [float("-inf"), LOWEST]
    for bad in (float("nan"), float("inf")):
        with pytest.raises(FloatingPointError):
            lift().number(bad)
        with pytest.raises(FloatingPointError):
            lift().tensor(torch.tensor([bad, 0.3]))


def test_the_digits_are_those_recorded_once_on_another_machine():
    numbers = (0.1, 1e-5, math.pi, math.e, 80**-0.5, 2 ** (1 / 3), 1 / 3, 1e-20)
    field = Field(2_097_169)
    assert [Lift(field=field).number(x) for x in numbers] == RECORDED


RECORDED = [209717, 609668, -198254, 954433, 128286, 1000286, -699056, 455895]

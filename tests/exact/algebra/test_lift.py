"""The lift, against Python's fractions: what a constant stands for, at which precision, and the same anywhere."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.exact.algebra.residues import check_value_class

from shardproof.exact.algebra.field import Field, choose_prime
from shardproof.exact.algebra.lift import LOWEST, PRECISION, Lift, Snap, is_symbol
from shardproof.exact.errors import SymbolError

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


# Branch by branch -----------------------------------------------------------------------------------------------------

HALF = P // 2


@pytest.mark.parametrize("dtype", PRECISION)
def test_the_lowest_number_of_every_dtype_is_the_one_symbol(dtype):
    lowest = torch.finfo(dtype).min
    assert is_symbol(lowest)
    assert not is_symbol(-lowest)
    assert not is_symbol(lowest * (1 - 2**-7))
    values = torch.tensor([lowest, 1.0, 0.5, float("-inf")], dtype=dtype)
    assert lift().tensor(values).tolist() == [LOWEST, 1, residue(Fraction(1, 2)), float("-inf")]
    assert lift().tensor(values[:2]).tolist() == [LOWEST, 1]
    assert lift().simplest(values).tolist() == [LOWEST, 1, 0.5, float("-inf")]
    with pytest.raises(SymbolError, match="only as masks"):
        lift().number(lowest)


def test_minus_infinity_is_a_symbol_and_plus_infinity_is_not():
    assert is_symbol(float("-inf"))
    assert [is_symbol(x) for x in (float("inf"), 0.0, float("nan"), -1.0)] == [False] * 4
    with pytest.raises(SymbolError, match=r"-inf or finfo\.min is used as a number"):
        lift().number(float("-inf"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(bad):
    with pytest.raises(FloatingPointError, match=f"a constant is {bad}; exact arithmetic needs finite numbers"):
        lift().number(bad)
    with pytest.raises(FloatingPointError, match="a tensor holds NaN or plus infinity"):
        lift().tensor(torch.tensor([1.0, bad]))


def test_integers_and_fractions_are_taken_as_they_are():
    assert [lift().number(n) for n in (0, 1, -1, HALF, HALF + 1, P, 10**30)] == [
        residue(n) for n in (0, 1, -1, HALF, HALF + 1, P, 10**30)
    ]
    assert lift().number(Fraction(10**20, 3)) == residue(Fraction(10**20, 3))
    assert lift().number(True) == 1
    with pytest.raises(ZeroDivisionError):
        lift().number(Fraction(1, P))


@pytest.mark.parametrize("value", [HALF, HALF + 1, -HALF, -HALF - 1, P, 2 * P, 3 * P, 2**53 - 1, -(2**53) + 1, 2**53])
def test_whole_numbers_in_a_tensor(value):
    values = torch.tensor([float(value), 1.0], dtype=torch.float64)
    assert lift().tensor(values).tolist() == [residue(int(float(value))), 1]
    assert lift().number(float(value)) == residue(int(float(value)))


@pytest.mark.parametrize("dtype", PRECISION)
def test_a_lifted_tensor_is_a_copy_in_float64(dtype):
    for numbers in ([[1.0, 2.0], [3.0, -4.0]], [[0.5, 2.0], [3.0, -4.0]]):
        values = torch.tensor(numbers, dtype=dtype)
        found = lift().tensor(values)
        assert (found.dtype, found.shape) == (torch.float64, values.shape)
        assert found.data_ptr() != values.data_ptr()
        nearest = lift().simplest(values)
        assert (nearest.dtype, nearest.shape) == (torch.float64, values.shape)
        assert nearest.data_ptr() != values.data_ptr()
        assert nearest.tolist() == numbers


def test_the_precision_may_be_given():
    value = torch.tensor([1 / 3 + 1e-9], dtype=torch.float64)
    assert lift().tensor(value, bits=24).item() == residue(Fraction(1, 3))
    assert lift().tensor(value).item() != residue(Fraction(1, 3))
    assert lift().number(1 / 3 + 1e-9, bits=24) == residue(Fraction(1, 3))


SIMPLEST = {
    "a tenth": (0.1, 0.1),
    "a third": (1 / 3, 1 / 3),
    "a root": (math.sqrt(2), math.sqrt(2)),
    "a negative root": (-math.sqrt(0.125), -math.sqrt(0.125)),
    "a short decimal": (1e-8, 1e-8),
    "an integer": (3.0, 3.0),
    "a large integer": (2.0**60, 2.0**60),
}


@pytest.mark.parametrize("name", SIMPLEST)
def test_the_number_that_a_float32_stands_for(name):
    value, meant = SIMPLEST[name]
    found = lift().simplest(torch.tensor([value], dtype=torch.float32)).item()
    assert found == meant
    assert lift().simplest(torch.tensor([value], dtype=torch.float64)).item() == value


def test_what_stands_for_nothing_simple_stays_what_it_is():
    values = torch.tensor([math.pi, float("nan"), float("inf"), 1e-30], dtype=torch.float32)
    found = lift().simplest(values)
    assert abs(found[0].item() - math.pi) <= math.pi * 2**-23  # 355/113, no further than float32 is
    assert found[1].isnan()
    assert found[2].item() == float("inf")
    assert found[3].item() == values[3].item()


@pytest.mark.parametrize(
    "number", [1, 4, 2, 18, 169, Fraction(4, 9), Fraction(18, 25), Fraction(7, 11), 2**10, 3**5 * 25]
)
def test_the_root_of_a_product_of_small_primes_and_a_square(number):
    found = lift().root(Fraction(number))
    assert abs(found) <= HALF
    assert (found * found - residue(number)) % P == 0


def test_roots_of_squares_are_the_positive_whole_numbers():
    assert [lift().root(Fraction(n * n)) for n in range(1, 30)] == list(range(1, 30))
    assert lift().root(Fraction(9, 16)) == residue(Fraction(3, 4))


@pytest.mark.parametrize("number", [13, 26, Fraction(1, 17), 6 * 19])
def test_another_prime_factor_has_no_root(number):
    assert lift().root(Fraction(number)) is None


def test_a_field_without_the_root_has_a_generic_number_instead():
    field = Field(101)  # 2 and 3 are no squares modulo 101, 5 is
    one = Lift(field=field)
    assert one.root(Fraction(2)) is None
    assert one.root(Fraction(4)) == 2
    assert one.root(Fraction(5)) ** 2 % 101 == 5
    found = one.number(math.sqrt(2))
    assert found == Lift(field=field).number(math.sqrt(2))
    assert found * found % 101 != 2
    assert one.number(math.sqrt(5)) ** 2 % 101 == 5


def test_a_denominator_that_the_prime_divides_is_the_float_itself():
    field = Field(101)
    assert Lift(field=field).number(1 / 101) == field.representative(Fraction(1 / 101))
    table = torch.full((5000,), 1 / 101, dtype=torch.float64)
    assert set(Lift(field=field).tensor(table).tolist()) == {field.representative(Fraction(1 / 101))}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("toward", [0.0, 10.0])
def test_a_generic_constant_snaps_to_either_side(steps, toward):
    one, value = lift(), math.pi
    first = one.number(math.pi)
    one.number(1.0 * math.e), one.number(math.pi * 2)  # neighbours in the list of constants
    for _ in range(steps):
        value = math.nextafter(value, toward)
    assert one.number(value) == first
    assert one.snaps == [Snap(given=value, taken=math.pi)]
    assert one.number(value) == first  # again: it snaps again
    assert one.number(math.pi) == first


def test_a_generic_constant_farther_than_eight_halves_of_an_ulp_is_its_own():
    one = lift()
    first = one.number(math.pi)
    near, far = math.pi * (1 + 7.5 * 2**-53), math.pi * (1 + 12 * 2**-53)
    assert one.number(far) != first
    assert Snap(given=far, taken=math.pi) not in one.snaps
    assert lift().number(near) != first  # alone it is another number
    other = lift()
    assert other.number(math.pi) == other.number(near)


def test_negative_constants_snap_too():
    one = lift()
    first = one.number(-math.pi)
    assert one.number(math.nextafter(-math.pi, 0)) == first
    assert len(one.snaps) == 1


def test_the_negative_of_a_constant_is_the_negative_of_its_residue_also_where_it_snaps():
    one = lift()
    first = one.number(math.pi)
    beside = math.nextafter(math.pi, 4)
    assert one.number(-math.pi) == -first
    assert one.number(-beside) == -first
    assert one.number(beside) == first
    assert one.tensor(torch.tensor([-beside, beside], dtype=torch.float64)).tolist() == [-first, first]
    assert one.number(-beside * (1 + 2.0**-40)) != -first


def test_simple_constants_never_snap():
    one = lift()
    one.number(0.1), one.number(0.1 + 1e-17), one.number(1 - 0.9)
    assert one.snaps == []


def test_large_tables_are_not_compared_one_by_one():
    table = torch.full((4097,), math.pi, dtype=torch.float64)
    one = lift()
    one.number(math.nextafter(math.pi, 4))
    one.tensor(table)
    assert one.snaps == []
    one.tensor(table[:4096])
    assert one.snaps[:1] == [Snap(given=math.pi, taken=math.nextafter(math.pi, 4))]


def test_a_tensor_longer_than_a_window_is_lifted_to_its_end():
    count = 2**20 + 3
    values = torch.ones(count, dtype=torch.float32)
    values[[0, 2**20 - 1, 2**20, count - 1]] = 0.25
    found = lift().tensor(values)
    assert (found == residue(Fraction(1, 4))).nonzero().flatten().tolist() == [0, 2**20 - 1, 2**20, count - 1]
    assert (found == 1).sum() == count - 4


@pytest.mark.parametrize("d", [64, 80])
def test_a_negative_fourth_root_and_one_that_is_no_simple_power(d):
    field = Field(choose_prime(3))
    one = Lift(field=field)
    assert one.number(-(d**-0.25)) == -one.number(d**-0.25)
    assert Lift(field=field).number(13**0.25) ** 4 % field.prime != 13  # 13 has no root here
    table = torch.full((2,), d**-0.25, dtype=torch.float64)
    assert Lift(field=field).tensor(table).tolist() == [one.number(d**-0.25)] * 2


@pytest.mark.parametrize("digits", ["1.5e-7", "2.25e-9", "9.99e-18", "1e-18"])
def test_short_decimals_in_float32(digits):
    assert lift().tensor(torch.tensor([float(digits)])).item() == residue(Fraction(digits))
    assert lift().tensor(torch.tensor([-float(digits)])).item() == -residue(Fraction(digits))


@pytest.mark.parametrize("number", ["1.5e60", "7e-40", "-3.25e100", "1.7976e308"])
def test_the_shortest_decimal_of_what_no_quotient_is_near(number):
    assert lift().number(float(number)) == residue(Fraction(number))


def test_a_snap_and_a_lift_are_values_by_name():
    check_value_class(Snap(given=1.0, taken=2.0), taken=3.0)
    with pytest.raises(TypeError, match="positional argument"):
        Lift(Field(P))
    assert not hasattr(lift(), "__dict__")


# 16 bits --------------------------------------------------------------------------------------------------------------


def all_of(dtype):
    """All finite numbers of a 16-bit dtype but its lowest, which is a symbol."""
    found = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    return found[found.isfinite() & (found != torch.finfo(dtype).min)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_each_number_of_16_bits_stands_for_a_number_of_its_own_that_rounds_to_it(dtype):
    values = all_of(dtype)
    meant = lift().simplest(values)
    assert torch.equal(meant.to(dtype), values)
    assert len(meant.unique()) == len(values.double().unique())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("start", [0.0625, 0.5, 0.7, 0.98, 1.4, 1.9])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("size", [40, 5000])
def test_neighbours_in_a_16_bit_table_stay_distinct_in_small_tables_and_large(dtype, start, sign, size):
    next_ones = torch.tensor(start, dtype=dtype).view(torch.int16) + torch.arange(40, dtype=torch.int16)
    table = sign * next_ones.view(dtype)
    assert len(table.unique()) == 40
    found = lift().tensor(table.repeat(size // 40))
    assert len(found.unique()) == 40
    assert torch.equal(found[:40], lift().tensor(table.flip(0)).flip(0))  # in any order


def test_constants_snap_in_float64_alone():
    near = torch.tensor([math.pi, math.nextafter(math.pi, 4)], dtype=torch.float64)
    assert len(lift().tensor(near).unique()) == 1
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        value = torch.tensor(math.pi, dtype=dtype)
        one = lift()
        assert len(one.tensor(torch.stack([value, value * (1 + torch.finfo(dtype).eps)])).unique()) == 2
        assert one.snaps == []


@pytest.mark.parametrize("ulps", [-2, -1, 1, 2])
@pytest.mark.parametrize("number", [2, 3, Fraction(1, 2), 12])
def test_a_root_computed_with_roundings_in_float64_is_the_root(number, ulps):
    one = lift()
    root = math.sqrt(number)
    for _ in range(abs(ulps)):
        root = math.nextafter(root, math.inf if ulps > 0 else 0)
    assert one.number(root) == one.root(Fraction(number)) is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [Fraction(1, 2), Fraction(1, 3), Fraction(2, 3), 2])
def test_a_root_in_16_bits_stands_for_the_root(number, dtype):
    root = torch.tensor([math.sqrt(number), -math.sqrt(number)])
    assert torch.allclose(lift().simplest(root.to(dtype)), root.double(), rtol=1e-7, atol=0)


def test_what_is_no_number_stays_what_it_is_beside_numbers():
    given = torch.tensor([math.nan, 0.1, math.inf])
    found = lift().simplest(given)
    assert found[0].isnan()
    assert found[1:].tolist() == [0.1, math.inf]


def test_a_generic_constant_snaps_to_the_smallest_of_several():
    one = lift()
    base = math.pi / 7
    for value in (base, base * 1.5, base * 2.5):
        one.number(value)
    assert one.number(math.nextafter(base, 0)) == one.number(base)
    assert [snap.taken for snap in one.snaps] == [base]

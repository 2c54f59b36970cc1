"""Constants that differ by a last place from the reference's are taken for them, each is listed, and no other is."""

import math

import numpy as np
import pytest
import torch

from shardproof.exact.algebra.field import Field, choose_prime
from shardproof.exact.algebra.lift import Lift
from shardproof.exact.algebra.reference_constants import ReferenceConstants

FIELD = Field(choose_prime(3))
SLOPE = 2 ** (-5 / 3)


def lifted(value, reference=None, dtype=torch.float64, bits=None):
    """The residues of a tensor or number; those of the reference are lifted first, and what was taken for one."""
    one = Lift(field=FIELD)
    for constant in () if reference is None else reference:
        lift(one, constant, dtype, bits)
    beside = Lift(field=FIELD, reference=None if reference is None else one.constants)
    return lift(beside, value, dtype, bits), beside.taken


def lift(by, value, dtype, bits):
    if isinstance(value, float):
        return by.number(value)
    return by.tensor(torch.as_tensor(value).to(dtype), bits=bits).tolist()


def up(value, places=1):
    """So many float64 numbers above."""
    return float(np.nextafter(value, math.inf)) if places == 1 else up(up(value), places - 1)


def table(base=10000.0, length=24):
    """The angles of a rotary table, float32."""
    return torch.outer(torch.arange(1.0, length), base ** (-torch.arange(0, 8, 2) / 8))


@pytest.mark.parametrize("places", [1, 3])
def test_a_number_a_few_units_away_is_taken_for_the_references_and_listed(places):
    other = up(SLOPE, places)
    assert lifted(other)[0] != lifted(SLOPE)[0]
    found, taken = lifted(other, [SLOPE])
    assert found == lifted(SLOPE)[0]
    assert [(one.given, one.taken) for one in taken.values()] == [(other, SLOPE)]
    assert lifted(-other, [SLOPE])[0] == -found
    assert lifted(SLOPE, [SLOPE]) == (found, {})


@pytest.mark.parametrize(
    ("given", "reference"),
    [
        (up(SLOPE, 40), [SLOPE]),
        (SLOPE * (1 + 1e-4), [SLOPE]),
        (up(SLOPE), [SLOPE, up(SLOPE, 3)]),  # which of the two?
        (up(SLOPE), [0.3]),
        (0.3, [up(0.3, 2)]),  # it is known what it stands for
        (math.sqrt(3), [up(math.sqrt(3), 2)]),
    ],
)
def test_no_other_is(given, reference):
    assert lifted(given, reference) == (lifted(given)[0], {})


def test_a_float32_table_computed_in_another_way_is_taken_as_a_whole():
    one = table().cos()
    upwards = torch.arange(one.numel()).view_as(one) % 3 > 0
    other = torch.where(upwards, torch.nextafter(one, torch.full_like(one, 2.0)), one)
    found, taken = lifted(other, [one], torch.float32)
    assert found == lifted(one, dtype=torch.float32)[0]
    assert len(taken) == len(set(other[one != other].tolist()))
    # converted to float64, as the buffers of a model are
    assert lifted(other, [one])[0] == lifted(one)[0]
    # one rank's rows
    rows = slice(0, 23)
    assert lifted(other[rows], [torch.cat([one, one + 1])], torch.float32)[0] == found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_wrong_table_is_not(dtype):
    one = table().cos()
    for wrong in (table(base=10001.0).cos(), table().roll(1, 0).cos(), one * (1 + 1e-4), -one.sin()):
        found, _ = lifted(wrong, [one], dtype)
        assert found != lifted(one, dtype=dtype)[0]
    at_one_element = one.clone()
    at_one_element[3, 1] *= 1 + 1e-5
    assert lifted(at_one_element, [one], dtype)[0] != lifted(one, dtype=dtype)[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits_stay_distinct(dtype):
    one = table().cos().to(dtype)
    other = torch.nextafter(one, torch.full_like(one, 2.0))
    assert lifted(other, [one], dtype) == (lifted(other, dtype=dtype)[0], {})
    found, taken = lifted(other, [one])  # converted to float64
    assert found == lifted(other)[0]
    assert not taken


@pytest.mark.parametrize("number", [0.7421875, 0.8046875])
def test_a_number_of_16_bits_is_not_that_of_float64_which_the_reference_has_too(number):
    part = torch.tensor([number, 0.765625], dtype=torch.bfloat16)
    beside = Lift(field=FIELD)
    beside.tensor(torch.tensor([number, 1.5], dtype=torch.float64))  # known to more places: another constant
    own = Lift(field=FIELD, reference=beside.constants)
    assert own.tensor(part).tolist() == Lift(field=FIELD).tensor(part).tolist()
    assert not own.taken


def test_elements_of_a_small_tensor_are_taken_one_by_one():
    slopes = torch.tensor([2 ** (-8 * i / 12) for i in range(1, 13)], dtype=torch.float64)
    own = slopes[4:8].clone()
    own[0] = up(float(own[0]))
    found, taken = lifted(own, [slopes])
    assert found == lifted(slopes)[0][4:8]
    assert list(taken) == [float(own[0])]


def test_constants_of_several_runs_are_merged():
    several = [ReferenceConstants(), ReferenceConstants()]
    several[0].add(np.array([SLOPE]), 53)
    several[1].add(np.array([SLOPE]), 53)
    several[1].add(np.array([SLOPE / 3]), 24)
    several[1].add(np.array([0.3]), 11)
    several[1].add(np.array([3.0, -np.inf]), 53)  # no fraction
    merged = ReferenceConstants.merged(several)
    assert {bits: len(tables) for bits, tables in merged.tables.items()} == {53: 1, 24: 1}


@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**20])
def test_near_is_relative(scale):
    value = SLOPE * scale
    assert lifted(up(value, 3), [value])[0] == lifted(value)[0]
    assert lifted(up(value, 40), [value]) == (lifted(up(value, 40))[0], {})


def test_a_table_of_numbers_that_lie_close_together_is_taken_as_a_whole():
    one = table().cos()
    one[0, 1] = torch.nextafter(one[0, 0], torch.tensor(2.0))  # one by one, neither could be told from the other
    other = torch.nextafter(one, torch.full_like(one, 2.0))
    assert lifted(other, [one], torch.float32)[0] == lifted(one, dtype=torch.float32)[0]
    assert lifted(other[0], [one[0]], torch.float32)[0] != lifted(one[0], dtype=torch.float32)[0]  # too few for a table


@pytest.mark.parametrize("first", [0.0, None])
def test_a_table_may_start_with_zero_or_with_its_largest_number(first):
    one = table().sin()
    one[0, 1:] /= 100
    if first is not None:
        one[0, 0] = first
    other = torch.where(one == 0, one, torch.nextafter(one, torch.full_like(one, 2.0)))
    assert lifted(other, [one], torch.float32)[0] == lifted(one, dtype=torch.float32)[0]
    assert lifted(other, dtype=torch.float32)[0] != lifted(one, dtype=torch.float32)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_that_the_reference_has_itself_are_taken_for_no_others(dtype):
    """Each of a tensor's numbers is the reference's own, and one of its tables lies near the whole."""
    one = table().cos()
    own = torch.nextafter(one, torch.full_like(one, 2.0))
    longer = torch.cat([own.reshape(-1), torch.tensor([0.3])])  # of another size, so that no part of it is the tensor
    assert lifted(own, [one], dtype)[0] == lifted(one, dtype=dtype)[0]
    assert lifted(own, [one, longer], dtype) == (lifted(own, dtype=dtype)[0], {})


def test_constants_that_come_later_are_found_too():
    reference = ReferenceConstants()

    def all_unknown(values, _bits):
        return np.ones(values.shape, dtype=bool)

    for value in (SLOPE, SLOPE / 3):
        reference.add(np.array([value]), 53)
        assert reference.replace(np.array([up(value)]), 53, all_unknown)[0].tolist() == [value]


# In the dtype that the programs compute in ----------------------------------------------------------------------------


def taken_in_float32(given, reference, dtype=torch.float64, reference_dtype=torch.float64):
    """Residues of constants and of the reference's, lifted in a program that computes in float32; what was taken."""
    one = Lift(field=FIELD)
    expected = lift(one, reference, reference_dtype, None)
    beside = Lift(field=FIELD, reference=ReferenceConstants.merged([one.constants], 24))
    return lift(beside, given, dtype, None), expected, beside.taken


GELU = math.sqrt(2 / math.pi)


def test_a_number_that_is_the_same_in_float32_is_taken_where_programs_compute_in_float32():
    found, expected, taken = taken_in_float32(0.7978845608, GELU)
    assert found == expected
    assert [(one.given, one.taken) for one in taken.values()] == [(0.7978845608, GELU)]
    assert lifted(0.7978845608, [GELU])[1] == {}  # in float64 it is another


@pytest.mark.parametrize("given", [GELU * (1 + 1e-6), 0.79788, 0.8, 1 / math.sqrt(2)])
def test_one_that_is_another_in_float32_is_not(given):
    found, expected, taken = taken_in_float32(given, GELU)
    assert found != expected
    assert not taken


def test_which_of_two_is_not_guessed_in_float32_either():
    two = torch.tensor([GELU, GELU * (1 + 2e-7)], dtype=torch.float64)
    found, expected, taken = taken_in_float32(torch.tensor([0.7978845608], dtype=torch.float64), two)
    assert found[0] not in expected
    assert not taken


@pytest.mark.parametrize("ways", [(torch.float32, torch.float64), (torch.float64, torch.float32)])
@pytest.mark.parametrize("length", [6, 24])
def test_a_table_of_float32_and_one_computed_in_float64_are_one(ways, length):
    exponents = torch.arange(1, length + 1, dtype=torch.float64) / 7
    given, reference = ((2.0 ** -exponents.to(dtype)).to(dtype) for dtype in ways)
    assert not torch.equal(given.double(), reference.double())
    found, expected, _ = taken_in_float32(given, reference, *ways)
    assert found == expected
    wrong = given.clone()
    wrong[3] *= 1 + 1e-5
    assert taken_in_float32(wrong, reference, *ways)[0] != expected


def test_a_number_that_the_reference_holds_to_float32_is_that_one_in_float64_too():
    table = torch.tensor([0.1, GELU])
    found, expected, _ = taken_in_float32(table.double(), table, torch.float64, torch.float32)
    assert found[1] == expected[1]

"""The field against Python's integers: extreme representatives, exactness at its limits, every layout."""

import dataclasses
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.exact.algebra.test_blocks import layouts

from shardproof.exact.algebra.blocks import block_size
from shardproof.exact.algebra.field import Field, choose_prime, is_prime, primitive_root

LARGEST = 8388593  # below 2**23
CHOSEN = [2228519, 2723951, 2577791, 2177999]
PRIMES = (3, 5, 101, 10007, 2097169, 2965819, LARGEST)


def balanced(number, prime):
    rest = int(number) % prime
    return rest - prime if rest > prime // 2 else rest


def expected(integers, prime):
    return [balanced(x, prime) for x in integers]


def ints(tensor):
    return [int(x) for x in tensor.reshape(-1).tolist()]


@st.composite
def fields_and_extremes(draw, count):
    """A field, and lists of representatives, most of them at the extremes."""
    field = Field(draw(st.sampled_from(PRIMES)))
    half = field.half
    element = st.sampled_from([-half, half, -half + 1, half - 1, 0, 1, -1]) | st.integers(-half, half)
    size = draw(st.integers(0, 12))
    return field, *(draw(st.lists(element, min_size=size, max_size=size)) for _ in range(count))


def doubles(numbers):
    return torch.tensor(numbers, dtype=torch.float64)


@settings(max_examples=200, deadline=None)
@given(fields_and_extremes(3))
def test_elementwise_operations_are_those_of_integers(case):
    field, a, b, c = case
    x, y, z, p = doubles(a), doubles(b), doubles(c), field.prime
    assert ints(field.multiply(x, y)) == expected([i * j for i, j in zip(a, b, strict=True)], p)
    assert ints(field.add(x, y)) == expected([i + j for i, j in zip(a, b, strict=True)], p)
    assert ints(field.add(x, y, times=-field.half)) == expected(
        [i - field.half * j for i, j in zip(a, b, strict=True)], p
    )
    assert ints(field.multiply_and_add(z, x, y)) == expected([k + i * j for i, j, k in zip(a, b, c, strict=True)], p)
    for weight in (field.half, -field.half, 0, 1):
        want = expected([i + weight * (j - i) for i, j in zip(a, b, strict=True)], p)
        assert ints(field.interpolate(x, y, weight)) == want
        assert ints(field.interpolate(x, y, torch.full_like(x, weight))) == want
    assert ints(field.multiply_and_add(z, x, field.half)) == expected(
        [k + i * field.half for i, k in zip(a, c, strict=True)], p
    )


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(PRIMES), st.lists(st.integers(-(2**51) + 1, 2**51 - 1), max_size=8))
@example(2097169, [2**51 - 1, 1 - 2**51])
def test_reduction_is_right_up_to_its_limit(prime, numbers):
    near_halves = [(2 * (n // prime) + 1) * prime // 2 for n in numbers]  # where a rounded quotient could go astray
    numbers = [n for n in numbers + near_halves + [n + 1 for n in near_halves] if abs(n) < 2**51]
    assert ints(Field(prime).reduce_(doubles(numbers))) == expected(numbers, prime)


@pytest.mark.parametrize("prime", PRIMES[2:])
def test_longest_sum_of_extreme_products_and_two_more_is_exact_and_little_more_is_not_promised(prime):
    field = Field(prime)
    n, half = field.longest_sum, field.half
    assert n * half**2 + 2 * half < 2**51 <= (n + 3) * half**2
    length = min(n, 5000)
    row = torch.full((1, length), float(half), dtype=torch.float64)
    for sign in (1, -1):
        found = field.matmul(row, sign * row.T, plus=doubles([sign * half]))
        assert ints(found) == expected([sign * (length * half**2 + half)], prime)


@pytest.mark.parametrize("prime", PRIMES[3:])
@pytest.mark.parametrize("pieces", [0, 1, 2, 3])
def test_matrix_products_longer_than_the_longest_sum_stay_exact(prime, pieces):
    field = Field(prime)
    inner = min(field.longest_sum, 3000) * pieces + (pieces > 1) * 7
    half = field.half
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-half, half + 1, (3, inner), generator=generator).double()
    b = torch.randint(-half, half + 1, (inner, 2), generator=generator).double()
    a[0], b[:, 0] = half, -half
    c = doubles([half, -half])
    rows, columns = a.long().tolist(), b.T.long().tolist()
    if inner == 0:
        columns = [[], []]
    want = [
        sum(x * y for x, y in zip(row, column, strict=True)) + int(more)
        for row in rows
        for column, more in zip(columns, c.tolist(), strict=True)
    ]
    assert ints(field.matmul(a, b, plus=c)) == expected(want, prime)
    assert torch.equal(
        field.matmul(a.view(1, 1, *a.shape), b.expand(2, 1, inner, 2), plus=c)[1, 0], field.matmul(a, b, plus=c)
    )
    batched = field.matmul(torch.stack([a, a.flip(0)]), b.expand(2, inner, 2), plus=c)
    assert ints(batched[0]) == expected(want, prime)
    assert torch.equal(batched[1], batched[0].flip(0))


def test_a_sum_that_is_too_long_is_seen_to_be_wrong():
    """The control: what the piecewise product guards against does happen."""
    field = Field(LARGEST)
    inner = 8 * field.longest_sum + 1
    row = torch.full((1, inner), float(field.half), dtype=torch.float64)
    row[0, 0] -= 1
    careless = row @ row.T
    assert int(careless) != sum(int(x) ** 2 for x in row[0])
    assert ints(field.matmul(row, row.T)) == expected([sum(int(x) ** 2 for x in row[0])], LARGEST)


@pytest.mark.parametrize("name", [name for name, _, _ in layouts(1)])
def test_reduction_in_blocks_with_an_addition_is_that_of_integers(name):
    field = Field(2097169)
    x, more = next((x, y) for n, x, y in layouts(2 * block_size()) if n == name)
    want = (x.long() * 999_983 + more.long()) % field.prime
    want = torch.where(want > field.half, want - field.prime, want)
    found = field.reduce_((x * 999_983).clone(memory_format=torch.preserve_format), plus=more)
    assert torch.equal(found.long(), want)
    view = (x * 999_983).clone(memory_format=torch.preserve_format)[..., 1:]
    assert torch.equal(
        field.reduce_(view, plus=more[..., 1:] if more.ndim and more.shape[-1] > 1 else more).long(), want[..., 1:]
    )


@pytest.mark.parametrize("shape", [(0,), (), (0, 3), (1,)])
def test_empty_and_zero_dimensional_tensors(shape):
    field = Field(101)
    x = torch.full(shape, 50.0, dtype=torch.float64)
    assert ints(field.multiply(x, x)) == expected([2500] * x.numel(), 101)
    assert field.multiply(x, x).shape == shape
    total = field.sum_of_products(x, x, tuple(range(x.ndim)))
    assert ints(total) == expected([2500 * x.numel()], 101)


@pytest.mark.parametrize("prime", [10007, 2097169, LARGEST])
@pytest.mark.parametrize("shape", [(3, 5), (2, 700), (300_000,), (2, 70_000, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_sums_of_products_over_any_dims(prime, shape, keepdim):
    field = Field(prime)
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(-field.half, field.half + 1, shape, generator=generator).double()
    a[torch.rand(shape, generator=generator) < 0.9] = field.half
    b = a[..., :1]
    for other in (a, b):
        for dims in {(0,), (-1,), tuple(range(len(shape)))}:
            found = field.sum_of_products(a, other, dims, keepdim=keepdim)
            want = (a.long() * other.long() % prime).sum(dims, keepdim=keepdim)
            assert ints(found) == expected(want.reshape(-1).tolist(), prime)
            assert found.shape == want.shape


@pytest.mark.parametrize("prime", PRIMES)
def test_square_roots_and_representatives(prime):
    field = Field(prime)
    for number in range(min(prime, 60)):
        root = field.square_root(number)
        squares = number == 0 or pow(number, (prime - 1) // 2, prime) == 1
        assert (root is not None) == squares
        assert root is None or root * root % prime == number
        assert field.representative(number) == balanced(number, prime)
    assert field.is_canonical(doubles([field.half, -field.half, 0]))
    for wrong in (field.half + 1, 0.5, float("nan"), float("-inf")):
        assert not field.is_canonical(doubles([0, wrong]))


def test_primes_are_chosen_with_the_roots_that_constants_need():
    primes = {choose_prime(seed) for seed in range(20)}
    assert len(primes) > 15
    for prime in primes:
        assert is_prime(prime)
        assert 2**21 <= prime < 2**21.5
        assert all(pow(q, (prime - 1) // 2, prime) == 1 for q in (2, 3, 5, 7, 11))
    assert choose_prime(3) == choose_prime(3)


def test_a_primitive_root_generates_the_group():
    powers = {pow(primitive_root(101), k, 101) for k in range(100)}
    assert powers == set(range(1, 101))
    assert {pow(10, k, 101) for k in range(100)} != powers  # the control: 10 has order 4


@pytest.mark.parametrize("prime", [0, 1, 2, 9, 2**23, 8388617, -3])
def test_what_is_no_prime_in_range_is_refused(prime):
    with pytest.raises(ValueError, match=f"prime is {prime}"):
        Field(prime)


# Number by number -----------------------------------------------------------------------------------------------------


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


def test_primes_are_the_numbers_with_two_divisors():
    assert [n for n in range(-2, 400) if is_prime(n)] == [n for n in range(1, 400) if len(divisors(n)) == 2]
    assert not is_prime(1447 * 1447)
    assert is_prime(2965819)


def test_the_primes_of_seeds_are_those_recorded_once():
    """Pinned: every process and machine must draw the same."""
    assert [choose_prime(seed) for seed in range(4)] == CHOSEN
    assert [prime % 4 for prime in CHOSEN] == [3] * 4


def test_primes_are_drawn_from_the_whole_range():
    drawn = [choose_prime(seed) for seed in range(60)]
    span = 2**21.5 - 2**21
    assert min(drawn) < 2**21 + span / 10
    assert max(drawn) > 2**21.5 - span / 10


@pytest.mark.parametrize(("prime", "half", "longest"), [(3, 1, 2**51 - 3), (5, 2, 2**49 - 3), (LARGEST, 4194296, 126)])
def test_the_largest_representative_and_the_longest_sum(prime, half, longest):
    assert Field(prime).half == half
    assert Field(prime).longest_sum == longest


@pytest.mark.parametrize("prime", [3, LARGEST])
def test_the_smallest_and_the_largest_prime_are_taken(prime):
    check_frozen(Field(prime))


def check_frozen(field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        field.prime = 5
    assert not hasattr(field, "__dict__")


@pytest.mark.parametrize("prime", [3, 5, 7, 101])
def test_representatives_of_integers_and_fractions(prime):
    field = Field(prime)
    assert [field.representative(n) for n in range(-prime, prime)] == expected(range(-prime, prime), prime)
    for number in (Fraction(1, 2), Fraction(-3, 4), Fraction(prime, 2), Fraction(9, 2 * prime + 1)):
        found = field.representative(number)
        assert abs(found) <= field.half
        assert (found * number.denominator - number.numerator) % prime == 0
    for divided in (Fraction(1, prime), Fraction(2, 3 * prime)):
        with pytest.raises(ZeroDivisionError, match=f"{divided}"):
            field.representative(divided)


def test_a_reduction_is_in_place():
    field, x = Field(7), doubles([10, -10, 3, -3, 4, -4])
    assert field.reduce_(x) is x
    assert ints(x) == [3, -3, 3, -3, -3, 3]
    assert ints(field.reduce_(doubles([1, 2, 3]), plus=doubles([3]))) == [-3, -2, -1]


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize(
    ("dims", "shape"),
    [((), (2, 3)), ((0,), (3,)), ((1,), (2,)), ((-1,), (2,)), ((-2,), (3,)), ((0, 1), ()), ((0, -1), ())],
)
def test_a_sum_of_products_over_the_dims_given(dims, shape, keepdim):
    field = Field(LARGEST)
    a, b = torch.arange(6.0).double().view(2, 3) + field.half - 5, torch.full((2, 1), -float(field.half)).double()
    found = field.sum_of_products(a, b, dims, keepdim=keepdim)
    products = [[int(x) * -field.half for x in row] for row in a.tolist()]
    over = {d % 2 for d in dims}
    sums = {}
    for i in range(2):
        for j in range(3):
            key = (None if 0 in over else i, None if 1 in over else j)
            sums[key] = sums.get(key, 0) + products[i][j]
    assert ints(found) == expected(sums.values(), LARGEST)
    kept = tuple(1 if d in over else n for d, n in enumerate((2, 3)))
    assert found.shape == (kept if keepdim else shape)


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 3, 400])
def test_a_sum_of_extreme_products_about_the_longest(extra):
    field = Field(LARGEST)
    count = field.longest_sum + extra
    x = torch.full((2, count), float(field.half), dtype=torch.float64)
    want = expected([count * field.half**2] * 2, LARGEST)
    assert ints(field.sum_of_products(x, x, (1,))) == want
    assert ints(field.matmul(x, x.T)) == want * 2


def test_a_large_sum_of_products_keeps_its_dims(monkeypatch):
    monkeypatch.setattr("shardproof.exact.algebra.blocks._ELEMENTS_A_THREAD", 7)
    field, x = Field(LARGEST), torch.full((4, 20), float(LARGEST // 2), dtype=torch.float64)
    want = expected([80 * field.half**2], LARGEST)
    for keepdim, shape in ((False, ()), (True, (1, 1))):
        found = field.sum_of_products(x, x, (0, 1), keepdim=keepdim)
        assert (ints(found), found.shape) == (want, shape)
    assert ints(field.sum_of_products(x, x, (1,))) == expected([20 * field.half**2] * 4, LARGEST)


@pytest.mark.parametrize("prime", [3, 5, 7, 13, 17, 41, 97, 257, 12289, 7340033, 2097143])
def test_of_the_two_square_roots_always_the_same_is_taken(prime):
    """Modulo 3 (4) the one that is a square itself, else the smaller."""
    field = Field(prime)
    for number in range(-3, min(prime, 300)):
        found = field.square_root(number)
        roots = [r for r in range(prime) if r * r % prime == number % prime] if prime < 300 else None
        if roots is not None:
            assert (found is None) == (not roots)
        if found:
            assert found * found % prime == number % prime
            assert 0 < found < prime
            assert (pow(found, (prime - 1) // 2, prime) == 1) if prime % 4 == 3 else (found <= prime - found)
    assert field.square_root(0) == 0
    assert field.square_root(prime) == 0


def test_the_root_of_a_product_is_the_product_of_the_roots():
    field = Field(2097143)
    for a, b in ((2, 9), (4, 25), (16, 49)):
        product = field.square_root(a) * field.square_root(b) % field.prime
        assert field.square_root(a * b) == product


@pytest.mark.parametrize("prime", [*(n for n in range(3, 120) if is_prime(n)), 3631])
def test_a_primitive_root_is_the_smallest_generator(prime):
    # 3631 - 1 = 2 * 3 * 5 * 11**2: of the square of its last factor the root must be taken too.
    generators = [g for g in range(1, prime) if len({pow(g, k, prime) for k in range(prime - 1)}) == prime - 1]
    assert primitive_root(prime) == generators[0]


@pytest.mark.parametrize(
    ("x", "canonical"), [([3, -3], True), ([4], False), ([-4], False), ([2.5], False), ([], True), ([1, 4], False)]
)
def test_canonical_is_every_element_within_half_the_prime(x, canonical):
    assert Field(7).is_canonical(doubles(x)) is canonical

"""The operators make the mutants that they should. Run by `make mutate`, which has Cosmic Ray."""

import pytest
from tests.mutation.mutants import draw_sample, make_mutants


def changes(source):
    return {mutant.change for mutant in make_mutants(source)}


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("def f(a, b):\n    return a * b + 1\n", "return a * b + 1 -> return a + 1"),
        ("def f(a, b):\n    return a * b + 1\n", "return a * b + 1 -> return b + 1"),
        ("def f(a, b):\n    return a * b + 1\n", "return a * b + 1 -> return a * b"),
        ("def f(a, b):\n    return a - b\n", "return a - b -> return a"),
        ("def f(a, b):\n    return a and b\n", "return a and b -> return b"),
        ("def f(a, b):\n    return a and b\n", "return a and b -> return a or b"),
        ("def f(a):\n    a.add(1)\n", "a.add(1) -> pass"),
        ("def f(a):\n    a += 1\n", "a += 1 -> pass"),
        ("def f(a, b):\n    return a < b\n", "return a < b -> return a <= b"),
        ("@register\ndef f(a, b):\n    return a * b\n", "return a * b -> return a / b"),
    ],
)
def test_a_change_is_made(source, change):
    assert change in changes(source)


def test_a_change_that_is_no_other_program_is_not_made():
    assert (
        changes("from __future__ import annotations\ndef f(a: int | None) -> int | str:\n    b: int | str\n") == set()
    )
    assert changes("if TYPE_CHECKING:\n    import a\n") == set()
    assert changes("@dataclass(frozen=True, slots=True)\nclass A:\n    pass\n") == set()
    assert changes("@dataclass(order=True)\nclass A:\n    pass\n") != set()
    assert changes('"""A docstring, 1 + 2."""\n') == set()


def test_the_star_between_parameters_is_no_product():
    assert changes("def f(a, *, b):\n    return a\n") == set()


def test_the_first_of_a_difference_is_not_dropped_alone():
    assert "return a - b -> return b" not in changes("def f(a, b):\n    return a - b\n")


def test_a_mutant_knows_its_line():
    assert {mutant.line for mutant in make_mutants("x = 1\ny = x * x\n")} == {1, 2}


def test_a_sample_is_the_same_each_time_and_in_order():
    mutants = list(range(100))
    sample = draw_sample(mutants, 10, seed="a.py")
    assert sample == sorted(sample) == draw_sample(mutants, 10, seed="a.py") != draw_sample(mutants, 10, seed="b.py")
    assert len(set(sample)) == 10
    assert draw_sample(mutants, 100, seed="a.py") == draw_sample(mutants, None, seed="a.py") == mutants

import pytest
import torch
from torch import nn

from shardproof.exact import ExactArithmetic


def leaves(*shapes):
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def choices(program, *given, seed=1):
    """What was noted of a program, in order."""
    with ExactArithmetic(seed=seed) as exact:
        program(*given)
        return list(exact.choices.items())


@pytest.mark.parametrize(
    ("program", "function"),
    [
        (torch.maximum, "maximum"),
        (torch.minimum, "minimum"),
        (torch.max, "maximum"),
        (torch.fmax, "fmax"),
        pytest.param(lambda a, b: a.clamp(min=b), "clamp", id="clamp"),
        pytest.param(lambda a, b: a.clone().clamp_(max=b), "clamp", id="clamp in place"),
        (lambda a, b: torch.where(a > b, a, b), "where"),
    ],
)
def test_both_operands_of_a_choice_are_noted(program, function):
    found = choices(program, *leaves(20, 20))
    ((place, sides),) = found
    assert place.function == function
    assert (sides.first, sides.second, sides.equal) == (True, True, False)


def test_a_comparison_that_is_viewed_chooses_too():
    ((place, _),) = choices(lambda a, b: torch.where((a <= b)[None], a, b), *leaves(20, 20))
    assert place.function == "where"


def test_one_element_takes_one_of_them_as_the_digits_say():
    taken = set()
    for seed in range(6):
        a, b = leaves(1, 1)
        with ExactArithmetic(seed=seed) as exact:
            largest = torch.maximum(a, b)
            (sides,) = exact.choices.values()
            assert sides.only == [exact.digits(a), exact.digits(b)].index(exact.digits(largest))
        taken.add(sides.only)
    assert taken == {0, 1}


NONE = {
    "with a constant": lambda a, b: a.relu() + b.clamp(min=0.1) + torch.maximum(a, torch.zeros(20)),
    "with nothing yet": lambda a, b: torch.maximum(torch.full((20,), -torch.inf), a),
    "by a mask": lambda a, b: torch.where(torch.arange(20) > 3, a, b),
    "of others": lambda a, b: torch.where(a > b, a * 2, b),
    "of constants": lambda a, b: torch.maximum(torch.ones(20), torch.zeros(20)),
    "over a dim": lambda a, b: torch.stack([a, b]).amax(0) + a.abs(),
}


@pytest.mark.parametrize("name", NONE)
def test_a_constant_a_mask_and_other_ops_are_no_such_choice(name):
    assert choices(NONE[name], *leaves(20, 20)) == []


def test_rows_that_are_masked_or_equal_choose_nothing():
    def program(a, b):
        masked = a.masked_fill(torch.arange(20) < 19, -torch.inf)
        torch.maximum(masked, b)
        torch.maximum(a, a.clone())

    (_, masked), (_, equal) = choices(program, *leaves(20, 20))
    assert masked.only is not None
    assert (equal.first, equal.second, equal.equal) == (False, False, True)

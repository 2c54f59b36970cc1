"""Truth values that are numbers, and where they stay truth values."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same

INFINITY = float("inf")


def relu(x):
    return x * (x > 0)


# Each is relu of x.
FORMS = {
    "cast": lambda x: x * (x > 0).to(x.dtype),
    "type_as": lambda x: x * (x > 0).type_as(x),
    "negated": lambda x: x * ~(x <= 0),
    "logical_not": lambda x: x * torch.logical_not(x <= 0),
    "cloned and moved": lambda x: x * torch.stack([(x > 0), (x > 0)])[0].t().clone().t(),
    "concatenated": lambda x: x * torch.cat([x[:1] > 0, x[1:] > 0]),
    "multiplied in place": lambda x: (x * 1).mul_(x > 0),
    "masked_fill in place": lambda x: (x * 1).masked_fill_(x < 0, 0),
    "and in place": lambda x: x * (x > 0).logical_and_(x > -1),
    "&= in place": lambda x: x * (x > 0).__iand__(x > -INFINITY),
    "written by a mask": lambda x: (x * 1).index_put_((x < 0,), torch.zeros((), dtype=x.dtype)),
    "where of numbers": lambda x: x * torch.where(x > 0, 1.0, 0.0),
    "where of a number and a tensor": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "integers": lambda x: x * (x > torch.zeros(3, 4, dtype=torch.int64)),
    "different integers": lambda x: x * (x > torch.arange(3)[:, None] * 0),
    "the number first": lambda x: x * torch.lt(torch.tensor(0.0), x),
    "copied into numbers": lambda x: x * torch.zeros_like(x).copy_(x > 0),
    "times a number": lambda x: x * (2.0 * (x > 0)) / 2,
    "times a truth value": lambda x: x * ((x > 0) * (x > -3)),
    "heaviside": lambda x: x * torch.heaviside(x, torch.zeros_like(x)),
    "a gate of relu": lambda x: x * (F.relu(x) > 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_truth_values_of_a_comparison_are_one_gate(exact, form):
    x, y = drawn(3, 4) * 2, drawn(3, 4) * 2
    found, wanted = FORMS[form](x), relu(y)
    assert same(exact, found, wanted)
    assert not same(exact, found, y * (y > 0.5))


def test_masks_of_symbols_choose_as_truth_values(exact):
    scores = drawn(1, 40) * 2
    mask = scores > 0.5
    probabilities = scores.masked_fill(~mask, -INFINITY).softmax(-1)
    kept = int((exact.digits(probabilities) != 0).sum())
    assert kept == int(mask.sum())
    assert 0 < kept < 40
    assert same(exact, torch.where(mask, probabilities, 0.0), probabilities * mask)


def test_integers_are_chosen_and_counted_by_the_order(exact):
    x = drawn(40) * 2
    mask = x > 0
    counted = mask.sum()
    assert counted.dtype == torch.int64
    assert 5 < int(counted) < 35
    assert x[mask].numel() == int(counted)
    assert set(torch.where(mask, 3, 4).tolist()) == {3, 4}


def test_a_mask_that_is_written_into_is_a_gate_no_longer(exact):
    x = drawn(12) * 2
    mask = x > 0
    mask[:6] = False
    mask[6:] = True
    assert same(exact, x * mask, torch.cat([torch.zeros(6, dtype=x.dtype), x[6:]]))


def test_what_a_gate_of_zero_discards_may_be_void(exact):
    norm, zero = drawn(3) * 2, (x := drawn(3)) - x
    guarded = torch.where(zero > 0, norm / zero, 0.0)
    assert exact.void_mask(guarded) is None
    assert same(exact, guarded, torch.zeros(3, dtype=torch.float64))
    assert exact.void_mask(torch.where(norm > 0, norm / zero, 0.0)) is not None
    assert exact.void_mask(torch.where(zero >= 0, norm / zero, 0.0)) is not None


def test_constants_are_compared_as_numbers(exact):
    x, mask = drawn(3), torch.tensor([1.0, 0.0, 2.0]) > 0.5
    assert same(exact, x * mask, x * torch.tensor([1.0, 0.0, 1.0]))


def test_a_void_element_of_a_piecewise_tensor_stays_one_element(exact):
    x, y = drawn(4) * 2, drawn(4)
    divisor = torch.cat([y[:1] - y[:1].clone(), y[1:]])
    z = F.relu(x / divisor)
    (g,) = torch.autograd.grad(z.sum(), x)
    assert exact.void_mask(g).tolist() == [True, False, False, False]
    w = x / divisor
    assert torch.equal(exact.digits(z), exact.digits(torch.where(w > 0, w, 0.0)))


def test_two_residues_are_compared_by_the_order(exact):
    a, b = drawn(6) * 2, drawn(6, seed=1) * 2
    assert same(exact, torch.where(a > b, a, b), torch.maximum(a, b))
    assert not same(exact, torch.where(a > b, b, a), torch.maximum(a, b))

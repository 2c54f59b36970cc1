"""Void elements: what comes of a division by zero says nothing, and nothing else does; `where` and masks discard it."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same

from shardproof.exact import VOID, ExactArithmetic

ROW = [[False] * 4, [True] * 4, [False] * 4]
HELD = torch.tensor([5.0, 0.0, 2.0])  # one group is empty


def quotients(seed=0):
    """Three groups' sums over their sizes, the second 0/0 in every run: void."""
    return drawn(3, 4, seed=seed) * 3 / HELD[:, None]


def void(exact, x):
    mask = exact.void_mask(x)
    return [[False] * x.shape[-1]] * x.shape[0] if mask is None else mask.tolist()


SPREADS = {
    "sum": (lambda y: y + 1, ROW),
    "transposed": (lambda y: y.T, [[False, True, False]] * 4),
    "sum of a row": (lambda y: y.sum(1, keepdim=True), [[False], [True], [False]]),
    "sum of columns": (lambda y: y.sum(0, keepdim=True), [[True] * 4]),
    "mean": (lambda y: y.mean(1, keepdim=True), [[False], [True], [False]]),
    "product of matrices": (lambda y: y @ drawn(4, 2), [[False] * 2, [True] * 2, [False] * 2]),
    "an oracle": (F.gelu, ROW),
    "softmax": (lambda y: F.softmax(y, -1), ROW),
    "softmax of columns": (lambda y: F.softmax(y, 0), [[True] * 4] * 3),
    "log-softmax": (lambda y: F.log_softmax(y, -1), ROW),
    "layer norm": (lambda y: F.layer_norm(y, (4,)), ROW),
    "norm": (lambda y: y.norm(dim=1, keepdim=True), [[False], [True], [False]]),
    "gather": (lambda y: y[[2, 1]], [[False] * 4, [True] * 4]),
    "stack": (lambda y: torch.cat([y[:1], y[1:2]]), ROW[:2]),
    "running sum": (lambda y: y.cumsum(0), [[False] * 4, [True] * 4, [True] * 4]),
    "a comparison": (lambda y: y > 0, ROW),
    "a choice by one": (lambda y: torch.where(y > 0, drawn(3, 4), 1.0), ROW),
    "an integer made of one": (lambda y: (y > 0).long() * 2, ROW),
    "a number made of one": (lambda y: (y > 0).float() * 2 + 1, ROW),
    "the largest": (lambda y: y.amax(1, keepdim=True), [[False], [True], [False]]),
    "the first in order": (lambda y: y.sort(1).values[:, :1], [[True]] * 3),  # more than is needed
    "in place": (lambda y: (y * 1).mul_(2), ROW),
    "a slope": (lambda y: torch.ops.aten.hardtanh_backward(torch.ones(3, 4), y, -1, 1), ROW),
    "a slope of relu": (lambda y: torch.ops.aten.threshold_backward(torch.ones(3, 4), y.relu(), 0), ROW),
    "a slope of softshrink": (lambda y: torch.ops.aten.softshrink_backward(torch.ones(3, 4), y, 0.5), ROW),
    "part of another": (lambda y: torch.zeros(3, 4).index_copy_(0, torch.arange(3), y), ROW),
}


@pytest.mark.parametrize("name", SPREADS)
def test_what_is_computed_from_a_void_element_is_void_and_nothing_else(exact, name):
    function, wanted = SPREADS[name]
    with torch.no_grad():
        found = function(quotients())
        assert void(exact, found) == wanted
        clean = function(drawn(3, 4) * 3)
    assert exact.void_mask(clean) is None
    if found.is_floating_point():
        assert ((exact.digits(found) == VOID) == exact.void_mask(found)).all()


DISCARDS = {
    "where": lambda y: torch.where(HELD[:, None] > 0, y, 0.0),
    "where by what is not zero": lambda y: torch.where((HELD != 0)[:, None], y, torch.zeros_like(y)),
    "masked_fill": lambda y: y.masked_fill((HELD == 0)[:, None], 0.0),
    "times a mask": lambda y: y * torch.tensor([[1.0], [0.0], [1.0]]),
    "times a truth value": lambda y: y * (HELD > 0)[:, None],
    "times a mask made inside": lambda y: torch.ones(3, 1).index_fill(0, torch.tensor([1]), 0.0) * y,
    "written over": lambda y: (y * 1).index_fill_(0, torch.tensor([1]), 0.0),
    "a guarded divisor": lambda y: (
        y.new_tensor(0.0) + drawn(3, 4) * 3 / HELD.clamp(min=1)[:, None] * (HELD > 0)[:, None]
    ),
    "and": lambda y: torch.where((y > 0) & (HELD > 0)[:, None] & (y < 0), 7.0, y).masked_fill(
        (HELD == 0)[:, None], 0.0
    ),
}


@pytest.mark.parametrize("name", DISCARDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_void_element_may_be_discarded(name, seed):
    with ExactArithmetic(seed=seed, check=True) as exact, torch.no_grad():
        found = DISCARDS[name](quotients())
        assert exact.void_mask(found) is None
        if name != "and":
            wanted = drawn(3, 4) * 3 * torch.tensor([[1 / 5], [0.0], [1 / 2]], dtype=torch.float64)
            assert same(exact, found, wanted)
            assert not same(exact, DISCARDS[name](quotients() * 2), wanted) or name == "a guarded divisor"


def test_a_mask_that_residues_chose_discards_nothing(exact):
    y = quotients()
    assert exact.void_mask(y * (drawn(3, 4, seed=1) > 0)).any()
    assert exact.void_mask(torch.where(HELD[:, None] >= 0, y, 0.0)).tolist() == ROW


def test_gradients_are_void_where_the_division_is():
    x = drawn(3, 4)
    with ExactArithmetic(seed=1, check=True) as exact:
        torch.where(HELD[:, None] > 0, x / HELD[:, None], 0.0).square().sum().backward()
        assert exact.void_mask(x.grad).tolist() == ROW
        x.grad = None
        safe = torch.where(HELD > 0, HELD, 1.0)
        torch.where(HELD[:, None] > 0, x / safe[:, None], 0.0).square().sum().backward()
        assert exact.void_mask(x.grad) is None
        assert exact.digits(x.grad)[1].tolist() == [0] * 4


def test_what_log_softmax_knows_of_its_exponential_holds_beside_void_rows(exact):
    y = quotients()
    log = F.log_softmax(y, -1)
    assert torch.equal(exact.digits(log.exp()), exact.digits(F.softmax(y, -1)))
    assert torch.equal(exact.digits((log + 0).exp()), exact.digits(F.softmax(y, -1)))
    assert not torch.equal(exact.digits((log + 1).exp()), exact.digits(F.softmax(y, -1)))


def test_constants_alone_divide_by_zero_too(exact):
    share = torch.arange(3.0) / torch.tensor([2.0, 0.0, 4.0])
    assert exact.void_mask(share).tolist() == [False, True, False]
    assert exact.void_mask(torch.arange(3.0).reciprocal()).tolist() == [True, False, False]
    guarded = torch.where(torch.tensor([2.0, 0.0, 4.0]) > 0, share, 0.0)
    assert exact.void_mask(guarded) is None
    assert same(exact, guarded, torch.tensor([0.0, 0.0, 0.5]))
    assert exact.void_mask(torch.arange(2.0).log()) is None  # -inf is a mask's


def test_a_shape_that_a_void_element_gave_makes_everything_void(exact):
    y, x = quotients(), drawn(3)
    assert exact.void_mask(x * 2) is None
    x[(y > 0)[:, 0]]
    assert exact.void_mask(x * 2).all()


def test_a_bound_is_one_for_the_elements_that_are_not_void(exact):
    y = quotients()
    assert exact.bound(y).probability is not None
    assert exact.bound(y[1:2]).void
    assert exact.bound(y.sum()).void


def test_void_elements_are_drawn_anew_by_their_numbers_and_others_stay(exact):
    y, part = quotients(), quotients()[1:]
    before, void = exact.digits(y), exact.void_mask(y)
    exact.fill_void(y, "y", torch.arange(y.numel()).view(y.shape))
    assert exact.void_mask(y) is None
    assert torch.equal(exact.digits(y)[~void], before[~void])
    assert len(set(exact.digits(y)[void].tolist())) == int(void.sum()) > 1
    part = part.clone()
    exact.fill_void(part, "y", torch.arange(y.numel()).view(y.shape)[1:])
    assert torch.equal(exact.digits(part), exact.digits(y)[1:])  # a rank's part, the same elements
    other = quotients()
    exact.fill_void(other, "another", torch.arange(y.numel()).view(y.shape))
    assert not torch.equal(exact.digits(other), exact.digits(y))
    assert exact.void_mask(y * 2) is None

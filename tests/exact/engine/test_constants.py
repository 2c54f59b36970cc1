"""Known constants are compared by their real values, whatever became of them; residues by the random order alone."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same
from torch import nn

from shardproof.exact import ExactArithmetic, LeavingFieldError

WEIGHTS = torch.tensor([0.25, 1.0, 0.0, 0.75, 0.0])  # from outside
BUFFER = nn.Buffer(torch.tensor([3.0, -2.0, 0.5, 0.0, 7.0]))
IDS = torch.tensor([4, 0, 2, 2, 1])

# name: (what a program compares, the answer)
COMPARISONS = {
    "a mask": (lambda: WEIGHTS > 0.6, WEIGHTS > 0.6),
    "a mask turned round": (lambda: WEIGHTS < 0.6, WEIGHTS < 0.6),
    "a buffer": (lambda: BUFFER <= 0.5, BUFFER <= 0.5),
    "two tensors": (lambda: WEIGHTS < BUFFER, WEIGHTS < BUFFER),
    "arithmetic of constants": (lambda: WEIGHTS * 2 - BUFFER / 3 > 0.1, WEIGHTS * 2 - BUFFER / 3 > 0.1),
    "a running sum": (lambda: WEIGHTS.cumsum(0) >= 1.25, WEIGHTS.cumsum(0) >= 1.25),
    "a mean": (lambda: WEIGHTS.mean() < WEIGHTS, WEIGHTS.mean() < WEIGHTS),
    "a view": (lambda: WEIGHTS.view(5, 1).expand(5, 2)[:, 1] > 0.6, WEIGHTS > 0.6),
    "gathered": (lambda: WEIGHTS[IDS] > 0.6, WEIGHTS[IDS] > 0.6),
    "one_hot": (lambda: (F.one_hot(IDS, 5).float() @ WEIGHTS) > 0.6, WEIGHTS[IDS] > 0.6),
    "integers turned floating": (lambda: IDS.float() / WEIGHTS.sum() > 1.0, IDS / 2 > 1.0),
    "a product of matrices": (lambda: torch.outer(WEIGHTS, BUFFER).sum(1) > 3, WEIGHTS * BUFFER.sum() > 3),
    "in place": (lambda: WEIGHTS.clone().mul_(-1).add_(0.5) > 0.1, 0.5 - WEIGHTS > 0.1),
    "partly written": (
        lambda: torch.zeros(5).index_copy_(0, IDS[:2], WEIGHTS[:2]) > 0.5,
        torch.tensor([True] + [False] * 4),
    ),
    "a part written into": (lambda: _written(WEIGHTS.clone()) > 0.6, torch.tensor([False, True, True, True, False])),
    "clamped": (lambda: BUFFER.clamp(0, 3) > 1, BUFFER > 1),
    "magnitudes": (lambda: BUFFER.abs() > 1, BUFFER.abs() > 1),
    "rounded": (lambda: (BUFFER / 2).floor() > 0, (BUFFER / 2).floor() > 0),
    "an oracle of one": (lambda: BUFFER.exp() > 1.5, BUFFER.exp() > 1.5),
    "a tenth three times": (lambda: (WEIGHTS * 0 + 0.1) * 3 > 0.3, torch.zeros(5).bool()),
    "which is largest": (lambda: F.one_hot(BUFFER.argmax(), 5).bool(), BUFFER == 7),
    "the order": (lambda: BUFFER.argsort() > 2, BUFFER.argsort() > 2),
    "a copy as another dtype": (lambda: BUFFER.to(torch.bfloat16) > 2, BUFFER > 2),
    "a sum of both kinds": (lambda: torch.arange(5.0) + BUFFER > 3, torch.arange(5.0) + BUFFER > 3),
}


def _written(x):
    x[2:4] = torch.tensor([0.9, 0.8])
    return x


@pytest.mark.parametrize("name", COMPARISONS)
def test_constants_are_compared_as_the_numbers_that_they_are(name):
    compare, wanted = COMPARISONS[name]
    for seed in range(3):
        with ExactArithmetic(seed=seed, check=True) as exact, torch.no_grad():
            found = compare()
            assert found.tolist() == wanted.tolist()
            assert exact.bound(drawn(5) * found).per_trial == exact.bound(drawn(5) * 2).per_trial  # no choice


def test_residues_are_compared_in_the_random_order():
    """The control: the same comparison of parameters is another in another run."""
    x = nn.Parameter(torch.tensor([0.3, 1.7, 0.0, 2.9, 0.1]))
    answers = set()
    for seed in range(8):
        with ExactArithmetic(seed=seed) as exact:
            found = x > 0.6
            answers.add(tuple(exact.digits(found.float()).tolist()))
            with pytest.raises(LeavingFieldError):
                bool(found.any())
    assert len(answers) > 2


CHOICES = {
    "clamp": (lambda n: n.clamp(min=1), lambda n: torch.where(n > 1, n, torch.ones_like(n))),
    "maximum": (lambda n: torch.maximum(n, torch.ones(())), lambda n: n.clamp_min(1)),
    "minimum": (lambda n: torch.minimum(n, n.flip(0)), lambda n: torch.where(n < n.flip(0), n, n.flip(0))),
    "relu": (F.relu, lambda n: n * (n > 0)),
    "abs": (torch.abs, lambda n: n * n.sign()),
    "largest": (lambda n: n.max(), lambda n: n[4]),
    "sorted": (lambda n: n.sort().values, lambda n: n[torch.tensor([1, 3, 2, 0, 4])]),
    "floor": (lambda n: (n * 1.5).floor(), lambda n: torch.tensor([4.0, -3.0, 0.0, 0.0, 10.0])),
    "remainder": (lambda n: n % 2, lambda n: torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0])),
    "threshold": (lambda n: F.threshold(n, 0.25, 9.0), lambda n: torch.where(n > 0.25, n, 9.0)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_among_constants_is_the_real_one(exact, name):
    function, by_hand = CHOICES[name]
    with torch.no_grad():
        assert same(exact, function(BUFFER), by_hand(BUFFER))
        assert not same(exact, function(BUFFER + 1), by_hand(BUFFER))
        assert same(exact, function(BUFFER) * drawn(5), by_hand(BUFFER) * drawn(5))


def test_what_is_drawn_is_no_known_constant(exact):
    x = drawn(5)
    assert exact.dispatcher.constants.value_of(x) is None
    for y in (x * WEIGHTS, x + 1, torch.where(WEIGHTS > 0.5, x, 0.0), x.detach() - x.detach()):
        assert exact.dispatcher.constants.value_of(y) is None
    chosen = torch.where(x > 0, WEIGHTS, BUFFER)
    assert exact.dispatcher.constants.constant_of(chosen) is None


def test_numbers_of_known_constants_may_leave(exact):
    assert WEIGHTS.sum().item() == 2.0
    assert bool((WEIGHTS > 0.5).any())
    assert (BUFFER * 2).long().tolist() == [6, -4, 1, 0, 14]
    with pytest.raises(LeavingFieldError):
        (drawn(5) * WEIGHTS).sum().item()


@pytest.mark.parametrize("seed", range(3))
def test_known_numbers_are_known_in_any_layout(seed):
    columns = torch.arange(1.0, 7.0).view(2, 3).t()
    weight = torch.tensor([0.3], requires_grad=True)
    with ExactArithmetic(seed=seed) as exact:
        doubled = columns * 2
        assert not doubled.is_contiguous()
        assert (doubled > 5).tolist() == [[False, True], [False, True], [True, True]]
        with pytest.raises(LeavingFieldError):
            _ = (doubled * weight > 5).tolist()
    assert exact.ops

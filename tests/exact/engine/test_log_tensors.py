"""Log terms beside storages: through views, movements of data, memory written anew, and void elements."""

import pytest
import torch
import torch.nn.functional as F

from shardproof.exact import ExactArithmetic


@pytest.fixture
def exact():
    with ExactArithmetic(seed=5) as running:
        yield running


# Made outside, so that exact arithmetic draws residues for them.
LOGITS, OTHERS = (torch.linspace(low, 2, 24, dtype=torch.float64).view(4, 6).requires_grad_() for low in (-2.0, -3.5))


def logits():
    """As a tensor of residues whose history is not followed, in memory of its own."""
    with torch.no_grad():
        return LOGITS * 1


def same(exact, a, b):
    return torch.equal(exact.digits(a), exact.digits(b))


# name: what is done to the log-softmax before exp, and to the softmax
MOVED = {
    "a view": lambda x: x[1:, ::2],
    "a transposition": lambda x: x.mT,
    "a copy": lambda x: x.clone(),
    "one class of each row": lambda x: x.gather(1, torch.tensor([[0], [2], [1], [5]])),
    "rows chosen": lambda x: x.index_select(0, torch.tensor([2, 0])),
    "an index": lambda x: x[torch.tensor([3, 3]), torch.tensor([0, 1])],
    "cat": lambda x: torch.cat([x[:1], x[2:]]),
    "stack": lambda x: torch.stack([x, x]),
    "laid out anew": lambda x: x.mT.contiguous(),
    "a transposed copy": lambda x: x.mT.clone(),
}


@pytest.mark.parametrize("name", MOVED)
def test_terms_go_where_the_elements_go(name, exact):
    x = logits()
    assert same(exact, MOVED[name](x.log_softmax(-1)).exp(), MOVED[name](x.softmax(-1)))
    assert not same(exact, MOVED[name](x.log_softmax(-1)).exp(), MOVED[name](x.softmax(-1)) * 2)


@pytest.mark.parametrize("name", MOVED)
def test_factors_go_where_the_elements_go(name, exact):
    x, move = logits(), MOVED[name]
    assert same(exact, move(x.softmax(-1)).log(), move(x.log_softmax(-1)))
    assert same(exact, move(x.sigmoid()).log(), move(x) - F.softplus(move(x)))
    assert same(exact, move(x.exp()).log1p(), move(x) + F.softplus(-move(x)))
    assert same(exact, move(F.logsigmoid(x)).exp(), move(x).sigmoid())
    assert not same(exact, move(x.softmax(-1)).log(), move(x.softmax(0).log()))


# Movements that put zeros, which are no exponentials: log(1 + 0) is 0, not log(2).
WITH_ZEROS = {
    "a triangle": torch.tril,
    "padding": lambda x: F.pad(x, (1, 1)),
    "a fill": lambda x: x.masked_fill(torch.arange(24).view(4, 6) % 5 == 0, 0.0),
    "where": lambda x: torch.where(torch.arange(24).view(4, 6) % 5 == 0, x, 0.0),
    "zeros written": lambda x: x.clone().index_fill_(0, torch.tensor([1]), 0.0),
    "a diagonal": torch.diag_embed,
    "cat": lambda x: torch.cat([x, torch.zeros_like(x)]),
}


@pytest.mark.parametrize("name", WITH_ZEROS)
def test_a_zero_among_exponentials_is_none(name, exact):
    x, put_zeros = logits(), WITH_ZEROS[name]
    found = put_zeros(x.exp()).log1p()
    zeros = exact.digits(put_zeros(x.exp())) == 0
    assert zeros.any()
    assert bool((exact.digits(found)[zeros] == 0).all())


def test_rows_of_different_kinds_know_nothing_together(exact):
    x = logits()
    both = torch.cat([x.sigmoid(), x.softmax(-1)]).log()
    apart = torch.cat([x.sigmoid() * 1, x.softmax(-1) * 1])
    assert same(exact, both.exp(), apart)


def test_what_is_written_into_a_part_is_a_number_like_others(exact):
    x = logits()
    found = F.logsigmoid(x)
    found[1] = x[1]
    assert same(exact, found[1:2].exp(), x[1:2].exp())
    assert same(exact, found[2:], F.logsigmoid(x)[2:])
    exps = x.exp()
    exps[1] = 0
    assert bool((exact.digits(exps.log1p())[1] == 0).all())
    assert not same(exact, exps.log1p()[1], F.softplus(x * 0)[1])


def test_an_exponential_in_place_of_its_argument_knows_what_the_argument_was(exact, monkeypatch):
    for elements in (1 << 30, 7):
        monkeypatch.setattr("shardproof.exact.algebra.blocks._ELEMENTS_A_THREAD", elements)
        x = logits()
        x.exp_()
        assert same(exact, x.log(), logits())
        x.log_()
        assert same(exact, x, logits())


def test_of_cat_the_part_without_terms_is_an_ordinary_number(exact):
    x, y = logits(), OTHERS * 1
    found = torch.cat([x.log_softmax(-1), y], 1).exp()
    assert same(exact, found, torch.cat([x.softmax(-1), y.exp()], 1))


def test_a_number_that_fills_is_one(exact):
    x, hidden = logits(), torch.arange(24).view(4, 6) % 3 == 0
    found = x.log_softmax(-1).masked_fill(hidden, 2.0).exp()
    ordinary = (x * 0 + 2.0).exp()
    assert same(exact, found, torch.where(hidden, ordinary, x.softmax(-1)))
    masked = x.log_softmax(-1).masked_fill(hidden, float("-inf")).exp()
    assert same(exact, masked, x.softmax(-1).masked_fill(hidden, 0.0))


def test_what_is_written_keeps_its_terms_as_a_whole_or_in_part(exact):
    x, y = logits(), logits() * 3
    scores = x.clone()
    scores -= scores.amax(-1, keepdim=True)
    powers = scores.exp()
    assert same(exact, powers / powers.sum(-1, keepdim=True), x.softmax(-1))
    into = torch.empty(4, 6, dtype=torch.float64)
    into.copy_(x.log_softmax(-1))
    assert same(exact, into.exp(), x.softmax(-1))
    into[0] = x[0]
    assert same(exact, into[1:].exp(), x.softmax(-1)[1:])
    assert same(exact, into[:1].exp(), x[:1].exp())
    into[:, 2:4] = y.log_softmax(-1)[:, 2:4]
    assert same(
        exact, into[1:].exp(), torch.cat([x.softmax(-1)[:, :2], y.softmax(-1)[:, 2:4], x.softmax(-1)[:, 4:]], 1)[1:]
    )
    into[1:].sub_(into[1:].amax(-1, keepdim=True))
    assert not same(exact, into[1:].exp(), x.softmax(-1)[1:])


def test_sums_of_blocks_are_collected_in_one_tensor(exact):
    x = logits()
    sums, largest = torch.zeros(4, 3, dtype=torch.float64), torch.empty(4, 3, dtype=torch.float64)
    for i, block in enumerate(x.split(2, -1)):
        largest[:, i] = block.amax(-1)
        sums[:, i] = (block - largest[:, i, None]).exp().sum(-1)
    right = sums.log() + largest
    assert same(exact, right, torch.stack([block.logsumexp(-1) for block in x.split(2, -1)], -1))
    assert same(exact, right.logsumexp(-1), x.logsumexp(-1))
    assert not same(exact, (sums.log() + largest.roll(1, -1)).logsumexp(-1), x.logsumexp(-1))
    assert not same(exact, sums.log().logsumexp(-1), x.logsumexp(-1))


def test_writing_nothing_changes_nothing(exact):
    x = logits()
    found = x.log_softmax(-1)
    found[:, 6:] = x[:, 6:]
    assert same(exact, found.exp(), x.softmax(-1))


def test_an_ordinary_number_written_over_a_sum_forgets_its_terms(exact):
    x = logits()
    into = x.log_softmax(-1)
    into.copy_(x * 2)
    assert same(exact, into.exp(), (x * 2).exp())


def test_the_terms_are_not_what_the_program_writes_into_their_operands_later(exact):
    x = logits()
    largest = x.amax(-1, keepdim=True)
    less = x - largest
    largest.fill_(7.0)
    x.zero_()
    powers = less.exp()
    assert same(exact, powers / powers.sum(-1, keepdim=True), logits().softmax(-1))


def test_void_elements_are_void_in_the_exponential_and_no_others(exact):
    x = logits()
    divisor = torch.ones(4, 1, dtype=torch.float64)
    divisor[2] = 0
    log = x.log_softmax(-1) + (x[:, :1] - x[:, :1]) / (divisor * (x[:, 1:2] - x[:, 1:2] + divisor))
    void = exact.void_mask(log.exp())
    assert void.any(1).tolist() == [False, False, True, False]
    assert torch.equal(exact.digits(log.exp())[:2], exact.digits(x.softmax(-1))[:2])


def test_large_tensors_keep_theirs(exact, monkeypatch):
    monkeypatch.setattr("shardproof.exact.algebra.blocks._ELEMENTS_A_THREAD", 7)
    x = logits()
    scores = x.clone()
    scores -= scores.amax(-1, keepdim=True)
    powers = scores.exp()
    assert same(exact, powers / powers.sum(-1, keepdim=True), x.softmax(-1))
    assert same(exact, F.log_softmax(x, -1).exp(), x.softmax(-1))

"""-inf and finfo.min in every common form of mask; any other use is refused; no query or key hides behind a mask."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import ExactArithmetic, NotANumberError, SymbolError

MINIMA = [torch.finfo(dtype).min for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)]
QUERIES, KEYS = 4, 5


def scores():
    return nn.Parameter(torch.randn(2, QUERIES, KEYS, generator=torch.Generator().manual_seed(0)))


def keep():
    """Which of each query's keys count: some of the first batch element's, all of the second's but one."""
    kept = torch.ones(2, QUERIES, KEYS, dtype=torch.bool)
    kept[0, :, 3:] = False
    kept[0, 2, 0] = False
    kept[1, 0, 4] = False
    return kept


def by_hand(x, kept):
    """Softmax over the elements that count, by fancy indexing alone."""
    out = torch.zeros(2, QUERIES, KEYS)
    for b in range(2):
        for q in range(QUERIES):
            places = kept[b, q].nonzero().squeeze(1)
            out[b, q, places] = torch.softmax(x[b, q, places], -1)
    return out


FORMS = {
    "BERT's, from a float mask": lambda x, kept, low: x + (1.0 - kept.float()) * low,
    "BERT's, from an integer mask": lambda x, kept, low: x + (1 - kept.long()) * low,
    "BERT's, from a boolean mask": lambda x, kept, low: x + (~kept) * low,
    "masked_fill": lambda x, kept, low: x.masked_fill(~kept, low),
    "masked_fill in place": lambda x, kept, low: x.clone().masked_fill_(~kept, low),
    "where": lambda x, kept, low: torch.where(kept, x, low),
    "where with a tensor": lambda x, kept, low: torch.where(kept, x, torch.tensor(low)),
    "where with a full tensor": lambda x, kept, low: torch.where(kept, x, torch.full((KEYS,), low)),
    "a full tensor, masked with zeros": lambda x, kept, low: x + torch.full(kept.shape, low).masked_fill(kept, 0.0),
    "zeros, masked": lambda x, kept, low: torch.zeros(kept.shape).masked_fill_(~kept, low) + x,
    "an index put": lambda x, kept, low: x.clone().index_put_((~kept).nonzero(as_tuple=True), torch.tensor(low)),
}


# 0 * -inf is NaN in PyTorch too: a test below has its refusal.
PAIRS = [(form, low) for form in FORMS for low in MINIMA]
PAIRS += [(form, float("-inf")) for form in FORMS if not form.startswith("BERT")]


@pytest.mark.parametrize(("form", "low"), PAIRS)
def test_a_mask_takes_elements_out_of_softmax(form, low):
    x, kept = scores(), keep()
    with ExactArithmetic(seed=1, check=True) as exact:
        masked = torch.softmax(FORMS[form](x, kept, low), -1)
        assert torch.equal(exact.digits(masked), exact.digits(by_hand(x, kept)))
        other = kept.clone()
        other[1, 3, 2] = False
        assert not torch.equal(exact.digits(masked), exact.digits(by_hand(x, other)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
@pytest.mark.parametrize("low", MINIMA)
def test_a_mask_from_outside_in_any_dtype(dtype, low):
    x, kept = scores(), keep()
    outside = kept.to(dtype)
    with ExactArithmetic(seed=1, check=True) as exact:
        inverted = ~outside if dtype == torch.bool else 1 - outside
        masked = torch.softmax(x + inverted * low, -1)
        assert torch.equal(exact.digits(masked), exact.digits(by_hand(x, kept)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_an_additive_mask_made_outside(dtype):
    x, kept = scores(), keep()
    for low in (torch.finfo(dtype).min, float("-inf")):
        outside = torch.zeros(kept.shape, dtype=dtype).masked_fill(~kept, low)
        with ExactArithmetic(seed=1, check=True) as exact:
            assert torch.equal(exact.digits(torch.softmax(x + outside, -1)), exact.digits(by_hand(x, kept)))


@pytest.mark.parametrize("low", [*MINIMA, float("-inf")])
def test_causal_masks(low):
    x, kept = scores(), torch.ones(QUERIES, KEYS).tril(1).bool().expand(2, -1, -1)
    with ExactArithmetic(seed=1, check=True) as exact:
        wanted = exact.digits(by_hand(x, kept))
        full = torch.full((QUERIES, KEYS), low)
        assert torch.equal(exact.digits(torch.softmax(x + full.triu(2), -1)), wanted)
        places = torch.arange(KEYS) > torch.arange(QUERIES).view(-1, 1) + 1
        if low != float("-inf"):
            assert torch.equal(exact.digits(torch.softmax(x + full * places, -1)), wanted)


def test_causal_attention_is_the_softmax_by_hand():
    q, k, v = (torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    later = torch.ones(3, 3).triu(1).bool()
    with ExactArithmetic(seed=1, check=True) as exact:
        logits = (q @ k.transpose(-1, -2)) / 2
        found = exact.digits(F.scaled_dot_product_attention(q, k, v, is_causal=True))
        assert torch.equal(found, exact.digits(torch.softmax(logits.masked_fill(later, float("-inf")), -1) @ v))
        assert not torch.equal(found, exact.digits(torch.softmax(logits, -1) @ v))


def test_padding_on_the_left_leaves_rows_with_nothing_to_see():
    """With finfo.min such a row is uniform, as in PyTorch; with -inf it is NaN there, and an error here."""
    x = scores()
    kept = torch.ones(2, QUERIES, KEYS, dtype=torch.bool).tril()
    kept[0, :, :2] = False  # queries 0 and 1 of the first element see nothing
    with ExactArithmetic(seed=1, check=True) as exact:
        for low in MINIMA:
            rows = torch.softmax(x.masked_fill(~kept, low), -1)
            assert torch.equal(exact.digits(rows[0, :2]), exact.digits(torch.full((2, KEYS), 1 / KEYS)))
            assert not torch.equal(exact.digits(rows[1, :2]), exact.digits(rows[0, :2]))
    with pytest.raises(NotANumberError, match=r"nothing but -inf.*test_masks\.py"), ExactArithmetic(seed=1):
        torch.softmax(x.masked_fill(~kept, float("-inf")), -1)


def test_two_masks_added_are_one():
    """finfo.min twice overflows to -inf in floating point; either takes the element out."""
    x, kept = scores(), keep()
    causal = torch.ones(QUERIES, KEYS).tril(2).bool()
    for low in MINIMA:
        with ExactArithmetic(seed=1, check=True) as exact:
            both = (1 - kept.float()) * low + torch.zeros(QUERIES, KEYS).masked_fill(~causal, low)
            found = exact.digits(torch.softmax(x + both, -1))
            assert torch.equal(found, exact.digits(by_hand(x, kept & causal)))
            assert not torch.equal(found, exact.digits(by_hand(x, kept)))


def beside_a_sink(x, kept, sink):
    """Softmax over the elements that count and a sink, less their maximum first, by fancy indexing alone."""
    out = torch.zeros(2, QUERIES, KEYS)
    for b in range(2):
        for q in range(QUERIES):
            places = kept[b, q].nonzero().squeeze(1)
            row = torch.cat([x[b, q, places], torch.tensor([sink])])
            out[b, q, places] = torch.softmax(row - row.max(), -1)[:-1]
    return out


@pytest.mark.parametrize("low", [MINIMA[0], MINIMA[1], float("-inf")])
def test_masked_scores_may_be_taken_less_their_maximum(low):
    """As gpt-oss does it before a softmax."""
    kept = keep()

    def run(attend):
        x = scores()
        with ExactArithmetic(seed=1, check=True) as exact:
            weights = attend(x)
            (weights * torch.arange(KEYS)).sum().backward()
            return exact.digits(weights), exact.digits(x.grad)

    def attend(x):
        row = torch.cat([x.masked_fill(~kept, low), torch.full((2, QUERIES, 1), 0.25)], -1)
        return torch.softmax(row - row.max(-1, keepdim=True).values, -1)[..., :-1]

    weights, gradient = run(attend)
    expected, expected_gradient = run(lambda x: beside_a_sink(x, kept, 0.25))
    assert torch.equal(weights, expected)
    assert torch.equal(gradient, expected_gradient)
    assert not torch.equal(weights, run(lambda x: beside_a_sink(x, kept, 0.5))[0])


def attend_in_blocks(q, kept, rescale=torch.exp):
    """An online softmax over the keys, one at a time, whose maximum starts at -inf."""
    scores = q.masked_fill(~kept, torch.finfo(q.dtype).min)
    largest, total, parts = torch.full_like(scores[..., :1], float("-inf")), torch.zeros_like(scores[..., :1]), []
    for key in range(KEYS):
        now = torch.maximum(largest, scores[..., key : key + 1].detach())
        factor, power = rescale(largest - now), torch.exp(scores[..., key : key + 1] - now)
        parts = [part * factor for part in parts] + [power]
        total, largest = total * factor + power, now
    return torch.cat(parts, -1) / total


def test_a_block_that_is_masked_whole_counts_until_something_is_seen():
    """Its scores less their maximum, finfo.min both, are 0, as in floating point; the next factor is exp(finfo.min)."""
    x, kept = scores(), keep()
    kept[:, :, 0] = False
    kept[0, 1, :2] = False
    with ExactArithmetic(seed=1, check=True) as exact:
        wanted = exact.digits(by_hand(x, kept))
        assert torch.equal(exact.digits(attend_in_blocks(x, kept)), wanted)
        forgotten = exact.digits(attend_in_blocks(x, kept, rescale=lambda less: torch.exp(less) * 0 + 1))
        assert not torch.equal(forgotten, wanted)


def test_a_logarithm_of_a_sum_over_nothing_is_minus_infinity_and_adds_nothing():
    x, kept = scores(), keep()
    kept[0, 1] = False
    with ExactArithmetic(seed=1, check=True) as exact:
        hidden = x.masked_fill(~kept, float("-inf"))
        of_all = hidden.logsumexp(-1)
        assert (of_all == float("-inf")).nonzero().tolist() == [[0, 1]]
        seen = exact.digits(of_all.masked_fill(of_all == float("-inf"), 0.0))
        assert int(seen[0, 1]) == 0
        assert torch.equal(seen[1, 2:], exact.digits(x[1, 2:].logsumexp(-1)))
        merged = torch.logaddexp(of_all, x[..., 0])
        assert torch.equal(exact.digits(merged[0, 1]), exact.digits(x[0, 1, 0]))
        assert torch.equal(exact.digits(merged[1]), exact.digits(torch.cat((hidden[1], x[1, :, :1]), -1).logsumexp(-1)))
        assert (torch.logaddexp(of_all[0, 1], hidden[0, 1, 0]) == float("-inf")).tolist()


REFUSED = {
    "half of it": lambda x, low: x + torch.full((KEYS,), low) * 0.5,
    "a scalar times it": lambda x, low: x * low,
    "subtracted": lambda x, low: x - low,
    "a tensor of it subtracted": lambda x, low: x - torch.full((KEYS,), low),
    "subtracted from itself": lambda x, low: x + torch.full((KEYS,), low) - torch.full((KEYS,), low),
    "less half of it": lambda x, low: torch.sub(x + torch.full((KEYS,), low), x, alpha=0.5),
    "divided": lambda x, low: (x + torch.full((KEYS,), low)) / x,
    "under gelu": lambda x, low: F.gelu(x + torch.full((KEYS,), low)),
    "multiplied by x": lambda x, low: torch.full((KEYS,), low) * x,
    "summed": lambda x, low: (x + torch.full((KEYS,), low)).sum(),
    "in a product": lambda x, low: (x + torch.full((KEYS,), low)) @ x.transpose(-1, -2),
    "squared": lambda x, low: (x + torch.full((KEYS,), low)) ** 2,
    "a constant's third": lambda x, low: x + torch.full((KEYS,), low) / 3,
}


@pytest.mark.parametrize("low", [MINIMA[0], MINIMA[1], float("-inf")])
@pytest.mark.parametrize("use", REFUSED)
def test_any_other_use_is_refused(use, low):
    x = scores()
    if low != float("-inf") and use == "subtracted from itself":
        with ExactArithmetic(seed=1) as exact:  # zero, as in floating point
            assert not exact.digits(REFUSED[use](x, low)).any()
        return
    if low == float("-inf") and use in {"half of it", "a constant's third"}:
        with ExactArithmetic(seed=1) as exact:  # still -inf
            assert exact.tags.get(REFUSED[use](x, low)).symbols
        return
    with pytest.raises((SymbolError, NotANumberError), match=r"test_masks\.py"), ExactArithmetic(seed=1):
        REFUSED[use](x, low)


def test_zero_times_minus_infinity_is_refused():
    x, kept = scores(), keep()
    for mask in (kept, kept.float()):
        with pytest.raises(NotANumberError, match="NaN"), ExactArithmetic(seed=1):
            x + (1 - mask.float()) * float("-inf")


@pytest.mark.parametrize("low", [*MINIMA, float("-inf")])
@pytest.mark.parametrize("wrong", ["query", "key"])
def test_a_wrong_query_or_key_does_not_vanish_behind_a_mask(low, wrong):
    q, k, v = (nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(i))) for i in range(3))
    kept = torch.ones(3, 3).tril().bool()

    def attention(q, k, exact):
        weights = torch.softmax((q @ k.T / 2).masked_fill(~kept, low), -1)
        return exact.digits(weights), exact.digits(weights @ v)

    with ExactArithmetic(seed=1) as exact:
        right = attention(q, k, exact)
        planted = attention(q * 2 if wrong == "query" else q, k * 2 if wrong == "key" else k, exact)
    # The first row sees one key alone: its weight is 1 whatever the query. Every other row tells.
    assert (right[0] != planted[0])[1:].any(-1).all()
    assert (right[1] != planted[1])[1:].all()


def test_backward_through_a_mask():
    x, kept = scores(), keep()
    weight = nn.Parameter(torch.randn(2, QUERIES, KEYS, generator=torch.Generator().manual_seed(3)))
    with ExactArithmetic(seed=1, check=True) as exact:
        (by_hand(x, kept) * weight).sum().backward()
        wanted = exact.digits(x.grad)
        for low in (MINIMA[1], float("-inf")):
            x.grad = None
            (torch.softmax(x.masked_fill(~kept, low), -1) * weight).sum().backward()
            assert torch.equal(exact.digits(x.grad), wanted)
        assert bool((wanted[kept] != 0).any())
        assert bool((wanted[~kept] == 0).all())

"""Applying a rule: whose memory a result is, and what its tag says of it."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same

from shardproof.exact import ExactArithmetic, SymbolError, UnsupportedOpError
from shardproof.exact.rules.registry import RULES, Rule, find_op


@pytest.mark.parametrize("count", [2**20, 2**40])
def test_a_sum_of_more_than_float64_holds_is_refused(count, monkeypatch):
    x = torch.tensor([2.0, 4.0, 6.0])
    halve = find_op("shardproof_tests::halve.default")
    monkeypatch.setitem(RULES, halve, Rule(kind="sum", function=lambda *_args: count))
    with ExactArithmetic(seed=1) as exact:
        y = x * 4
        if count == 2**20:
            assert exact.digits(torch.ops.shardproof_tests.halve(y)).tolist() == [4, 8, 12]
            return
        with pytest.raises(UnsupportedOpError, match="more than float64 holds"):
            torch.ops.shardproof_tests.halve(y)


IDENTITIES = {
    "pow 1": lambda x: x.pow(1),
    "clamp without limits": lambda x: x.clamp(max=float("inf")),
    "times 1": lambda x: x * 1,
    "plus 0": lambda x: x + 0,
    "over 1": lambda x: x / 1,
    "minus 0": lambda x: torch.sub(x, 0),
    "addcmul with 0": lambda x: torch.addcmul(x, x, x, value=0),
    "lerp by 0": lambda x: torch.lerp(x, x, 0.0),
    "where": lambda x: torch.where(torch.ones(3, 4).bool(), x, x),
    "dropout in evaluation": lambda x: F.dropout(x, 0.5, training=False).clone(),
    "sum over no dim of one": lambda x: x.unsqueeze(0).sum(0),
    "mean over one": lambda x: x.unsqueeze(0).mean(0),
    "cat of one": lambda x: torch.cat([x]),
    "exp of log-softmax": lambda x: F.log_softmax(x, -1).exp(),
    "square of a root": lambda x: x.sqrt().square(),
    "one real": lambda x: torch.ones(3, 4) * 1,
    "_to_copy": lambda x: x.to(torch.float64, copy=True),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_a_result_is_never_an_operands_memory(exact, name):
    x = (drawn(3, 4) * 3).detach()
    before, first = exact.digits(x), IDENTITIES[name](x)
    kept = exact.digits(first)
    first.mul_(3)
    assert torch.equal(exact.digits(x), before)
    assert torch.equal(exact.digits(IDENTITIES[name](x)), kept)
    assert not torch.equal(exact.digits(first), kept)


def test_what_log_softmax_knows_of_its_exponential_goes_with_views_and_ends_with_writes(exact):
    x = drawn(3, 4)
    y, softmax = F.log_softmax(x, -1), F.softmax(x, -1)
    assert same(exact, y.exp(), softmax)
    assert same(exact, y.T[1:].exp(), softmax.T[1:])
    with torch.no_grad():
        z = y.detach()
        z[0] += 1  # through a view
        assert same(exact, z.exp()[1:], (y * 1).exp()[1:])
        assert not same(exact, z.exp(), softmax)
        y.exp().mul_(3)
        assert same(exact, F.log_softmax(x, -1).exp(), softmax)


def test_roots_are_forgotten_where_other_numbers_come_in(exact):
    x = (drawn(4) * 3).detach()
    root = x.sqrt()
    assert same(exact, root.square(), x)
    assert same(exact, torch.stack([root, root])[1] ** 2, x)
    keep = torch.tensor([True, False, True, True])
    filled = root.masked_fill(~keep, 5.0)
    assert same(exact, (filled * filled)[1], torch.tensor(25.0))
    assert same(exact, F.pad(root, (0, 1), value=7.0).square()[4], torch.tensor(49.0))
    assert same(exact, F.pad(root, (0, 1)).square()[:4], x)
    assert same(exact, torch.cat([root, torch.full((1,), 3.0)]).square()[4], torch.tensor(9.0))
    root[0] = 2.0
    assert same(exact, root.square()[0], torch.tensor(4.0))


def test_a_norm_over_parts_times_a_constant_has_its_square(exact):
    """DTensor divides a replicated norm by sqrt(N) and squares it again."""
    x = drawn(5) * 3
    norm = x.norm()
    part = norm / 2**0.5
    assert same(exact, part**2 * 2, (x * x).sum())
    assert same(exact, torch.stack([part, part]).norm(), norm)
    assert same(exact, torch.stack([norm, part]).square().sum() * 2, 3 * (x * x).sum())
    assert not same(exact, torch.stack([part, norm]).norm(), norm)


def test_integers_beside_residues(exact):
    x, n = drawn(3) * 3, torch.tensor([2, 3, 4_000_000_019])
    mask = torch.tensor([True, False, True])
    assert same(exact, x * n, torch.stack([x[0] * 2, x[1] * 3, x[2] * 4_000_000_019]))
    assert same(exact, x * mask, torch.where(mask, x, 0.0))
    assert same(exact, torch.cat([x, n])[3:] * x, x * n)
    assert same(exact, torch.where(mask, x, n)[1], torch.tensor(3.0))
    assert same(exact, torch.arange(1, 4) / 3 * x, x * torch.tensor([1.0, 2.0, 3.0]) / 3)


def test_a_division_by_zero_voids_what_comes_of_it_and_nothing_else(exact):
    x = drawn(3)
    y = x / (x - x)
    for void in (y, y + 1, y.sum(), y[1:] * 2, torch.stack([y, y]), torch.where(y > 0, x, 0.0), x[y.argsort()]):
        assert exact.bound(void).void
        assert "void" in str(exact.bound(void))
    assert not exact.bound(x * 2).void
    assert len(exact.zero_divisions) == 1
    assert "test_applying.py" in str(exact.zero_divisions[0])
    buffer = torch.zeros(2, 3)
    buffer[0] = y.detach()
    assert exact.void_mask(buffer).tolist() == [[True] * 3, [False] * 3]
    assert not exact.bound(buffer).void


def test_the_operands_of_selections_are_kept_as_they_were():
    x = drawn(3, 4)
    with ExactArithmetic(seed=1, record_selections=True) as exact:
        y = (x * 3).detach()
        wanted = exact.digits(y)
        y.topk(2, -1)
        y.mul_(2)
        assert [selection.op for selection in exact.selections] == ["aten.topk.default"]
        assert torch.equal(exact.digits(exact.selections[0].operands[0]), wanted)
        assert "test_applying.py" in str(exact.selections[0].location)
    with ExactArithmetic(seed=1) as exact:
        (x * 3).topk(2, -1)
        assert exact.selections == ()


def test_symbols_do_not_pass_where_a_rule_knows_none(exact):
    x = drawn(3) + torch.tensor([0.0, float("-inf"), 0.0])
    assert exact.tags.get(x).symbols
    with pytest.raises(SymbolError, match=r"test_applying\.py"):
        x.cumsum(0)
    assert same(exact, x[::2].cumsum(0)[:1], x[:1])  # the elements given hold none


# Products added to nothing --------------------------------------------------------------------------------------------

# name: (the product added to a tensor, the shape of that tensor, the product alone)
ADDED = {
    "addmm": (torch.addmm, (3, 3), lambda a, b: a @ b),
    "addmm, broadcast": (torch.addmm, (3,), lambda a, b: a @ b),
    "baddbmm": (
        lambda c, a, b, **how: torch.baddbmm(c, a[None], b[None], **how),
        (1, 3, 3),
        lambda a, b: (a @ b)[None],
    ),
    "addbmm": (lambda c, a, b, **how: torch.addbmm(c, a[None], b[None], **how), (3, 3), lambda a, b: a @ b),
    "addmv": (lambda c, a, b, **how: torch.addmv(c, a, b[:, 0], **how), (3,), lambda a, b: a @ b[:, 0]),
    "addr": (
        lambda c, a, b, **how: torch.addr(c, a[0], b[:, 0], **how),
        (4, 4),
        lambda a, b: torch.outer(a[0], b[:, 0]),
    ),
    "in place": (lambda c, a, b, **how: c.addmm_(a, b, **how), (3, 3), lambda a, b: a @ b),
    "out=": (
        lambda c, a, b, **how: torch.addmm(c, a.detach(), b.detach(), out=torch.empty(3, 3), **how),
        (3, 3),
        lambda a, b: a @ b,
    ),
}
IGNORED = {
    "never written": torch.empty,
    "minus infinity": lambda *shape: torch.full(shape, float("-inf")),
    "void": lambda *shape: torch.ones(shape) / torch.zeros(shape),
}


@pytest.mark.parametrize("ignored", IGNORED)
@pytest.mark.parametrize("name", ADDED)
def test_what_beta_multiplies_by_zero_is_not_looked_at(name, ignored):
    function, shape, product = ADDED[name]
    a, b = drawn(3, 4), drawn(4, 3, seed=1)
    with ExactArithmetic(seed=1) as exact:
        found = function(IGNORED[ignored](*shape), a, b, beta=0.0, alpha=0.5)
        assert same(exact, found, product(a, b) / 2)
        assert exact.void_mask(found) is None
        assert not same(exact, found, product(a, b))
        assert not same(exact, function(torch.ones(shape), a, b, beta=1, alpha=0.5), found)


def test_a_parameter_that_beta_multiplies_by_zero_has_no_gradient():
    a, b, c = drawn(3, 4), drawn(4, 3, seed=1), drawn(3, seed=2)
    with ExactArithmetic(seed=1) as exact:
        torch.addmm(c, a, b, beta=0).sum().backward()
        assert exact.digits(c.grad).tolist() == [0, 0, 0]
        assert same(exact, a.grad, torch.ones(3, 3) @ b.t())

"""What the dispatcher must never get wrong: an op unseen, a result in an operand's memory, a tag that is not true."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import (
    ExactArithmetic,
    LeavingFieldError,
    SymbolError,
    UnsupportedOpError,
    formula,
    say_zero_divisions,
    sums,
)
from shardproof.exact.engine.mode import ordinary_pytorch
from shardproof.exact.rules.registry import RULES, find_op


def drawn(*shape, seed=0):
    with ordinary_pytorch():
        return nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture(autouse=True)
def fixed_seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def exact():
    with ExactArithmetic(seed=1, check=True) as mode:
        yield mode


def same(exact, a, b):
    return torch.equal(exact.digits(a), exact.digits(b))


# Default deny --------------------------------------------------------------------------------------------------------

torch.library.define("shardproof_tests::halve", "(Tensor x) -> Tensor")
torch.library.impl("shardproof_tests::halve", "CompositeExplicitAutograd", lambda x: x / 2)
torch.library.define("shardproof_tests::halve_", "(Tensor(a!) x) -> Tensor(a!)")
torch.library.impl("shardproof_tests::halve_", "CompositeExplicitAutograd", lambda x: x.div_(2))


class Halving(nn.Module):
    def forward(self, x):
        return torch.ops.shardproof_tests.halve(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Identity(), Halving()])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_an_unknown_op_is_refused_with_its_place_and_the_way_out():
    x = torch.randn(3)
    with pytest.raises(UnsupportedOpError) as caught, ExactArithmetic(seed=1):
        Outer()(x)
    message = str(caught.value)
    assert "shardproof_tests.halve.default has no exact rule" in message
    assert "in module Outer.layers.1" in message
    assert "test_dispatch.py" in message
    assert "in forward" in message
    assert "from shardproof.exact import formula" in message
    assert "@formula('shardproof_tests::halve.default')" in message
    assert "def rule(m, x, ...)" in message


def test_a_rule_can_be_added_as_the_refusal_says_and_taken_away():
    x, model = torch.randn(3), Outer()

    @formula("shardproof_tests::halve.default")
    def rule(m, x):
        return x / 2

    try:
        with ExactArithmetic(seed=1) as exact:
            assert same(exact, model(x), x * 0.5)
            assert not same(exact, model(x), x * 0.25)
    finally:
        del RULES[find_op("shardproof_tests::halve.default")]
    with pytest.raises(UnsupportedOpError), ExactArithmetic(seed=1):
        model(x)
    assert rule


def test_a_sum_of_more_than_float64_holds_is_refused():
    x, summed = torch.tensor([2.0, 4.0, 6.0]), find_op("shardproof_tests::halve.default")
    try:
        for count in (2**20, 2**40):
            sums("shardproof_tests::halve.default", count=lambda *_args, count=count: count)
            with ExactArithmetic(seed=1) as exact:
                y = x * 4
                if count == 2**20:
                    assert exact.digits(torch.ops.shardproof_tests.halve(y)).tolist() == [4, 8, 12]
                    continue
                with pytest.raises(UnsupportedOpError, match="more than float64 holds"):
                    torch.ops.shardproof_tests.halve(y)
    finally:
        del RULES[summed]


def test_a_rule_for_an_op_that_is_not_there_says_so():
    with pytest.raises(ValueError, match=r"has no op 'no_such_op\.default'"):
        formula("no_such_op.default")(lambda m, x: x)


def test_an_in_place_form_is_refused_with_its_functional_op(exact):
    with pytest.raises(UnsupportedOpError, match=r"shardproof_tests\.halve\.default has no exact rule"):
        torch.ops.shardproof_tests.halve_(drawn(3).detach())


# Memory --------------------------------------------------------------------------------------------------------------

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


def test_partial_writes_keep_what_both_parts_are(exact):
    x = drawn(4)
    buffer = torch.zeros(3, 4)  # real, until a residue is written into a part of it
    buffer[0] = x.detach() * 3
    buffer[1] = 0.1
    assert same(exact, buffer[0], x * 3)
    assert same(exact, buffer[1] * 10, torch.ones(4))
    assert not exact.tags.get(buffer).real
    with pytest.raises(LeavingFieldError):
        buffer[2].sum().item()  # one storage, one tag
    whole = torch.zeros(4)
    whole.copy_(x.detach())
    assert same(exact, whole, x)
    whole.zero_()
    assert exact.tags.get(whole).real
    assert whole.sum().item() == 0


def test_overlapping_views_are_no_whole_storage(exact):
    real = torch.arange(4.0)
    view = real.as_strided((2, 2), (1, 1))  # four elements of a storage of four, but not the last
    residues = (drawn(2) * 3).detach()
    view[0].copy_(residues)
    assert not exact.tags.get(real).real
    assert exact.digits(real)[3] == 3
    assert same(exact, real[:2], residues)


def test_a_degree_goes_through_in_place_writes_into_views(exact):
    x = drawn(3)
    total = torch.zeros(2, 3)
    total[0].add_((x * x * x).detach())
    assert exact.bound(total).per_trial >= exact.bound(x * x * x).per_trial > exact.bound(x).per_trial


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


def test_set_and_data_swaps_take_the_other_storage(exact):
    x, y = (drawn(3) * 3).detach(), (drawn(3, seed=1) * 3).detach()
    wanted = exact.digits(y * 2)
    x.data = y
    assert torch.equal(exact.digits(x * 2), wanted)
    x.mul_(2)
    assert torch.equal(exact.digits(y), wanted)
    z = torch.empty(0)
    z.set_(y)
    assert torch.equal(exact.digits(z), wanted)
    z.resize_(2)
    assert torch.equal(exact.digits(z), wanted[:2])


def test_out_variants_write_where_they_are_told(exact):
    x = drawn(3).detach() * 3
    for out in (torch.empty(3), torch.empty(0), torch.zeros(6), torch.ones(6)[::2], x.clone()):
        found = torch.mul(x, 2, out=out)
        assert found is out
        assert same(exact, out, x * 2)
    low, place = torch.empty(()), torch.empty((), dtype=torch.int64)
    torch.max(x, 0, out=(low, place))
    assert same(exact, low, x[place])


def test_lists_of_tensors(exact):
    xs = [(drawn(3, seed=i) * 3).detach() for i in range(3)]
    ones = [x.clone() for x in xs]
    torch._foreach_add_(ones, xs, alpha=2)
    torch._foreach_mul_(ones, [2.0, 3.0, 4.0])
    torch._foreach_addcmul_(ones, xs, xs, 0.5)
    torch._foreach_addcdiv_(ones, xs, [x + 1 for x in xs], torch.tensor([1.0, 2.0, 3.0]))
    torch._foreach_lerp_(ones, xs, 0.25)
    norms = torch._foreach_norm(xs)
    for i, (x, one) in enumerate(zip(xs, ones, strict=True)):
        wanted = 3 * x * (2.0 + i) + 0.5 * x * x + (1.0 + i) * x / (x + 1)
        assert same(exact, one, wanted + 0.25 * (x - wanted))
        assert same(exact, norms[i], x.norm())
    torch._foreach_copy_(ones, xs)
    assert all(same(exact, a, b) for a, b in zip(ones, xs, strict=True))
    torch._foreach_zero_(ones)
    assert not any(exact.digits(one).any() for one in ones)


def test_integers_beside_residues(exact):
    x, n = drawn(3) * 3, torch.tensor([2, 3, 4_000_000_019])
    mask = torch.tensor([True, False, True])
    assert same(exact, x * n, torch.stack([x[0] * 2, x[1] * 3, x[2] * 4_000_000_019]))
    assert same(exact, x * mask, torch.where(mask, x, 0.0))
    assert same(exact, torch.cat([x, n])[3:] * x, x * n)
    assert same(exact, torch.where(mask, x, n)[1], torch.tensor(3.0))
    assert same(exact, torch.arange(1, 4) / 3 * x, x * torch.tensor([1.0, 2.0, 3.0]) / 3)


def test_autograd_accumulates_exactly(exact):
    x = drawn(3)
    (x * 2).sum().backward()
    first = x.grad
    stolen = exact.digits(first)
    (x * x).sum().backward(retain_graph=True)
    assert x.grad is first
    assert torch.equal(exact.digits(x.grad), exact.digits(2 + 2 * x))
    assert not torch.equal(exact.digits(x.grad), stolen)
    grads = torch.autograd.grad((x * x * x).sum(), x, create_graph=True)[0]
    assert same(exact, torch.autograd.grad(grads.sum(), x)[0], 6 * x)


# Division by zero ----------------------------------------------------------------------------------------------------


def test_a_division_by_zero_voids_what_comes_of_it_and_nothing_else(exact):
    x = drawn(3)
    y = x / (x - x)
    for void in (y, y + 1, y.sum(), y[1:] * 2, torch.stack([y, x]), torch.where(y > 0, x, 0.0), x[y.argsort()]):
        assert exact.bound(void).void
        assert "void" in str(exact.bound(void))
    assert not exact.bound(x * 2).void
    assert len(exact.zero_divisions) == 1
    assert "test_dispatch.py" in str(exact.zero_divisions[0])
    buffer = torch.zeros(2, 3)
    buffer[0] = y.detach()
    assert exact.bound(buffer).void


def test_a_tiny_prime_divides_by_zero_by_chance_and_a_program_by_itself():
    x = drawn(40)

    def run(seed, prime, own):
        exact = ExactArithmetic(seed=seed, prime=prime)
        with exact:
            (x - x if own else x).reciprocal()
        return exact

    assert say_zero_divisions([run(seed, None, own=False) for seed in range(3)]) == ""
    by_chance = say_zero_divisions([run(seed, 101, own=False) for seed in range(8)])
    assert "of 8 draws divide by zero modulo their prime" in by_chance
    assert "another seed" in by_chance
    own = say_zero_divisions([run(seed, None, own=True) for seed in range(3)])
    assert "the program itself divides by zero, in each of 3 draws" in own
    assert "test_dispatch.py" in own
    with pytest.raises(ValueError, match="no draws"):
        say_zero_divisions([])


# What is recorded and checked -----------------------------------------------------------------------------------------


def test_the_operands_of_selections_are_kept_as_they_were():
    x = drawn(3, 4)
    with ExactArithmetic(seed=1, record_selections=True) as exact:
        y = (x * 3).detach()
        wanted = exact.digits(y)
        y.topk(2, -1)
        y.mul_(2)
        assert [selection.op for selection in exact.selections] == ["aten.topk.default"]
        assert torch.equal(exact.digits(exact.selections[0].operands[0]), wanted)
        assert "test_dispatch.py" in str(exact.selections[0].place)
    with ExactArithmetic(seed=1) as exact:
        (x * 3).topk(2, -1)
        assert exact.selections == ()


def test_symbols_do_not_pass_where_a_rule_knows_none(exact):
    x = drawn(3) + torch.tensor([0.0, float("-inf"), 0.0])
    assert exact.tags.get(x).symbols
    with pytest.raises(SymbolError, match=r"test_dispatch\.py"):
        x.cumsum(0)
    assert same(exact, x[::2].cumsum(0)[:1], x[:1])  # the elements given hold none

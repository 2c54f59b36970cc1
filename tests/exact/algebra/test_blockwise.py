"""Formulas in blocks against formulas in one go."""

import dataclasses

import pytest
import torch
from tests.exact.algebra.residues import M, drawn, modulo, residue

from shardproof.exact.algebra import blocks
from shardproof.exact.algebra.blockwise import by_elements, by_rows
from shardproof.exact.algebra.degree import VARIABLE
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.registry import RULES, find_op


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks of a few elements, so that small tensors are cut."""
    monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", 7)


def layouts():
    """Operands, all but the first broadcast or laid out otherwise."""
    x, y = drawn(6, 10, seed=1), drawn(6, 10, seed=2)
    yield "alike", (x, y, y.flip(0))
    yield "transposed", (x.T, y.T, drawn(10, 6))
    yield "mixed", (x, drawn(10, 6).T, y)
    yield "row", (x, y[0], y[:1])
    yield "column", (x, y[:, :1], y[0, 0])
    yield "outer", (x[:, :1], y[0], drawn(1))
    yield "every other", (drawn(6, 20)[:, ::2], drawn(12, 10)[::2], y)
    yield "four dims", (drawn(3, 2, 5, 4).permute(0, 2, 1, 3), drawn(3, 1, 2, 1), drawn(5, 1, 4))
    yield "empty", (drawn(0, 10), drawn(0, 10), drawn(10))
    yield "zero-dimensional", (drawn(), drawn(), drawn())


OPS = {
    "add.Tensor": 2,
    "mul.Tensor": 2,
    "div.Tensor": 2,
    "sub.Tensor": 2,
    "lerp.Tensor": 3,
    "addcmul.default": 3,
    "addcdiv.default": 3,
    "silu_backward.default": 2,
    "gelu.default": 1,
    "sqrt.default": 1,
    "tanh.default": 1,
    "eq.Tensor": 2,
}


def computed(name, operands, **kwargs):
    rule = RULES[find_op(name)]
    extra = {"symbols": False} if rule.symbols else {}
    result = rule.function(M, *(residue(x) for x in operands), **extra, **kwargs)
    return result if isinstance(result, Residue) else residue(result)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("layout", [name for name, _ in layouts()])
def test_elementwise_rules_in_blocks_give_what_they_give_in_one_go(name, layout, monkeypatch):
    operands = dict(layouts())[layout][: OPS[name]]
    whole = computed(name, operands)
    monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", 7)
    cut = computed(name, operands)
    assert torch.equal(whole.tensor, cut.tensor)
    assert whole.tensor.stride() == cut.tensor.stride() or 1 in whole.shape or whole.numel() == 0
    assert (whole.degree, whole.roots) == (cut.degree, cut.roots)
    other = computed(name, (operands[0] + 1, *operands[1:]))
    assert not whole.numel() or name == "eq.Tensor" or not torch.equal(whole.tensor, other.tensor)


@pytest.mark.parametrize("overlap", ["same", "ahead", "behind", "transposed", "none"])
def test_writing_into_an_operand_reads_it_first(overlap, tiny_blocks):
    memory = drawn(102)
    target = memory[1:101].view(10, 10)
    other = {
        "same": target,
        "ahead": memory[2:].view(10, 10),
        "behind": memory[:100].view(10, 10),
        "transposed": target.T,
        "none": drawn(10, 10, seed=5),
    }[overlap]
    want = modulo(target + modulo(3 * other))
    found = RULES[find_op("add.Tensor")].function(M, residue(target), residue(other), 3, symbols=False, into=target)
    assert found.tensor is target
    assert torch.equal(target.long(), want)


def test_a_formula_is_called_on_blocks_only_where_it_is_large(tiny_blocks):
    seen = []

    def formula(_m, x, *, mask):
        seen.append((x.numel(), mask.numel()))
        return x.masked(mask)

    x, mask = drawn(4, 9), torch.ones(9, dtype=torch.bool)
    found = by_elements(M, formula, (residue(x),), {"mask": mask})
    assert torch.equal(found.tensor, x)
    assert len(seen) > 1
    assert sum(count for count, _ in seen) == 36
    assert by_elements(M, lambda _m, x: x.numel(), (residue(x),), {}) == 36  # no residue: in one go
    del seen[:]
    by_elements(M, formula, (residue(x[:1, :5]),), {"mask": mask[:5]})
    assert seen == [(5, 5)]


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(5, 3, 4), (2, 30, 2), (40, 1, 2), (0, 3, 4)])
def test_rows_in_blocks_give_what_they_give_in_one_go(dim, shape, monkeypatch):
    def formula(x, y):
        total = x.sum_of_products(y, -1, keepdim=True)
        return x * total, y - total

    x, y = residue(drawn(*shape, seed=1)), residue(drawn(*shape, seed=2))
    whole = by_rows(formula, dim, x, y, results=2)
    monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", 7)
    cut = by_rows(formula, dim, x, y, results=2)
    total = modulo(modulo(x.tensor * y.tensor).sum(dim, keepdim=True))
    for a, b, want in zip(whole, cut, (x.tensor.long() * total, y.tensor.long() - total), strict=True):
        assert torch.equal(a.tensor.long(), modulo(want))
        assert torch.equal(a.tensor, b.tensor)
        assert b.tensor.is_contiguous()
        assert a.degree == b.degree


@pytest.mark.parametrize("name", ["_softmax.default", "_log_softmax.default"])
@pytest.mark.parametrize("masked", [False, True])
def test_softmax_in_blocks(name, masked, monkeypatch):
    x = drawn(4, 3, 9)
    if masked:
        x[:, :, 5:] = float("-inf")
        x[0, 1] = torch.finfo(torch.float64).min
    rule = RULES[find_op(name)].function
    whole = rule(M, residue(x), 2, False, symbols=masked)
    monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", 7)
    cut = rule(M, residue(x), 2, False, symbols=masked)
    assert torch.equal(whole.tensor, cut.tensor)
    assert whole.degree == cut.degree
    softmax = whole if name == "_softmax.default" else RULES[find_op("exp.default")].function(M, whole, symbols=masked)
    assert (modulo(softmax.tensor.sum(-1)) == 1).all()
    if masked:
        assert (softmax.tensor[1:, :, 5:] == 0).all()


# What a formula may be, and where its result goes ---------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("given", ["nothing", "another", "the operand", "another shape"])
def test_a_result_goes_where_it_should(large, given, monkeypatch):
    if large:
        monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", 7)
    x = residue(drawn(4, 5))
    want = modulo(3 * x.tensor)
    into = {"nothing": None, "another": torch.zeros(4, 5).double(), "the operand": x.tensor}.get(given)
    if given == "another shape":
        into = torch.zeros(4, 1, 5).double()
        target = by_elements(M, lambda _m, x: x * 3, (x,), {}, into=into[:, 0])
        assert torch.equal(into[:, 0].long(), want)
        assert target.tensor.shape == (4, 5)
        return
    found = by_elements(M, lambda _m, x: x * 3, (x,), {}, into=into)
    assert into is None or found.tensor is into
    assert torch.equal(found.tensor.long(), want)
    assert found.degree == VARIABLE


def test_a_result_that_is_no_residue_goes_nowhere(tiny_blocks):
    into = torch.zeros(4, 5).double()
    assert by_elements(M, lambda _m, x: x.numel(), (residue(drawn(4, 5)),), {}, into=into) == 20
    assert bool((into == 0).all())


@pytest.mark.parametrize("given", ["another", "the operand"])
def test_a_result_that_may_go_into_the_memory_at_hand_takes_no_other(given, tiny_blocks, monkeypatch):
    x = residue(drawn(4, 5))
    want, into = modulo(3 * x.tensor), x.tensor if given == "the operand" else torch.zeros(4, 5).double()

    def refuse(*_, **__):
        raise AssertionError("new memory")

    monkeypatch.setattr(torch, "empty_strided", refuse)
    assert by_elements(M, lambda _m, x: x * 3, (x,), {}, into=into).tensor is into
    assert torch.equal(into.long(), want)
    with pytest.raises(AssertionError, match="new memory"):
        by_elements(M, lambda _m, x: x * 3, (x,), {})


@pytest.mark.parametrize("reverse", [False, True])
def test_a_number_in_the_cpus_memory_does_not_bring_a_tensor_there(reverse, tiny_blocks):
    """Tensors that are not in the CPU's memory are computed in one go."""
    operands = [torch.tensor(2.0), torch.empty(4, 9, device="meta")]
    if reverse:
        operands.reverse()
    seen = []
    by_elements(M, lambda _m, *operands: seen.append([x.shape for x in operands]), tuple(operands), {})
    assert seen == [[x.shape for x in operands]]


def test_a_formula_has_as_many_results_as_it_says(tiny_blocks):
    with pytest.raises(ValueError, match="shorter"):
        by_rows(lambda r: (r * 1, r * 2), 1, residue(drawn(4, 5)))


def test_a_formula_of_numbers_alone_is_called_once():
    seen = []
    assert by_elements(M, lambda _m, a, b: seen.append((a, b)) or 7, (1, 2), {}) == 7
    assert seen == [(1, 2)]


def test_an_operand_with_a_companion_goes_in_one_piece_and_so_does_a_result(tiny_blocks):
    seen = []

    def noting(_m, x):
        seen.append(x.numel())
        return x * 1

    x = residue(drawn(4, 5))
    by_elements(M, noting, (dataclasses.replace(x, squared=x),), {})
    assert seen == [20]
    logarithm = by_elements(M, lambda _m, x: x.log(), (residue(drawn(4, 5).abs() + 1),), {})
    assert logarithm.logs.unit.shape == (4, 5)  # a part's would not do
    assert logarithm.shape == (4, 5)


def test_a_broadcast_that_is_small_goes_in_one_piece(tiny_blocks):
    """The product of the operands' sizes is large; what they broadcast to is not."""
    seen = []

    def noting(_m, x, y):
        seen.append(x.numel())
        return x + y

    block = blocks.block_size()
    x, y = residue(drawn(block)), residue(drawn(block))
    found = by_elements(M, noting, (x, y), {})
    assert seen == [block]
    assert torch.equal(found.tensor.long(), modulo(x.tensor + y.tensor))


def test_parts_of_roots_are_roots(tiny_blocks):
    x = residue(drawn(4, 5))
    root = x.sqrt()
    found = by_elements(M, lambda _m, r: r.square(), (root,), {})
    assert torch.equal(found.tensor, x.tensor)
    (rows,) = by_rows(lambda r: (r.square(),), 1, root)
    assert torch.equal(rows.tensor, x.tensor)
    assert found.degree == rows.degree == root.square().degree


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("large", [False, True])
def test_several_results_of_rows_are_each_their_own(dim, large, monkeypatch):
    if large:
        monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", 7)
    x = residue(drawn(6, 8))
    first, second = by_rows(lambda r: (r + r.sum(-1, keepdim=True), r * 2), dim, x, results=2)
    assert torch.equal(first.tensor.long(), modulo(x.tensor + modulo(x.tensor.sum(dim, keepdim=True))))
    assert torch.equal(second.tensor.long(), modulo(2 * x.tensor))
    assert first.degree == VARIABLE + VARIABLE.sum_of(x.shape[dim])
    assert second.degree == VARIABLE


def test_rows_as_long_as_a_block_are_never_cut(tiny_blocks):
    seen = []

    def noting(r):
        seen.append(tuple(r.shape))
        return (r * 1,)

    by_rows(noting, 1, residue(drawn(3, 50)))
    assert seen == [(1, 50)] * 3


def test_a_small_result_is_not_copied():
    x, results = residue(drawn(4, 5)), []

    def noting(_m, x, *more):
        results.append(x * 1)
        return results[-1]

    assert by_elements(M, noting, (x,), {}).tensor is results[-1].tensor


def test_a_small_result_of_many_small_operands_is_not_copied(tiny_blocks):
    block = blocks.block_size()
    results = []

    def noting(_m, x, y):
        results.append(x + y)
        return results[-1]

    assert by_elements(M, noting, (residue(drawn(block)), residue(drawn(block))), {}).tensor is results[-1].tensor


def test_operands_stand_where_they_stood(tiny_blocks):
    """Tensors and residues, by position and by name, between things that are neither."""
    x, y = residue(drawn(4, 5, seed=1)), residue(drawn(4, 5, seed=2))
    mask, other = drawn(4, 5, seed=3) > 0, drawn(4, 5, seed=4) > 0

    def chosen(_m, number, mask, x, *, y, times, other):
        return x.masked(mask) * number + y.masked(other) * times

    found = by_elements(M, chosen, (3, mask, x), {"y": y, "times": 5, "other": other})
    want = 3 * torch.where(mask, x.tensor, 0.0) + 5 * torch.where(other, y.tensor, 0.0)
    assert torch.equal(found.tensor.long(), modulo(want))
    assert by_elements(M, chosen, (3, mask, x), {"y": y, "times": 4, "other": other}).tensor.tolist() != want.tolist()


def test_an_operand_that_shares_memory_with_the_result_is_read_before_it_is_written(tiny_blocks):
    memory = drawn(101)
    behind, target = memory[:100].view(10, 10), memory[1:].view(10, 10)
    want = modulo(3 * behind)
    found = by_elements(M, lambda _m, x: x * 3, (residue(behind),), {}, into=target)
    assert found.tensor is target
    assert torch.equal(target.long(), want)


def test_a_row_of_the_result_is_read_before_it_is_written(tiny_blocks):
    target, x = drawn(10, 10), residue(drawn(10, 10, seed=1))
    row = residue(target[:1])  # the same address and strides, another shape
    want = modulo(x.tensor + 2 * target[:1])
    by_elements(M, lambda _m, x, row: x + row * 2, (x, row), {}, into=target)
    assert torch.equal(target.long(), want)


def test_a_transposed_operand_is_read_before_it_is_written(tiny_blocks):
    target = drawn(10, 10)
    want = modulo(3 * target.t())
    by_elements(M, lambda _m, x: x * 3, (residue(target.t()),), {}, into=target)
    assert torch.equal(target.long(), want)


@pytest.mark.parametrize("shape", [(2, 3), (6, 10)])
def test_what_is_no_residue_goes_nowhere(tiny_blocks, shape):
    into = torch.zeros(shape, dtype=torch.float64)
    assert by_elements(M, lambda _m, x: x.numel(), (residue(drawn(*shape)),), {}, into=into) == into.numel()
    assert not into.any()

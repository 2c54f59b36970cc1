"""The short way gives the long way's digits and tags, and leaves to it whatever is more than plain residues."""

from collections import Counter
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from tests.exact.op_db.in_place_programs import PROGRAMS, run_program
from torch import nn

from shardproof.exact import ExactArithmetic
from shardproof.exact.algebra.degree import CONSTANT
from shardproof.exact.engine import mode
from shardproof.exact.engine.short_way import ShortWay, takes_short_way, written_in_place
from shardproof.exact.engine.tensor_trees import tensors_in, whole_storage
from shardproof.exact.rules.registry import find_op


class BothWays:
    """Carries out each op that takes the short way by the long way too, and compares."""

    def __init__(self):
        self.taken, self.left, self._short, self._off = Counter(), Counter(), ShortWay.carry_out, False

    def __call__(self, way, op, args, kwargs):
        if self._off:
            return NotImplemented
        run, given = way.applying.run, args
        in_place = written_in_place(op) is not None
        if in_place and run.tags.get(args[0]) is not None:
            # Into a view of a copy of all of the target's memory, which has its tag.
            copy, target = whole_storage(args[0]).clone(), args[0]
            run.tags.set(copy, run.tags.get(target))
            given = (copy.as_strided(target.size(), target.stride(), target.storage_offset()), *args[1:])
        result = self._short(way, op, given, kwargs)
        if result is NotImplemented:
            self.left[str(op)] += 1
            return result
        self.taken[str(op)] += 1
        assert result is given[0] or not in_place
        expected = self._go_long_way(run, op, args, kwargs)
        for one, other in zip(tensors_in(result), tensors_in(expected), strict=True):
            found, wanted = (whole_storage(x) if in_place else x for x in (one, other))
            assert torch.equal(found.nan_to_num(nan=0.5), wanted.nan_to_num(nan=0.5)), op
            assert one.stride() == other.stride()
            assert known(run.tags.get(one)) == known(run.tags.get(other)), op
        return expected if in_place else result

    def _go_long_way(self, run, op, args, kwargs):
        divisions, ops = len(run.zero_divisions), run.ops
        self._off = True
        try:
            return mode._active[-1].dispatcher.carry_out(op, args, kwargs, reenter=nullcontext())
        finally:
            self._off, run.ops = False, ops
            del run.zero_divisions[divisions:]


def known(tag):
    """What a tag says, by name; companions as digits."""
    found = {}
    for name in tag.__slots__:
        value = getattr(tag, name)
        if isinstance(value, torch.Tensor):
            found[name] = value.tolist()
        elif name == "pieces" and value is not None:
            found[name] = (value.thresholds, value.of_exp, [x.tolist() for x in value.each()])
        elif name == "logs" and value is not None:
            kinds = (value.shifts, value.factors, [] if value.unit is None else [value.unit])
            found[name] = (value.rest, [[x.tolist() for x in kind] for kind in kinds])
        elif value is not None and value is not False:
            found[name] = value
    return found


@pytest.fixture
def both_ways():
    checked = BothWays()
    with mock.patch.object(ShortWay, "carry_out", lambda *given: checked(*given)):
        yield checked


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def test_what_is_overwritten_has_nothing_left_of_what_it_was(both_ways):
    x = drawn(3, 4)
    with torch.no_grad(), ExactArithmetic(seed=3) as exact:
        y = x * x * x
        y.copy_(x)
        z = (x * x).exp()
        z.zero_()
        assert (exact.tags.get(y).degree, exact.tags.get(z).degree) == (exact.tags.get(x).degree, CONSTANT)


def test_a_training_step_goes_the_short_way_and_gives_what_the_long_way_gives(both_ways):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    x = drawn(2, 5, 8)
    with ExactArithmetic(seed=3):
        for _ in range(2):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    assert both_ways.taken.total() > 2 * both_ways.left.total()
    for name in (
        "addmm.default",
        "mul.Tensor",
        "add.Tensor",
        "t.default",
        "sum.dim_IntList",
        "mul_.Tensor",
        "addcdiv_.default",
    ):
        assert both_ways.taken[f"aten.{name}"], name


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_ops_in_place_give_the_same_both_ways(program, both_ways):
    run_program(program)
    assert both_ways.taken.total() + both_ways.left.total()


def overwrite_rows(x, y):
    """Of which one row is written, and then another one by the first."""
    x[1].copy_(y[0])
    x[2].copy_(x[1], non_blocking=True)
    return x.exp()


FUNCTIONS = {
    "root and its square": lambda x: x.sqrt().square().sum(),
    "a stack of norms": lambda x: torch.stack([x.norm(), x.norm()]).norm(),
    "log-softmax": lambda x: x.log_softmax(-1).exp(),
    "logarithm": lambda x: x.exp().log().exp(),
    "less the maximum": lambda x: (x - x.amax(-1, keepdim=True)).exp_().sum(-1).log_() + x.amax(-1),
    "parts of log-softmaxes": lambda x: x.log_softmax(-1).clone()[1:].mul_(2).exp(),
    "pieces": lambda x: (F.relu(x) * 2 + 1).clamp(max=3).t().reshape(-1),
    "overwritten": lambda x: (x * x).copy_(x * 2).add_(x),
    "overwritten in part": lambda x: overwrite_rows(x * x, x * x * x),
    "overwritten by logarithms": lambda x: overwrite_rows(x.log_softmax(-1).clone(), x.log_softmax(-1)),
    "several results": lambda x: torch.cat([*x.split(1), torch.var_mean(x, 0)[0].unsqueeze(0)]),
    "division": lambda x: x / (x * x),
    "a row of it": lambda x: torch.addmm(x[0], x.t() @ x, x.t() @ x, beta=2),
    "a number that fills": lambda x: F.pad(x * x, (1, 1), value=2.0).exp(),
    "a root moved": lambda x: torch.stack([x.sqrt()[0], x.sqrt()[1]]).square(),
    "an exponential and a residue": lambda x: (x * x).exp() * x + (x * x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_known_of_a_result_is_the_same_both_ways(name, both_ways):
    x = drawn(3, 4)
    with ExactArithmetic(seed=5):
        FUNCTIONS[name](x).sum().backward()
    assert both_ways.taken.total()


@pytest.mark.parametrize("short", [True, False])
def test_a_row_copied_within_its_storage_keeps_its_logarithms(short):
    scores = drawn(3, 4)
    off = mock.patch.object(ShortWay, "carry_out", return_value=NotImplemented)
    with torch.no_grad(), ExactArithmetic(seed=5) as exact, nullcontext() if short else off:
        x = scores.log_softmax(-1).clone()
        x[2].copy_(x[1])
        assert torch.equal(exact.digits(x[2].exp()), exact.digits(x[1].exp()))
        assert torch.equal(exact.digits(x.exp().sum(-1)), torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize(
    "move",
    [torch.Tensor.contiguous, lambda x: x.reshape(-1), lambda x: torch.renorm(x, 2, 0, 1.0)],
    ids=["contiguous", "reshape", "renorm"],
)
def test_a_movement_that_may_be_a_copy_is_known(move):
    """`contiguous` returns its input or a copy of it, and its schema says that it is a view."""
    x = drawn(3, 4, 2).detach().permute(2, 1, 0).requires_grad_()
    with ExactArithmetic(seed=5) as exact:
        found = move(x * x)
        (found * found).sum().backward()
        assert exact.digits(found).shape == found.shape
        assert exact.digits(x.grad).shape == x.shape


LEFT = {
    "an operand that was never seen": lambda x: torch.add(x, torch.ones(3, 4)),
    "real constants": lambda x: torch.add(x, torch.full((3, 4), 2.0)),
    "a symbol as a number": lambda x: x.masked_fill(torch.ones(3, 4, dtype=torch.bool), float("-inf")),
    "a mask": lambda x: torch.add(x.masked_fill(torch.eye(3, 4) > 0, float("-inf")), 1),
    "void elements": lambda x: torch.add((x - x).reciprocal(), x),
    "integers": lambda x: torch.mul(x, torch.arange(4)),
    "another dtype": lambda x: x.sum(dtype=torch.float32),
    "a comparison": lambda x: x > 0,
    "an index": lambda x: x[torch.tensor([2, 0])],
    "a selection": lambda x: x.max(0).values,
}


@pytest.mark.parametrize("name", LEFT)
def test_whatever_is_more_than_plain_residues_goes_the_long_way(name, both_ways):
    x = drawn(3, 4)
    with torch.no_grad(), ExactArithmetic(seed=5):
        LEFT[name](x)
    assert both_ways.left.total()


@pytest.mark.parametrize(
    "name",
    ["add_.Tensor", "index.Tensor", "zeros_like.default", "gt.Scalar", "topk.default", "_to_copy.default", "eq.Scalar"],
)
def test_ops_that_write_choose_or_make_take_no_short_way(name):
    assert not takes_short_way(find_op(name))
    assert takes_short_way(find_op("mul.Tensor"))
    assert takes_short_way(find_op("select.int"))  # its index is a number


CHANGED_VIEWS = {
    "unsqueeze_": lambda x: x.unsqueeze_(1),
    "squeeze_": lambda x: x.squeeze_(0),
    "transpose_": lambda x: x.transpose_(-1, -2),
    "swapaxes_": lambda x: x.swapaxes_(0, 1),
    "as_strided_": lambda x: x.as_strided_((2, 2), (1, 2)),
}


@pytest.mark.parametrize("shape", [(4, 4), (1, 4)])
@pytest.mark.parametrize("name", CHANGED_VIEWS)
def test_a_change_of_view_in_place_moves_no_element(name, shape):
    x = drawn(*shape)
    with torch.no_grad(), ExactArithmetic(seed=5) as exact:
        whole, changed = x * 1, x * 1
        CHANGED_VIEWS[name](changed)
        assert torch.equal(exact.digits(changed), CHANGED_VIEWS[name](exact.digits(whole)))
        assert written_in_place(find_op(f"{name}.dim" if name == "squeeze_" else f"{name}.default")) is None
    assert written_in_place(find_op("tril_.default")) is not None

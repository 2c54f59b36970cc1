"""In-place ops on large tensors, written block by block: the digits and degrees of the op that makes a new tensor."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same
from torch import nn

from shardproof.exact import ExactArithmetic, ExactArithmeticError, LeavingFieldError
from shardproof.exact.algebra import blocks
from shardproof.exact.engine import writing

OPS = {
    "add_": lambda x, y, z: x.add_(y, alpha=3),
    "sub_": lambda x, y, z: x.sub_(z),
    "mul_": lambda x, y, z: x.mul_(y),
    "square": lambda x, y, z: x.mul_(x),
    "scale": lambda x, y, z: x.mul_(0.9),
    "div_": lambda x, y, z: x.div_(y),
    "lerp_": lambda x, y, z: x.lerp_(y, 0.1),
    "addcmul_": lambda x, y, z: x.addcmul_(y, z, value=0.001),
    "addcdiv_": lambda x, y, z: x.addcdiv_(y, z, value=-0.01),
    "sqrt_": lambda x, y, z: x.sqrt_(),
    "relu_": lambda x, y, z: F.relu_(x),
    "clamp_": lambda x, y, z: x.clamp_(max=1.0),
    "a transposed operand": lambda x, y, z: x.add_(x.T),
    "rows of itself": lambda x, y, z: x.add_(x[3]),
    "part of the storage": lambda x, y, z: x[1:4].add_(y[1:4]),
    "every other column": lambda x, y, z: x[:, ::2].mul_(y[:, 1::2]),
    "out=": lambda x, y, z: torch.mul(y, z, out=x),
    "foreach add": lambda x, y, z: torch._foreach_add_([x, z], [y, x], alpha=2),
    "foreach addcdiv": lambda x, y, z: torch._foreach_addcdiv_([x, z], [y, y], [z, x], [0.5, -2.0]),
    "foreach lerp": lambda x, y, z: torch._foreach_lerp_([x, z], [y, x], 0.25),
    "real constants": lambda x, y, z: x.mul_(torch.arange(10.0)),
    "a mask": lambda x, y, z: x.mul_(torch.arange(10) > 4),
}
# Their targets are not all of their storage or are given as `out`, or the op is piecewise and keeps its pieces: a new
# tensor is made and copied.
COPIED = {"part of the storage", "every other column", "out=", "relu_", "clamp_"}


def ran(name, monkeypatch, *, a_block):
    """The digits, bounds and roots of three tensors after an op, and how often it went straight into its target."""
    monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", a_block)
    straight = []
    asked = writing.Writing.overwrites

    def overwrites(*args):
        straight.append(asked(*args))
        return straight[-1]

    monkeypatch.setattr(writing.Writing, "overwrites", overwrites)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(10, 10, generator=generator).requires_grad_() for _ in range(3)]
    with ExactArithmetic(seed=1, check=True) as exact, torch.no_grad():
        tensors = [x * 1 for x in tensors]
        tensors[2].sqrt_()
        straight.clear()
        place = [x.data_ptr() for x in tensors]
        OPS[name](*tensors)
        assert [x.data_ptr() for x in tensors] == place
        tags = [exact.dispatcher.run.tag(x) for x in tensors]
        return [exact.digits(x) for x in tensors], [(tag.degree, tag.roots) for tag in tags], sum(straight)


@pytest.mark.parametrize("name", OPS)
def test_in_blocks_and_in_one_go(name, monkeypatch):
    whole, known, never = ran(name, monkeypatch, a_block=1 << 16)
    cut, known_in_blocks, often = ran(name, monkeypatch, a_block=7)
    assert never == 0
    assert (often == 0) == (name in COPIED)
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
    assert known == known_in_blocks
    untouched, _, _ = ran("scale", monkeypatch, a_block=7)
    assert name == "scale" or not all(torch.equal(a, b) for a, b in zip(untouched, cut, strict=True))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"amsgrad": True}, {"maximize": True, "foreach": True}])
def test_adam_in_blocks_and_in_one_go(options, monkeypatch):
    def trained():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(9, 20), nn.GELU(), nn.Linear(20, 3))
        optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, **options)
        batches = torch.randn(2, 5, 9).unbind()
        with ExactArithmetic(seed=1, check=True) as exact:
            for x in batches:
                optimizer.zero_grad()
                net(x).square().mean().backward()
                nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
            return [exact.digits(p) for p in net.parameters()]

    whole = trained()
    monkeypatch.setattr(blocks, "_ELEMENTS_A_THREAD", 11)
    cut = trained()
    assert all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))


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


# Memory that is written by index --------------------------------------------------------------------------------------

ROWS = (torch.tensor([3, 0]), torch.tensor([1, 2]))


def put(out, x):
    out[ROWS[0]], out[ROWS[1]] = x[:2], x[2:]
    return out


def put_by_masks(out, x):
    even = torch.arange(4) % 2 == 0
    out[even], out[~even] = x[:2], x[2:]
    return out


def scatter(out, x):
    columns = (torch.arange(4)[:, None] + torch.arange(3)) % 4
    return out.scatter_(0, columns, x)


def put_constants(out, x):
    out[torch.tensor([2, 3])] = 1.5
    out[torch.tensor([0, 1])] = x[:2]
    return out


def put_elements(out, x):
    return torch.Tensor.put_(out, torch.arange(12).flip(0), x)


WRITES = {
    "rows by index": put,
    "rows by masks": put_by_masks,
    "scatter": scatter,
    "constants, then residues": put_constants,
    "put": put_elements,
    "index_copy": lambda out, x: out.index_copy(0, ROWS[0], x[:2]).index_copy(0, ROWS[1], x[2:]),
    "slices": lambda out, x: out.slice_scatter(x[:2], 0, 0, 2).slice_scatter(x[2:], 0, 2, 4),
    "masked_scatter": lambda out, x: out.masked_scatter(torch.ones(4, 3).bool(), x),
}


def written(name, make):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with ExactArithmetic(seed=1) as exact:
        out = WRITES[name](make(4, 3), x)
        (out * torch.arange(12.0).view(4, 3)).sum().backward()
        return exact.digits(out), exact.digits(x.grad)


@pytest.mark.parametrize("name", WRITES)
def test_memory_never_written_may_be_written_by_index(name):
    for a, b in zip(written(name, torch.zeros), written(name, torch.empty), strict=True):
        assert torch.equal(a, b)


def test_an_element_that_no_index_writes_is_refused():
    x = drawn(4, 3)
    for use in (lambda out, exact: exact.digits(out), lambda out, exact: torch.relu(out)):
        with ExactArithmetic(seed=1) as exact:
            out = torch.empty(4, 3)
            out[torch.tensor([0, 3, 1])] = x[:3]
            with pytest.raises(ExactArithmeticError, match=r"never written|no residue"):
                use(out, exact)


def test_constants_put_into_memory_are_compared_as_the_reals_that_they_are():
    with ExactArithmetic(seed=1) as exact:
        table = torch.empty(3)
        table[torch.tensor([2, 0])] = torch.tensor([1.5, -2.0])
        with pytest.raises(ExactArithmeticError, match="never written"):
            table + 1
        table[torch.tensor([1])] = 0.25
        assert (table > 0).tolist() == [False, True, True]
        assert exact.digits(table * 4).tolist() == [-8, 1, 6]

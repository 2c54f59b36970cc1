"""Small programs that write in place, with ops that the database reaches only out of place."""

import torch
from tests.exact.op_db.judge import PRIMES, exact_mode


def _numbers(*shape):
    return ((torch.arange(torch.Size(shape).numel(), dtype=torch.float64) * 7 % 23 - 11) / 4).reshape(shape)


def arithmetic(x, y):
    z = x.clone().add_(y).mul_(2).mul_(y).sub_(1.5).div_(4.0).div_(y)
    z[1] = 0
    z[:, 0] += 1
    return [z, z.neg_(), z.copy_(x), torch.mul(x, 0.25), torch.div(x, 4), torch.add(x, 1)]


def filled(x, y):
    mask = torch.tensor([[True, False, True], [False, False, True]])
    z = x.clone().masked_fill_(mask, 0.5)
    z[mask] = 2.0
    return [z, x.clone().fill_(3), x.clone().zero_(), x.new_zeros(2).add_(1), x.masked_fill(mask, 1.5)]


def scattered(x, y):
    index = torch.tensor([[0, 1, 0], [1, 0, 0]])
    a = x.clone().scatter_(0, index, y)
    b = x.clone().scatter_(0, index, 1.0)
    c = x.clone().scatter_add_(0, index, y)
    d = x.clone().index_add_(1, torch.tensor([2, 2, 0]), y)
    e = x.clone().index_put_((torch.tensor([0, 0]),), y, accumulate=True)
    f = x.index_put((torch.tensor([0]),), y[:1])
    g = x.scatter(0, index, y) + x.scatter(0, index, 0.25)
    return [a, b, c, d, e, f, g]


def made(x, y):
    square = torch.eye(2, dtype=torch.float64)
    steps = torch.arange(0.0, 1.5, 0.5)
    parts = x.split(2, 1) + x.split([1, 2], 1) + tuple(x.unbind(0))
    rows = [x.new_empty(2).copy_(x[:, 0]), x.new_empty_strided((2,), (1,)).copy_(x[:, 1]), x.new_full((2,), 0.5)]
    whole = torch.full((2,), 0.25, dtype=torch.float64) + torch.full_like(rows[0], 2) + torch.zeros_like(rows[0])
    more = torch.scalar_tensor(0.5, dtype=torch.float64) + torch.empty_like(whole).copy_(whole) + torch.zeros(2)
    again = torch.ones_like(whole) * 3 + whole.detach().to(torch.float32)
    return [square @ x, x * steps, *(p.sum() for p in parts), *rows, whole, more, again, x.as_strided((2, 2), (3, 1))]


def of_oracles(x, y):
    """What is left of two ways of calling one function is nothing."""
    low, high = torch.full((3,), -0.5, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64)
    both = x.clone().clamp_(-0.5, 0.5) - torch.clamp(x, low, high)
    return [both, x.clone().clamp_(min=0) - x.relu(), (x / 8).erfinv() + (-x / 8).erfinv()]


PROGRAMS = {f.__name__: f for f in (arithmetic, filled, scattered, made, of_oracles)}


def run_program(name):
    """The program's results as residues, its results in PyTorch, and the prime."""
    program = PROGRAMS[name]
    native = program(_numbers(2, 3), _numbers(2, 3) + 0.25)
    x, y = _numbers(2, 3), _numbers(2, 3) + 0.25
    with exact_mode(PRIMES[0]) as exact:
        found = [exact.digits(z) for z in program(x, y)]
    return found, native, PRIMES[0]

"""Pieces beside storages: of views, after copies, and what makes a tensor forget them."""

import pytest
import torch
import torch.nn.functional as F
from tests.exact.engine.probes import drawn, same


def pieces_of(exact, x):
    return exact.dispatcher.pieces.of(x)


# name: (a movement, whether the result knows its pieces)
MOVEMENTS = {
    "view": (lambda y: y.view(12), True),
    "transposed": (lambda y: y.t(), True),
    "part": (lambda y: y[1:, ::2], True),
    "clone": (lambda y: y.clone(), True),
    "made contiguous": (lambda y: y.t().contiguous(), True),
    "gathered": (lambda y: y[torch.tensor([2, 0, 2])], True),
    "concatenated": (lambda y: torch.cat([y, y]), True),
    "padded with zeros": (lambda y: F.pad(y, (1, 0)), True),
    "padded with ones": (lambda y: F.pad(y, (1, 0), value=1.0), False),
    "beside another": (lambda y: torch.cat([y, torch.ones_like(y)]), False),
    "expanded": (lambda y: y[:1].expand(4, 4), False),
    "written into": (lambda y: y.clone().add_(0), False),
    "in a buffer": (lambda y: torch.zeros(20, dtype=y.dtype)[3:15].view(3, 4).copy_(y), False),
}


@pytest.mark.parametrize("name", MOVEMENTS)
def test_pieces_go_with_the_elements_or_are_forgotten(exact, name):
    x = drawn(3, 4) * 2
    move, known = MOVEMENTS[name]
    moved = move(F.relu(x))
    pieces = pieces_of(exact, moved)
    assert (pieces is not None) == known
    if pieces is not None:
        below, above = pieces.values
        argument = move(x)
        with exact.paused():
            assert below.tensor.tolist() == 0
            assert torch.equal(above.tensor, argument)
            assert torch.equal(pieces.base.tensor, argument)


def test_what_is_written_later_does_not_change_the_pieces(exact):
    x = drawn(12) * 2
    before = x.detach().clone()
    y = F.relu(x)
    with torch.no_grad():
        x.mul_(3)
    assert same(exact, (y > 0) * before, y)
    assert not same(exact, (x > 0) * before, y)

"""Leaving the field: each way out is an error that names the line, unless the program is allowed to."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import ExactArithmetic, LeavingFieldError


def residue():
    return nn.Parameter(torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))


class Asserting(nn.Module):
    def forward(self, x):
        torch._assert_async((x > 0).any())
        return x


WAYS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "bool": lambda x: bool(x.sum()),
    "complex": lambda x: complex(x.sum()),
    "a branch": lambda x: 1 if x.sum() else 2,
    "a branch on a comparison": lambda x: 1 if x.sum() > 3 else 2,
    "a branch on any": lambda x: 1 if (x > 3).any() else 2,
    "a branch on a comparison's complement": lambda x: 1 if (~(x > 3)).all() else 2,
    "the share of a comparison": lambda x: (x > 0).float().mean().item(),
    "a loop": lambda x: [1 for row in x if row.sum() > 0],
    "a Python max": lambda x: max(x[0]),
    "numpy": lambda x: x.detach().numpy(),
    "tolist": lambda x: x.tolist(),
    "tolist of a comparison": lambda x: (x > 0).tolist(),
    "asarray": lambda x: np.asarray(x.detach()),
    "dlpack": lambda x: np.from_dlpack(x.detach()),
    "equal": lambda x: torch.equal(x, x * 2),
    "allclose": lambda x: torch.allclose(x, x * 2),
    "an assertion": lambda x: Asserting()(x),
    "_assert": lambda x: torch._assert(x.sum() > 0, "positive"),
    "long": lambda x: x.long(),
    "int32": lambda x: x.to(torch.int32),
    "copied into integers": lambda x: torch.zeros(3, 4, dtype=torch.int64).copy_(x),
    "added to integers": lambda x: torch.zeros(3, 4, dtype=torch.int64).add_(x.long()),
    "the same bits": lambda x: x.view(torch.int64),
    "an index": lambda x: torch.arange(10)[x.long()],
    "a float index": lambda x: x.gather(0, x),
    "embedding": lambda x: F.embedding(x, torch.ones(4, 4)),
    "range": lambda x: range(x.sum().long()),
    "a shape": lambda x: torch.zeros(int(x.sum())),
    "math": lambda x: np.sqrt(float(x.sum())),
}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_out_names_the_line(way):
    x = residue()
    with pytest.raises(LeavingFieldError, match=r"test_escapes\.py:\d+ in ") as caught, ExactArithmetic(seed=1):
        WAYS[way](x * 3)
    assert "leaving_allowed" in str(caught.value)


@pytest.mark.parametrize(
    "way", ["item", "a branch", "a branch on any", "numpy", "long", "equal", "copied into integers"]
)
def test_the_program_may_be_allowed_to_leave(way):
    x = residue()
    with ExactArithmetic(seed=1, leaving="allow") as exact:
        WAYS[way](x * 3)
        assert exact.bound(x * 3).per_trial is None
    with ExactArithmetic(seed=1) as exact:
        assert exact.bound(x * 3).per_trial is not None
        with exact.leaving_allowed():
            WAYS[way](x * 3)
        assert exact.bound(x * 3).per_trial is None
        with pytest.raises(LeavingFieldError):
            WAYS[way](x * 3)


def test_what_leaves_is_the_representative():
    x = residue()
    with ExactArithmetic(seed=1) as exact, exact.leaving_allowed():
        assert (x * 3).sum().item() == exact.digits((x * 3).sum())
        assert np.array_equal((x * 3).detach().numpy(), exact.digits(x * 3).numpy())


def test_in_the_backward_too():
    x = residue()

    def step():
        with ExactArithmetic(seed=1):
            y = x * 3
            y.register_hook(lambda grad: grad * float(grad.sum()))
            (y * y).sum().backward()

    with pytest.raises(LeavingFieldError, match="test_escapes"):
        step()


def test_comparing_with_a_tolerance_leaves():
    x = residue()
    with pytest.raises(RuntimeError, match="Comparing") as caught, ExactArithmetic(seed=1):
        torch.testing.assert_close(x * 3, x * 6)
    assert isinstance(caught.value.__cause__, LeavingFieldError)


def test_printing_is_allowed(capsys):
    x = residue()
    with ExactArithmetic(seed=1):
        print(x, x * 3, f"{(x * 3).sum():.1f} {(x > 0)}")
    assert "tensor" in capsys.readouterr().out

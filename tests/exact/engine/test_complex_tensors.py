"""Complex tensors in the engine: views, writes, dtypes, what may not leave, and what is known of them."""

import pytest
import torch
from tests.exact.engine.probes import drawn, same
from torch import nn

from shardproof.exact import ExactArithmetic, LeavingFieldError, SymbolError


def test_a_view_shares_its_memory(exact):
    x = drawn(3, 2).detach() * 1
    z = torch.view_as_complex(x)
    z *= 2
    z[0] = 1.5
    assert same(exact, torch.view_as_real(z), x)
    assert same(exact, x[1:], drawn(3, 2).detach()[1:] * 2)
    assert same(exact, x[0], torch.tensor([1.5, 0.0]))
    assert not same(exact, x[1], drawn(3, 2).detach()[1])


def test_the_imaginary_part_of_a_conjugate_has_the_other_sign(exact):
    z = torch.view_as_complex(drawn(3, 2).detach() * 1)
    assert same(exact, z.conj().imag, -z.imag)
    assert same(exact, z.conj().real, z.real)
    assert not same(exact, z.conj().imag, z.imag)


def test_real_numbers_become_complex_ones(exact):
    x = drawn(4)
    z = x.to(torch.complex64)
    assert z.dtype == torch.complex128
    assert same(exact, z.real, x)
    assert exact.digits(z.imag).tolist() == [0, 0, 0, 0]
    z.real.sum().backward()
    assert exact.digits(x.grad).tolist() == [1, 1, 1, 1]


def test_constants_and_residues_move_together(exact):
    x = torch.view_as_complex(drawn(3, 2))
    made = torch.complex(torch.full((2,), 0.5), torch.tensor([1.0, -1.0]))
    both = torch.cat((x, made, made.conj()))
    assert same(exact, both[:3], x)
    assert same(exact, both[3:5] * 2, torch.view_as_complex(torch.tensor([[1.0, 2.0], [1.0, -2.0]])))
    assert same(exact, both[5:], both[3:5].conj())
    assert not same(exact, both[5:], both[3:5])


READS = {
    "item": lambda z: z[0].item(),
    "complex": lambda z: complex(z[0]),
    "tolist": lambda z: z.tolist(),
    "equal": lambda z: torch.equal(z, z * 1),
}


@pytest.mark.parametrize("name", READS)
def test_residues_do_not_leave_as_complex_numbers(name):
    z = drawn(3, 2)
    with pytest.raises(LeavingFieldError), ExactArithmetic(seed=1):
        READS[name](torch.view_as_complex(z.detach()))


def test_what_is_divided_by_zero_is_void(exact):
    x = torch.view_as_complex(drawn(3, 2))
    y = x / torch.tensor([1.0, 0.0, 2.0])
    assert exact.void_mask(y).tolist() == [False, True, False]
    assert exact.void_mask(torch.view_as_real(y * x)).any(-1).tolist() == [False, True, False]
    assert same(exact, y[2] * 2, x[2])


def test_masks_are_no_complex_numbers():
    x = drawn(3, 2)
    with pytest.raises(SymbolError), ExactArithmetic(seed=1):
        torch.view_as_complex(x.masked_fill(torch.tensor([True, False]), float("-inf"))).clone()


def test_degrees_are_those_of_the_parts(exact):
    x = torch.view_as_complex(drawn(3, 2))
    assert exact.bound(x * x).probability == exact.bound(drawn(3) * drawn(3)).probability
    assert exact.bound(x * x * x).probability > exact.bound(x * x).probability


def test_an_optimizer_steps_complex_parameters_as_pairs():
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for parameter in (nn.Parameter(torch.view_as_complex(start.clone())), nn.Parameter(start.clone())):
        optimizer = torch.optim.AdamW([parameter], lr=0.125, eps=0.25)
        with ExactArithmetic(seed=1, check=True) as exact:
            pairs = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            (pairs * pairs * torch.arange(8.0).view(4, 2)).sum().backward()
            optimizer.step()
            found.append(exact.digits(parameter))
    assert torch.equal(*found)

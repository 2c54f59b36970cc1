"""Sample inputs from PyTorch's op database, moved to numbers that a float64 holds exactly.

Every floating element becomes a multiple of 1/16: as a residue it is as large as any other (1/16 is a generic number
modulo a prime), and PyTorch's own float64 result is exact, or a correctly rounded rational number, wherever the op is a
rational function.
"""

from dataclasses import dataclass
from math import ceil, log2

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

LARGEST = 3000  # elements in one sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One call of one op: the arguments (input first), and what turns the result into what autograd may see."""

    args: tuple
    kwargs: dict
    process: object


def is_floating(x):
    return isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex())


def to_sixteenths(t):
    """The nearest nonzero multiple of 1/16 (zeros stay), in the same memory layout."""
    if not is_floating(t) or t.layout != torch.strided:
        return t
    if t.is_complex():
        real = torch.view_as_real(t.detach().resolve_conj().resolve_neg())
        return torch.view_as_complex(_rounded(real).contiguous())
    return _rounded(t.detach())


def _rounded(t):
    # Leaves keep their own numbers up to 64; larger ones would be drawn.
    largest = float(t.abs().nan_to_num(posinf=0).max()) if t.numel() else 0.0
    shrink = 2.0 ** max(0, ceil(log2(largest / 64))) if largest else 1.0
    near = (t / shrink * 16).round() / 16
    return torch.where((near == 0) & (t != 0), torch.sign(t) / 16, near)


def to_small(t):
    """Whole numbers from -3 to 3."""
    if not is_floating(t) or t.is_complex() or t.layout != torch.strided or not t.numel():
        return t
    scaled = t.detach() / t.detach().abs().max().clamp(min=1e-9) * 3
    return torch.where(scaled.round() == 0, torch.sign(scaled), scaled.round())


def cases_of(op, *, most, convert=to_sixteenths):
    """Up to `most` samples of an op, spread over all that it has, less the large ones."""
    torch.manual_seed(0)
    found = []
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=False):
        flat = [x for x in tree_flatten((sample.input, sample.args, sample.kwargs))[0] if isinstance(x, Tensor)]
        if any(is_floating(x) for x in flat) and sum(x.numel() for x in flat) <= LARGEST:
            found.append((sample, flat))
        if len(found) >= 40:
            break
    # The first samples are often empty or scalar: spread, and prefer the last.
    steps = sorted({round(i * (len(found) - 1) / max(most - 1, 1)) for i in range(most)}) if found else []
    return [
        Case(
            args=tree_map(convert, (found[i][0].input, *found[i][0].args)),
            kwargs=tree_map(convert, found[i][0].kwargs),
            process=found[i][0].output_process_fn_grad,
        )
        for i in steps
    ]

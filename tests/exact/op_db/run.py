"""One call of an op, natively or in exact arithmetic: its results and the gradients for a given cotangent."""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from tests.exact.op_db.samples import is_floating
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Flat results (tensors, numbers) and, per cotangent, the gradients by floating argument; None without backward."""

    results: list
    grads: list | None


def fresh(args, kwargs, *, requires_grad, strided=False):
    """New tensors of the same numbers; `strided`: laid out with gaps, last dim first."""

    def copy(x):
        if not isinstance(x, Tensor):
            return x
        if strided and x.ndim > 1 and x.layout == torch.strided:
            wide = torch.zeros(*reversed(x.shape), 2, dtype=x.dtype)[..., 0]
            y = wide.permute(*reversed(range(x.ndim))).copy_(x.detach())
        else:
            y = x.detach().clone()
        return y.requires_grad_(requires_grad) if is_floating(y) else y

    return tree_map(copy, args), tree_map(copy, kwargs)


def cotangent(shape, which):
    """Small integers, different ones for each `which`; 2 is the sum of 0 and 1."""
    if which == 2:
        return cotangent(shape, 0) + cotangent(shape, 1)
    numbers = torch.arange(torch.Size(shape).numel())
    return ((numbers * (3 + 2 * which) + which) % 7 - 3).to(torch.float64).reshape(shape)


def call(op, case, *, shapes=None, strided=False, exact=None):
    """Run it: forward, and backward where `shapes`, the shapes that a native run's results have, is given.

    Tensors are made outside the mode, as leaves where there is a backward. In exact arithmetic the tensors of the
    outcome are raw copies of the residues. Complex ones are given as pairs of real numbers.
    """
    backward = shapes is not None
    args, kwargs = fresh(case.args, case.kwargs, requires_grad=op.supports_autograd, strided=strided)
    leaves = [x for x in tree_flatten((args, kwargs))[0] if is_floating(x)]
    # Leaves as well, because a zero-dimensional constant would stay a real number.
    cotangents = [[cotangent(s, which).to(d).requires_grad_() for s, d in shapes or ()] for which in range(3)]
    with exact or nullcontext():
        read = _reader(exact)
        result = op(*args, **kwargs)
        processed = case.process(result)
        flat = [x for x in tree_flatten(result)[0] if isinstance(x, Tensor | int | float | bool | complex)]
        values = [read(x) if isinstance(x, Tensor) else x for x in flat]
        grads = None
        if backward:
            outs = differentiable(processed)
            grads = []
            for cots in cotangents if outs else ():
                found = torch.autograd.grad(outs, leaves, cots, retain_graph=True, allow_unused=True)
                grads.append([None if g is None else read(g) for g in found])
    return Outcome(results=values, grads=grads)


def differentiable(processed):
    """The results that autograd may start from."""
    return [x for x in tree_flatten(processed)[0] if is_floating(x) and x.requires_grad]


def shapes_of(op, case):
    """The shapes and dtypes of the results that autograd may start from; None if there are none."""
    args, kwargs = fresh(case.args, case.kwargs, requires_grad=True)
    return [(x.shape, x.dtype) for x in differentiable(case.process(op(*args, **kwargs)))] or None


def _reader(exact):
    def read(x):
        if x.is_complex() and x.layout == torch.strided:
            x = torch.view_as_real(x.detach().resolve_conj())
        if exact is None or x.layout != torch.strided:
            return x.detach().clone()
        with exact.paused():
            x = x.detach()
            if not x.is_floating_point():
                return x.resolve_conj().clone()
            tag = exact.tags.get(x)
            if tag is None:
                raise AssertionError("a floating result that exact arithmetic has not seen")
            return x.clone() if tag.real and bool(x.isnan().any()) else exact.dispatcher.residues_of(x).clone()

    return read

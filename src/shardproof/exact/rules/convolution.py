"""Convolutions, forward and backward, as matrix products over unfolded windows. Never by FFT or Winograd.

With windows unfold(x)[n, g, c * k, l] (group g, channel c in it, kernel position k, output position l) and the
weight as a matrix W[g, o, c * k]:

    y = W @ unfold(x),   dW = sum over n of dy @ unfold(x)^T,   dx = fold(W^T @ dy)

where fold, the transpose of unfold, adds up what overlaps. A transposed convolution is the dx of a convolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.algebra.residue import Residue
from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.exact.algebra.residue import Arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Of a convolution from an image of `size` to one of `output_size`; spatial dims only."""

    size: tuple[int, ...]
    output_size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def windows(self, offset: tuple[int, ...]) -> tuple[slice, ...]:
        """The elements of the padded image under one kernel position, over all output positions."""
        return tuple(
            slice(o * d, o * d + (p - 1) * s + 1, s)
            for o, d, p, s in zip(offset, self.dilation, self.output_size, self.stride, strict=True)
        )

    def padded(self) -> tuple[int, ...]:
        """The spatial shape with the padding."""
        return tuple(n + 2 * p for n, p in zip(self.size, self.padding, strict=True))

    def unfold(self, x: Tensor) -> Tensor:
        """(N, C, *size) -> (N, groups, C / groups * kernel, output positions)."""
        n, channels = x.shape[:2]
        image = x.new_zeros(n, channels, *self.padded())
        image[_last(_inner(self.padding, self.size))] = x
        parts = [image[_last(self.windows(offset))] for offset in product(*map(range, self.kernel))]
        return torch.stack(parts, 2).reshape(n, self.groups, channels // self.groups * prod(self.kernel), -1)

    def fold(self, columns: Tensor, channels: int) -> Tensor:
        """The transpose of `unfold`; each sum is over at most as many elements as the kernel has."""
        n = columns.shape[0]
        parts = columns.reshape(n, channels, prod(self.kernel), *self.output_size)
        image = columns.new_zeros(n, channels, *self.padded())
        for k, offset in enumerate(product(*map(range, self.kernel))):
            image[_last(self.windows(offset))] += parts[:, :, k]
        return image[_last(_inner(self.padding, self.size))].contiguous()


def _last(slices: tuple[slice, ...]) -> tuple[slice, ...]:
    """Slices of the spatial dims, after the two of the batch and the channels."""
    return (slice(None), slice(None), *slices)


def _inner(padding: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(p, p + n) for p, n in zip(padding, size, strict=True))


def _matrix(weight: Residue, groups: int) -> Residue:
    """(O, C / groups, *kernel) -> (groups, O / groups, C / groups * kernel)."""
    return weight.moved(lambda w: w.reshape(groups, w.shape[0] // groups, prod(w.shape[1:])))


def _forward(x: Residue, weight: Residue, g: Geometry) -> Residue:
    out = _matrix(weight, g.groups) @ x.moved(g.unfold)
    return out.moved(lambda t: t.reshape(x.shape[0], weight.shape[0], *g.output_size))


def _input_gradient(grad: Residue, weight: Residue, g: Geometry) -> Residue:
    n, channels = grad.shape[0], weight.shape[1] * g.groups
    rows = grad.moved(lambda t: t.reshape(n, g.groups, t.shape[1] // g.groups, -1))
    columns = _matrix(weight, g.groups).transpose() @ rows
    folded = g.fold(columns.tensor, channels)
    return Residue(grad.of.field.reduce_(folded), columns.degree.sum_of(prod(g.kernel)), grad.of)


def _weight_gradient(grad: Residue, x: Residue, g: Geometry, shape: Sequence[int]) -> Residue:
    def side_by_side(t: Tensor) -> Tensor:  # (N, groups, rows, L) -> (groups, rows, N * L)
        return t.permute(1, 2, 0, 3).reshape(t.shape[1], t.shape[2], -1)

    rows = grad.moved(lambda t: side_by_side(t.reshape(t.shape[0], g.groups, t.shape[1] // g.groups, -1)))
    columns = x.moved(lambda t: side_by_side(g.unfold(t)))
    return (rows @ columns.transpose()).moved(lambda t: t.reshape(tuple(shape)))


def _geometry(
    image: Sequence[int],
    output_size: Sequence[int],
    weight: Residue,
    sizes: tuple[Sequence[int], Sequence[int], Sequence[int]],
    groups: int,
) -> Geometry:
    dims = weight.ndim - 2
    stride, padding, dilation = (tuple(s) * dims if len(s) == 1 else tuple(s) for s in sizes)
    return Geometry(
        size=tuple(image),
        output_size=tuple(output_size),
        kernel=tuple(weight.shape[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@formula("convolution.default")
def convolution(
    m: Arithmetic,
    x: Residue,
    weight: Residue,
    bias: Residue | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Residue:
    """(N, C, *size) * (O, C / groups, *kernel) -> (N, O, *output_size); PyTorch adds the batch dim before."""
    del m
    size = x.shape[2:]
    sizes = _geometry(size, size, weight, (stride, padding, dilation), groups)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(sizes.dilation, sizes.kernel, strict=True))
    if transposed:
        extra = tuple(output_padding) * len(size) if len(output_padding) == 1 else tuple(output_padding)
        spread = zip(size, sizes.stride, sizes.padding, reach, extra, strict=True)
        image = [(n - 1) * s - 2 * p + r + e for n, s, p, r, e in spread]
        out = _input_gradient(x, weight, _geometry(image, size, weight, (stride, padding, dilation), groups))
    else:
        pairs = zip(size, sizes.stride, sizes.padding, reach, strict=True)
        output_size = [(n + 2 * p - r) // s + 1 for n, s, p, r in pairs]
        out = _forward(x, weight, _geometry(size, output_size, weight, (stride, padding, dilation), groups))
    if bias is None:
        return out
    return out + bias.moved(lambda b: b.view(-1, *(1,) * len(size)))


@formula("convolution_backward.default")
def convolution_backward(
    m: Arithmetic,
    grad: Residue,
    x: Residue,
    weight: Residue,
    _bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Residue | None, Residue | None, Residue | None]:
    """The gradients for the input, the weight and the bias; a transposed one swaps the parts of input and output."""
    del m, output_padding  # the shapes say it
    dx = dw = db = None
    image, output_size = (grad.shape[2:], x.shape[2:]) if transposed else (x.shape[2:], grad.shape[2:])
    g = _geometry(image, output_size, weight, (stride, padding, dilation), groups)
    if mask[0]:
        dx = _forward(grad, weight, g) if transposed else _input_gradient(grad, weight, g)
    if mask[1]:
        dw = _weight_gradient(x, grad, g, weight.shape) if transposed else _weight_gradient(grad, x, g, weight.shape)
    if mask[2]:
        db = grad.sum((0, *range(2, grad.ndim)))
    return dx, dw, db

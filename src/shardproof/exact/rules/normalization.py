"""Layer, RMS, group and batch norm. Each is its paper's formula, so that forms written out by hand agree with it.

Of batch norm only the backward is here: PyTorch decomposes the forward into sums, products and a square root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shardproof.exact.rules.registry import formula

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shardproof.exact.algebra.residue import Arithmetic, Residue


# Layer norm -----------------------------------------------------------------------------------------------------------


@formula("native_layer_norm.default")
def layer_norm(
    _m: Arithmetic, x: Residue, shape: Sequence[int], weight: Residue | None, bias: Residue | None, eps: float
) -> tuple[Residue, Residue, Residue]:
    """(x - mean) / sqrt(var + eps) * weight + bias, the mean, and 1 / sqrt(var + eps). Ba et al. 2016, equation 4."""
    dims = tuple(range(x.ndim - len(shape), x.ndim))
    x = x.moved(Tensor.contiguous)  # as PyTorch's result is, which may be viewed
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    rstd = ((centred * centred).mean(dims, keepdim=True) + eps).sqrt().inverse()
    y = centred * rstd
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias), mean, rstd


@formula("native_layer_norm_backward.default")
def layer_norm_backward(
    _m: Arithmetic,
    grad: Residue,
    x: Residue,
    shape: Sequence[int],
    mean: Residue,
    rstd: Residue,
    weight: Residue | None,
    bias: Residue | None,
    mask: Sequence[bool],
) -> tuple[Residue | None, Residue | None, Residue | None]:
    """With n = (x - mean) * rstd, g = grad * weight: dx = rstd * (g - mean(g) - n * mean(g * n)), dw = sum(grad*n)."""
    inner = tuple(range(x.ndim - len(shape), x.ndim))
    outer = tuple(range(x.ndim - len(shape)))
    normalized = (x - mean) * rstd
    dx = dw = db = None
    if mask[0]:
        g = grad if weight is None else grad * weight
        dx = rstd * (g - g.mean(inner, keepdim=True) - normalized * (g * normalized).mean(inner, keepdim=True))
    if mask[1] and weight is not None:
        dw = (grad * normalized).sum(outer) if outer else grad * normalized
    if mask[2] and bias is not None:
        db = grad.sum(outer) if outer else grad
    return dx, dw, db


# RMS norm -------------------------------------------------------------------------------------------------------------


@formula("_fused_rms_norm.default")
def rms_norm(
    _m: Arithmetic, x: Residue, shape: Sequence[int], weight: Residue | None, eps: float | None
) -> tuple[Residue, Residue]:
    """X / sqrt(mean(x**2) + eps) * weight, and 1 / sqrt(mean(x**2) + eps). Zhang and Sennrich 2019, equation 4."""
    inner = tuple(range(x.ndim - len(shape), x.ndim))
    rstd = (x.square().mean(inner, keepdim=True) + (torch.finfo(torch.float64).eps if eps is None else eps)).sqrt()
    rstd = rstd.inverse()
    y = x * rstd
    return (y if weight is None else y * weight), rstd


@formula("_fused_rms_norm_backward.default")
def rms_norm_backward(
    _m: Arithmetic,
    grad: Residue,
    x: Residue,
    shape: Sequence[int],
    rstd: Residue,
    weight: Residue | None,
    mask: Sequence[bool],
) -> tuple[Residue | None, Residue | None]:
    """With n = x * rstd and g = grad * weight: dx = rstd * (g - n * mean(g * n)), dw = sum(grad * n)."""
    inner = tuple(range(x.ndim - len(shape), x.ndim))
    outer = tuple(range(x.ndim - len(shape)))
    normalized = x * rstd
    dx = dw = None
    if mask[0]:
        g = grad if weight is None else grad * weight
        dx = rstd * (g - normalized * (g * normalized).mean(inner, keepdim=True))
    if mask[1] and weight is not None:
        dw = (grad * normalized).sum(outer) if outer else grad * normalized
    return dx, dw


# Group norm -----------------------------------------------------------------------------------------------------------


@formula("native_group_norm.default")
def group_norm(
    _m: Arithmetic,
    x: Residue,
    weight: Residue | None,
    bias: Residue | None,
    n: int,
    channels: int,
    spatial: int,
    groups: int,
    eps: float,
) -> tuple[Residue, Residue, Residue]:
    """Each group of channels normalized, then weighted by channel; means, 1 / sqrt(var + eps). Wu and He 2018."""
    del spatial
    flat = x.moved(lambda t: t.reshape(n, groups, -1))
    mean = flat.mean(-1, keepdim=True)
    centred = flat - mean
    rstd = (centred.square().mean(-1, keepdim=True) + eps).sqrt().inverse()
    y = (centred * rstd).moved(lambda t: t.reshape(x.shape))
    by_channel = [1, channels, *(1,) * (x.ndim - 2)]
    if weight is not None:
        y *= weight.moved(lambda t: t.view(by_channel))
    if bias is not None:
        y += bias.moved(lambda t: t.view(by_channel))
    return y, mean.moved(lambda t: t.squeeze(-1)), rstd.moved(lambda t: t.squeeze(-1))


@formula("native_group_norm_backward.default")
def group_norm_backward(
    _m: Arithmetic,
    grad: Residue,
    x: Residue,
    mean: Residue,
    rstd: Residue,
    weight: Residue | None,
    n: int,
    channels: int,
    spatial: int,
    groups: int,
    mask: Sequence[bool],
) -> tuple[Residue | None, Residue | None, Residue | None]:
    """As layer norm's backward, over the groups; weights and biases are by channel."""
    r = rstd.moved(lambda t: t.reshape(n, groups, 1))
    centred = x.moved(lambda t: t.reshape(n, groups, -1)) - mean.moved(lambda t: t.reshape(n, groups, 1))
    normalized = centred * r
    by_channel = normalized.moved(lambda t: t.reshape(n, channels, spatial))
    grads = grad.moved(lambda t: t.reshape(n, channels, spatial))
    dx = dw = db = None
    if mask[0]:
        g = grads if weight is None else grads * weight.moved(lambda t: t.view(1, channels, 1))
        g = g.moved(lambda t: t.reshape(n, groups, -1))
        dx = r * (g - g.mean(-1, keepdim=True) - normalized * (g * normalized).mean(-1, keepdim=True))
        dx = dx.moved(lambda t: t.reshape(x.shape))
    if mask[1]:
        dw = (grads * by_channel).sum((0, 2))
    if mask[2]:
        db = grads.sum((0, 2))
    return dx, dw, db


# Batch norm -----------------------------------------------------------------------------------------------------------


def _by_channel(value: Residue, x: Residue) -> Residue:
    return value.moved(lambda t: t.view(1, -1, *(1,) * (x.ndim - 2)))


@formula("native_batch_norm_backward.default")
def batch_norm_backward(
    _m: Arithmetic,
    grad: Residue,
    x: Residue,
    weight: Residue | None,
    running_mean: Residue | None,
    running_var: Residue | None,
    save_mean: Residue | None,
    save_rstd: Residue | None,
    train: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[Residue | None, Residue | None, Residue | None]:
    """Ioffe and Szegedy 2015, section 3: as layer norm's, over batch and spatial dims, or with given statistics."""
    over = (0, *range(2, x.ndim))
    if train:
        assert save_mean is not None
        assert save_rstd is not None
        mean, rstd = save_mean, save_rstd
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, rstd = running_mean, (running_var + eps).sqrt().inverse()
    r = _by_channel(rstd, x)
    normalized = (x - _by_channel(mean, x)) * r
    dx = None
    if mask[0]:
        g = grad if weight is None else grad * _by_channel(weight, x)
        dx = g * r
        if train:
            dx = r * (g - g.mean(over, keepdim=True) - normalized * (g * normalized).mean(over, keepdim=True))
    dw = (grad * normalized).sum(over) if mask[1] else None
    return dx, dw, grad.sum(over) if mask[2] else None


@formula("_weight_norm_interface_backward.default")
def weight_norm_backward(
    _m: Arithmetic, grad: Residue, direction: Residue, size: Residue, norms: Residue, dim: int
) -> tuple[Residue, Residue]:
    """Of w = g * v / |v|: g / |v| * (grad - v * s / |v|**2), and s / |v|; s = sum(grad * v) over all dims but one."""
    over = [d for d in range(direction.ndim) if d != dim]
    inner = grad.sum_of_products(direction, over, keepdim=True)
    along = direction * (inner / norms / norms)  # as autograd has it: of a root twice, not of its square
    return (grad - along) * (size / norms), inner / norms

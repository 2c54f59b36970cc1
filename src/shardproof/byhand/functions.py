"""The functions a step is made of: one forward and one backward each, on plain tensors, without autograd.

`dz` is short for dL/dz, as in the notebook. B is the batch, I and O are a layer's input and output features. Each
backward takes its forward's inputs. `tests/byhand/test_functions.py` checks every
pair with `torch.autograd.gradcheck`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


def linear_forward(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
    """Affine map, z = x W^T + b; its backward is the three functions below.

    Args:
        x: [B, I].
        W: [O, I], one row for each output feature, as in `torch.nn.Linear`.
        b: [O]; None where the bias is added later, after a sum over devices.

    Returns:
        z: [B, O].
    """
    z = x @ W.T
    return z if b is None else z + b


def linear_backward_input(dz: Tensor, W: Tensor) -> Tensor:
    """Input's part of linear's backward, dx = dz W: x_i reaches every z_o, with weight W_oi.

    Args:
        dz: [B, O].
        W: [O, I].

    Returns:
        dx: [B, I].
    """
    return dz @ W


def linear_backward_weight(dz: Tensor, x: Tensor) -> Tensor:
    """Weight's part of linear's backward, dW = dz^T x: the outer products of dz and x, summed over the batch.

    The notebook writes `(dz.unsqueeze(2) * x.unsqueeze(1)).mean(0)`, through a [B, O, I] array. There the mean contains
    the loss's factor 1/B; here dz contains it (see `mean_squared_error_backward`), so this is a sum.

    Args:
        dz: [B, O].
        x: [B, I].

    Returns:
        dW: [O, I].
    """
    return dz.T @ x


def linear_backward_bias(dz: Tensor) -> Tensor:
    """Bias's part of linear's backward, db = the sum of dz over the batch.

    Args:
        dz: [B, O].

    Returns:
        db: [O].
    """
    return dz.sum(dim=0)


def identity_forward(z: Tensor) -> Tensor:
    """No activation: h = z forward, dz = dh backward."""
    return z


def identity_backward(dh: Tensor, z: Tensor) -> Tensor:
    """No activation, backward: dz = dh."""
    del z
    return dh


def relu_forward(z: Tensor) -> Tensor:
    """Rectify, h = max(z, 0) forward; dz = dh where z > 0, else 0, backward. Any shape, element by element."""
    return z.clamp(min=0)


def relu_backward(dh: Tensor, z: Tensor) -> Tensor:
    """Rectifier's backward, dz = dh where z > 0, else 0.

    At z = 0 there is no derivative; PyTorch takes 0, and so do we.
    """
    return dh.masked_fill(z <= 0, 0)


def gelu_forward(z: Tensor) -> Tensor:
    """Gaussian error linear unit, h = z Phi(z) forward; dz = dh (Phi(z) + z phi(z)) backward.

    Phi and phi are the standard normal distribution function and density: the exact form, not the tanh approximation.
    Any shape, element by element. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (arXiv:1606.08415).
    """
    return z * _standard_normal_distribution(z)


def gelu_backward(dh: Tensor, z: Tensor) -> Tensor:
    """Gaussian error linear unit's backward, dz = dh (Phi(z) + z phi(z)): the product rule, with Phi' = phi."""
    phi = (z * z * -0.5).exp() * (1 / math.sqrt(2 * math.pi))
    return dh * (_standard_normal_distribution(z) + z * phi)


def _standard_normal_distribution(z: Tensor) -> Tensor:
    # erfc, because 1 + erf(z / sqrt(2)) cancels for negative z: in bfloat16 it is 0 at z = -3.
    return (z * -math.sqrt(0.5)).erfc() * 0.5


def mean_squared_error_forward(out: Tensor, y: Tensor) -> Tensor:
    """Mean squared error, L = 1/(B O) sum (out - y)^2 forward; dout = 2/(B O) (out - y) backward.

    Args:
        out: [B, O].
        y: [B, O].

    Returns:
        L: a scalar, the mean over all B O elements, as `torch.nn.MSELoss` has it.
    """
    return (out - y).square().mean()


def mean_squared_error_backward(out: Tensor, y: Tensor, columns: slice = slice(None)) -> Tensor:
    """Mean squared error's backward, dout = 2/(B O) (out - y).

    L is a mean over B O elements, and each square has derivative 2 (out - y). The notebook's `dout = out - y`, averaged
    over the batch later, has the factor 1/B: right for its output width O = 2, and for no other.

    Args:
        out: [B, O].
        y: [B, O].
        columns: the output features that a device holds, c of them. O is the number of all.

    Returns:
        dout: [B, c].
    """
    return (out[:, columns] - y[:, columns]) * (2 / out.numel())


def softmax_cross_entropy_forward(out: Tensor, y: Tensor) -> Tensor:
    """Softmax and cross-entropy, L = -1/B sum_b log p_(b, c_b) forward; dout = (p - onehot(c)) / B backward.

    p = softmax(out), row by row, and c_b is the class of sample b. log p_c = out_c - logsumexp(out), with the row's
    maximum taken out first, so that no exponential overflows. Source: Goodfellow, Bengio and Courville, "Deep
    Learning", section 6.2.2.3.

    Args:
        out: [B, O].
        y: [B], class indices, 0 <= y < O.

    Returns:
        L: a scalar, the mean over the batch, as `torch.nn.CrossEntropyLoss` has it.
    """
    return -(out - _log_sum_exp(out)).gather(1, y.unsqueeze(1)).mean()


def softmax_cross_entropy_backward(out: Tensor, y: Tensor, columns: slice = slice(None)) -> Tensor:
    """Backward of softmax and cross-entropy, dout = (p - onehot(y)) / B.

    dL/dout_j = 1/B (d logsumexp/dout_j - [j = c]), and the derivative of logsumexp is the softmax.

    Args:
        out: [B, O]; all of it, because the softmax needs the whole row.
        y: [B], class indices.
        columns: the output features that a device holds, c of them.

    Returns:
        dout: [B, c].
    """
    p = (out[:, columns] - _log_sum_exp(out)).exp()  # [B, c]
    first, stop, _ = columns.indices(out.shape[1])
    own = (y >= first) & (y < stop)  # [B], samples whose class is among the columns
    p[own, y[own] - first] -= 1
    return p / out.shape[0]


def _log_sum_exp(out: Tensor) -> Tensor:
    peak = out.amax(dim=1, keepdim=True)  # [B, 1]
    return peak + (out - peak).exp().sum(dim=1, keepdim=True).log()  # [B, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Activation:
    """An element-wise function, h = forward(z) and dz = backward(dh, z)."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


class LossBackward(Protocol):
    """dL/dout for some of the columns of out."""

    def __call__(self, out: Tensor, y: Tensor, columns: slice = ...) -> Tensor:
        """See `mean_squared_error_backward`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A scalar function of the output, L = forward(out, y), and dout = backward(out, y, columns)."""

    forward: Callable[[Tensor, Tensor], Tensor]
    backward: LossBackward


ACTIVATIONS: Mapping[str, Activation] = {
    "none": Activation(forward=identity_forward, backward=identity_backward),
    "relu": Activation(forward=relu_forward, backward=relu_backward),
    "gelu": Activation(forward=gelu_forward, backward=gelu_backward),
}

LOSSES: Mapping[str, Loss] = {
    "mse": Loss(forward=mean_squared_error_forward, backward=mean_squared_error_backward),
    "cross-entropy": Loss(forward=softmax_cross_entropy_forward, backward=softmax_cross_entropy_backward),
}

"""Each forward equals PyTorch's, each backward is its forward's derivative, and a wrong backward is found out."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import Function, gradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional

from shardproof.byhand import functions as by_hand


def as_function(forward, backward):
    """Dress a forward and a backward, which returns one gradient for each input (None for one that has none)."""

    class ByHand(Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return forward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            return backward(grad, *ctx.saved_tensors)

    return ByHand.apply


def linear_backward(dz, x, W, b):
    return (
        by_hand.linear_backward_input(dz, W),
        by_hand.linear_backward_weight(dz, x),
        by_hand.linear_backward_bias(dz),
    )


def draw(*shapes):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [tensor.requires_grad_() for tensor in tensors]


CLASSES = torch.tensor([2, 0, 1, 2, 2])


def mse_in_parts(dL, out, y):
    parts = [by_hand.mean_squared_error_backward(out, y, columns) for columns in (slice(0, 2), slice(2, 3))]
    dout = torch.cat(parts, dim=1)
    return dL * dout, -dL * dout


def cross_entropy_in_parts(dL, out, y):
    parts = [by_hand.softmax_cross_entropy_backward(out, y, columns) for columns in (slice(0, 2), slice(2, 3))]
    return dL * torch.cat(parts, dim=1), None


CASES = {
    "linear": (by_hand.linear_forward, linear_backward, lambda: draw((5, 4), (3, 4), (3,))),
    "relu": (by_hand.relu_forward, by_hand.relu_backward, lambda: draw((5, 4))),
    "gelu": (by_hand.gelu_forward, by_hand.gelu_backward, lambda: draw((5, 4))),
    "identity": (lambda z: z.clone(), by_hand.identity_backward, lambda: draw((5, 4))),
    "mean squared error": (
        by_hand.mean_squared_error_forward,
        lambda dL, out, y: (
            dL * by_hand.mean_squared_error_backward(out, y),
            -dL * by_hand.mean_squared_error_backward(out, y),
        ),
        lambda: draw((5, 3), (5, 3)),
    ),
    "mean squared error, by columns": (
        by_hand.mean_squared_error_forward,
        mse_in_parts,
        lambda: draw((5, 3), (5, 3)),
    ),
    "softmax cross-entropy": (
        by_hand.softmax_cross_entropy_forward,
        lambda dL, out, y: (dL * by_hand.softmax_cross_entropy_backward(out, y), None),
        lambda: [*draw((5, 3)), CLASSES],
    ),
    "softmax cross-entropy, by columns": (
        by_hand.softmax_cross_entropy_forward,
        cross_entropy_in_parts,
        lambda: [*draw((5, 3)), CLASSES],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_backward_is_the_derivative_of_forward(name):
    forward, backward, inputs = CASES[name]
    assert gradcheck(as_function(forward, backward), inputs())


def _transposed(dz, x, W, b):
    dx, dW, db = linear_backward(dz, x, W, b)
    return dx, dW.flip(0), db


WRONG = {
    "linear, bias averaged": (
        "linear",
        lambda dz, x, W, b: (*linear_backward(dz, x, W, b)[:2], dz.mean(dim=0)),
    ),
    "linear, rows of dW swapped": ("linear", _transposed),
    "relu, no jump": ("relu", lambda dh, z: dh),
    "relu, other side": ("relu", lambda dh, z: dh.masked_fill(z > 0, 0)),
    "gelu, without z phi(z)": ("gelu", lambda dh, z: dh * 0.5 * torch.erfc(-z / 2**0.5)),
    "mean squared error, the notebook's factor": (
        "mean squared error",
        lambda dL, out, y: (dL * (out - y) / len(out), dL * (y - out) / len(out)),
    ),
    "cross-entropy, without the class": (
        "softmax cross-entropy",
        lambda dL, out, y: (dL * torch.softmax(out, dim=1) / len(out), None),
    ),
    "cross-entropy, a sum instead of a mean": (
        "softmax cross-entropy",
        lambda dL, out, y: (dL * by_hand.softmax_cross_entropy_backward(out, y) * len(out), None),
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_backward_is_found_out(name):
    case, backward = WRONG[name]
    forward, _, inputs = CASES[case]
    with pytest.raises(GradcheckError):
        gradcheck(as_function(forward, backward), inputs())


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (by_hand.relu_forward, functional.relu),
        (by_hand.gelu_forward, functional.gelu),
        (lambda z: by_hand.linear_forward(z, z[:3]), lambda z: functional.linear(z, z[:3])),
        (lambda z: by_hand.linear_forward(z, z[:3], z[0, :3]), lambda z: functional.linear(z, z[:3], z[0, :3])),
        (
            lambda z: by_hand.mean_squared_error_forward(z, z.flip(0)),
            lambda z: functional.mse_loss(z, z.flip(0)),
        ),
        (
            lambda z: by_hand.softmax_cross_entropy_forward(z[:, :3], CLASSES),
            lambda z: functional.cross_entropy(z[:, :3], CLASSES),
        ),
    ],
    ids=["relu", "gelu", "linear without bias", "linear", "mean squared error", "softmax cross-entropy"],
)
def test_forward_is_pytorchs(ours, theirs):
    (z,) = draw((5, 4))
    torch.testing.assert_close(ours(z), theirs(z), rtol=1e-14, atol=1e-15)


def test_relu_at_zero_takes_pytorchs_side():
    z = torch.zeros(3, requires_grad=True)
    functional.relu(z).sum().backward()
    assert torch.equal(by_hand.relu_backward(torch.ones(3), z.detach()), z.grad)


def test_cross_entropy_does_not_overflow():
    out = torch.tensor([[1000.0, 0.0, -1000.0]])
    y = torch.tensor([1])
    assert by_hand.softmax_cross_entropy_forward(out, y) == 1000
    assert torch.equal(by_hand.softmax_cross_entropy_backward(out, y), torch.tensor([[1.0, -1.0, 0.0]]))


def test_gelu_keeps_its_tail_in_bfloat16():
    z = torch.tensor([-3.0], dtype=torch.bfloat16)
    torch.testing.assert_close(by_hand.gelu_forward(z), functional.gelu(z), rtol=0.04, atol=0)

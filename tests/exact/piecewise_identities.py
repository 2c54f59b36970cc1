"""Identities of piecewise functions: by their name, by `where`, by a mask, by clamps. See test_identities.py."""

import torch
import torch.nn.functional as F
from tests.exact.identity import Identity

PAIR = {"shapes": lambda n: [(3, n), (3, n)]}


def huber_where(x, y, *, delta=0.5):
    d = x - y
    return torch.where(d.abs() <= delta, 0.5 * d * d, delta * (d.abs() - 0.5 * delta))


def huber_masked(x, y, *, delta=0.5):
    d = x - y
    near = d.abs() <= delta
    return 0.5 * d**2 * near + delta * (d.abs() - 0.5 * delta) * ~near


def huber_clamped(x, y, *, delta=0.5):
    size = (x - y).abs()
    near = size.clamp(max=delta)
    return 0.5 * near**2 + delta * (size - near)


HOLD = [
    Identity(
        name="relu is clamp(x, min=0)",
        left=F.relu,
        right=lambda x: torch.clamp(x, min=0),
        wrong=lambda x: torch.clamp(x, min=1),
    ),
    Identity(
        name="relu is maximum(x, 0)",
        left=F.relu,
        right=lambda x: torch.maximum(x, torch.zeros_like(x)),
        wrong=lambda x: torch.maximum(x, torch.full_like(x, 0.5)),
    ),
    Identity(
        name="relu is where(x > 0, x, 0)",
        left=F.relu,
        right=lambda x: torch.where(x > 0, x, 0.0),
        wrong=lambda x: torch.where(x > 0.25, x, 0.0),
    ),
    Identity(
        name="relu is x * (x > 0)",
        left=F.relu,
        right=lambda x: x * (x > 0),
        wrong=lambda x: x * (x.flip(0) > 0),  # the gate of another tensor
    ),
    Identity(
        name="relu is x.masked_fill(x < 0, 0)",
        left=F.relu,
        right=lambda x: x.masked_fill(x < 0, 0.0),
        wrong=lambda x: x.masked_fill(x > 0, 0.0),
    ),
    Identity(
        name="relu is (x + |x|) / 2, and relu(x) - relu(-x) is x",
        left=lambda x: F.relu(x) * 3 - F.relu(-x),
        right=lambda x: x + x + x.abs(),
        wrong=lambda x: x + x.abs() * 2,
    ),
    Identity(
        name="relu of a relu is relu",
        left=F.relu,
        right=lambda x: F.relu(F.relu(x)),
        wrong=lambda x: F.relu(F.relu(x) - 1),
    ),
    Identity(
        name="leaky relu is where(x > 0, x, c x)",
        left=F.leaky_relu,
        right=lambda x: torch.where(x > 0, x, 0.01 * x),
        wrong=lambda x: torch.where(x > 0, x, 0.02 * x),
    ),
    Identity(
        name="leaky relu is relu(x) - c relu(-x)",
        left=lambda x: F.leaky_relu(x, 0.2),
        right=lambda x: F.relu(x) - 0.2 * F.relu(-x),
        wrong=lambda x: F.relu(x) + 0.2 * F.relu(-x),
    ),
    Identity(
        name="elu is where(x > 0, x, c (exp(x) - 1))",
        left=lambda x: F.elu(x, 1.5),
        right=lambda x: torch.where(x > 0, x, 1.5 * (x.exp() - 1)),
        wrong=lambda x: torch.where(x > 0, x, 1.5 * x.exp()),
    ),
    Identity(
        name="elu is relu(x) + c (exp(clamp(x, max=0)) - 1)",
        left=lambda x: F.elu(x, 1.5),
        right=lambda x: F.relu(x) + 1.5 * (x.clamp(max=0).exp() - 1),
        wrong=lambda x: F.relu(x) + 1.5 * (x.clamp(max=1).exp() - 1),
    ),
    Identity(
        name="hardswish is x * relu6(x + 3) / 6",
        left=F.hardswish,
        right=lambda x: x * F.relu6(x + 3) / 6,
        wrong=lambda x: x * F.relu6(x + 2) / 6,
    ),
    Identity(
        name="hardswish is where(x <= -3, 0, where(x >= 3, x, x (x + 3) / 6))",
        left=lambda x: F.hardswish(3 * x),
        right=lambda x: torch.where(3 * x <= -3, 0.0, torch.where(3 * x >= 3, 3 * x, 3 * x * (3 * x + 3) / 6)),
        wrong=lambda x: torch.where(3 * x <= -3, 0.0, torch.where(3 * x >= 2, 3 * x, 3 * x * (3 * x + 3) / 6)),
    ),
    Identity(
        name="hardswish is its pieces times their masks",
        left=lambda x: F.hardswish(3 * x),
        right=lambda x: (y := 3 * x) * (y >= 3) + y * (y + 3) / 6 * ((y > -3) & (y < 3)),
        wrong=lambda x: (y := 3 * x) * (y >= 3) + y * (y + 3) / 6 * ((y > -3) | (y < 3)),
    ),
    Identity(
        name="clamp(x, a, b) is where(x > b, b, where(x < a, a, x))",
        left=lambda x: x.clamp(-0.5, 1),
        right=lambda x: torch.where(x > 1, 1.0, torch.where(x < -0.5, -0.5, x)),
        wrong=lambda x: torch.where(x > 1, 1.0, torch.where(x < -0.5, 0.5, x)),
    ),
    Identity(
        name="clamp(x, a, b) is one limit after the other",
        left=lambda x: F.hardtanh(x, -0.5, 1),
        right=lambda x: x.clamp(max=1).clamp(min=-0.5),
        wrong=lambda x: x.clamp(max=1).clamp(min=-0.25),
    ),
    Identity(
        name="|x| is where(x >= 0, x, -x), and x sign(x)",
        left=lambda x: x.abs() * 2,
        right=lambda x: torch.where(x >= 0, x, -x) + x * x.sign(),
        wrong=lambda x: torch.where(x >= 0, x, -x) + x * x.flip(0).sign(),
    ),
    Identity(
        name="the Huber loss is where(|d| <= c, d**2 / 2, c (|d| - c / 2))",
        left=lambda x, y: F.huber_loss(x, y, delta=0.5, reduction="none"),
        right=huber_where,
        wrong=lambda x, y: huber_where(x, y, delta=0.25),
        **PAIR,
    ),
    Identity(
        name="the Huber loss is its pieces times their masks",
        left=lambda x, y: F.huber_loss(x, y, delta=0.5, reduction="none"),
        right=huber_masked,
        wrong=lambda x, y: huber_masked(x, y + 1),
        **PAIR,
    ),
    Identity(
        name="the Huber loss is q**2 / 2 + c (|d| - q), q = clamp(|d|, max=c), forward",
        left=lambda x, y: F.huber_loss(x, y, delta=0.5, reduction="none"),
        right=huber_clamped,
        wrong=lambda x, y: huber_clamped(x, y, delta=0.75),
        backward=False,
        **PAIR,
    ),
    Identity(
        name="the smooth L1 loss is the Huber loss over its limit",
        left=lambda x, y: F.smooth_l1_loss(x, y, beta=0.5, reduction="none"),
        right=lambda x, y: F.huber_loss(x, y, delta=0.5, reduction="none") / 0.5,
        wrong=lambda x, y: F.huber_loss(x, y, delta=0.5, reduction="none"),
        **PAIR,
    ),
]

NOT_PROMISED = [
    Identity(
        name="relu(x)**2 = where(x > 0, x**2, 0)",
        left=lambda x: F.relu(x).square(),
        right=lambda x: torch.where(x > 0, x.square(), 0.0),
    ),
    Identity(
        name="relu(c x) = c relu(x) for c > 0",
        left=lambda x: F.relu(2 * x),
        right=lambda x: 2 * F.relu(x),
    ),
    Identity(
        name="|x| = maximum(x, -x)",
        left=torch.abs,
        right=lambda x: torch.maximum(x, -x),
    ),
]

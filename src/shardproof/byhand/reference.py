"""PyTorch's own step: nn.Linear, loss.backward() and SGD (section 2). The one file in byhand/ that may use autograd."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.sgd import sgd

from shardproof.byhand.model import Layer
from shardproof.byhand.step import Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from shardproof.byhand.data import Batch

ACTIVATION_MODULES: dict[str, type[nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}
LOSS_MODULES: dict[str, type[nn.Module]] = {"mse": nn.MSELoss, "cross-entropy": nn.CrossEntropyLoss}


class MLP(nn.Module):
    """The notebook's model: two linear layers without an activation, the same in every run.

    Args:
        in_feature, hidden_units, out_feature: the widths.
        seed: as `torch.manual_seed(seed)` would give the parameters; the global generator is left as it is.
    """

    def __init__(self, in_feature: int, hidden_units: int, out_feature: int, *, seed: int = 12345) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden_layer = nn.Linear(in_feature, hidden_units)
            self.output_layer = nn.Linear(hidden_units, out_feature)

    def forward(self, x: Tensor) -> Tensor:
        """X [B, in_feature] to [B, out_feature]."""
        x = self.hidden_layer(x)
        out: Tensor = self.output_layer(x)
        return out


def build_model(widths: Sequence[int], *, activation: str, seed: int, dtype: torch.dtype) -> nn.Sequential:
    """Build the notebook's model at any depth: `torch.manual_seed`, then one nn.Linear after the other."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linears = [nn.Linear(i, o) for i, o in pairwise(widths)]
    modules: list[nn.Module] = [linears[0]]
    for linear in linears[1:]:
        modules += [ACTIVATION_MODULES[activation](), linear]
    return nn.Sequential(*modules).to(dtype)


def read_layers(model: nn.Sequential) -> tuple[Layer, ...]:
    """Copy the parameters out, layer by layer."""
    return tuple(Layer(W=linear.weight.detach().clone(), b=linear.bias.detach().clone()) for linear in _linears(model))


def take_step(model: nn.Sequential, batch: Batch, *, loss: str, lr: float) -> Step:
    """Forward, `loss.backward()` and SGD's update, in place on the model.

    `sgd` is the function that `torch.optim.SGD.step` calls. An optimizer object would import `torch._dynamo`, which
    takes longer than the rest of a small run. A test checks that both give the same bits.
    """
    parameters = [parameter for linear in _linears(model) for parameter in (linear.weight, linear.bias)]
    for parameter in parameters:
        parameter.grad = None
    z: list[Tensor] = []
    h: list[Tensor] = []
    out = batch.x
    for module in model:
        if isinstance(module, nn.Linear) and z:
            out.retain_grad()
            h.append(out)
        out = module(out)
        if isinstance(module, nn.Linear):
            z.append(out.detach())
    loss_value = LOSS_MODULES[loss]()(out, batch.y)
    loss_value.backward()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    with torch.no_grad():
        sgd(
            parameters,
            gradients,
            [None] * len(parameters),
            weight_decay=0.0,
            momentum=0.0,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
    return Step(
        z=tuple(z[:-1]),
        out=out.detach(),
        loss=loss_value.detach(),
        gradients=tuple(Layer(W=W, b=b) for W, b in zip(gradients[::2], gradients[1::2], strict=True)),
        updated=read_layers(model),
        h=tuple(one.detach() for one in h),
        dh=tuple(one.grad for one in h if one.grad is not None),
    )


def _linears(model: nn.Sequential) -> list[nn.Linear]:
    return [module for module in model if isinstance(module, nn.Linear)]

"""Fused optimizers and the ops of PyTorch's GradScaler, written out in the ops of the unfused ones.

The functions run as ordinary PyTorch code in exact arithmetic, so that fused, foreach and single-tensor optimizers give
the same digits. Step counts, learning rates and scales are real constants.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch

from shardproof.exact.rules.registry import find_op

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch._ops import OpOverload

Function = TypeVar("Function", bound="Callable[..., Any]")

# {op: what it does to the op's arguments}
WRITTEN_OUT: Final[dict[OpOverload, Callable[..., Any]]] = {}


def _writes_out(*names: str) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        for name in names:
            WRITTEN_OUT[find_op(name)] = function
        return function

    return register


def _skips(found_inf: Tensor | None) -> bool:
    """Whether GradScaler found an infinity, so that the step is left out."""
    return found_inf is not None and bool(found_inf.item())


def _gradient(grad: Tensor, *, grad_scale: Tensor | None, maximize: bool) -> Tensor:
    """The gradient to go by; the fused ops leave it unscaled in its place."""
    if grad_scale is not None:
        grad.div_(grad_scale)
    return -grad if maximize else grad


def _adam(
    parameters: list[Tensor],
    grads: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    largest: list[Tensor],
    steps: list[Tensor],
    *,
    lr: Any,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float,
    amsgrad: bool,
    maximize: bool,
    decoupled: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Adam (Kingma and Ba 2015) as `torch.optim.adam._single_tensor_adam` has it; the steps are counted already."""
    if _skips(found_inf):
        return
    lr = float(lr)
    for i, parameter in enumerate(parameters):
        grad, step = _gradient(grads[i], grad_scale=grad_scale, maximize=maximize), steps[i].item()
        if weight_decay != 0 and decoupled:
            parameter.mul_(1 - lr * weight_decay)
        elif weight_decay != 0:
            grad = grad.add(parameter, alpha=weight_decay)
        means[i].lerp_(grad, 1 - beta1)
        squares[i].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        second = squares[i]
        if amsgrad:
            torch.maximum(largest[i], second, out=largest[i])
            second = largest[i]
        denominator = (second.sqrt() / sqrt(1 - beta2**step)).add_(eps)
        parameter.addcdiv_(means[i], denominator, value=-lr / (1 - beta1**step))


@_writes_out("_fused_adam_.default", "_fused_adam_.tensor_lr")
def adam(*args: Any, **kwargs: Any) -> None:
    """Adam, its weight decay added to the gradient."""
    _adam(*args, **kwargs, decoupled=False)


@_writes_out("_fused_adamw_.default", "_fused_adamw_.tensor_lr")
def adamw(*args: Any, **kwargs: Any) -> None:
    """AdamW, its weight decay apart from the gradient (Loshchilov and Hutter 2019)."""
    _adam(*args, **kwargs, decoupled=True)


@_writes_out("_fused_sgd_.default", "_fused_sgd_.tensor_lr")
def sgd(
    parameters: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    weight_decay: float,
    momentum: float,
    lr: Any,
    dampening: float,
    nesterov: bool,
    maximize: bool,
    is_first_step: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """SGD as `torch.optim.sgd._single_tensor_sgd` has it; before the first step the momenta are not written yet."""
    if _skips(found_inf):
        return
    for i, parameter in enumerate(parameters):
        grad = _gradient(grads[i], grad_scale=grad_scale, maximize=maximize)
        if weight_decay != 0:
            grad = grad.add(parameter, alpha=weight_decay)
        if momentum != 0:
            if is_first_step:
                momenta[i].copy_(grad)
            else:
                momenta[i].mul_(momentum).add_(grad, alpha=1 - dampening)
            grad = grad.add(momenta[i], alpha=momentum) if nesterov else momenta[i]
        parameter.add_(grad, alpha=-float(lr))


@_writes_out("_fused_adagrad_.default", "_fused_adagrad_.tensor_lr")
def adagrad(
    parameters: list[Tensor],
    grads: list[Tensor],
    sums: list[Tensor],
    steps: list[Tensor],
    *,
    lr: Any,
    lr_decay: float,
    weight_decay: float,
    eps: float,
    maximize: bool,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Adagrad as `torch.optim.adagrad._single_tensor_adagrad` has it."""
    if _skips(found_inf):
        return
    for i, parameter in enumerate(parameters):
        grad = _gradient(grads[i], grad_scale=grad_scale, maximize=maximize)
        if weight_decay != 0:
            grad = grad.add(parameter, alpha=weight_decay)
        sums[i].addcmul_(grad, grad, value=1)
        parameter.addcdiv_(grad, sums[i].sqrt().add_(eps), value=-float(lr) / (1 + (steps[i].item() - 1) * lr_decay))


# GradScaler -----------------------------------------------------------------------------------------------------------


@_writes_out("_amp_foreach_non_finite_check_and_unscale_.default")
def unscale(grads: list[Tensor], _found_inf: Tensor, inverse_scale: Tensor) -> None:
    """Each gradient times the inverse scale. Residues are finite: nothing is found."""
    for grad in grads:
        grad.mul_(inverse_scale)


@_writes_out("_amp_update_scale_.default")
def update_scale(
    scale: Tensor, growth_tracker: Tensor, found_inf: Tensor, growth: float, backoff: float, interval: int
) -> Tensor:
    """The scale smaller where an infinity was found, larger after `interval` steps without one."""
    if _skips(found_inf):
        scale.mul_(backoff)
        growth_tracker.zero_()
        return scale
    growth_tracker.add_(1)
    if growth_tracker.item() == interval:
        scale.mul_(growth)
        growth_tracker.zero_()
    return scale

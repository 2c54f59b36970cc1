"""`Step`: what a training step is, in the user's own functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Module

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch.nn import Parameter
    from torch.optim import Optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A training step on one device.

    Attributes:
        model: builds the model; called several times, in every rank's process too, each time with the same PyTorch
            seed. The runs replace its parameters' values by drawn ones, none of them zero; how it initialises them is
            checked apart from the step.
        batch: `(inputs, targets)` with `loss`, anything with `forward`.
        loss: `loss(model(inputs), targets)`, a scalar.
        forward: instead of `loss`: `forward(model, batch)`, a scalar.
        optimizer: builds the optimizer from the parameters; None to compare gradients only.
        clip_norm: clip the gradients to this norm over the whole model before the update. On ranks the prover does it,
            with each element of the full gradient counted once, whatever the sharding.
        clip: instead, the user's own: `clip(model)` clips the gradients in place and returns their norm as a scalar
            tensor, or None (or a number), of which only the clipped gradients are compared. With `clip_norm` too, the
            one device clips to that norm, and `clip` is called on ranks alone.
        steps: how many.
    """

    model: Callable[[], Module]
    batch: Any
    loss: Callable[[Any, Any], Tensor] | None = None
    forward: Callable[[Module, Any], Tensor] | None = None
    optimizer: Callable[[Iterable[Parameter]], Optimizer] | None = None
    clip_norm: float | None = None
    clip: Callable[[Module], Any] | None = None
    steps: int = 3

    def __post_init__(self) -> None:
        for name in ("model", "loss", "forward", "optimizer", "clip"):
            _require_function(name, getattr(self, name))
        if (self.loss is None) == (self.forward is None):
            raise CannotRunError("a Step needs exactly one of loss(outputs, targets) and forward(model, batch)")
        if self.loss is not None and not (isinstance(self.batch, tuple | list) and len(self.batch) == 2):
            raise CannotRunError(
                "with loss, batch is (inputs, targets); for any other batch give forward(model, batch)"
            )
        if self.steps < 1:
            raise CannotRunError(f"steps is {self.steps}; give at least 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise CannotRunError(f"clip_norm is {self.clip_norm}; give a number above 0, or None")

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped before the update."""
        return self.clip_norm is not None or self.clip is not None

    def compute_loss(self, model: Module, batch: Any) -> Tensor:
        """The scalar that is differentiated.

        Raises:
            CannotRunError: the user's function returns anything else.
        """
        if self.forward is not None:
            name, loss = "forward(model, batch)", self.forward(model, batch)
        else:
            assert self.loss is not None
            inputs, targets = batch
            name, loss = "loss(outputs, targets)", self.loss(model(inputs), targets)
        if not isinstance(loss, Tensor):
            raise CannotRunError(f"{name} returned {type(loss).__name__}; it must return the loss, a scalar tensor")
        if loss.numel() != 1:
            raise CannotRunError(f"{name} returned a tensor of shape {list(loss.shape)}; it must return a scalar")
        return loss


# What each of the functions is given, and returns.
_FORMS: Mapping[str, str] = {
    "model": "lambda: Net(...)",
    "loss": "loss(outputs, targets)",
    "forward": "forward(model, batch)",
    "optimizer": "lambda parameters: torch.optim.AdamW(parameters)",
    "clip": "clip(model)",
}


def _require_function(name: str, value: object) -> None:
    """Refuse what can be called by mistake (a model), or not at all (an optimizer)."""
    built = name == "model" and isinstance(value, Module)
    if value is not None and (built or not callable(value)):
        why = ", which builds it anew for each side" if name in ("model", "optimizer") else ""
        raise CannotRunError(
            f"Step({name}=...) was given {type(value).__name__}; needed is a function{why}: {_FORMS[name]}"
        )

"""State that is no plain parameter: extra state, local optimizer state, memory written by index, lists."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from benchmarks.mutants.configuration import Configuration, sharded
from benchmarks.mutants.models.blockwise import Blockwise
from benchmarks.mutants.models.two_layers import (
    TwoLayers,
    TwoLayersByModules,
    draw,
    own_features,
    split_two_layers,
    two_layer_step,
)
from benchmarks.mutants.steps import MORE_OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.distributed.device_mesh import DeviceMesh


class Versioned(nn.Linear):
    """Has something to say to a checkpoint, as TransformerEngine's layers do."""

    def get_extra_state(self) -> Any:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state["version"] == 2


class OfNothing(nn.Linear):
    """As Megatron's layers: extra state that is None."""

    def get_extra_state(self) -> Any:
        return None

    def set_extra_state(self, state: Any) -> None:
        assert state is None


class WithExtraState(TwoLayersByModules):
    """A layer of each."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = Versioned(6, 8), OfNothing(8, 4)


class WrittenByIndex(TwoLayers):
    """The outputs' rows are put into memory that was not written before."""

    def after(self, output: Tensor) -> Tensor:
        even, odd = torch.arange(0, len(output), 2), torch.arange(1, len(output), 2)
        whole = torch.empty_like(output)
        whole[odd] = output[odd]
        whole[even] = output[even]
        return whole


class PartlyWritten(TwoLayers):
    """Every second feature of a new tensor, then the others."""

    def between(self, hidden: Tensor) -> Tensor:
        whole = hidden.new_empty(*hidden.shape)
        whole[..., ::2] = hidden[..., ::2]
        whole[..., 1::2] = hidden[..., 1::2] * 2
        return whole


class InAList(TwoLayers):
    """Scales in a ParameterList and a ParameterDict."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ParameterList([torch.ones(4), torch.ones(1)])
        self.named = nn.ParameterDict({"shift": torch.zeros(4)})

    def after(self, output: Tensor) -> Tensor:
        return output * self.scales[0] * self.scales[1] + self.named["shift"]


class SharedLayer(TwoLayers):
    """The second layer twice, with a third between."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, 4)
        self.twice = self.again

    def after(self, output: Tensor) -> Tensor:
        return self.twice(torch.tanh(self.again(output)))


class AScalar(TwoLayers):
    """A parameter of no dims, a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def after(self, output: Tensor) -> Tensor:
        return output / self.temperature


class AScaleOfFeatures(TwoLayers):
    """A whole vector of which each rank uses its part: its gradient is summed in a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * (own_features(self.scale) if self.split else self.scale)


def with_summed_scale(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    model = split_two_layers(model, mesh)
    if hasattr(model, "scale"):
        model.scale.register_hook(model.leave)
    return model


def by_modules(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


def gathered(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return parallelize_module(model, mesh, {"0": ColwiseParallel(output_layouts=Replicate())})


def with_a_method(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """A method of the class is replaced by one that does the same and says so."""
    original = type(model).after
    if not getattr(original, "replaced", False):

        def after(self: nn.Module, output: Tensor) -> Tensor:
            return original(self, output)

        after.replaced = True  # type: ignore[attr-defined]
        type(model).after = after
    return split_two_layers(model, mesh)


MODELS = (WrittenByIndex, PartlyWritten, InAList, SharedLayer, AScalar, AScaleOfFeatures)

# AdamW counts a scalar's steps in a state of no dims: a constant, which probes nothing.
ALLOWED = {(AScalar, "AdamW"): ("VACUOUS optimizer state temperature/step",)}


def configurations() -> Iterator[Configuration]:
    """Each at 2 and 4 ranks."""
    optimizers = itertools.cycle(("AdamW", "SGD", "momentum"))
    for model, devices in itertools.product(MODELS, (2, 4)):
        optimizer = next(optimizers)
        step = two_layer_step(model, optimizer=MORE_OPTIMIZERS[optimizer])
        words = f"odd state: {model.__name__}, {optimizer}"
        allow = ALLOWED.get((model, optimizer), ())
        yield sharded(words, step, with_summed_scale, devices, allow=allow)
    for devices in (2, 4):
        step = two_layer_step(WithExtraState, optimizer=MORE_OPTIMIZERS[next(optimizers)])
        yield sharded("odd state: WithExtraState", step, by_modules, devices)
        step = two_layer_step(
            lambda: nn.Sequential(nn.Linear(6, 8, bias=False)),
            batch=(draw(5, 6), draw(5, 8, seed=1)),
            loss=F.mse_loss,
            optimizer=Blockwise,
        )
        yield sharded("odd state: local moments beside DTensors", step, gathered, devices)
        yield sharded("odd state: a method replaced", two_layer_step(InAClass), with_a_method, devices)


class InAClass(TwoLayers):
    """Has a class of its own to be changed."""

    def after(self, output: Tensor) -> Tensor:
        return output + 1

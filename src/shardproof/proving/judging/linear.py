"""Causes around a linear layer: what it gives with other weights, or from other gradients, computed from its records.

That y = x W^T + b is one of the reference's activations of another is found by value, whatever the modules are called.
Then what a fault makes of it can be computed modulo the prime, and compared with what the ranks hold; by accident n
elements agree in 1 / p**n of draws. Only the nearest activations are tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, islice
from typing import TYPE_CHECKING

import torch

from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.judging.closeness import Exact
from shardproof.proving.records import GRADIENT_OF, Key, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from shardproof.proving.judging.alignment import Aligned, Alignment
    from shardproof.proving.judging.closeness import Closeness

_MOST_TRIED = 8  # activations between a layer's input and its output
_MOST_ALIKE = 3  # things that all ranks compute alike, and that are added up
_LARGEST = 2**26  # elements of a product that is computed: int64 has no fast product


def explain_linear(alignment: Alignment, key: Key, aligned: Aligned, closeness: Closeness) -> Cause | None:
    """The cause of a wrong activation, or gradient of one, beside a linear layer; None if no known relation does.

    Args:
        alignment: of a run that is not cut.
        key: of the activation or gradient.
        aligned: what the ranks hold of it.
        closeness: how values are compared; within noise nothing is told.
    """
    forward = {gradient: phase for phase, gradient in GRADIENT_OF.items()}
    if not isinstance(closeness, Exact) or aligned.misshapen is not None or not alignment.reference.starts:
        return None
    if key.phase is Phase.OUTPUT:
        return _of_stale_weight(_Scene(alignment=alignment, key=key, aligned=aligned, field=closeness))
    if key.phase not in forward:
        return None
    scene = _Scene(alignment=alignment, key=key, aligned=aligned, field=closeness)
    layers = list(scene.layers_of(Key(key.step, forward[key.phase], key.name, key.call)))
    found = (relation(scene, layers) for relation in _OF_GRADIENTS)
    return next((cause for cause in found if cause is not None), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """A linear layer: output = input W^T + bias.

    Attributes:
        parameter: the name of W.
        output: the key of its output.
        weight: on one device [outputs, inputs].
        turned: W is recorded as its transpose.
        swapped: the first two dims of the output are those of the input in the other order.
        bias: [outputs].
    """

    parameter: str
    output: Key
    weight: Tensor
    turned: bool
    swapped: bool
    bias: Tensor

    def as_input(self, tensor: Tensor) -> Tensor:
        """A tensor shaped like the output with its dims in the input's order."""
        return tensor.transpose(0, 1) if self.swapped else tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scene:
    """A wrong tensor, and what is recorded beside it."""

    alignment: Alignment
    key: Key
    aligned: Aligned
    field: Exact

    def of_reference(self, key: Key) -> Tensor:
        """What one device has."""
        return self.alignment.reference.tensors[key].values

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Left @ right modulo the prime, over the last dim of the left."""
        flat = left.reshape(-1, left.shape[-1]) @ right
        return self.field.canonical(flat).reshape(*left.shape[:-1], right.shape[1])

    def weights(self, step: int) -> Mapping[str, Tensor]:
        """The matrices of one device at the start of a step, by name."""
        starts = self.alignment.reference.starts
        return {one.name: found.values for one, found in starts.items() if one.step == step and len(found.shape) == 2}

    def keys_with(self, key: Key) -> list[Key]:
        """Those of a rank that has the key, in execution order: a stage of a pipeline has tensors of its own."""
        return next((list(rank.tensors) for rank in self.alignment.ranks if key in rank.tensors), [key])

    def layers_of(self, given: Key) -> Iterator[_Layer]:
        """The linear layers whose input an activation is."""
        keys = self.keys_with(given)
        if given not in self.alignment.reference.tensors:
            return
        after = (one for one in keys[keys.index(given) + 1 :] if (one.step, one.phase) == (given.step, Phase.OUTPUT))
        for output in islice(after, _MOST_TRIED):
            layer = self.layer(given, output)
            if layer is not None:
                yield layer

    def layer(self, given: Key, output: Key) -> _Layer | None:
        """The linear layer between two activations, if there is one."""
        reference = self.alignment.reference.tensors
        if output not in reference:
            return None
        x, y = self.of_reference(given), self.of_reference(output)
        if x.ndim < 2 or x.ndim != y.ndim or x.numel() * y.shape[-1] > _LARGEST:
            return None
        for name, matrix in self.weights(given.step).items():
            for turned in (False, True):
                weight = matrix.T if turned else matrix
                for swapped in (False, True):
                    z = y.transpose(0, 1) if swapped else y
                    if weight.shape != (z.shape[-1], x.shape[-1]) or z.shape[:-1] != x.shape[:-1]:
                        continue
                    rest = self.field.canonical(z - self.product(x, weight.T)).reshape(-1, z.shape[-1])
                    if len(rest) > 1 and torch.equal(rest, rest[:1].expand_as(rest)):
                        return _Layer(
                            parameter=name, output=output, weight=weight, turned=turned, swapped=swapped, bias=rest[0]
                        )
        return None

    def holds(self, whole: Tensor | dict[int, Tensor]) -> bool:
        """Whether the ranks that are wrong hold their elements of a tensor, one for all or one for each rank."""
        numbers = self.alignment.number_elements(self.key)
        if numbers is None:
            return False
        for rank, one in self.aligned.held.items():
            if torch.equal(one.actual, one.expected):
                continue
            wanted = whole.get(rank) if isinstance(whole, dict) else whole
            if wanted is None or wanted.numel() != self.of_reference(self.key).numel():
                return False  # of a rank that has rows of its own
            if not torch.equal(wanted.reshape(-1)[numbers[rank].reshape(-1)], one.actual.reshape(-1)):
                return False
        return True

    def residuals(self) -> dict[str, Tensor]:
        """The last gradients before this one, of tensors of its shape, which may be added to it as they are."""
        found = {}
        shape = self.of_reference(self.key).shape
        for key, recorded in self.alignment.reference.tensors.items():
            if key == self.key:
                break
            if key.step == self.key.step and key.phase in GRADIENT_OF.values() and recorded.values.shape == shape:
                found[str(key.name)] = recorded.values
        return dict(list(found.items())[-_MOST_ALIKE:])

    def own_gradients(self, layer: _Layer) -> dict[int, Tensor] | None:
        """By rank, the gradient of the layer's input that the rank's own part of the weight gives."""
        gradient = layer.output.gradient
        weights = self.alignment.starts_of(Key(self.key.step, Phase.UPDATE, layer.parameter))
        found = {}
        for rank, records in enumerate(self.alignment.ranks):
            if rank not in weights or weights[rank].ndim != 2 or gradient not in records.tensors:
                return None
            weight = weights[rank].T if layer.turned else weights[rank]
            values = records.tensors[gradient].values
            if values.ndim < 2 or values.shape[-1] != weight.shape[0]:
                return None
            given = layer.as_input(values)
            found[rank] = self.product(given, weight)
        return found

    def gradient_by(self, layer: _Layer) -> Tensor | None:
        """On one device, the gradient of the layer's input that comes through it."""
        gradient = layer.output.gradient
        if gradient not in self.alignment.reference.tensors:
            return None
        return self.product(layer.as_input(self.of_reference(gradient)), layer.weight)


# The relations -----------------------------------------------------------------------------------------------------


def _of_stale_weight(scene: _Scene) -> Cause | None:
    """A linear layer's output with a weight of an earlier step."""
    keys = scene.keys_with(scene.key)
    before = (
        one
        for one in reversed(keys[: keys.index(scene.key)])
        if one.step == scene.key.step and one.phase in GRADIENT_OF and one in scene.alignment.reference.tensors
    )
    for given in islice(before, _MOST_TRIED) if scene.key.step else ():
        layer = scene.layer(given, scene.key)
        if layer is None:
            continue
        for step in reversed(range(scene.key.step)):
            old = scene.weights(step)[layer.parameter]
            stale = scene.product(scene.of_reference(given), old if layer.turned else old.T) + layer.bias
            if scene.holds(layer.as_input(scene.field.canonical(stale))):
                ago = scene.key.step - step
                return Cause(kind=CauseKind.STALE_WEIGHT, parameter=layer.parameter, elements=ago, mend=Mend.COPY_AGAIN)
    return None


def _of_own_shard(scene: _Scene, layers: Sequence[_Layer]) -> Cause | None:
    """Each rank holds its part of the gradient that its own parts of the weights give: nobody sums over the ranks."""
    through = [scene.gradient_by(layer) for layer in layers]
    if not through or any(one is None for one in through):
        return None
    whole = scene.field.canonical(torch.stack([one for one in through if one is not None]).sum(0))
    if not torch.equal(whole, scene.of_reference(scene.key)):
        return None
    totals: dict[int, Tensor] = {}
    for layer in layers:
        own = scene.own_gradients(layer)
        if own is None or any(totals.get(rank, one).shape != one.shape for rank, one in own.items()):
            return None
        totals = {rank: scene.field.canonical(totals.get(rank, 0) + one) for rank, one in own.items()}
    if not scene.holds(totals):
        return None
    return Cause(kind=CauseKind.OWN_SHARD_GRADIENT, parameter=layers[0].parameter, mend=Mend.REDUCE_SCATTER_IN_BACKWARD)


def _of_output_for_gradient(scene: _Scene, layers: Sequence[_Layer]) -> Cause | None:
    """The gradient of a layer's input, if the layer's output stood in the place of its gradient."""
    for layer in layers:
        output = layer.as_input(scene.of_reference(layer.output))
        for stood_in in (output, scene.field.canonical(output - layer.bias)):
            if scene.holds(scene.product(stood_in, layer.weight)):
                return Cause(
                    kind=CauseKind.OUTPUT_FOR_GRADIENT, parameter=layer.parameter, mend=Mend.GRADIENT_IN_BACKWARD
                )
    return None


def _of_parts_beside_a_whole(scene: _Scene, layers: Sequence[_Layer]) -> Cause | None:
    """Ranks hold parts of a sum, each with all of what every rank computes alike: through a layer, or a residual."""
    axes, held = scene.alignment.axes, scene.aligned.held
    numbers = scene.alignment.number_elements(scene.key)
    if numbers is None:
        return None
    alike = {layer.parameter: one for layer in layers if (one := scene.gradient_by(layer)) is not None}
    alike |= scene.residuals()
    for count in range(1, _MOST_ALIKE + 1):
        for chosen in combinations(alike, count):
            through = scene.field.canonical(torch.stack([alike[name] for name in chosen]).sum(0))
            for names in axes.choices():
                groups = [[rank for rank in group if rank in held] for group in axes.groups(names)]
                if all(_is_sum_beside(scene, group, through, numbers) for group in groups if group):
                    return Cause(
                        kind=CauseKind.PARTS_BESIDE_WHOLE,
                        axes=names,
                        parameter=" and ".join(chosen),
                        mend=Mend.ALL_REDUCE_IN_BACKWARD,
                    )
    return None


def _is_sum_beside(scene: _Scene, group: Sequence[int], through: Tensor, numbers: Mapping[int, Tensor]) -> bool:
    first = scene.aligned.held[group[0]].expected
    if len(group) < 2 or any(not torch.equal(numbers[rank], numbers[group[0]]) for rank in group):
        return False
    alike = through.reshape(-1)[numbers[group[0]]].reshape(first.shape)
    total = torch.stack([scene.aligned.held[rank].actual for rank in group]).sum(0)
    return torch.equal(scene.field.canonical(total), scene.field.canonical(first + (len(group) - 1) * alike))


_OF_GRADIENTS = (_of_own_shard, _of_output_for_gradient, _of_parts_beside_a_whole)

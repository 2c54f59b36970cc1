"""A configuration in ordinary float64 on real gloo processes, without the prover: is it really right, or really wrong?

The prover's verdict on a correct configuration says nothing if the configuration is wrong, and a bug that changes no
number is no bug. So both are also run as a user would run them: built from a seed, sharded, trained for three steps or
more, and the losses, the parameters that a rank holds whole and the buffers compared with those of one device by
`allclose`. Nothing of `shardproof.proving` is used here, and no rank is simulated.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from benchmarks.mutants.processes import run_in_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch.distributed.device_mesh import DeviceMesh

    from benchmarks.mutants.configuration import Configuration
    from shardproof.proving.step import Step

STEPS = 3
SEED = 4
MOVED = 0.1
TOLERANCE = 1e-6


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What one device or one rank ends with.

    Attributes:
        losses: of the whole batch, one a step.
        norms: of all gradients, one a step; of one device only.
        parameters: after the last step; of a DTensor the whole.
        buffers: after the last step.
    """

    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    parameters: dict[str, Tensor] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)


Rank = tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]


def find_differences(
    configuration: Configuration, *, dtype: torch.dtype = torch.float64, beside: Configuration | None = None
) -> list[str]:
    """What differs from one device, in words; nothing if the configuration is right.

    Args:
        configuration: to be run.
        dtype: in which everything runs.
        beside: compare with the ranks of this configuration instead: where both draw dropout, say.

    Raises:
        RankFailedError: a rank raised, or came to no end.
    """
    one, ranks = _run(configuration, dtype)
    alone = [(one.losses, one.parameters, one.buffers)] * len(ranks)
    expected = alone if beside is None else _run(beside, dtype)[1]
    close = _allclose(configuration.tolerance)
    # Where a forward rounds, Adam may turn the sign of a gradient that is all rounding: a step's difference.
    parameters_close = close if configuration.tolerance <= TOLERANCE else _allclose(0.05)
    return [
        f"{said} on rank {rank}"
        for rank, (actual, wanted) in enumerate(zip(ranks, expected, strict=True))
        for said in _differ(actual, wanted, close, parameters_close)
    ]


def _run(configuration: Configuration, dtype: torch.dtype) -> tuple[Outcome, list[Rank]]:
    step = configuration.make_step()
    with configuration.around(), _dropout(kept=configuration.dropout):
        state = _initial_state(step, dtype)
        one = _run_on_one_device(step, state, dtype)
        ranks = run_in_processes(
            configuration.devices, lambda rank: _run_rank(configuration, step, state, one.norms, dtype, rank)
        )
    return one, ranks


def _differ(
    actual: Rank, expected: Rank, close: Callable[[Tensor, Tensor], bool], parameters_close: Callable[..., bool]
) -> Iterator[str]:
    losses, parameters, buffers = actual
    wanted_losses, wanted_parameters, wanted_buffers = expected
    for number, (loss, wanted) in enumerate(zip(losses, wanted_losses, strict=True), 1):
        if not close(loss, wanted):
            yield f"loss of step {number} ({float(loss):.9g} instead of {float(wanted):.9g})"
    for name, parameter in parameters.items():
        wanted = wanted_parameters.get(name, parameter)  # one device has no parts of flat buffers
        if parameter.shape == wanted.shape and not parameters_close(parameter, wanted):
            yield f"parameter {name}"
    for name, wanted in wanted_buffers.items():
        if name not in buffers:
            yield f"missing buffer {name}"
        elif buffers[name].shape == wanted.shape and not close(buffers[name], wanted):
            yield f"buffer {name}"


def _allclose(tolerance: float) -> Callable[[Tensor, Tensor], bool]:
    def close(actual: Tensor, expected: Tensor) -> bool:
        actual, expected = actual.double(), expected.double()  # counters and flags too
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        return torch.allclose(actual, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-3))

    return close


@contextmanager
def _dropout(*, kept: bool) -> Iterator[None]:
    """Without dropout unless it is kept: ranks that share out an activation draw other masks than one device does."""
    original = F.dropout
    if not kept:
        F.dropout = lambda x, *_args, **_settings: x
    try:
        yield
    finally:
        F.dropout = original


def _build(step: Step, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(SEED)
    return step.model().to(dtype)


def _initial_state(step: Step, dtype: torch.dtype) -> dict[str, Tensor]:
    """As the user's model starts, moved a little, so that nothing is zero, or one, or equal, that need not be."""
    model = _build(step, dtype)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(MOVED * noise.to(parameter.dtype))
        for buffer in model.buffers():
            if buffer.is_floating_point() and not buffer.any():
                buffer.copy_(MOVED * torch.randn(buffer.shape, generator=generator, dtype=torch.float64))
    return _tensors(model.state_dict())


def _run_on_one_device(step: Step, state: Mapping[str, Tensor], dtype: torch.dtype) -> Outcome:
    model = _build(step, dtype)
    model.load_state_dict(_tensors(state))
    outcome = Outcome()
    torch.manual_seed(SEED)
    optimizer = _optimizer(step, model)
    for _ in range(max(step.steps, STEPS)):
        model.zero_grad()
        loss = step.compute_loss(model, _cast(step.batch, dtype))
        loss.backward()
        outcome.losses.append(loss.detach().clone())
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        outcome.norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))
        _clip(step, model, outcome.norms[-1])
        optimizer.step()
    _take_state(model, outcome)
    return outcome


def _run_rank(
    configuration: Configuration,
    step: Step,
    state: Mapping[str, Tensor],
    norms: list[Tensor],
    dtype: torch.dtype,
    rank: int,
) -> Rank:
    mesh = init_device_mesh("cpu", tuple(configuration.mesh.values()), mesh_dim_names=tuple(configuration.mesh))
    torch.manual_seed(SEED)
    if configuration.candidate is not None:
        run = OrdinaryRun(mesh=mesh, state=_tensors(state), steps=max(step.steps, STEPS), rank=rank)
        run.loads_whole = configuration.draws_anew
        run.batch = _cast(step.batch, dtype)
        configuration.candidate(run)
        assert run.models
        for model in run.models:
            _take_state(model, run.outcome)
        outcome = run.outcome
    else:
        outcome = _train_sharded(configuration, step, state, norms, dtype, mesh)
    return outcome.losses, outcome.parameters, outcome.buffers


def _train_sharded(
    configuration: Configuration,
    step: Step,
    state: Mapping[str, Tensor],
    norms: list[Tensor],
    dtype: torch.dtype,
    mesh: DeviceMesh,
) -> Outcome:
    """A plain training loop around the user's sharding; clipped by the norm that one device has."""
    model = _build(step, dtype)
    model.load_state_dict(_tensors(state))
    assert configuration.parallelize is not None
    model = configuration.parallelize(model, mesh)
    if configuration.draws_anew:
        _load_whole(model, state)
    torch.manual_seed(SEED)
    groups = [mesh.get_group(axis) for axis in configuration.data_axes]
    batch = _own_rows(_cast(step.batch, dtype), mesh, configuration.data_axes)
    outcome = Outcome()
    optimizer = _optimizer(step, model)
    for norm in norms:
        model.zero_grad()
        loss = step.compute_loss(model, batch)
        loss.backward()
        total = _whole(loss.detach()).clone()
        for group in groups:
            dist.all_reduce(total, group=group)
            total /= dist.get_world_size(group)
        outcome.losses.append(total)
        _clip(step, model, norm)
        optimizer.step()
    _take_state(model, outcome)
    return outcome


@dataclass(slots=True, kw_only=True)
class OrdinaryRun:
    """What a training of the user's own is handed: the prover's `Run` in form, with nothing recorded but the loss."""

    mesh: DeviceMesh
    state: Mapping[str, Tensor]
    steps: int
    rank: int
    batch: Any = None
    loads_whole: bool = False  # the state over what the training has drawn itself, as the prover does
    models: tuple[nn.Module, ...] = ()
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def size(self) -> int:
        return dist.get_world_size()

    def watch(self, *models: nn.Module) -> None:
        self.models = models
        if self.loads_whole:
            for model in models:
                _load_whole(model, self.state)

    def batches(self) -> Iterator[Any]:
        for _ in range(self.steps):
            yield tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self.batch)

    def record_loss(self, loss: Tensor) -> None:
        self.outcome.losses.append(_whole(loss.detach()).clone())

    def record_gradients(self) -> None:
        """Nothing: what follows from them is compared."""

    def record_update(self, optimizer: torch.optim.Optimizer | None, *, norm: Tensor | None = None) -> None:
        """Nothing: what follows from it is compared."""


def _optimizer(step: Step, model: nn.Module) -> torch.optim.Optimizer:
    """The user's; without one, plain descent, so that wrong gradients show in the next loss."""
    parameters: Iterable[nn.Parameter] = list(model.parameters())
    return step.optimizer(parameters) if step.optimizer else torch.optim.SGD(parameters, lr=0.1)


def _clip(step: Step, model: nn.Module, norm: Tensor) -> None:
    """As `torch.nn.utils.clip_grads_with_norm_`, which a mixture of meshes stops."""
    if step.clip_norm is None:
        return
    scale = float((step.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(scale)


def _cast(batch: Any, dtype: torch.dtype) -> Any:
    """The batch with its floating tensors in this dtype, as new tensors."""

    def cast(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return x.to(dtype, copy=True) if x.is_floating_point() else x.clone()

    return tree_map(cast, batch)


def _own_rows(batch: Any, mesh: DeviceMesh, axes: tuple[str, ...]) -> Any:
    """This rank's rows: the axes' coordinates, the last one fastest, count the parts."""
    sizes = [mesh[axis].size() for axis in axes]
    coordinate = tuple(mesh.get_local_rank(axis) for axis in axes)
    parts = list(product(*(range(size) for size in sizes)))
    index, count = parts.index(coordinate), len(parts)
    return tree_map(lambda x: x.chunk(count)[index].clone() if isinstance(x, Tensor) and x.ndim else x, batch)


def _load_whole(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = state[name]
            if isinstance(parameter, DTensor):
                value = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            parameter.copy_(value)


def _take_state(model: nn.Module, outcome: Outcome) -> None:
    outcome.parameters |= {
        name: _whole(p.detach()).clone() for name, p in model.named_parameters(remove_duplicate=False)
    }
    outcome.buffers |= {name: _whole(b.detach()).clone() for name, b in model.named_buffers()}


def _whole(x: Tensor) -> Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: x.detach().clone() if isinstance(x, Tensor) else x for name, x in state.items()}

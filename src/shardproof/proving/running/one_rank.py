"""The two sides of a proof: the reference on one device, and the candidate on one of N, as the user shards it.

Both are run by the same code, trial by trial; the candidate's is per-rank code that runs in any world.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shardproof.errors import CannotRunError
from shardproof.proving.judging.initial import initial_values
from shardproof.proving.records import Records
from shardproof.proving.running.batch import copy_batch, draw_batch
from shardproof.proving.running.capture import capture_exactly, capture_natively, local_value
from shardproof.proving.running.collective_log import collectives_recorded, nothing_recorded
from shardproof.proving.running.dropout import dropout_standing_in, masks_drawn
from shardproof.proving.running.models import SAMPLES, Precision, build_as_it_is, load_model
from shardproof.proving.running.segments import Segments
from shardproof.proving.running.shares import Shares, share_of
from shardproof.proving.running.training import train
from shardproof.worlds.processgroup import say_nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.exact import ExactArithmetic
    from shardproof.proving.running.dropout import Masks
    from shardproof.proving.running.request import Runs
    from shardproof.proving.running.subject import Parallelize
    from shardproof.proving.step import Step
    from shardproof.worlds.communicator import Communicator


# Far from any seed of a user's own: a sharding that draws its own values must not draw the prover's. PyTorch's
# generator takes 32 bits of a seed.
_ADDRESSES = 0x5A4D_0000


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one device, or one rank, computed.

    Attributes:
        parameters: its own before the first step, by which its layout is found.
        trials: the records of each.
        native: the records of ordinary runs, without exact arithmetic.
        failed: why the reference has no run in the user's own dtypes, if it was asked for; else empty.
        initial: its parameters as the user's model starts with them, without the prover's values.
        masks: of dropout, as its generators draw them.
    """

    parameters: Mapping[str, Tensor]
    trials: Sequence[Records]
    native: Mapping[Precision, Records]
    failed: str = ""
    initial: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Masks = field(default_factory=dict)


def build_model(step: Step, seed: int) -> nn.Module:
    """The user's model in float64.

    Raises:
        CannotRunError: it cannot be built, or is no module, or has no parameters.
    """
    return build_as_it_is(step, seed).double()


def draw_parameters(model: nn.Module, seed: int) -> None:
    """Give every parameter values that are all different and not zero: each is an address, and no probe is weak."""
    generator = torch.Generator().manual_seed(_ADDRESSES + seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def run_reference(step: Step, model: nn.Module, runs: Runs, contexts: Sequence[ExactArithmetic]) -> Side:
    """Take the steps on one device, from the model's state.

    In the user's own dtypes the step may not run here (a CPU has no kernel of half precision, say): a proof needs no
    such run, so that `Side.failed` says why, and nothing is raised.
    """
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    build, shares = partial(load_model, step, runs.build_seed, state), Shares(count=runs.axes.shares)
    needed = tuple(precision for precision in runs.native if precision not in SAMPLES)
    samples = tuple(precision for precision in runs.native if precision in SAMPLES)
    side = _run(step, build, replace(runs, native=needed), contexts, shares)
    if not samples:
        return side
    try:
        own = _run(step, build, replace(runs, native=samples, draws=False), [], shares)
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises
        return replace(side, failed=f"{type(error).__name__}: {error}")
    return replace(side, native={**side.native, **own.native})


def run_parallelized(
    comm: Communicator,
    step: Step,
    parallelize: Parallelize,
    state: Mapping[str, Tensor],
    runs: Runs,
    contexts: Sequence[ExactArithmetic],
    beat: Callable[[], None] = say_nothing,
) -> Side:
    """Take the steps on one rank: the reference's full state goes in through the user's own sharding.

    Along the data axes each rank takes rows of the batch of its own; averaging gradients is the sharding's business.
    `beat` is called for every tensor recorded, in the backward too: a sign that this rank gets somewhere.

    Raises:
        CannotRunError: the sharding returns no module, or names its parameters otherwise; the batch cannot be split.
    """
    assert comm.size == runs.size
    mesh = make_mesh(runs.mesh)

    def build(precision: Precision) -> nn.Module:
        return _parallelize(load_model(step, runs.build_seed, state, precision), parallelize, mesh)

    side = _run(step, build, runs, contexts, share_of(runs.axes, mesh, comm.rank), beat=beat)
    if not runs.draws:
        return side
    return replace(side, initial=initial_values(_parallelize(build_as_it_is(step, runs.build_seed), parallelize, mesh)))


def make_mesh(sizes: Mapping[str, int]) -> DeviceMesh:
    """The mesh over all ranks of this world."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", tuple(sizes.values()), mesh_dim_names=tuple(sizes))


def _parallelize(model: nn.Module, parallelize: Parallelize, mesh: DeviceMesh) -> nn.Module:
    before = {name for name, _ in model.named_parameters()}
    sharded = parallelize(model, mesh)
    if not isinstance(sharded, nn.Module):
        raise CannotRunError(
            f"parallelize(model, mesh) returned {type(sharded).__name__}; it must return the sharded model"
        )
    after = {name for name, _ in sharded.named_parameters()}
    if before != after:
        changed = ", ".join(sorted(before ^ after)[:4])
        raise CannotRunError(f"parallelize changed the parameters' names ({changed}); they must keep their names")
    return sharded


def _run(
    step: Step,
    build: Callable[[Precision], nn.Module],
    runs: Runs,
    contexts: Sequence[ExactArithmetic],
    shares: Shares,
    *,
    beat: Callable[[], None] = say_nothing,
) -> Side:
    """Every run on a model of its own: a sharding may keep buffers beside it, which hold residues after one of them."""
    parameters: dict[str, Tensor] = {}
    heard = collectives_recorded if runs.native and dist.is_initialized() else nothing_recorded

    def run(precision: Precision, exact: ExactArithmetic | None = None) -> Records:
        model = build(precision)
        if not parameters:
            parameters.update({name: local_value(p.detach()).clone() for name, p in model.named_parameters()})
        batch = shares.rows_of(copy_batch(step.batch, precision.dtype))
        if exact is None:
            records = Records(capture=partial(capture_natively, beat=beat))
            with heard(records):
                train(model, step, batch, records, shares=shares)
            return records
        records = Records(capture=partial(capture_exactly, exact, beat=beat))
        segments = Segments(exact=exact, cuts=runs.cuts) if runs.fresh else None
        with exact.joined(), heard(records):
            train(model, step, draw_batch(exact, batch), records, segments, shares)
        if dist.is_initialized():
            dist.barrier()  # the next run begins when the last rank has left this one
        return records

    trials = [run(Precision.FLOAT64, exact) for exact in contexts]
    with dropout_standing_in():
        native = {precision: run(precision) for precision in runs.native}
    masks: Masks = {}
    if runs.draws:
        model, records = build(Precision.FLOAT64), Records(capture=partial(capture_natively, beat=beat))
        with masks_drawn(records, masks):
            train(model, step, shares.rows_of(copy_batch(step.batch)), records, shares=shares)
    return Side(parameters=parameters, trials=trials, native=native, masks=masks)

"""`parallelize`: an ordinary model made tensor-parallel by a plan, in place and without DTensor.

A plan is data: module paths with wildcards to styles. Everything is worked out before anything is changed: the styles
build their sharded layers beside the model's, and only when all fit are they put in its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch.distributed.tensor import DTensor

from shardproof.errors import CannotRunError
from shardproof.parallel.axis import Axis
from shardproof.parallel.heads import axis_of_sharers
from shardproof.parallel.plan_formats import translate
from shardproof.parallel.sharding import cut_parameter, replicated, set_sharding, sharding_of
from shardproof.parallel.styles import Column, CuttingStyle, LocalAttributes, Row, Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.parallel.styles import Change, Style
    from shardproof.parallel.traffic import Traffic

# Where a module carries the traffic of its style; read it with `traffic_of`.
_TRAFFIC = "shardproof_traffic"

# GPT-2 of transformers has no plan of its own. [Q; K; V] is one projection, which its attention cuts at split_size.
GPT2_PLAN: Mapping[str, Style | str] = {
    "transformer.wte": "embedding_rowwise",
    "transformer.h.*.attn": LocalAttributes(names=("split_size",)),
    "transformer.h.*.attn.c_attn": Column(parts=3),
    "transformer.h.*.attn.c_proj": Row(),
    "transformer.h.*.mlp.c_fc": Column(),
    "transformer.h.*.mlp.c_proj": Row(),
    "lm_head": "colwise_gather_output",
}


def parallelize(
    model: nn.Module, mesh: DeviceMesh, plan: Mapping[str, Any] | None = None, *, axis: str = "tp"
) -> nn.Module:
    """Make a model tensor-parallel, in place, with plain tensors: no DTensor.

    Every rank gives the whole model with the same values, and keeps its part. Parameters keep their names; tied ones
    stay one tensor; each carries its `Sharding`. Gradients of what is replicated are the same on all ranks.

    Args:
        model: an ordinary module.
        mesh: of the ranks.
        plan: paths of modules (or of bare parameters, for experts' weights) to styles. `*` and `?` stand for characters
            within one part of the path, as in "layers.*.mlp.up_proj". Styles are those of `shardproof.parallel.styles`
            and `boundaries`, torch's `ParallelStyle` objects, or transformers' strings. None: the model's own
            `tp_plan`, as transformers' models have it, of which entries may match nothing.
        axis: the name of the mesh's axis.

    Returns:
        The model. `traffic_of` says which collectives the plan asks for.

    Raises:
        CannotRunError: there is no plan, an entry of it matches nothing, two match the same, a module is not of the
            kind that its style fits, a size cannot be split, or a tied parameter would be split in one place only. The
            model is then as it was.
    """
    ranks = Axis.of(mesh, axis)
    given = plan is not None
    plan = plan if plan is not None else getattr(model, "tp_plan", None)
    if not plan:
        raise CannotRunError(f"{type(model).__name__} has no tp_plan of its own: give a plan")
    planned = _prepare(model, ranks, plan, whole=given)
    for place, parameter in planned.cuts.items():
        _own_parameters(model, place.module)[place.name] = parameter
    for name, change in planned.changes.items():
        _install(model, name, change)
    for parameter in model.parameters():
        if sharding_of(parameter) is None:
            set_sharding(parameter, replicated(parameter.shape, rank=ranks.rank, size=ranks.size))
    return model


def traffic_of(model: nn.Module) -> dict[str, tuple[tuple[Axis, Traffic], ...]]:
    """The collectives that the plan asks for, by module path: of one forward and backward, among which ranks."""
    found = {name: getattr(module, _TRAFFIC, ()) for name, module in model.named_modules()}
    return {name: traffic for name, traffic in found.items() if traffic}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a parameter is: a module's path, and the parameter's name there."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}".removeprefix(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """All changes of a plan: of modules by path, and of bare parameters by place."""

    changes: Mapping[str, Change]
    cuts: Mapping[_Place, nn.Parameter]


def _prepare(model: nn.Module, axis: Axis, plan: Mapping[str, Any], *, whole: bool) -> _Planned:
    """Work out all changes, touching nothing. `whole`: every entry must match something."""
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = {
        f"{name}.{own}".removeprefix("."): _Place(module=name, name=own)
        for name, module in modules.items()
        for own, _ in module.named_parameters(recurse=False)
    }
    entries = _match(plan, [*modules, *parameters], whole=whole)
    sharers: dict[int, Axis | None] = {}

    def sharers_of(heads: int) -> Axis | None:
        if heads not in sharers:
            sharers[heads] = axis_of_sharers(axis, heads)
        return sharers[heads]

    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            raise CannotRunError(f"{name} is a DTensor already: parallelize takes an ordinary model, before FSDP")
    changes: dict[str, Change] = {}
    cuts: dict[_Place, nn.Parameter] = {}
    for name, entry in entries.items():
        if name in parameters:
            place = parameters[name]
            cuts[place] = _cut(modules[place.module].get_parameter(place.name), entry, axis, name)
            continue
        module, told = modules[name], name or type(model).__name__
        parent = modules[name.rpartition(".")[0]] if name else None
        site = Site(name=told, module=module, parent=parent, model=model, axis=axis, sharers=sharers_of)
        changes[name] = translate(entry, module, told).prepare(site)
        _check_replaceable(told, module, changes[name])
    _tie(modules, changes, cuts)
    return _Planned(changes=changes, cuts=cuts)


def _match(plan: Mapping[str, Any], names: Sequence[str], *, whole: bool) -> dict[str, Any]:
    """The plan with its patterns replaced by the names that they match."""
    entries: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for pattern, entry in plan.items():
        parts = pattern.split(".") if pattern else []
        matched = [name for name in names if _fits(name.split(".") if name else [], parts)]
        if whole and not matched:
            close = get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise CannotRunError(f"the plan's {pattern!r} matches no module and no parameter; closest is {close[0]!r}")
        for name in matched:
            if name in entries:
                raise CannotRunError(f"the plan's {origin[name]!r} and {pattern!r} both match {name}: leave one out")
            entries[name], origin[name] = entry, pattern
    return entries


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    return len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern))


def _cut(parameter: Tensor, entry: object, axis: Axis, name: str) -> nn.Parameter:
    style = translate(entry, None, name)
    if not isinstance(style, CuttingStyle):
        raise CannotRunError(
            f"{name} is a parameter; a {type(style).__name__} is for modules, this takes Column or Row"
        )
    return cut_parameter(parameter, style.cut(parameter, axis))


def _check_replaceable(name: str, module: nn.Module, change: Change) -> None:
    """A module that gives way to another must not take along what others have put on it."""
    if change.module is module:
        return
    hooks = [kind for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks") if getattr(module, kind)]
    if hooks:
        raise CannotRunError(
            f"{name} has hooks, which its sharded form would not have: register them after parallelize"
        )
    if name == type(module).__name__:
        raise CannotRunError("the plan's '' is the model itself, which cannot be put in its own place: wrap it")


def _tie(modules: Mapping[str, nn.Module], changes: Mapping[str, Change], cuts: dict[_Place, nn.Parameter]) -> None:
    """Let places that share a parameter share its cut form.

    Raises:
        CannotRunError: the places of one parameter would have different forms.
    """
    new = dict(cuts)
    for name, change in changes.items():
        if change.module is not modules[name]:
            for own, value in change.module.named_parameters(recurse=False):
                new[_Place(module=name, name=own)] = value
    places: dict[int, list[_Place]] = {}
    for name, module in modules.items():
        for own, value in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(value), []).append(_Place(module=name, name=own))
    for tied in places.values():
        planned = [place for place in tied if place in new]
        if not planned:
            continue
        first = planned[0]
        for place in tied:
            if place not in new:
                raise CannotRunError(
                    f"{first} is the same tensor as {place}, which the plan leaves whole: split both alike"
                )
            if sharding_of(new[place]) != sharding_of(new[first]):
                raise CannotRunError(f"{first} is the same tensor as {place}, and the plan splits them in two ways")
            if place in cuts:
                cuts[place] = new[first]
            else:
                changes[place.module].module.register_parameter(place.name, new[first])


def _own_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter | None]:
    return model.get_submodule(name)._parameters  # noqa: SLF001 - setattr would drop the parameter's place in the order


def _install(model: nn.Module, name: str, change: Change) -> None:
    """Put the change in place."""
    module = model.get_submodule(name)
    parent, _, leaf = name.rpartition(".")
    if change.module is not module:
        model.get_submodule(parent).register_module(leaf, change.module.train(module.training))
    for attribute, value in change.attributes.items():
        setattr(model.get_submodule(parent), attribute, value)
    if change.install is not None:
        change.install(change.module)
    vars(change.module)[_TRAFFIC] = change.traffic

"""`parallelize`: an ordinary model made tensor-parallel by a plan, in place and without DTensor.

A plan maps module paths, with wildcards, to styles. All checks come first: every style prepares its sharded layer
before any is installed, so a plan that is refused leaves the model unchanged.

The order: `_match` resolves the wildcards, `translate` (plan_formats.py) turns each entry into a style, the style's
`prepare` (styles.py, boundaries.py, vocabulary.py) returns a `Change`, `_tie` lets tied parameters share one cut
tensor, `_install` carries the changes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from torch.distributed.tensor import DTensor

from shardproof.errors import CannotRunError
from shardproof.parallel.axis import Axis
from shardproof.parallel.heads import kv_replica_axis
from shardproof.parallel.plan_formats import translate
from shardproof.parallel.sharding import cut_parameter, replicated, set_sharding, sharding_of
from shardproof.parallel.styles import Column, CuttingStyle, LocalAttributes, Row, Site

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

    from shardproof.parallel.styles import Change, Style
    from shardproof.parallel.traffic import Traffic

# The module attribute that holds its style's traffic; read it with `traffic_of`.
_TRAFFIC = "shardproof_traffic"

# The attribute of a model that holds the entries of its own plan that match nothing; the prover reports them.
_UNMATCHED = "shardproof_unmatched"

# transformers has no plan for GPT-2. Its [Q; K; V] is one projection; its attention cuts the output at split_size.
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

    Every rank passes the full model with the same values and keeps its shards. Parameters keep their names, tied ones
    stay one tensor, and each carries its `Sharding`. The gradient of a replicated parameter is the same on all ranks.

    Args:
        model: an ordinary module.
        mesh: the device mesh.
        plan: maps paths of modules (or of bare parameters, for experts' weights) to styles. `*` and `?` match
            characters within one part of the path, as in "layers.*.mlp.up_proj". A style is one of ours, a torch
            `ParallelStyle` object, or a transformers string. None: the model's own `tp_plan`, as transformers' models
            have it; its entries may match nothing.
        axis: the name of the mesh axis.

    Returns:
        The model. `traffic_of` returns the collectives that the plan needs.

    Raises:
        CannotRunError: there is no plan, an entry matches nothing, two entries match the same module, a style does not
            fit its module, a size cannot be split, or a tied parameter would be split under one of its names only. The
            model is then unchanged.
    """
    ranks = Axis.of(mesh, axis)
    given = plan is not None
    plan = plan if plan is not None else getattr(model, "tp_plan", None)
    if not plan:
        raise CannotRunError(f"{type(model).__name__} has no tp_plan of its own: give a plan")
    planned = _prepare(model, ranks, plan, all_must_match=given)
    setattr(model, _UNMATCHED, planned.unmatched)
    for path, parameter in planned.cuts.items():
        _own_parameters(model, path.module)[path.name] = parameter
    for name, change in planned.changes.items():
        _install(model, name, change)
    for parameter in model.parameters():
        if sharding_of(parameter) is None:
            set_sharding(parameter, replicated(parameter.shape, rank=ranks.rank, size=ranks.size))
    return model


def traffic_of(model: nn.Module) -> dict[str, tuple[tuple[Axis, Traffic], ...]]:
    """By module path, the collectives of one forward and backward, each with the axis along which it runs."""
    found = {name: getattr(module, _TRAFFIC, ()) for name, module in model.named_modules()}
    return {name: traffic for name, traffic in found.items() if traffic}


@dataclass(frozen=True, slots=True, kw_only=True)
class _ParameterPath:
    """A module's path, and the name of one of its own parameters."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}".removeprefix(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """All changes of a plan: of modules, by path, the cut tensors of bare parameters, entries that match nothing."""

    changes: Mapping[str, Change]
    cuts: Mapping[_ParameterPath, nn.Parameter]
    unmatched: tuple[str, ...] = ()


def _prepare(model: nn.Module, axis: Axis, plan: Mapping[str, Any], *, all_must_match: bool) -> _Planned:
    """Prepare all changes; the model is unchanged. `all_must_match`: an entry that matches nothing is an error."""
    modules = dict(model.named_modules(remove_duplicate=False))
    parameters = {
        f"{name}.{own}".removeprefix("."): _ParameterPath(module=name, name=own)
        for name, module in modules.items()
        for own, _ in module.named_parameters(recurse=False)
    }
    names = [*modules, *parameters]
    entries = _match(plan, names, all_must_match=all_must_match)
    unmatched = tuple(pattern for pattern in plan if not _matched(pattern, names))
    kv_replicas: dict[int, Axis | None] = {}

    def kv_replicas_of(heads: int) -> Axis | None:
        if heads not in kv_replicas:
            kv_replicas[heads] = kv_replica_axis(axis, heads)
        return kv_replicas[heads]

    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor):
            raise CannotRunError(f"{name} is a DTensor already: parallelize takes an ordinary model, before FSDP")
    changes: dict[str, Change] = {}
    cuts: dict[_ParameterPath, nn.Parameter] = {}
    for name, entry in entries.items():
        if name in parameters:
            path = parameters[name]
            cuts[path] = _cut(modules[path.module].get_parameter(path.name), entry, axis, name)
            continue
        module, shown = modules[name], name or type(model).__name__
        parent = modules[name.rpartition(".")[0]] if name else None
        site = Site(name=shown, module=module, parent=parent, model=model, axis=axis, kv_replicas=kv_replicas_of)
        changes[name] = translate(entry, module, shown).prepare(site)
        _check_replaceable(shown, module, changes[name])
    _tie(modules, changes, cuts)
    return _Planned(changes=changes, cuts=cuts, unmatched=unmatched)


def _match(plan: Mapping[str, Any], names: Sequence[str], *, all_must_match: bool) -> dict[str, Any]:
    """The plan's entries by the names that their patterns match."""
    entries: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for pattern, entry in plan.items():
        matched = _matched(pattern, names)
        if all_must_match and not matched:
            close = get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise CannotRunError(f"the plan's {pattern!r} matches no module and no parameter; closest is {close[0]!r}")
        for name in matched:
            if name in entries:
                raise CannotRunError(f"the plan's {origin[name]!r} and {pattern!r} both match {name}: leave one out")
            entries[name], origin[name] = entry, pattern
    return entries


def _matched(pattern: str, names: Sequence[str]) -> list[str]:
    parts = pattern.split(".") if pattern else []
    return [name for name in names if _fits(name.split(".") if name else [], parts)]


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
    """Refuse to replace a module that has hooks: they would be lost with it."""
    if change.module is module:
        return
    hooks = [kind for kind in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks") if getattr(module, kind)]
    if hooks:
        raise CannotRunError(
            f"{name} has hooks, which its sharded form would not have: register them after parallelize"
        )
    if name == type(module).__name__:
        raise CannotRunError("the plan's '' is the model itself, which cannot be put in its own place: wrap it")


def _tie(
    modules: Mapping[str, nn.Module], changes: Mapping[str, Change], cuts: dict[_ParameterPath, nn.Parameter]
) -> None:
    """Let paths that share a parameter share its cut tensor.

    Raises:
        CannotRunError: the plan would split one parameter in different ways.
    """
    new = dict(cuts)
    for name, change in changes.items():
        if change.module is not modules[name]:
            for own, value in change.module.named_parameters(recurse=False):
                new[_ParameterPath(module=name, name=own)] = value
    paths: dict[int, list[_ParameterPath]] = {}
    for name, module in modules.items():
        for own, value in module.named_parameters(recurse=False, remove_duplicate=False):
            paths.setdefault(id(value), []).append(_ParameterPath(module=name, name=own))
    for tied in paths.values():
        planned = [path for path in tied if path in new]
        if not planned:
            continue
        first = planned[0]
        for path in tied:
            if path not in new:
                raise CannotRunError(
                    f"{first} is the same tensor as {path}, which the plan leaves whole: split both alike"
                )
            if sharding_of(new[path]) != sharding_of(new[first]):
                raise CannotRunError(f"{first} is the same tensor as {path}, and the plan splits them in two ways")
            if path in cuts:
                cuts[path] = new[first]
            else:
                changes[path.module].module.register_parameter(path.name, new[first])


def _own_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter | None]:
    return model.get_submodule(name)._parameters  # noqa: SLF001 - setattr would drop the parameter's place in the order


def _install(model: nn.Module, name: str, change: Change) -> None:
    """Carry out a change in the model."""
    module = model.get_submodule(name)
    parent, _, leaf = name.rpartition(".")
    if change.module is not module:
        model.get_submodule(parent).register_module(leaf, change.module.train(module.training))
    for attribute, value in change.attributes.items():
        setattr(model.get_submodule(parent), attribute, value)
    if change.install is not None:
        change.install(change.module)
    vars(change.module)[_TRAFFIC] = change.traffic

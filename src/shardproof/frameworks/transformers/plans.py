"""Plans: a transformers model split by its own plans over tensors and experts, with changes, and by FSDP2."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, cast

import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.crashes import ShardedCrashError, describe_crash
from shardproof.frameworks.transformers.expert_layout import apply_plans, configure, make_meshes, take_experts
from shardproof.proving.running.plan_entries import note_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

_INDEX = re.compile(r"\d+")  # a plan of transformers has `*` in place of a layer's number
PLAN_ATTRIBUTE = "shardproof_plan"  # of a sharded model: its plan, for the message of a crash

# Projections whose output holds attention heads, and the field with their number.
_HEADS = {
    "q_proj": "num_attention_heads",
    "k_proj": "num_key_value_heads",
    "qkv_proj": "num_key_value_heads",
    "query_key_value": "num_attention_heads",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """How the model's own plan is changed.

    Attributes:
        drop: patterns of entries that are taken out.
        put: styles that are put in, by pattern of module names; or of parameter names, where no module's name matches.
        instead: a plan in the place of the model's own: styles by pattern of names of modules and parameters, in full
            or, as in transformers' configurations, within the base model.
    """

    drop: Sequence[str] = ()
    put: Mapping[str, str] | None = None
    instead: Mapping[str, str] | None = None

    @property
    def changes(self) -> bool:
        """Whether there is any change."""
        return bool(self.drop or self.put or self.instead)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlan:
    """`parallelize` by the model's own plan (with changes) over the axis `tp`, and by FSDP2 over all other axes.

    With an axis `ep` by its own expert-parallel plan too, and by its own FSDP2 plan; see `expert_layout`.
    """

    change: PlanChange

    def __call__(self, model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        names = mesh.mesh_dim_names or ("tp",)
        if "ep" in names:
            return self._split_experts(model, mesh)
        others = tuple(name for name in names if name != "tp")
        if "tp" in names:
            model = self._split(model, mesh["tp"] if others else mesh)
        elif self.change.changes:
            raise CannotRunError(
                f"--plan, --plan-set and --plan-drop change the plan over tp or ep; the mesh has {_listed(names)}"
            )
        return _fully_shard(model, mesh[others]) if others else model

    def resolve(self, model: nn.Module, mesh: Mapping[str, int]) -> dict[str, str]:
        """The plan as it is applied to `model` on a mesh of these sizes: a style for each module and parameter.

        Raises:
            CannotRunError: there is none, or a change does not fit it.
        """
        from transformers.distributed.configuration_utils import DistributedConfig

        instead = self.change.instead
        if "ep" in mesh:
            tensor, experts, _ = find_expert_plans(model, configure(mesh))
            plan = {**tensor, **experts} if instead is None else _expand(model, instead)
            return change_plan(model, plan, self.change)
        config = DistributedConfig(tp_size=mesh.get("tp", 1))
        return change_plan(model, find_plan(model, config, instead), self.change)

    def require_shared(self, model: nn.Module, mesh: Mapping[str, int]) -> None:
        """Refuse a mesh whose ranks cannot share the heads or experts that the plan splits.

        Raises:
            CannotRunError: they cannot.
        """
        plan = self.resolve(model, mesh)
        if "ep" not in mesh:
            _require_heads(model, plan, mesh.get("tp", 1))
            return
        config = configure(mesh)
        tensor, experts = take_experts(plan, find_expert_plans(model, config)[1])
        _require_heads(model, tensor, config.tp_size)
        _require_experts(model, experts, config.ep_size)

    def _split(self, model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        from transformers.distributed.configuration_utils import DistributedConfig
        from transformers.distributed.tensor_parallel import apply_tensor_parallelism

        plan = self.resolve(model, {"tp": mesh.size()})
        _require_heads(model, plan, mesh.size())
        config = DistributedConfig(tp_size=mesh.size())
        return _apply(model, config, plan, lambda: apply_tensor_parallelism(model, mesh, plan))

    def _split_experts(self, model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        sizes = {name: mesh.size(dim) for dim, name in enumerate(mesh.mesh_dim_names or ())}
        config = configure(sizes)
        plan = self.resolve(model, sizes)
        _, own, sharded = find_expert_plans(model, config)
        tensor, experts = take_experts(plan, own)
        _require_heads(model, tensor, config.tp_size)
        _require_experts(model, experts, config.ep_size)
        meshes = make_meshes(mesh, config)
        return _apply(
            model,
            config,
            plan,
            lambda: apply_plans(model, config, meshes, tensor=tensor, experts=experts, sharded=sharded),
        )


def _apply(model: nn.Module, config: Any, plan: Mapping[str, str], apply: Callable[[], Any]) -> nn.Module:
    """As from_pretrained does: apply the plan to weights that are not tied, then tie the sharded ones."""
    model.config.distributed_config = config  # type: ignore[union-attr]
    _untie(model)
    try:
        sharded = apply()
    except Exception as error:
        raise ShardedCrashError(f"transformers cannot apply the plan: {describe_crash(error, model, plan)}") from error
    sharded.tie_weights(recompute_mapping=False)
    names = [name for name, _ in model.named_modules()]
    generic = {_INDEX.sub("*", name) for name in (*names, *dict(model.named_parameters()))}
    note_entries(sharded, [pattern for pattern in plan if _INDEX.sub("*", pattern) not in generic])
    setattr(sharded, PLAN_ATTRIBUTE, plan)
    return cast("nn.Module", sharded)


def find_plan(model: nn.Module, config: Any, instead: Mapping[str, str] | None) -> dict[str, str]:
    """The model's own plan, or the one given, with an entry for each module and parameter.

    Raises:
        CannotRunError: there is none; an entry of the one given matches nothing, or has no known style.
    """
    if instead is not None:
        return _expand(model, instead)
    try:
        plan: dict[str, str] = dict(model._resolve_parallel_plans(config)[0])  # type: ignore[operator]  # noqa: SLF001
    except ValueError as error:  # transformers refuses a model without a plan
        raise CannotRunError(_without_plan(model)) from error
    if not plan:
        raise CannotRunError(_without_plan(model))
    return plan


def find_expert_plans(model: nn.Module, config: Any) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The model's own plans over tensors and over experts, and its FSDP2 plan, an entry for each module and parameter.

    Raises:
        CannotRunError: it has no such plan.
    """
    try:
        tensor, experts, sharded = model._resolve_parallel_plans(config)  # type: ignore[operator]  # noqa: SLF001
    except ValueError as error:  # transformers refuses a model without one of the plans
        raise CannotRunError(f"transformers refuses these axes: {error}") from error
    return tensor, experts, sharded


def change_plan(model: nn.Module, plan: dict[str, str], change: PlanChange) -> dict[str, str]:
    """The plan without the entries dropped, and with those put in.

    Raises:
        CannotRunError: a pattern matches nothing, or a style is not known.
    """
    for pattern in change.drop:
        matched = [name for name in plan if fnmatch(name, pattern)]
        if not matched:
            raise CannotRunError(f"--plan-drop {pattern}: no entry of the plan matches; it has {_listed(plan)}")
        plan = {name: style for name, style in plan.items() if not _is_dropped(name, style, plan, matched)}
    modules = [name for name, _ in model.named_modules()]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern, style in (change.put or {}).items():
        _require_style(f"--plan-set {pattern}={style}", style)
        matched = [name for name in modules if fnmatch(name, pattern)]
        alone = [] if matched else [name for name in parameters if fnmatch(name, pattern)]
        if not (matched or alone):
            raise CannotRunError(f"--plan-set {pattern}: no module and no parameter matches")
        plan = plan | dict.fromkeys(alone, style)
        for name in matched:
            plan = _put(plan, name, model.get_submodule(name), style)
    return plan


def _put(plan: Mapping[str, str], name: str, module: nn.Module, style: str) -> dict[str, str]:
    """The plan with another style for a module, and for those of its parameters whose entry is the module's own."""
    before = plan.get(name)
    inner = [f"{name}.{of}".lstrip(".") for of, _ in module.named_parameters(recurse=False)]
    return {**plan, name: style, **{one: style for one in inner if plan.get(one, before) == before}}


def _is_dropped(name: str, style: str, plan: Mapping[str, str], dropped: Sequence[str]) -> bool:
    """An entry is dropped by its name, and one of a parameter with its module's, if the two are the same."""
    module = name.rpartition(".")[0]
    return name in dropped or (module in dropped and plan[module] == style)


def _expand(model: nn.Module, patterns: Mapping[str, str]) -> dict[str, str]:
    """An entry for each module and parameter that a pattern matches, parameters before the module that holds them."""
    prefix = getattr(model, "base_model_prefix", "")
    plan: dict[str, str] = {}
    used = set()
    for module_name, module in model.named_modules():
        inner = [f"{module_name}.{name}".lstrip(".") for name, _ in module.named_parameters(recurse=False)]
        for pattern, style in patterns.items():
            matched = [name for name in (*inner, module_name) if _matches(name, pattern, prefix)]
            if matched:
                used.add(pattern)
            if module_name in matched:  # its style is that of its parameters too, which may have entries of their own
                plan |= {name: style for name in inner if name not in plan or name in matched}
            plan |= dict.fromkeys(matched, style)
    for pattern, style in patterns.items():
        _require_style(f"--plan: {pattern}={style}", style)
        if pattern not in used:
            raise CannotRunError(f"--plan: {pattern} matches no module and no parameter of {type(model).__name__}")
    return plan


def _read_heads(config: Any, field: str) -> Any:
    """The number of heads; None where the configuration has none, or refuses because layers have their own."""
    with suppress(Exception):
        return getattr(config, field, None)
    return None


def _matches(name: str, pattern: str, prefix: str) -> bool:
    return fnmatch(name, pattern) or (bool(prefix) and fnmatch(name, f"{prefix}.{pattern}"))


def _require_style(given: str, style: str) -> None:
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES

    if style not in ALL_PARALLEL_STYLES:
        raise CannotRunError(f"{given}: no such style; there are {_listed(ALL_PARALLEL_STYLES)}")


def _require_heads(model: nn.Module, plan: Mapping[str, str], ranks: int) -> None:
    """A projection that is split by columns gives every rank as many whole heads.

    Raises:
        CannotRunError: the ranks cannot share the heads.
    """
    config = model.config.get_text_config()  # type: ignore[operator, union-attr]
    for name, style in plan.items():
        field = _HEADS.get(name.rpartition(".")[2])
        heads = _read_heads(config, field) if field and style == "colwise" else None
        if isinstance(heads, int) and heads % ranks:
            fewer = f"Give --devices that divide {heads}, or" if heads > 1 else "Give"
            raise CannotRunError(
                f"{ranks} ranks cannot share {heads} heads: the plan splits {name} by columns. "
                f"{fewer} --set {_find_section(model.config, config)}{field}={ranks * -(-heads // ranks)}"
            )


def _find_section(config: Any, section: Any) -> str:
    """The names that lead from a configuration to one of its sections, each with a dot behind it."""
    if config is section:
        return ""
    for name, inner in vars(config).items():
        if hasattr(inner, "get_text_config"):
            with suppress(LookupError):
                return f"{name}.{_find_section(inner, section)}"
    raise LookupError


def _require_experts(model: nn.Module, plan: Mapping[str, str], ranks: int) -> None:
    """Every rank gets as many whole experts.

    Raises:
        CannotRunError: the ranks cannot share the experts.
    """
    parameters = dict(model.named_parameters())
    for name, style in plan.items():
        experts = parameters[name].shape[0] if style == "grouped_gemm" and name in parameters else 0
        if experts % ranks:
            raise CannotRunError(
                f"{ranks} ranks cannot share {experts} experts: the plan splits {name} by experts. Give axes ep and tp "
                f"whose product divides {experts}, or another number of experts by --set"
            )


def _without_plan(model: nn.Module) -> str:
    return f"{type(model).__name__} has no tensor-parallel plan of its own; give --parallelize FILE.py:NAME"


def _fully_shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Wrap each layer that the model names as not to be split in FSDP2, then the rest of the model."""
    from torch.distributed.fsdp import fully_shard

    layers = set(getattr(model, "_no_split_modules", None) or ())
    for module in model.modules():
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def _untie(model: nn.Module) -> None:
    """Give every tied weight a parameter of its own, with the values of the one that it was tied to."""
    for target, source in cast("Mapping[str, str]", model.all_tied_weights_keys).items():
        owner, _, name = target.rpartition(".")
        values = model.get_parameter(source).detach().clone()
        setattr(model.get_submodule(owner), name, torch.nn.Parameter(values))


def _listed(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")

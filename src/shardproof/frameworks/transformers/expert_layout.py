"""Expert layout: the ranks of a mesh with an axis `ep`, as transformers lays them out, and its plans applied to them.

transformers sees the same ranks in two meshes: `fsdp` by `tp` for what is no expert, `efsdp` by `ep` for the experts,
which are never split by `tp`. So an axis `ep` of E ranks beside an axis `tp` of T ranks is a group of E * T ranks with
experts of their own, of which every T ranks hold the same tokens; all axes but `tp` are FSDP of what is no expert.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, cast

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh


def configure(sizes: Mapping[str, int]) -> Any:
    """The `DistributedConfig` of transformers for the sizes of a mesh's axes: ..., ep, tp, or ..., ep.

    Raises:
        CannotRunError: the axes stand in another order.
    """
    from transformers.distributed.configuration_utils import DistributedConfig

    names = tuple(sizes)
    inner = ("ep", "tp") if "tp" in names else ("ep",)
    if names[-len(inner) :] != inner:
        raise CannotRunError(
            f"the mesh has the axes {', '.join(names)}; for transformers' experts give {' and then '.join(inner)} last"
        )
    shared = sizes.get("tp", 1)
    return DistributedConfig(tp_size=shared, fsdp_size=prod(sizes.values()) // shared, ep_size=sizes["ep"] * shared)


def make_meshes(mesh: DeviceMesh, config: Any) -> Any:
    """The `TransformersDeviceMesh` of a configuration: two meshes over the ranks of one mesh of all ranks."""
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.distributed.utils import TransformersDeviceMesh

    dense = init_device_mesh(mesh.device_type, (config.fsdp_size, config.tp_size), mesh_dim_names=("fsdp", "tp"))
    experts = init_device_mesh(mesh.device_type, (config.efsdp_size, config.ep_size), mesh_dim_names=("efsdp", "ep"))
    return TransformersDeviceMesh(dense, experts)


def apply_plans(
    model: nn.Module,
    config: Any,
    meshes: Any,
    *,
    tensor: dict[str, str],
    experts: dict[str, str],
    sharded: dict[str, str],
) -> nn.Module:
    """Apply the plans in the order in which `from_pretrained` does.

    Args:
        model: with weights that are not tied.
        config: of `configure`.
        meshes: of `make_meshes`.
        tensor: tensor-parallel styles, by name of module or parameter.
        experts: expert-parallel styles.
        sharded: FSDP2 styles, by name of module.
    """
    from transformers.distributed.expert_parallel import apply_expert_parallelism
    from transformers.distributed.fsdp import apply_fully_sharded_data_parallelism
    from transformers.distributed.tensor_parallel import apply_tensor_parallelism

    found: Any = model
    if config.tp_size > 1:
        found = apply_tensor_parallelism(found, meshes.get_mesh("tp"), tensor)
    found = apply_expert_parallelism(found, meshes.get_mesh("ep"), meshes.get_mesh("tp"), experts)
    if config.dp_size > 1:
        found = apply_fully_sharded_data_parallelism(found, meshes, sharded, experts)
    return cast("nn.Module", found)


def take_experts(plan: Mapping[str, str], own: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The tensor-parallel and the expert-parallel entries of one plan.

    The latter are applied over the ranks with experts of their own, whatever their style: those of the model's own
    expert-parallel plan, those inside its experts, and those with a style of experts.

    Args:
        plan: both, perhaps changed.
        own: names of the model's own expert-parallel plan.
    """
    from transformers.distributed.expert_parallel import ExpertParallelLayer
    from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES

    inside = tuple(f"{name}." for name, style in plan.items() if style == "ep_dispatch_experts")
    experts = {
        name: style
        for name, style in plan.items()
        if name in own or name.startswith(inside) or isinstance(ALL_PARALLEL_STYLES[style], ExpertParallelLayer)
    }
    return {name: style for name, style in plan.items() if name not in experts}, experts

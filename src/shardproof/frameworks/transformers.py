"""transformers models with their own tensor-parallel plan: tiny, from a configuration, without weights or network."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from shardproof.errors import CannotRunError
from shardproof.proving.running.plan_entries import note_entries
from shardproof.proving.step import Step
from shardproof.worlds.communicator import shard_range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

# Sizes of every tiny model. A name that its configuration does not have is left out; --set overrides the sizes.
TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 64,
    "pad_token_id": None,
}
# Grouped matrix products have no float64 kernel; the loop over experts does.
_EXPERTS = {"experts_implementation": "eager"}
_SEQUENCE, _BATCH = 9, 2
_INDEX = re.compile(r"\d+")  # a plan of transformers has `*` in place of a layer's number
IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChange:
    """How the model's own plan is changed: entries dropped by pattern, and entries set by pattern to a style."""

    drop: Sequence[str] = ()
    put: Mapping[str, str] | None = None


def tiny_step(source: str, settings: Mapping[str, Any], *, seed: int = 0) -> Step:
    """Three AdamW steps with clipping on a causal language model.

    Args:
        source: a model type ('qwen3') or a path to a config.json.
        settings: configuration entries, over the tiny ones.
        seed: draws the token ids.

    Raises:
        CannotRunError: transformers is not installed, or has no such model, or the configuration does not fit.
    """
    config = _load_config(source, settings)
    ids = probing_ids(config.vocab_size, seed)
    labels = ids.clone()
    for row in range(_BATCH):  # as many in each row: on a data axis the loss is the mean of the means of the ranks
        labels[row, 1 + 3 * row : 4 + 3 * row] = IGNORED

    def build() -> nn.Module:
        from transformers import AutoModelForCausalLM

        model: nn.Module = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
        with torch.no_grad():
            for buffer in model.buffers():  # routing biases are zero before training: a wrong one would go unseen
                if buffer.is_floating_point() and not buffer.any():
                    buffer.normal_()
        return model.train()

    def forward(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        loss: Tensor = model(input_ids=batch[0], labels=batch[1], use_cache=False).loss
        return loss

    return Step(
        model=build,
        batch=(ids, labels),
        forward=forward,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        clip_norm=1.0,
    )


def probing_ids(vocabulary: int, seed: int) -> Tensor:
    """Draw token ids [B, S] that include the first and last id of every vocabulary shard on 2, 3 and 4 ranks.

    For both ways to cut a vocabulary: as torch.chunk does (all shards but the last have one size) and as evenly as
    possible. Where there are more edges than tokens, the smallest ids stay.
    """
    starts = [min(rank * -(-vocabulary // ranks), vocabulary) for ranks in (2, 3, 4) for rank in range(ranks + 1)]
    starts += [shard_range(vocabulary, rank, ranks)[0] for ranks in (3, 4) for rank in range(ranks)]
    edges = {edge % vocabulary for start in starts for edge in (start - 1, start)}
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (_BATCH * _SEQUENCE,), generator=generator)
    positions = torch.randperm(len(ids), generator=generator)[: len(edges)]
    ids[positions] = torch.tensor(sorted(edges))[: len(positions)]
    return ids.view(_BATCH, _SEQUENCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlan:
    """`parallelize` by the model's own plan (with changes) over the axis `tp`, and by FSDP2 over all other axes."""

    change: PlanChange

    def __call__(self, model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        names = mesh.mesh_dim_names or ("tp",)
        others = tuple(name for name in names if name != "tp")
        if "tp" in names:
            model = self._split(model, mesh["tp"] if others else mesh)
        elif self.change.drop or self.change.put:
            raise CannotRunError(f"--plan-set and --plan-drop change the plan over tp; the mesh has {_listed(names)}")
        return _fully_shard(model, mesh[others]) if others else model

    def _split(self, model: nn.Module, mesh: DeviceMesh) -> nn.Module:
        from transformers.distributed.configuration_utils import DistributedConfig
        from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
        from transformers.distributed.tensor_parallel import apply_tensor_parallelism

        config = DistributedConfig(tp_size=mesh.size())
        try:
            plan: dict[str, str] = dict(model._resolve_parallel_plans(config)[0])  # type: ignore[operator]  # noqa: SLF001
        except ValueError as error:  # transformers refuses a model without a plan
            raise CannotRunError(_without_plan(model)) from error
        if not plan:
            raise CannotRunError(_without_plan(model))
        for pattern in self.change.drop:
            matched = [name for name in plan if fnmatch(name, pattern)]
            if not matched:
                raise CannotRunError(f"--plan-drop {pattern}: no entry of the plan matches; it has {_listed(plan)}")
            plan = {name: style for name, style in plan.items() if name not in matched}
        names = [name for name, _ in model.named_modules()]
        for pattern, style in (self.change.put or {}).items():
            if style not in ALL_PARALLEL_STYLES:
                known = _listed(ALL_PARALLEL_STYLES)
                raise CannotRunError(f"--plan-set {pattern}={style}: no such style; there are {known}")
            matched = [name for name in names if fnmatch(name, pattern)]
            if not matched:
                raise CannotRunError(f"--plan-set {pattern}: no module matches")
            plan |= dict.fromkeys(matched, style)
        model.config.distributed_config = config  # type: ignore[union-attr]
        # As from_pretrained does: apply the plan to weights that are not tied, then tie the sharded ones.
        _untie(model)
        sharded: Any = apply_tensor_parallelism(model, mesh, plan)
        sharded.tie_weights(recompute_mapping=False)
        generic = {_INDEX.sub("*", name) for name in (*names, *dict(model.named_parameters()))}
        note_entries(sharded, [pattern for pattern in plan if _INDEX.sub("*", pattern) not in generic])
        return cast("nn.Module", sharded)


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


def _load_config(source: str, settings: Mapping[str, Any]) -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise CannotRunError("hf: needs transformers: pip install transformers") from error
    if source.endswith(".json"):
        try:
            given = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CannotRunError(f"{source} is no configuration that can be read: {error}") from error
        kind = given.pop("model_type", None)
        if not isinstance(kind, str):
            raise CannotRunError(f"{source} has no model_type")
    else:
        given, kind = {}, source
    try:
        known = AutoConfig.for_model(kind).to_dict()
        tiny = {name: value for name, value in TINY.items() if name in known} if not given else {}
        return AutoConfig.for_model(kind, **{**tiny, **_EXPERTS, **given, **settings, "use_cache": False})
    except Exception as error:
        first = str(error).split(". ")[0]  # the rest lists every model that exists
        raise CannotRunError(f"transformers makes no configuration of {kind!r}: {first}") from error


def _listed(names: Any) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")

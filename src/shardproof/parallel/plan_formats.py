"""Entries of a plan other than our own styles: torch's `ParallelStyle` objects and transformers' strings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)

from shardproof.errors import CannotRunError
from shardproof.parallel.boundaries import Boundary, DividedInput, Experts, Move, RotaryKeys
from shardproof.parallel.styles import Column, GradientAllReduce, Replicated, Row
from shardproof.parallel.vocabulary import EmbeddingFeatures, VocabularyRows
from shardproof.parallel.whole_experts import WholeExperts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.parallel.styles import Style

# The names that transformers.distributed registers.
TRANSFORMERS: Mapping[str, Style] = {
    "colwise": Column(),
    "colwise_gather_output": Column(output=Replicate()),
    "colwise_rep": Column(output=Replicate()),
    "rowwise": Row(),
    "rowwise_split_input": Row(input=Replicate()),
    "rowwise_rep": Row(input=Replicate()),
    "packed_colwise": Column(parts=2),
    "packed_rowwise": Row(parts=2),
    "embedding_rowwise": VocabularyRows(),
    "embedding_colwise": EmbeddingFeatures(),
    "sequence_parallel": GradientAllReduce(),
    "replicated_with_grad_allreduce": GradientAllReduce(),
    "all_reduce": Boundary(outputs={0: Move(source=Partial(), target=Replicate())}),
    "moe_tp_experts": Experts(),
    "moe_identity_expert": DividedInput(),
    "grouped_gemm": WholeExperts(),
    "ep_dispatch_experts": WholeExperts(),
    "mla_kv_a_proj": RotaryKeys(),
    "local_params": Replicated(),
    "replicate": Replicated(),
}


def translate(entry: object, module: nn.Module | None, name: str) -> Style:
    """The style of ours for an entry of a plan.

    Args:
        entry: a style of ours, a torch `ParallelStyle`, or a transformers string.
        module: that the entry is for; None for a bare parameter.
        name: of the module, for messages.

    Raises:
        CannotRunError: no style of ours does what the entry asks for.
    """
    if isinstance(entry, str):
        if entry not in TRANSFORMERS:
            known = ", ".join(TRANSFORMERS)
            raise CannotRunError(f"{name}: no style {entry!r}; there are {known}")
        return TRANSFORMERS[entry]
    of_torch = _translate_torch(entry, module, name)
    if of_torch is not None:
        return of_torch
    if not hasattr(entry, "prepare"):
        raise CannotRunError(
            f"{name}: the plan has a {type(entry).__name__} for it; needed is a style of shardproof.parallel, a torch "
            "ParallelStyle or a transformers string"
        )
    style: Style = entry
    return style


def _translate_torch(entry: Any, module: nn.Module | None, name: str) -> Style | None:
    """Ours for a torch style; None for anything else. Outputs are plain tensors: `use_local_output` has no effect."""
    if isinstance(entry, ColwiseParallel):
        given, wanted = _only(entry.input_layouts, name), _only(entry.output_layouts, name)
        if isinstance(module, nn.Embedding):
            _check_whole_ids(given, name)
            return EmbeddingFeatures(output=wanted)
        return Column(input=given, output=wanted)
    if isinstance(entry, RowwiseParallel):
        given, wanted = _only(entry.input_layouts, name), _only(entry.output_layouts, name)
        if isinstance(module, nn.Embedding):
            _check_whole_ids(given, name)
            return VocabularyRows(output=wanted)
        return Row(input=given, output=wanted)
    if isinstance(entry, SequenceParallel):
        return GradientAllReduce()
    if isinstance(entry, PrepareModuleInputOutput):
        return Boundary(
            inputs=_moves_in(entry.prepare_module_input, name), outputs=_moves_out(entry.prepare_module_output, name)
        )
    if isinstance(entry, PrepareModuleInput):
        return Boundary(inputs=_moves_in(entry, name))
    if isinstance(entry, PrepareModuleOutput):
        return Boundary(outputs=_moves_out(entry, name))
    return None


def _moves_in(entry: PrepareModuleInput, name: str) -> dict[int | str, Move]:
    of_positions = _moves(entry.input_layouts or (), entry.desired_input_layouts or (), name)
    moves: dict[int | str, Move] = {position: move for position, move in of_positions.items()}  # noqa: C416 - wider keys
    sources: Mapping[str, Any] = entry.input_kwarg_layouts or {}
    targets: Mapping[str, Any] = entry.desired_input_kwarg_layouts or {}
    moves.update({key: Move(source=source, target=targets[key]) for key, source in sources.items() if source})
    return moves


def _moves_out(entry: PrepareModuleOutput, name: str) -> dict[int, Move]:
    return _moves(entry.output_layouts, entry.desired_output_layouts, name)


def _moves(sources: Sequence[Any], targets: Sequence[Any], name: str) -> dict[int, Move]:
    if len(sources) != len(targets):
        raise CannotRunError(f"{name}: {len(sources)} layouts and {len(targets)} desired ones; give as many of each")
    pairs = enumerate(zip(sources, targets, strict=True))
    return {position: Move(source=s, target=t) for position, (s, t) in pairs if s is not None and t is not None}


def _only(layouts: Sequence[Any], name: str) -> Replicate | Shard:
    """The placement along the one axis."""
    if len(layouts) != 1 or not isinstance(layouts[0], Replicate | Shard):
        raise CannotRunError(f"{name}: layouts {tuple(layouts)}; needed is one Replicate() or Shard(dim)")
    return layouts[0]


def _check_whole_ids(given: Replicate | Shard, name: str) -> None:
    if given != Replicate():
        raise CannotRunError(
            f"{name}: an embedding whose ids are {given!r} is not split; its input_layouts=Replicate()"
        )

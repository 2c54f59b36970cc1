"""Candidates: entries of a plan that may mend what is wrong, by its first cause, the likeliest first."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from shardproof.proving.cause import CauseKind, Mend
from shardproof.proving.records import Phase

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

    from torch import nn

    from shardproof.proving.findings import Finding
    from shardproof.proving.step import Step

_LAYER = re.compile(r"(?<![^.])\d+(?![^.])")  # a number between dots, or at an end
_PART = re.compile(r"/.*$|\[\d+\]$")  # of a module's name: a function that it calls, one of several tensors
_BEFORE_WHOLE = 5  # single entries that are tried before a module is left unsplit: they keep what the plan is for
_STACKED = 3  # dimensions of a parameter with the matrices of all experts
# transformers' style for a parameter that every rank holds, and whose gradient each rank has a part of.
SUMS_GRADIENT = "replicated_with_grad_allreduce"

# Styles in the order in which they are tried, by what the cause says is missing; each goes on with the others.
_SUM_GRADIENT = (SUMS_GRADIENT, "colwise", "rowwise")
_SUM_FORWARD = ("moe_tp_experts", "rowwise", "all_reduce", "embedding_rowwise")
_SUM_BACKWARD = ("colwise", "mla_kv_a_proj", "moe_tp_experts", SUMS_GRADIENT)
_SUM_LESS = ("replicate", "moe_identity_expert", "colwise_gather_output", "rowwise_split_input")
_OTHER_PARTS = ("packed_colwise", "packed_rowwise", "colwise", "rowwise", "colwise_gather_output", "mla_kv_a_proj")
_OTHERS = (
    *("replicate", "colwise", "rowwise", "colwise_gather_output", "rowwise_split_input", "packed_colwise"),
    *("packed_rowwise", "all_reduce", SUMS_GRADIENT, "mla_kv_a_proj", "moe_tp_experts", "moe_identity_expert"),
    *("local_params", "embedding_rowwise", "embedding_colwise"),
)
_BY_MEND: Mapping[Mend | None, tuple[str, ...]] = {
    Mend.ALL_REDUCE_GRADIENT: _SUM_GRADIENT,
    Mend.ALL_REDUCE_IN_FORWARD: _SUM_FORWARD,
    Mend.ALL_REDUCE_IN_BACKWARD: _SUM_BACKWARD,
}
_COUNTED_TWICE = (CauseKind.SCALED, CauseKind.SAME_VECTOR_OFF, CauseKind.PARTS_WITH_BIAS)
# What a plan decides; a dropout mask or an optimizer's state that is wrong by itself is another matter.
_BACKWARD = (Phase.OUTPUT_GRADIENT, Phase.INPUT_GRADIENT)
_DECIDED = (Phase.INPUT, Phase.OUTPUT, Phase.LOSS, *_BACKWARD, Phase.GRADIENT)


def list_candidates(
    roots: Sequence[Finding], model: nn.Module, modules: Sequence[str], plan: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """What may be put into the plan, styles by pattern of names, in the order in which to try it.

    Where every first cause is a gradient that lacks an all-reduce, all of them at once. Then single entries for the
    first of the causes: for the module that is wrong, what it holds, and its neighbours in the same layer, each with
    the styles that fit it and that it does not have. Near modules and likely styles come first. After the first few
    of these the block around the module is left unsplit: what it computes over a whole row (a quantile, a norm) is
    then that of one device.

    Args:
        roots: the first causes.
        model: on one device.
        modules: the names of its modules, in the order in which their forwards end.
        plan: a style for each module and parameter that has one.
    """
    together = suggest_sums(roots)
    if together:
        yield together
    first = next((one for one in roots if one.key.phase in _DECIDED), None)
    if first is None:
        return
    styles = _order_styles(first)
    names = _order_names(first, modules, model)
    places = dict(model.named_modules()) | dict(model.named_parameters(remove_duplicate=False))
    pairs = [(place, style) for place in range(len(names)) for style in range(len(styles))]
    seen = {tuple(together.items())}
    whole = _leave_unsplit(first, model, plan)
    for place, style in sorted(pairs, key=lambda pair: (sum(pair), pair)):
        if whole and len(seen) > _BEFORE_WHOLE:
            yield whole
            whole = {}
        name = names[place]
        entry = {generalize(name): styles[style]}
        if plan.get(name, "replicate") == styles[style] or tuple(entry.items()) in seen:
            continue
        if _fits(styles[style], places[name], model):
            seen.add(tuple(entry.items()))
            yield entry
    if whole:
        yield whole


def list_run_order(step: Step, model: nn.Module) -> list[str]:
    """The names of a model's modules in the order in which their forwards end; those that do not run last."""
    import torch

    ended: list[str] = []
    modules = {name: module for name, module in model.named_modules() if name}
    hooks = [module.register_forward_hook(lambda *_, name=name: ended.append(name)) for name, module in modules.items()]
    assert step.forward is not None
    with torch.no_grad():
        step.forward(model, step.batch)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys((*ended, *modules)))


def suggest_sums(roots: Iterable[Finding]) -> dict[str, str]:
    """Entries that sum gradients over the ranks; empty unless each first cause is a gradient that lacks that."""
    entries: dict[str, str] = {}
    for finding in roots:
        lacking = finding.cause is not None and finding.cause.mend is Mend.ALL_REDUCE_GRADIENT
        if finding.key.phase is not Phase.GRADIENT or not lacking:
            return {}
        entries[generalize(finding.key.name.rpartition(".")[0])] = SUMS_GRADIENT
    return entries


def generalize(name: str) -> str:
    """The pattern of a name in every layer: 'model.layers.*.mlp'."""
    return _LAYER.sub("*", name)


def _order_styles(finding: Finding) -> tuple[str, ...]:
    cause = finding.cause
    first = () if cause is None else _BY_MEND.get(cause.mend, ())
    if not first and cause is not None and cause.kind in _COUNTED_TWICE:
        first = _SUM_LESS
    elif not first:
        first = _SUM_BACKWARD if finding.key.phase in _BACKWARD else _OTHER_PARTS
    return tuple(dict.fromkeys((*first, *_OTHERS)))


def _order_names(finding: Finding, modules: Sequence[str], model: nn.Module) -> list[str]:
    """The modules and parameters of the layer that is wrong, the likeliest first.

    What is wrong with an output stands in its module or before it, what is wrong with a gradient behind it.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    module = _find_module(finding, parameters)
    if finding.key.phase is Phase.LOSS:
        module = modules[-1]
    layer = _find_layer(module)
    names = [one for one in modules if one.startswith(f"{layer}.")] if layer else list(modules)
    if module not in names:
        return []
    here = names.index(module)
    before, after = names[:here][::-1], names[here + 1 :]
    if finding.key.phase in _BACKWARD:
        ordered = [module, *after, *before]
    elif finding.key.phase is Phase.GRADIENT:
        ordered = [module, *_alternate(before, after)]
    else:  # an input that is no module's output is made by the modules around
        around = [one for one in names if module.startswith(f"{one}.")] if finding.key.phase is Phase.INPUT else []
        ordered = list(dict.fromkeys((module, *around, *before, *after)))
    return [two for one in ordered for two in (one, *_list_stacked(one, model))]


def _find_module(finding: Finding, parameters: Container[str]) -> str:
    """The module that holds the parameter, or whose tensor it is."""
    name = _PART.sub("", finding.key.name)
    return name.rpartition(".")[0] if name in parameters else name


def _leave_unsplit(finding: Finding, model: nn.Module, plan: Mapping[str, str]) -> dict[str, str]:
    """Entries that take the split from the block in which a module stands: the next around it that is split."""
    block = _find_module(finding, dict(model.named_parameters(remove_duplicate=False)))
    if block in plan:
        block = block.rpartition(".")[0]
    while block and not _LAYER.fullmatch(block.rpartition(".")[2]):
        inside = [name for name, style in plan.items() if style != "replicate" and f"{name}.".startswith(f"{block}.")]
        if inside:  # a linear module and its weight have one style, and need one entry
            whole = [name for name in inside if plan.get(name.rpartition(".")[0]) != plan[name]]
            return {generalize(name): "replicate" for name in whole}
        block = block.rpartition(".")[0]
    return {}


def _list_stacked(module: str, model: nn.Module) -> list[str]:
    """The parameters of a module that a plan names by themselves: those of all experts in one."""
    own = model.get_submodule(module).named_parameters(recurse=False)
    return [f"{module}.{name}" for name, parameter in own if parameter.ndim == _STACKED]


def _alternate(first: Sequence[str], second: Sequence[str]) -> list[str]:
    longest = max(len(first), len(second))
    return [names[index] for index in range(longest) for names in (first, second) if index < len(names)]


def _find_layer(module: str) -> str:
    """The innermost numbered module around a module: 'model.layers.3'; empty without one."""
    numbers = list(_LAYER.finditer(module))
    return module[: numbers[-1].end()] if numbers else ""


def _fits(style: str, place: object, model: nn.Module) -> bool:
    """Whether transformers can apply a style there at all."""
    import torch

    if isinstance(place, torch.nn.Parameter):
        return style in ("colwise", "rowwise", "packed_colwise", "packed_rowwise", "replicate")
    if style == "mla_kv_a_proj":
        return hasattr(model.config.get_text_config(), "qk_rope_head_dim") and hasattr(place, "out_features")  # type: ignore[operator, union-attr]
    if style.startswith(("colwise", "rowwise", "packed")):
        return hasattr(place, "out_features") and hasattr(place, "in_features")
    if style.startswith("embedding"):
        return isinstance(place, torch.nn.Embedding)
    assert isinstance(place, torch.nn.Module)
    own = list(place.parameters(recurse=False))
    if style in ("moe_tp_experts", "local_params"):
        return any(one.ndim == _STACKED for one in own)
    return style != SUMS_GRADIENT or bool(own)

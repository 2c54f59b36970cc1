"""Words of a reduction: what was made smaller, what carries the proof to full size, and what that leaves out."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from shardproof.tensorfiles import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shardproof.proving.reduction import Reduction

ARGUMENT = (
    "TrainVerify's shape reduction (Lu et al., SOSP'25, doi:10.1145/3731569.3764850): where each element of a result "
    "is one formula of elements that its index names, two programs that agree at sizes that have every role of an "
    "index agree at larger ones. More layers of the same kinds follow one by one: every way in which one follows "
    "another is proved."
)
LEFT_OUT = (
    "routing and the choice of the k best experts, which are orders of numbers and no such formulas",
    "rounding, overflow and kernels at full size",
    "code that depends on an absolute size or on a layer's number",
    "other numbers of ranks, and sizes of which the conditions were not checked",
)


def list_reduction(reduction: Reduction | None) -> Iterator[str]:
    """What a report says of a reduction, a sentence or two each; nothing without one."""
    if reduction is None:
        return
    layers = ", ".join(map(str, reduction.kept))
    yield (
        f"Reduced: {reduction.model} of {reduction.parameters:,} parameters and {reduction.layers} layers to "
        f"{reduction.reduced_parameters:,} parameters and layers {layers}. Proved is the step at these sizes."
    )
    sizes = ", ".join(f"{printable(one.name)} {one.full} to {one.reduced}" for one in reduction.sizes)
    yield f"  Sizes: {sizes or 'none is smaller'}."
    for condition in reduction.conditions:
        yield f"  Condition {condition.name}: {printable(condition.meaning)}. Checked: {printable(condition.checked)}."
    yield f"  To full size carries {ARGUMENT}"
    yield f"  That is an argument and no run. It leaves out {'; '.join(LEFT_OUT)}."


def reduction_fields(reduction: Reduction | None) -> dict[str, object] | None:
    """A reduction in a certificate."""
    if reduction is None:
        return None
    return asdict(reduction) | {"argument": ARGUMENT, "left_out": list(LEFT_OUT)}

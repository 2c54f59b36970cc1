"""Random draws inside exact arithmetic: refused, or drawn by PyTorch and taken as real constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from shardproof.exact.engine.reals import float64_by_default
from shardproof.exact.engine.tags import REAL
from shardproof.exact.engine.tensor_trees import floats_in, tensors_in
from shardproof.exact.engine.variants import written_arguments

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.writing import Writing

_aten: Final = torch.ops.aten
# Only the shape, device and dtype of their operand count.
_LIKE: Final = frozenset(
    getattr(packet, overload)
    for packet in (_aten.rand_like, _aten.randn_like, _aten.randint_like)
    for overload in packet.overloads()
)


def draw(run: Run, writing: Writing, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The op's result; integers (the order of data, token ids) may always be drawn, floating numbers if the run allows.

    Raises:
        RandomDrawError: the run refuses draws of floating numbers.
        UnsupportedOpError: the draw depends on residues.
    """
    targets = written_arguments(op, args, kwargs)
    if not targets and run.random != "draw" and _gives_floats(op, args, kwargs):
        run.refuse_draw(op)
    if run.random != "draw" and floats_in(targets):
        run.refuse_draw(op)
    given = [x for x in floats_in((args, kwargs)) if op not in _LIKE and not any(x is target for target in targets)]
    if any(not run.tag(x).real for x in given):
        run.refuse_op(op, "draws by residues, which has no exact rule")
    with float64_by_default():
        if floats_in(targets):
            drawn = torch.empty_like(targets[0])
            op(drawn, *args[1:], **kwargs)
            run.tags.set(drawn, REAL)
            writing.store(targets[0], drawn)
            return targets[0]
        result = op(*args, **kwargs)
    for x in tensors_in(result):
        run.tags.set(x, REAL)
    return result


def _gives_floats(op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a draw that makes its result makes it of floating numbers."""
    dtype = kwargs.get("dtype")
    if dtype is not None:
        return bool(dtype.is_floating_point)
    if op._schema.name in {"aten::randint", "aten::randperm"}:
        return False
    if op._schema.name == "aten::randint_like":
        return bool(floats_in(args))
    return True

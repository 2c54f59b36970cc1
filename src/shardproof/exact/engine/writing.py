"""Writing into the program's own tensors: in-place and `out=` forms, and what the storage then holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra.blocks import is_large
from shardproof.exact.engine.tags import REAL, Tag
from shardproof.exact.engine.tensor_trees import covers_storage, tensors_in, view_like, whole_storage
from shardproof.exact.engine.variants import written_arguments
from shardproof.exact.rules.registry import RULES

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.log_tensors import LogStore
    from shardproof.exact.engine.piece_tensors import PieceStore
    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.void_elements import VoidElements

_aten: Final = torch.ops.aten
# Of these in place autograd saves the result, which has to know of what it is a function. What else is written into
# memory of the program forgets its pieces: whether they can be kept depends on how that memory is laid out.
RESULT_SAVED: Final = frozenset(
    getattr(_aten, f"{name}_").default
    for name in ("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "hardtanh", "threshold")
)


@dataclass(slots=True, kw_only=True)
class Writing:
    """Stores results."""

    run: Run
    constants: Constants
    void: VoidElements
    pieces: PieceStore
    logs: LogStore

    def store_all(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
        """Write the results of an op's functional form into the arguments that it writes into; what it then returns."""
        targets = written_arguments(op, args, kwargs)
        into_out = any(argument.is_out for argument in op._schema.arguments)
        for target, value in zip(targets, tensors_in(result), strict=True):
            if into_out and target.shape != value.shape:
                self.resize(target, value.shape)
            self.store(target, value)
            if op in RESULT_SAVED or value.dtype == target.dtype == torch.bool:
                self.pieces.keep(target, self.pieces.of(value))
        returned = len(op._schema.returns)  # `_foreach_` forms return nothing
        return None if returned == 0 else targets[0] if returned == 1 else tuple(targets)

    def overwrites(self, op: OpOverload, functional: OpOverload, args: tuple[Any, ...]) -> bool:
        """Whether an in-place op's result may go straight into its target, block by block.

        So where the op is an elementwise formula, the target holds residues, and these are all that its storage holds.
        """
        rule, target = RULES.get(functional), args[0]
        if rule is None or not rule.elementwise:
            return False
        if not op._schema.arguments[0].is_write or target.dtype != torch.float64 or not covers_storage(target):
            return False
        tag = self.run.tag(target)
        tags = [self.run.tag(x) for x in tensors_in(args)]
        if any(tag.void or tag.pieces is not None or tag.logs is not None for tag in tags):
            return False
        return is_large(target.numel(), target.device) and not tag.real and not tag.symbols

    def store(self, target: Tensor, value: Tensor) -> None:
        """Write a result into a tensor of the program, and say what its storage now holds."""
        if target.is_complex():
            self._store_complex(target, value)
            return
        new = self.run.tag(value)
        if not target.numel():
            return
        if not target.is_floating_point():
            known = self.constants.value_of(value) if value.is_floating_point() else value
            if known is None:
                self.run.leave(f"a cast to {str(target.dtype).removeprefix('torch.')}")
            target.copy_(value if known is None else known)
            self._join(target, replace(new.bare, real=True, symbols=False))
            return
        if not value.is_floating_point():
            value = self._floating(value, new)
            new = self.run.tag(value)
        old, numbers = self.run.tag(target), self.constants.constant_of(value)
        whole, logs = covers_storage(target), self.logs.of(value)
        if not whole and new.real and not old.real:
            symbols = self.constants.symbols_in(value)
            value, new = self.constants.residues_of(value), replace(self.run.tag(value), real=False, symbols=symbols)
        if not whole and old.real and not new.real:
            old = self.constants.lift_in_place(target)
        target.copy_(value)
        new = new.bare  # laid out as the value, not as the target
        tag = new if whole else old | new
        if numbers is not None and not tag.real and (whole or old.value is not None):
            tag = replace(tag, value=self._numbers_after(target, numbers, old))
        self.run.set(target, tag)
        self.logs.write(target, value, old, logs)

    def _store_complex(self, target: Tensor, value: Tensor) -> None:
        """Both parts, where the target has them."""
        if target.is_conj():
            self.run.refuse_op(torch.ops.aten.copy_.default, "writes into a conjugate")
        parts = torch.view_as_real(target)
        if value.is_complex():
            self.store(parts, torch.view_as_real(value.resolve_conj()))
            return
        zero = torch.zeros((), dtype=torch.float64, device=target.device)
        self.run.set(zero, REAL)
        self.store(parts[..., 0], value)
        self.store(parts[..., 1], zero)

    def _floating(self, value: Tensor, tag: Tag) -> Tensor:
        """Integers or booleans as the numbers that they are."""
        found = value.to(torch.float64)
        self.run.set(found, REAL if tag is REAL else Tag(real=True, degree=tag.degree))
        mask = self.void.of(value)
        if mask is not None:
            self.void.mark(found, mask)
        return found

    def _numbers_after(self, target: Tensor, numbers: Tensor, old: Tag) -> Tensor:
        """The real numbers that the target's storage stands for after these have been written, laid out as it is."""
        found = torch.empty_like(whole_storage(target)) if old.value is None else old.value.clone()
        view_like(found, target).copy_(numbers)
        return found

    def resize(self, tensor: Tensor, shape: torch.Size | list[int], **options: Any) -> Tensor:
        """Resize in place; memory that is new holds NaN, which is refused where it is used."""
        elements = tensor.untyped_storage().nbytes() // tensor.element_size()
        tensor.resize_(shape, **options)
        storage = tensor.untyped_storage()
        if (tensor.is_floating_point() or tensor.is_complex()) and storage.nbytes() // tensor.element_size() > elements:
            whole_storage(tensor)[elements * (2 if tensor.is_complex() else 1) :] = float("nan")
            self.run.tags.set(tensor, self.run.tag(tensor).bare)
        return tensor

    def _join(self, target: Tensor, new: Tag) -> None:
        """Of integers and booleans: those that were there before stay in part."""
        self.run.tags.set(target, new if covers_storage(target) else self.run.tag(target) | new)

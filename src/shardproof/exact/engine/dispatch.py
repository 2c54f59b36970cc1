"""What happens to one ATen op: who carries it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from shardproof.exact import rules
from shardproof.exact.engine.applying import Applying
from shardproof.exact.engine.collectives import Collectives, composing_kernel
from shardproof.exact.engine.draws import draw
from shardproof.exact.engine.entry import refuse_unusable
from shardproof.exact.engine.escapes import READS_NUMBER
from shardproof.exact.engine.reals import Reals, one_lowest
from shardproof.exact.engine.tags import REAL
from shardproof.exact.engine.tensor_trees import PLAIN, floats_in, in_float64, map_tensors, tensors_in
from shardproof.exact.engine.variants import (
    functional_of,
    own_decomposition,
    split_foreach,
    without_out,
    written_arguments,
)
from shardproof.exact.engine.writing import Writing
from shardproof.exact.rules.creation import FACTORIES
from shardproof.exact.rules.registry import RULES

if TYPE_CHECKING:
    from torch._ops import OpOverload
    from torch.utils._python_dispatch import TorchDispatchMode

    from shardproof.exact.engine.entry import Entry
    from shardproof.exact.engine.run import Run, Selection

assert rules  # imported for the table it fills

_aten: Final = torch.ops.aten
_DROPOUT: Final = _aten.native_dropout.default
_RESIZE: Final = frozenset({_aten.resize_.default, _aten.resize_as_.default})
# What `torch.tensor(...)` makes of numbers.
_WRITTEN_DOWN: Final = _aten.lift_fresh.default
_OVERWRITES: Final = frozenset({_aten.copy_.default, _aten.fill_.Scalar, _aten.fill_.Tensor, _aten.zero_.default})
# The same bits as another dtype: no number survives that.
_REINTERPRETS: Final = _aten.view.dtype
# A collective is complete when its result is seen, so there is nothing to wait for.
_WAIT: Final = torch.ops._c10d_functional.wait_tensor.default
_OBSERVERS: Final = frozenset({"profiler"})
_ASSERTS: Final = frozenset({_aten._assert_async.default, _aten._assert_async.msg})


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Carries out ops one by one; runs with the modes off."""

    run: Run
    entry: Entry
    reals: Reals = field(init=False)
    writing: Writing = field(init=False)
    applying: Applying = field(init=False)
    collectives: Collectives = field(init=False)
    _taken_apart: list[OpOverload] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reals = Reals(run=self.run)
        self.writing = Writing(run=self.run, reals=self.reals)
        self.applying = Applying(run=self.run, reals=self.reals)
        self.collectives = Collectives(run=self.run, reals=self.reals, writing=self.writing, entry=self.entry)

    # One op ----------------------------------------------------------------------------------------------------------

    def carry_out(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], *, reenter: TorchDispatchMode
    ) -> Any:
        """The op's result on residues.

        Args:
            op: an ATen or other overload.
            args: its positional arguments.
            kwargs: its keyword arguments.
            reenter: the mode, to be entered again around PyTorch's own decompositions.
        """
        self.run.ops += 1
        inputs = tensors_in((args, kwargs))
        if any(x.is_meta for x in inputs) or _asks_for_meta(kwargs):
            return self._on_meta(op, args, kwargs)
        for x in inputs:
            if x.is_quantized or x.layout != torch.strided:
                refuse_unusable(x)
        floating = [x for x in inputs if x.is_floating_point() or x.is_complex()]
        if op is _REINTERPRETS and (floating or args[1].is_floating_point):
            self.run.leave("a view of the same bits as another dtype")
        args, kwargs = in_float64(args), in_float64(kwargs)
        if op.namespace != "aten":
            if op.namespace == "c10d":
                return self.collectives.carry_out(op, args, kwargs)
            if op is _WAIT or op.namespace in _OBSERVERS:
                return op(*args, **kwargs)
            kernel = composing_kernel(op)
            if kernel is not None:
                with reenter:
                    return kernel(*args, **kwargs)
        for x in inputs:
            self._keep(op, x, args, kwargs)
        if floating and any(self.run.tags.get(x) is None for x in floating):
            written_down = op is _WRITTEN_DOWN
            new = [x for x in floating if self.run.tags.get(x) is None]
            converted = {id(x): self.entry.read(x, real=written_down) for x in new}
            args, kwargs = map_tensors(lambda x: converted.get(id(x), x), (args, kwargs))
            floating = floats_in((args, kwargs))
        if torch.Tag.nondeterministic_seeded in op.tags and op is not _DROPOUT and op not in RULES:
            return draw(self.run, self.writing, op, args, kwargs)
        if op._schema.name.removeprefix("aten::") in READS_NUMBER or op in _ASSERTS:
            return self._read_number(op, args, kwargs)
        if op in FACTORIES or not floating:
            return self.reals.make(op, _one_lowest(args), _one_lowest(kwargs))
        if torch.Tag.inplace_view in op.tags:
            return self._change_view(op, args, kwargs)
        if all(self.run.tag(x).real for x in floating) and self.reals.may_compute(op, floating):
            return self.reals.compute(op, _one_lowest(args), _one_lowest(kwargs))
        return self._on_residues(op, args, kwargs, reenter)

    def _on_residues(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], reenter: TorchDispatchMode
    ) -> Any:
        _refuse_residue_indices(self.run, op, args, kwargs)
        rule = RULES.get(op)
        if rule is not None:
            return self.applying.apply(op, rule, _one_lowest(args), _one_lowest(kwargs))
        if op in _OVERWRITES:
            self.writing.store(args[0], self._overwriting(args))
            return args[0]
        for argument, value in zip(op._schema.arguments, args, strict=False):
            if argument.name == "scalars" and isinstance(value, Tensor):
                self.refuse_reading(value, f"a tensor of scalars ({op})")
        calls = split_foreach(op, args, kwargs)
        if calls is not None:
            with reenter:
                results = [call.packet(*call.args, **call.kwargs) for call in calls]
            return results if op._schema.returns else None
        functional = functional_of(op)
        if functional is not None:
            if self.writing.overwrites(op, functional, args):
                self.applying.apply(functional, RULES[functional], _one_lowest(args), _one_lowest(kwargs), into=args[0])
                return args[0]
            result = self.carry_out(functional, args, without_out(op, kwargs), reenter=reenter)
            return self.writing.store_all(op, args, kwargs, result)
        decomposition = decomposition_table.get(op) or own_decomposition(op)
        if decomposition is None or op in self._taken_apart:
            self.run.refuse_op(op)
        self._taken_apart.append(op)  # some of PyTorch's decompositions lead back to where they came from
        try:
            with reenter:
                return decomposition(*args, **kwargs)
        finally:
            self._taken_apart.pop()

    # Ops of their own ------------------------------------------------------------------------------------------------

    def _overwriting(self, args: tuple[Any, ...]) -> Tensor:
        """What `copy_`, `fill_` or `zero_` writes, whatever the target held (it may be memory never written)."""
        value = args[1] if len(args) > 1 else 0.0
        if isinstance(value, Tensor):
            return value
        number = torch.full((), one_lowest(float(value)), dtype=torch.float64, device=args[0].device)
        self.run.set(number, REAL)
        return number

    def _on_meta(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Tensors without memory pass untouched; what comes out of one with memory was never written."""
        result = op(*args, **kwargs)
        if all(x.is_meta for x in tensors_in(result)):
            return result
        return self.reals.make(op, in_float64(args), in_float64(kwargs))

    def _change_view(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Ops that change what part of which storage a tensor shows."""
        if op in _RESIZE:
            shape = args[1].shape if isinstance(args[1], Tensor) else args[1]
            return self.writing.resize(args[0], shape, **kwargs)
        return op(*args, **kwargs)

    def _read_number(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The op's result, a Python number or bool, unless that comes of residues."""
        for x in tensors_in((args, kwargs)):
            self.refuse_reading(x, op._schema.name.removeprefix("aten::"))
        return op(*args, **kwargs)

    def _keep(self, op: OpOverload, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what a tensor of integers from outside holds before it is first written."""
        if x.is_floating_point() or self.run.tags.get(x) is not None:
            return
        if any(x is target for target in written_arguments(op, args, kwargs)):
            self.entry.keep(x)

    # For the mode ----------------------------------------------------------------------------------------------------

    @property
    def selections(self) -> list[Selection]:
        """The ops that chose by order, where the run records them."""
        return self.run.selections

    def is_known(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage has a tag; a wrapper subclass is asked by its inner tensors."""
        return type(tensor) in PLAIN and tensor.layout == torch.strided and self.run.tags.get(tensor) is not None

    def residues_of(self, tensor: Tensor) -> Tensor:
        """The residues of a tensor, whether it has been seen before or not."""
        if self.run.tags.get(tensor) is None:
            tensor = self.entry.read(tensor)
        return self.reals.residues_of(tensor)

    def refuse_reading(self, tensor: Tensor, what: str) -> None:
        """Refuse `numpy()` and the like on residues and on booleans from comparing them, unless leaving is allowed."""
        tag = self.run.tags.get(tensor)
        if tag is None:
            return
        if tag.compared or not tag.real:
            self.run.leave(f"{what} of a comparison of residues" if tag.compared else what)
        self.run.escaped = self.run.escaped.chosen_by(tag.degree)


def _one_lowest(values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(one_lowest(value) for value in values)
    return {name: one_lowest(value) for name, value in values.items()} if values else values


def _asks_for_meta(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "meta"


def _refuse_residue_indices(run: Run, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a residue where an op wants indices."""
    for argument, value in zip(op._schema.arguments, args, strict=False):
        if argument.name in {"index", "indices"} and floats_in(value):
            run.leave(f"indexing with it ({op})")
    for name, value in kwargs.items():
        if name in {"index", "indices"} and floats_in(value):
            run.leave(f"indexing with it ({op})")

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
from shardproof.exact.engine.complex_tensors import ComplexTensors
from shardproof.exact.engine.constants import Constants
from shardproof.exact.engine.draws import draw
from shardproof.exact.engine.entry import inner_tensors, refuse_unusable
from shardproof.exact.engine.escapes import READS_NUMBER, READS_ONE
from shardproof.exact.engine.gates import Gates
from shardproof.exact.engine.log_tensors import LogStore
from shardproof.exact.engine.piece_tensors import PieceStore
from shardproof.exact.engine.reals import Reals, one_lowest
from shardproof.exact.engine.short_way import ShortWay
from shardproof.exact.engine.tags import REAL
from shardproof.exact.engine.tensor_trees import PLAIN, floats_in, in_float64, map_tensors, tensors_in
from shardproof.exact.engine.two_way_choices import TwoWayChoices
from shardproof.exact.engine.variants import (
    functional_of,
    own_decomposition,
    split_foreach,
    without_out,
    written_arguments,
)
from shardproof.exact.engine.void_elements import VoidElements
from shardproof.exact.engine.writing import Writing
from shardproof.exact.rules.creation import FACTORIES
from shardproof.exact.rules.optimizers import WRITTEN_OUT
from shardproof.exact.rules.registry import RULES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload
    from torch.utils._python_dispatch import TorchDispatchMode

    from shardproof.exact.engine.entry import Entry
    from shardproof.exact.engine.run import Run

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
class Call:
    """One op with its arguments, as the handlers pass it on.

    Attributes:
        op: an ATen or other overload.
        args: its positional arguments.
        kwargs: its keyword arguments.
        reenter: the mode, to be entered again around PyTorch's own decompositions.
        tensors: the tensors among the arguments.
        floats: the floating and complex ones among them.
    """

    op: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    reenter: TorchDispatchMode
    tensors: list[Tensor] = field(init=False)
    floats: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.replace(self.args, self.kwargs)

    def replace(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Other arguments from here on."""
        self.args, self.kwargs = args, kwargs
        self.tensors = tensors_in((args, kwargs))
        self.floats = [x for x in self.tensors if x.is_floating_point() or x.is_complex()]


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Carries out ops one by one; runs with the modes off."""

    run: Run
    entry: Entry
    constants: Constants = field(init=False)
    pieces: PieceStore = field(init=False)
    logs: LogStore = field(init=False)
    gates: Gates = field(init=False)
    reals: Reals = field(init=False)
    void: VoidElements = field(init=False)
    writing: Writing = field(init=False)
    applying: Applying = field(init=False)
    short_way: ShortWay = field(init=False)
    collectives: Collectives = field(init=False)
    complex_tensors: ComplexTensors = field(init=False)
    _decomposing: list[OpOverload] = field(default_factory=list)

    def __post_init__(self) -> None:
        constants = self.constants = Constants(run=self.run)
        pieces = self.pieces = PieceStore(run=self.run)
        logs = self.logs = LogStore(run=self.run)
        void = self.void = VoidElements(run=self.run, constants=constants, pieces=pieces, logs=logs)
        self.reals = Reals(run=self.run, void=void)
        self.writing = Writing(run=self.run, constants=constants, void=void, pieces=pieces, logs=logs)
        self.applying = Applying(
            run=self.run,
            constants=constants,
            reals=self.reals,
            void=void,
            pieces=pieces,
            logs=logs,
            choices=TwoWayChoices(run=self.run, constants=constants),
        )
        self.short_way = ShortWay(applying=self.applying)
        self.gates = Gates(run=self.run, constants=constants, pieces=pieces, applying=self.applying, reals=self.reals)
        self.complex_tensors = ComplexTensors(run=self.run, constants=constants)
        self.collectives = Collectives(
            run=self.run, constants=constants, writing=self.writing, logs=logs, entry=self.entry
        )

    # One op ----------------------------------------------------------------------------------------------------------

    def carry_out(
        self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], *, reenter: TorchDispatchMode
    ) -> Any:
        """The op's result on residues, by the short way or the first handler of `HANDLERS` that accepts the call.

        Args:
            op: an ATen or other overload.
            args: its positional arguments.
            kwargs: its keyword arguments.
            reenter: the mode, to be entered again around PyTorch's own decompositions.
        """
        self.run.ops += 1
        self.run.op = op
        result = self.short_way.carry_out(op, args, kwargs)
        if result is not NotImplemented:
            return result
        call = Call(op=op, args=args, kwargs=kwargs, reenter=reenter)
        for _, handle in HANDLERS:
            result = handle(self, call)
            if result is not NotImplemented:
                return result
        return self.run.refuse_op(op)

    # Handlers: each gives the op's result, or NotImplemented where it does not accept the call -----------------------

    def _on_meta(self, call: Call) -> Any:
        """Tensors without memory pass untouched; what comes out of one with memory was never written."""
        if not any(x.is_meta for x in call.tensors) and not _asks_for_meta(call.kwargs):
            return NotImplemented
        result = call.op(*call.args, **call.kwargs)
        if all(x.is_meta for x in tensors_in(result)):
            return result
        return self.reals.make(call.op, in_float64(call.args), in_float64(call.kwargs))

    def _prepare(self, call: Call) -> Any:
        """Refuse layouts and dtypes that hold no residues; ask for float64 where the program asks for another."""
        for x in call.tensors:
            if x.is_quantized or x.layout != torch.strided:
                refuse_unusable(x)
        if call.op is _REINTERPRETS and (call.floats or call.args[1].is_floating_point):
            self.run.leave("a view of the same bits as another dtype")
        call.args, call.kwargs = in_float64(call.args), in_float64(call.kwargs)
        return NotImplemented

    def _collective(self, call: Call) -> Any:
        """Collectives of real process groups."""
        if call.op.namespace != "c10d":
            return NotImplemented
        return self.collectives.carry_out(call.op, call.args, call.kwargs)

    def _observer(self, call: Call) -> Any:
        """Ops that compute nothing: a collective is complete when its result is seen; a profiler only looks."""
        if call.op is not _WAIT and call.op.namespace not in _OBSERVERS:
            return NotImplemented
        return call.op(*call.args, **call.kwargs)

    def _composite(self, call: Call) -> Any:
        """Ops of other namespaces that consist of ops of this table."""
        kernel = None if call.op.namespace == "aten" else composing_kernel(call.op)
        if kernel is None:
            return NotImplemented
        with call.reenter:
            return kernel(*call.args, **call.kwargs)

    def _admit(self, call: Call) -> Any:
        """Convert floating tensors from outside; keep what integers from outside hold before they are written."""
        unseen = [x for x in call.tensors if self.run.tags.get(x) is None]
        if unseen:
            for x in written_arguments(call.op, call.args, call.kwargs):
                if not x.is_floating_point() and self.run.tags.get(x) is None:
                    self.entry.keep(x)
        converted = {
            id(x): self.entry.read(x, real=call.op is _WRITTEN_DOWN)
            for x in unseen
            if x.is_floating_point() or x.is_complex()
        }
        if converted:
            call.replace(*map_tensors(lambda x: converted.get(id(x), x), (call.args, call.kwargs)))
        return NotImplemented

    def _draw(self, call: Call) -> Any:
        """Random numbers."""
        if torch.Tag.nondeterministic_seeded not in call.op.tags or call.op is _DROPOUT or call.op in RULES:
            return NotImplemented
        return draw(self.run, self.writing, call.op, call.args, call.kwargs)

    def _read_number(self, call: Call) -> Any:
        """Ops that give a Python number or bool, unless that comes of residues."""
        name = call.op._schema.name.removeprefix("aten::")
        if name not in READS_NUMBER and call.op not in _ASSERTS:
            return NotImplemented
        known = {id(x): value for x in call.floats if (value := self.constants.value_of(x)) is not None}
        for x in call.tensors:
            if id(x) not in known or self.run.tag(x).real or self.void.of(x) is not None:
                self.refuse_reading(x, name, number=name in READS_ONE)
        args, kwargs = map_tensors(lambda x: known.get(id(x), x), (call.args, call.kwargs))
        return call.op(*args, **kwargs)

    def _gate(self, call: Call) -> Any:
        """Truth values of comparing residues with constants, where they stand for numbers."""
        if not any(x.dtype == torch.bool and self.run.tag(x).pieces is not None for x in call.tensors):
            return NotImplemented
        if call.op is _aten.copy_.default or functional_of(call.op) is None:
            result = self.gates.carry_out(call.op, call.args, call.kwargs)
            if result is NotImplemented:
                call.replace(*self.gates.as_numbers(call.op, call.args, call.kwargs))
            return result
        return self._write_result(call)

    def _make_reals(self, call: Call) -> Any:
        """Factories, and ops on integers and booleans alone."""
        if call.op not in FACTORIES and call.floats:
            return NotImplemented
        return self.reals.make(call.op, _one_lowest(call.args), _one_lowest(call.kwargs))

    def _change_view(self, call: Call) -> Any:
        """Ops that change what part of which storage a tensor shows."""
        if torch.Tag.inplace_view not in call.op.tags:
            return NotImplemented
        if call.op in _RESIZE:
            target, like = call.args[:2]
            return self.writing.resize(target, like.shape if isinstance(like, Tensor) else like, **call.kwargs)
        return call.op(*call.args, **call.kwargs)

    def _compute_reals(self, call: Call) -> Any:
        """Ops on real constants alone."""
        if not all(self.run.tag(x).real for x in call.floats):
            return NotImplemented
        if not self.reals.may_compute(call.op, call.args, call.kwargs):
            return NotImplemented
        return self.reals.compute(call.op, _one_lowest(call.args), _one_lowest(call.kwargs))

    def _complex(self, call: Call) -> Any:
        """Complex numbers."""
        return self.complex_tensors.carry_out(
            call.op, _one_lowest(call.args), _one_lowest(call.kwargs), reenter=call.reenter
        )

    def _refuse_residue_indices(self, call: Call) -> Any:
        """Refuse residues where an op wants indices, or Python numbers."""
        names = [argument.name for argument in call.op._schema.arguments]
        for name, value in (*zip(names, call.args, strict=False), *call.kwargs.items()):
            if name in {"index", "indices"} and floats_in(value):
                self.run.leave(f"indexing with it ({call.op})")
            if name == "scalars" and isinstance(value, Tensor) and call.op not in RULES:
                self.refuse_reading(value, f"a tensor of scalars ({call.op})")
        return NotImplemented

    def _write_out(self, call: Call) -> Any:
        """Fused optimizers, which write into many tensors at once."""
        written_out = WRITTEN_OUT.get(call.op)
        if written_out is None:
            return NotImplemented
        with call.reenter:
            return written_out(*call.args, **call.kwargs)

    def _apply_rule(self, call: Call) -> Any:
        """Ops that have a rule."""
        rule = RULES.get(call.op)
        if rule is None:
            return NotImplemented
        return self.applying.apply(call.op, rule, _one_lowest(call.args), _one_lowest(call.kwargs))

    def _overwrite(self, call: Call) -> Any:
        """`copy_`, `fill_` and `zero_`, whatever the target held (it may be memory never written)."""
        if call.op not in _OVERWRITES:
            return NotImplemented
        target, value = call.args[0], call.args[1] if len(call.args) > 1 else 0.0
        if not isinstance(value, Tensor):
            value = torch.full((), one_lowest(float(value)), dtype=torch.float64, device=target.device)
            self.run.set(value, REAL)
        self.writing.store(target, value)
        return target

    def _split_foreach(self, call: Call) -> Any:
        """`_foreach_` forms, element by element."""
        calls = split_foreach(call.op, call.args, call.kwargs)
        if calls is None:
            return NotImplemented
        with call.reenter:
            results = [each.packet(*each.args, **each.kwargs) for each in calls]
        return results if call.op._schema.returns else None

    def _write_result(self, call: Call) -> Any:
        """In-place and `out=` forms of an op that has a functional form."""
        op, args = call.op, call.args
        functional = functional_of(op)
        if functional is None:
            return NotImplemented
        if self.writing.overwrites(op, functional, args):
            rule = RULES[functional]
            self.applying.apply(functional, rule, _one_lowest(args), _one_lowest(call.kwargs), into=args[0])
            return args[0]
        result = self.carry_out(functional, args, without_out(op, call.kwargs), reenter=call.reenter)
        return self.writing.store_all(op, args, call.kwargs, result)

    def _decompose(self, call: Call) -> Any:
        """Ops that PyTorch says consist of others; some of its decompositions lead back to where they came from."""
        decomposition = decomposition_table.get(call.op) or own_decomposition(call.op)
        if decomposition is None or call.op in self._decomposing:
            return NotImplemented
        self._decomposing.append(call.op)
        try:
            with call.reenter:
                return decomposition(*call.args, **call.kwargs)
        finally:
            self._decomposing.pop()

    # For the mode ----------------------------------------------------------------------------------------------------

    def is_known(self, tensor: Tensor) -> bool:
        """Whether the tensor's storage has a tag; a wrapper subclass is asked by its inner tensors."""
        if type(tensor) in PLAIN:
            return tensor.layout == torch.strided and self.run.tags.get(tensor) is not None
        return all(inner.is_meta or self.run.tags.get(inner) is not None for inner in inner_tensors(tensor))

    def residues_of(self, tensor: Tensor) -> Tensor:
        """The residues of a tensor, whether it has been seen before or not."""
        if self.run.tags.get(tensor) is None:
            tensor = self.entry.read(tensor)
        return self.constants.residues_of(torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor)

    def refuse_reading(self, tensor: Tensor, what: str, *, number: bool = False) -> None:
        """Refuse `numpy()` and the like on residues and on booleans from comparing them, unless leaving is allowed.

        Args:
            tensor: what is read.
            what: reads it.
            number: it reads one number, which may be followed.
        """
        tag = self.run.tags.get(tensor)
        if tag is None:
            return
        if tag.compared or not tag.real:
            followed = number and tensor.dtype != torch.bool  # a truth value of many numbers is no comparison of two
            self.run.leave(f"{what} of a comparison of residues" if tag.compared else what, number=followed)
        if self.void.of(tensor) is not None:
            self.run.escaped_void = True
        self.run.escaped = self.run.escaped.chosen_by(tag.degree)


def _one_lowest(values: Any) -> Any:
    if isinstance(values, tuple):
        return tuple(one_lowest(value) for value in values)
    return {name: one_lowest(value) for name, value in values.items()} if values else values


def _asks_for_meta(kwargs: dict[str, Any]) -> bool:
    device = kwargs.get("device")
    return device is not None and torch.device(device).type == "meta"


# What may happen to a call, in the order in which it is tried. `prepare`, `admit` and `refuse residue indices` accept
# none: they make the call ready for the handlers below them.
HANDLERS: Final[tuple[tuple[str, Callable[[Dispatcher, Call], Any]], ...]] = (
    ("tensors without memory", Dispatcher._on_meta),
    ("prepare", Dispatcher._prepare),
    ("collectives", Dispatcher._collective),
    ("observers", Dispatcher._observer),
    ("composites of other namespaces", Dispatcher._composite),
    ("admit", Dispatcher._admit),
    ("random draws", Dispatcher._draw),
    ("reads of a number", Dispatcher._read_number),
    ("gates", Dispatcher._gate),
    ("factories, and integers alone", Dispatcher._make_reals),
    ("changes of a view", Dispatcher._change_view),
    ("real constants alone", Dispatcher._compute_reals),
    ("complex numbers", Dispatcher._complex),
    ("refuse residue indices", Dispatcher._refuse_residue_indices),
    ("fused optimizers", Dispatcher._write_out),
    ("ops that have a rule", Dispatcher._apply_rule),
    ("overwriting", Dispatcher._overwrite),
    ("_foreach_ forms", Dispatcher._split_foreach),
    ("in-place and out= forms", Dispatcher._write_result),
    ("decompositions", Dispatcher._decompose),
)

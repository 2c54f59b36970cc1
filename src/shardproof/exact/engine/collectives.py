"""Collectives of torch.distributed on residues, in real processes. Simulated ranks add and copy by ordinary ops.

A sum over ranks is exact while N * p < 2**53, and is reduced before PyTorch sees it, so that asynchronous collectives
are waited for at once. An average is the sum times the inverse of N. MAX and MIN use the keyed order, as a maximum
along a dim does; constants that every rank knows use their real values. Before each collective the ranks agree on what
they hold, by a reduction of some numbers: a rank has to know whether another one's elements are real, known or void.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from shardproof.exact.algebra import degree_vector
from shardproof.exact.algebra.field import EXACT_LIMIT
from shardproof.exact.algebra.residue import Residue
from shardproof.exact.engine.c10d import boxed, distributed, kind_of, new_like, options
from shardproof.exact.engine.log_collectives import LogCollectives
from shardproof.exact.engine.tags import REAL, Tag, union
from shardproof.exact.engine.tensor_trees import floats_in, tensors_in
from shardproof.exact.rules.log_terms import as_shift
from shardproof.op_arguments import complete_arguments

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

    from shardproof.exact.algebra.residue import LogTerms
    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.entry import Entry
    from shardproof.exact.engine.log_tensors import LogStore
    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.writing import Writing

    Transmit = Callable[[list[Tensor], list[Tensor], Any], Any]

_NEUTRAL: Final = float("-inf")
# In a maximum over ranks, where void elements are sent: beyond all residues. NaN is not ordered by every backend.
_VOID: Final = 2.0**30


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call of a collective: its process group, and its arguments by their names."""

    op: OpOverload
    group: Any
    given: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Collectives:
    """Carries out the ops of the c10d namespace."""

    run: Run
    constants: Constants
    writing: Writing
    logs: LogStore
    entry: Entry

    def carry_out(self, op: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The op's result; on integers and booleans it is PyTorch's own."""
        name = op._schema.name.removeprefix("c10d::")
        floats = floats_in((args, kwargs))
        if name in _PASS or not floats:
            result = op(*args, **kwargs)
            for x in tensors_in((args, kwargs)):
                if not x.is_floating_point():
                    self.run.tags.set(x, union([self.run.tag(x)]))
            return result
        if name not in _METHODS and name not in _MESSAGES:
            self.run.refuse_op(op, "is a collective that exact arithmetic does not carry out yet")
        if any(x.is_complex() for x in floats):
            self.run.refuse_op(op, "is given complex numbers: send torch.view_as_real of them")
        for x in floats:
            if self.run.tags.get(x) is None:
                self.entry.admit(x)
        given = complete_arguments(op, args, kwargs)
        if name in _MESSAGES:
            from shardproof.exact.engine.messages import Messages

            messages = Messages(run=self.run, constants=self.constants, writing=self.writing)
            return messages.send(given) if name == "send" else messages.receive(given)
        group = distributed().ProcessGroup.unbox(given["process_group"])
        return _METHODS[name](self, _Call(op=op, group=group, given=given))

    # Collectives -----------------------------------------------------------------------------------------------------

    def _all_reduce(self, call: _Call) -> Any:
        def transmit(inputs: list[Tensor], outputs: list[Tensor], reduction: Any) -> Any:
            outputs[0].copy_(inputs[0])
            return call.group.allreduce(outputs, options("AllreduceOptions", reduceOp=reduction))

        work = None
        for x in call.given["tensors"]:
            work = self._reduce(call, [x], [x], kind_of(call.given["reduce_op"]), transmit)
        return (call.given["tensors"], work) if len(call.op._schema.returns) == 2 else work

    def _reduce_to_root(self, call: _Call) -> Any:
        root = call.given["root_rank"]

        def transmit(inputs: list[Tensor], outputs: list[Tensor], reduction: Any) -> Any:
            outputs[0].copy_(inputs[0])
            return call.group.reduce(outputs, options("ReduceOptions", reduceOp=reduction, rootRank=root))

        x = call.given["tensors"][0]
        return self._reduce(call, [x], [x], kind_of(call.given["reduce_op"]), transmit, only=root)

    def _reduce_scatter(self, call: _Call) -> Any:
        def transmit(inputs: list[Tensor], outputs: list[Tensor], reduction: Any) -> Any:
            return call.group.reduce_scatter(outputs, [inputs], options("ReduceScatterOptions", reduceOp=reduction))

        outputs, inputs = call.given["output_tensors"], call.given["input_tensors"][0]
        work = self._reduce(call, inputs, outputs, kind_of(call.given["reduce_op"]), transmit)
        return outputs, work

    def _reduce_scatter_tensors(self, call: _Call) -> Any:
        def transmit(inputs: list[Tensor], outputs: list[Tensor], reduction: Any) -> Any:
            chosen = options("ReduceScatterOptions", reduceOp=reduction)
            return call.group._reduce_scatter_base(outputs[0], inputs[0], chosen)

        several = "outputs" in call.given
        outputs = call.given["outputs"] if several else [call.given["output_tensor"]]
        inputs = call.given["inputs"] if several else [call.given["input_tensor"]]
        work = None
        for output, x in zip(outputs, inputs, strict=True):
            work = self._reduce(call, [x], [output], kind_of(call.given["reduce_op"]), transmit)
        return work if several else (outputs[0], work)

    def _broadcast(self, call: _Call) -> Any:
        root, tensors = call.given["root_rank"], call.given["tensors"]

        def transmit(inputs: list[Tensor], outputs: list[Tensor], _: Any) -> Any:
            if call.group.rank() == root:
                outputs[0].copy_(inputs[0])
            return call.group.broadcast(outputs, options("BroadcastOptions", rootRank=root, rootTensor=0))

        return tensors, self._move(call, tensors, tensors, transmit, source=root)

    def _all_gather(self, call: _Call) -> Any:
        def transmit(inputs: list[Tensor], outputs: list[Tensor], _: Any) -> Any:
            return call.group.allgather([outputs], inputs)

        outputs = call.given["output_tensors"]
        return outputs, self._move(call, call.given["input_tensors"], outputs[0], transmit)

    def _all_gather_tensors(self, call: _Call) -> Any:
        def transmit(inputs: list[Tensor], outputs: list[Tensor], _: Any) -> Any:
            return call.group._allgather_base(outputs[0], inputs[0])

        several = "outputs" in call.given
        outputs = call.given["outputs"] if several else [call.given["output_tensor"]]
        inputs = call.given["inputs"] if several else [call.given["input_tensor"]]
        work = None
        for output, x in zip(outputs, inputs, strict=True):
            work = self._move(call, [x], [output], transmit)
        return work if several else (outputs[0], work)

    def _gather(self, call: _Call) -> Any:
        root = call.given["root_rank"]

        def transmit(inputs: list[Tensor], outputs: list[Tensor], _: Any) -> Any:
            return call.group.gather([outputs] if outputs else [], inputs, options("GatherOptions", rootRank=root))

        outputs = call.given["output_tensors"]
        return self._move(call, call.given["input_tensors"], outputs[0] if outputs else [], transmit)

    def _scatter(self, call: _Call) -> Any:
        root, inputs = call.given["root_rank"], call.given["input_tensors"]

        def transmit(inputs: list[Tensor], outputs: list[Tensor], _: Any) -> Any:
            return call.group.scatter(outputs, [inputs] if inputs else [], options("ScatterOptions", rootRank=root))

        outputs = call.given["output_tensors"]
        return outputs, self._move(call, inputs[0] if inputs else [], outputs, transmit, source=root)

    def _all_to_all(self, call: _Call) -> Any:
        def transmit(inputs: list[Tensor], outputs: list[Tensor], _: Any) -> Any:
            return call.group.alltoall(outputs, inputs)

        outputs = call.given["output_tensors"]
        return outputs, self._move(call, call.given["input_tensors"], outputs, transmit)

    def _all_to_all_tensor(self, call: _Call) -> Any:
        def transmit(inputs: list[Tensor], outputs: list[Tensor], _: Any) -> Any:
            splits = call.given["output_split_sizes"], call.given["input_split_sizes"]
            return call.group.alltoall_base(outputs[0], inputs[0], *splits)

        return self._move(call, [call.given["input"]], [call.given["output"]], transmit)

    # What they are made of -------------------------------------------------------------------------------------------

    def _reduce(
        self,
        call: _Call,
        inputs: list[Tensor],
        outputs: list[Tensor],
        reduction: Any,
        transmit: Transmit,
        *,
        only: int | None = None,
    ) -> Any:
        """Reduce over the ranks; `only` that rank sees the result."""
        kinds, size = distributed().ReduceOp.RedOpType, call.group.size()
        plain = reduction != kinds.AVG and all(bool((x == x.round()).all()) for x in inputs if self.run.tag(x).real)
        tag, known, with_logs = self._agree(call.group, inputs, outputs, plain=plain)
        by_order = reduction in (kinds.MAX, kinds.MIN) and not tag.real
        if reduction not in (kinds.SUM, kinds.AVG, kinds.MAX, kinds.MIN):
            self.run.refuse_op(call.op, f"with {reduction} has no exact rule; SUM, AVG, MAX and MIN have")
        if tag.symbols and reduction != kinds.MAX:
            self.run.refuse_symbols(call.op)
        if size * self.run.arithmetic.field.half >= EXACT_LIMIT:
            self.run.refuse_op(call.op, f"over {size} ranks has sums that float64 does not hold")
        given = [(x if tag.real else self.constants.residues_of(x)).contiguous() for x in inputs]
        if by_order:  # each rank compares its own numbers with the best
            known = known and only is None and [x.shape for x in inputs] == [x.shape for x in outputs]
        numbers = self._numbers(call, inputs, outputs, reduction, transmit) if known else None
        if by_order and numbers is not None:
            given = self._at_best(inputs, given, numbers, least=reduction == kinds.MIN)
        elif by_order:
            given = [self._positions(x, greatest=reduction == kinds.MAX) for x in given]
        results = [new_like(x) for x in outputs]
        work = transmit(given, results, kinds.SUM if reduction == kinds.AVG else reduction)
        work.wait()
        if not tag.real:
            degree = tag.degree if by_order else tag.degree.sum_of(size)
            if not by_order or numbers is None:
                results = [self._reduced(x, size, average=reduction == kinds.AVG, by_order=by_order) for x in results]
                if by_order:
                    degree = degree.maximum_of(size) if reduction == kinds.MAX else degree.selected_from(size)
            tag = Tag(degree=degree, void=tag.void, symbols=tag.symbols)
        logs: list[LogTerms] = []
        if with_logs and reduction in (kinds.SUM, kinds.AVG):
            terms = self._log_collectives(call, inputs, outputs)
            logs = terms.added(lambda given, found: transmit(given, found, kinds.MAX).wait())
        elif reduction == kinds.MAX and by_order and numbers is None:
            logs = [self._of_maximum(x, tag) for x in results]
        if only is None or call.group.rank() == only:
            self._store(outputs, results, tag, numbers, logs)
        return boxed(work)

    def _of_maximum(self, x: Tensor, tag: Tag) -> LogTerms:
        """A maximum over ranks is a shift, as one over elements is."""
        logs = as_shift(Residue(x.clone(), tag.degree, self.run.arithmetic)).logs
        assert logs is not None
        return logs

    def _log_collectives(self, call: _Call, inputs: list[Tensor], outputs: list[Tensor]) -> LogCollectives:
        device = (inputs or outputs)[0].device

        def largest(numbers: list[float]) -> list[float]:
            return self._largest(call.group, numbers if inputs else [_NEUTRAL] * len(numbers), device)

        return LogCollectives(run=self.run, logs=self.logs, inputs=inputs, outputs=outputs, largest=largest)

    def _move(
        self,
        call: _Call,
        inputs: list[Tensor],
        outputs: list[Tensor],
        transmit: Transmit,
        *,
        source: int | None = None,
    ) -> Any:
        """Hand elements from rank to rank; from `source` alone where there is one."""
        mine = source is None or call.group.rank() == source
        tag, known, with_logs = self._agree(call.group, inputs if mine else [], outputs, plain=True)
        given = [(x if tag.real else self.constants.residues_of(x)).contiguous() for x in inputs] if mine else []
        results = [new_like(x) for x in outputs]
        numbers = self._numbers(call, inputs if mine else [], outputs, None, transmit) if known else None
        work = transmit(given, results, None)
        work.wait()
        logs: list[LogTerms] = []
        if with_logs:
            terms = self._log_collectives(call, inputs if mine else [], outputs)
            logs = terms.moved(lambda given, found: transmit(given, found, None).wait())
        self._store(outputs, results, tag, numbers, logs)
        return boxed(work)

    def _store(
        self,
        outputs: list[Tensor],
        results: list[Tensor],
        tag: Tag,
        numbers: list[Tensor] | None,
        logs: list[LogTerms],
    ) -> None:
        for i, (target, value) in enumerate(zip(outputs, results, strict=True)):
            self.run.set(value, tag)
            if logs:
                self.logs.keep(value, logs[i])
            if numbers is not None:
                self.constants.keep_value(value, numbers[i])
            self.writing.store(target, value)

    def _numbers(
        self, call: _Call, inputs: list[Tensor], outputs: list[Tensor], reduction: Any, transmit: Transmit
    ) -> list[Tensor]:
        """What a collective makes of the real numbers that known constants stand for."""
        kinds = distributed().ReduceOp.RedOpType
        values = [x for x in map(self.constants.constant_of, inputs) if x is not None]
        found = [new_like(x) for x in outputs]
        transmit([x.contiguous() for x in values], found, kinds.SUM if reduction == kinds.AVG else reduction).wait()
        return [x / call.group.size() for x in found] if reduction == kinds.AVG else found

    def _at_best(
        self, inputs: list[Tensor], residues: list[Tensor], best: list[Tensor], *, least: bool
    ) -> list[Tensor]:
        """Each rank's residues where it has the best number, and what a reduction passes over elsewhere."""
        other = -_NEUTRAL if least else _NEUTRAL
        values = [self.constants.constant_of(x) for x in inputs]
        return [
            torch.where(value == found, x, other)
            for value, found, x in zip(values, best, residues, strict=True)
            if value is not None
        ]

    def _agree(self, group: Any, inputs: list[Tensor], outputs: list[Tensor], *, plain: bool) -> tuple[Tag, bool, bool]:
        """The tag of what all ranks give together.

        It is real if all of it is real, and `plain` on all of them. Also whether it is residues of constants that every
        rank knows, and whether any rank knows log terms.
        """
        tag = union(self.run.tag(x) for x in inputs)
        symbols = any(self.constants.symbols_in(x) for x in inputs)
        known = not tag.void and all(self.constants.constant_of(x) is not None for x in inputs)
        with_logs = any(self.run.tag(x).logs is not None for x in inputs)
        flags = [tag.void, symbols, not tag.roots, not (tag.real and plain), not known, with_logs]
        said = [*map(float, flags), *degree_vector.to_numbers(tag.degree)]
        said = said if inputs else [_NEUTRAL] * len(said)
        agreed = self._largest(group, said, (inputs or outputs)[0].device)
        void, held, not_roots, not_real, not_known, logs, *numbers = agreed
        degree = degree_vector.from_numbers(numbers)  # of the elements of all ranks
        if not_real <= 0:
            return (REAL if degree is REAL.degree else Tag(real=True, degree=degree)), False, False
        tag = Tag(degree=degree, void=void > 0, symbols=held > 0, roots=not_roots <= 0)
        return tag, not_known <= 0, logs > 0

    def _largest(self, group: Any, numbers: list[float], device: torch.device) -> list[float]:
        """The largest of each number over the ranks."""
        header = torch.tensor(numbers, dtype=torch.float64, device=device)
        group.allreduce([header], options("AllreduceOptions", reduceOp=distributed().ReduceOp.RedOpType.MAX)).wait()
        found: list[float] = header.tolist()
        return found

    def _positions(self, x: Tensor, *, greatest: bool) -> Tensor:
        """Each residue's position in the keyed order; the symbols of masks come before all, what is void wins."""
        oracles, half = self.run.arithmetic.oracles, self.run.arithmetic.field.half
        void = x.isnan()
        held = void | (x < -half)
        found = torch.where(held, x, oracles.look_up(oracles.permutation("order"), x.masked_fill(held, 0.0)))
        return found.masked_fill_(void, _VOID if greatest else -_VOID)

    def _reduced(self, x: Tensor, size: int, *, average: bool, by_order: bool) -> Tensor:
        arithmetic = self.run.arithmetic
        if by_order:
            void = x.abs() == _VOID
            held = void | (x < -arithmetic.field.half)
            back = arithmetic.oracles.permutation_inverse("order")
            found = torch.where(held, x, arithmetic.oracles.look_up(back, x.masked_fill(held, 0.0)))
            return found.masked_fill_(void, nan)
        total = arithmetic.residue(arithmetic.field.reduce_(x))
        return (total / size).tensor if average else total.tensor


# Their tensor only gives the device, or they only look for NaN.
_PASS: Final = frozenset({"barrier", "monitored_barrier_", "check_for_nan"})
_MESSAGES: Final = frozenset({"send", "recv_"})

_METHODS: Final[dict[str, Any]] = {
    "allreduce_": Collectives._all_reduce,
    "allreduce_coalesced_": Collectives._all_reduce,
    "reduce_": Collectives._reduce_to_root,
    "reduce_scatter_": Collectives._reduce_scatter,
    "_reduce_scatter_base_": Collectives._reduce_scatter_tensors,
    "reduce_scatter_tensor_coalesced_": Collectives._reduce_scatter_tensors,
    "broadcast_": Collectives._broadcast,
    "allgather_": Collectives._all_gather,
    "_allgather_base_": Collectives._all_gather_tensors,
    "allgather_into_tensor_coalesced_": Collectives._all_gather_tensors,
    "gather_": Collectives._gather,
    "scatter_": Collectives._scatter,
    "alltoall_": Collectives._all_to_all,
    "alltoall_base_": Collectives._all_to_all_tensor,
}


def composing_kernel(op: OpOverload) -> Callable[..., Any] | None:
    """The kernel of an op that consists of others; None if `op` is not one.

    A functional collective calls the ops of the c10d namespace; FSDP2's copies in and out of its buffers are written in
    Python, the same for every device.
    """
    keys = torch._C.DispatchKey
    if op.namespace == "fsdp":
        # Called by a key for which there is no kernel, PyTorch ends the process.
        key = keys.CPU if op.has_kernel_for_dispatch_key(keys.CPU) else keys.CompositeExplicitAutograd
    elif op.namespace in {"_c10d_functional", "_dtensor"} and op._schema.name != "_c10d_functional::wait_tensor":
        key = keys.CompositeExplicitAutograd
    else:
        return None
    return lambda *args, **kwargs: op._op_dk(key, *args, **kwargs)

"""`ExactArithmetic`: the mode below autograd in which every ATen op on floating tensors computes modulo a prime."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from shardproof.exact.algebra.bound import Bound, bound_of
from shardproof.exact.algebra.cut import Cut
from shardproof.exact.algebra.field import Field, choose_prime
from shardproof.exact.algebra.lift import Lift
from shardproof.exact.algebra.no_bound import NoBound
from shardproof.exact.algebra.oracles import oracles_of
from shardproof.exact.algebra.residue import VOID, Arithmetic
from shardproof.exact.engine.dispatch import Dispatcher
from shardproof.exact.engine.entry import Entry
from shardproof.exact.engine.followed_numbers import NumberReads
from shardproof.exact.engine.function_mode import Functions, ordinary_pytorch
from shardproof.exact.engine.input_residues import KnownNumbers
from shardproof.exact.engine.modules import ModuleStack
from shardproof.exact.engine.run import Run
from shardproof.exact.engine.tags import TagStore
from shardproof.exact.engine.tensor_trees import PLAIN
from shardproof.exact.engine.threads import guard_threads
from shardproof.exact.errors import ExactArithmeticError
from shardproof.exact.rules.cut import CutBothWays, number_elements, number_symbols
from shardproof.source_lines import user_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from types import TracebackType

    from torch._ops import OpOverload

    from shardproof.exact.algebra.chosen_sides import ChoicePlace, ChosenSides
    from shardproof.exact.algebra.degree import Degree
    from shardproof.exact.algebra.number_branches import NumberBranch
    from shardproof.exact.algebra.reference_constants import ReferenceConstants, TakenConstant
    from shardproof.exact.engine.run import Selection
    from shardproof.exact.errors import CodeLocation

_active: list[ExactArithmetic] = []


class ExactArithmetic:
    """Inside it, ordinary PyTorch code computes modulo a prime, without rounding.

    Two programs that compute the same function of the same tensors get the same digits; see docs/exact.md for which
    identities hold, and what agreement proves. Tensors from outside become residues at first sight (in place: the
    program keeps its own objects) and are put back bit for bit at the end.

    Args:
        seed: draws the prime, the key of the oracles and the residues of the inputs. The same seed gives the same
            digits in every process and on every machine.
        prime: instead of the drawn one; from 3 to 2**23.
        reference: the constants of a program that this one is compared with. One that stands for no known number, and
            lies a few units in the last place from exactly one of them, is taken for it: see `taken_constants`.
        variables: tensors of float64 whose numbers are variables wherever they come in, as leaves that require a
            gradient are: frozen parameters, buffers. Each becomes a drawn residue, the same for the same number.
        random: 'refuse' random draws inside; 'oracle' makes dropout's mask an oracle of each element, and refuses other
            draws; 'draw' takes numbers from PyTorch's generators as the program would.
        leaving: 'refuse' `.item()` and branches on residues; 'allow' them (the representative is what is seen); or
            'follow' the numbers that are read, see `followed_numbers.py`.
        limits: with 'follow', `limits` of the reference of this program; None where this is the reference.
        record_selections: keep the operands of max, sort, topk and comparisons in `selections`.
        record_cuts: keep what reached each cut in `cuts`.
        check: verify after each op that every element is canonical. Slow; for finding a rule that is wrong.

    Raises:
        ExactArithmeticError: and its subclasses, from the op that cannot be carried out exactly.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        prime: int | None = None,
        variables: Iterable[Tensor] | KnownNumbers = (),
        reference: ReferenceConstants | None = None,
        random: Literal["refuse", "oracle", "draw"] = "refuse",
        leaving: Literal["refuse", "allow", "follow"] = "refuse",
        limits: Collection[int] | None = None,
        record_selections: bool = False,
        record_cuts: bool = True,
        check: bool = False,
    ) -> None:
        if random not in ("refuse", "oracle", "draw") or leaving not in ("refuse", "allow", "follow"):
            msg = (
                f"random is {random!r}, leaving is {leaving!r}; needed: 'refuse', 'oracle' or 'draw', and 'refuse', "
                "'allow' or 'follow'"
            )
            raise ValueError(msg)
        field = Field(choose_prime(seed) if prime is None else prime)
        self.arithmetic = Arithmetic(
            field=field,
            oracles=oracles_of(field, seed),
            lift=Lift(field=field, reference=reference),
            records_cuts=record_cuts,
        )
        self.tags = TagStore()
        self.modules = ModuleStack()
        if not isinstance(variables, KnownNumbers):
            variables = KnownNumbers.of(x.clone() for x in variables)  # the program may write into them
        self.entry = Entry(arithmetic=self.arithmetic, tags=self.tags, key=seed, variables=variables)
        self.run = Run(
            arithmetic=self.arithmetic,
            tags=self.tags,
            modules=self.modules,
            random=random,
            leaving=leaving,
            record_selections=record_selections,
            check=check,
        )
        self.dispatcher = Dispatcher(run=self.run, entry=self.entry)
        self.reads = NumberReads(
            dispatcher=self.dispatcher,
            key=seed,
            known_limits=None if limits is None else frozenset(limits),
            is_inside=lambda: threading.get_ident() in self._members,
        )
        self._modes = ExitStack()
        self._process = ExitStack()
        self._members: set[int] = set()

    def __enter__(self) -> Self:
        if self._members:
            _refuse_nesting()
        self._modes.enter_context(self.joined())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._modes.close()

    @contextmanager
    def joined(self, before: Callable[[OpOverload, Any, Any], None] | None = None) -> Iterator[None]:
        """Take part from this thread in one exact arithmetic that several share: ranks that are threads and take turns.

        The first to join begins it, and the last to leave ends it: tensors from outside are put back then.

        Args:
            before: is called with each op of this thread on plain tensors and its arguments, before it is carried out.
        """
        thread = threading.get_ident()
        if thread in self._members:
            _refuse_nesting()
        if not self._members:
            self._begin()
        self._members.add(thread)
        try:
            with Functions(self.reads), _Ops(self.dispatcher, before):
                yield
        finally:
            self._members.remove(thread)
            if not self._members:
                self._process.close()

    def _begin(self) -> None:
        """What holds for the whole process."""
        if _active:
            _refuse_nesting()
        _active.append(self)
        with ExitStack() as process:
            process.callback(self._end)
            process.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code would not be seen
            process.enter_context(guard_threads(self.tags, self._members))
            self.modules.start()
            self._process = process.pop_all()

    def _end(self) -> None:
        self.modules.stop()
        _active.remove(self)
        self.entry.leave()

    @property
    def constants(self) -> ReferenceConstants:
        """The constants lifted so far, to be the `reference` of another program; none where there is one."""
        return self.arithmetic.lift.constants

    @property
    def branches(self) -> tuple[NumberBranch, ...]:
        """With `leaving='follow'`, how comparisons of numbers that were read were decided."""
        return tuple(self.reads.branches)

    @property
    def taken_constants(self) -> tuple[TakenConstant, ...]:
        """The constants that were taken for the reference's, from which they differ in the last place."""
        return tuple(self.arithmetic.lift.taken.values())

    @property
    def prime(self) -> int:
        """The modulus."""
        return self.arithmetic.field.prime

    def cut(self, tensor: Tensor, name: str, numbers: Tensor | None = None, *, enlarged: int = 1) -> Tensor:
        """Take the computation apart here: fresh residues forward, and in place of the gradient backward.

        Both ways what arrives is recorded in `cuts`. A cut with another name adds other pads; the two programs compared
        give the same name to the same tensor.

        Args:
            tensor: what the segment before ends with, any shape; a DTensor must not be partial.
            name: of the cut.
            numbers: of a plain tensor that is a rank's part of a full one: int64, of its shape, each element's number
                in the full tensor counted along its rows; -1 for padding, which stays as it is.
            enlarged: the gradient is cut as so many times what it is, and goes on divided by that.

        Raises:
            ValueError: the tensor is a partial sum.
        """
        self.admit(tensor)
        with ordinary_pytorch():
            numbers = number_elements(tensor) if numbers is None else numbers
        found: Tensor = CutBothWays.apply(tensor, numbers, name, enlarged)  # type: ignore[no-untyped-call]
        return found

    def fill_void(self, tensor: Tensor, name: str, numbers: Tensor) -> None:
        """Draw the void elements of a tensor anew, in place: between two steps, so that the next one is not void.

        Two programs agree in what follows if the same elements were void in both.

        Args:
            tensor: a plain one, a parameter or a state of its optimizer.
            name: gives other residues to other tensors.
            numbers: int64, of its shape, each element's number in the full tensor; as for `cut`.
        """
        if self.void_mask(tensor) is None:
            return
        with torch.no_grad():
            tensor.copy_(torch.ops.shardproof.fill_void(tensor, numbers, name))

    def redraw(self, tensor: Tensor, name: str) -> Tensor:
        """Residues drawn for the numbers of an input: the same for the same number, 0 for 0; another draw a name."""
        self.admit(tensor)
        found: Tensor = torch.ops.shardproof.redraw(tensor, name)
        return found

    def admit(self, tensor: Tensor) -> None:
        """Take a floating tensor in, as the first function that is given it would."""
        if not self.dispatcher.is_known(tensor):
            with ordinary_pytorch():
                self.entry.admit(tensor)

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """What reached each cut so far, in the order of execution; kept with `record_cuts`."""
        return tuple(self.arithmetic.cuts)

    @property
    def selects(self) -> bool:
        """Whether elements have been selected by comparing residues: by topk, a sort or an argmax."""
        return self.run.selected

    @property
    def choices_read(self) -> bool:
        """Whether the program has read integers that came of comparing residues, or has let them give a shape."""
        return self.run.escaped.unknown or bool(self.run.escaped.orders)

    def bound(
        self, tensor: Tensor | Cut, *, trials: int = 1, draws: int | None = None, as_shift: bool = False
    ) -> Bound:
        """How likely an element of a different program's tensor would equal this one's, or that no bound is known.

        It is a bound for the elements that are not void, see `void_mask`; void itself if all are.

        Args:
            tensor: one computed inside; or one of `cuts`, for the segment that ends there.
            trials: in how many trials it agreed, each with a seed of its own.
            draws: how many trials there were with the void ones, which are drawn again and do not count.
            as_shift: the tensor is cut here, and if it is a maximum, it is only subtracted from others afterwards.
        """
        if isinstance(tensor, Cut):
            void = tensor.void is not None and bool(tensor.void.all())
            return self._bound(tensor.degree, trials=trials, draws=draws, void=void)
        tag = self.tags.get(tensor)
        if tag is None or not (tensor.dtype.is_floating_point or tensor.dtype.is_complex):
            msg = f"a bound is asked for a tensor of shape {tuple(tensor.shape)} that exact arithmetic has not computed"
            raise ValueError(msg)
        mask = self.void_mask(tensor)
        void = mask is not None and bool(mask.all())
        degree = tag.degree.as_shift() if as_shift else tag.degree
        return self._bound(degree, trials=trials, draws=draws, void=void)

    def void_mask(self, tensor: Tensor) -> Tensor | None:
        """Which elements come of a division by zero, so that this trial says nothing of them; None if none do.

        Args:
            tensor: a plain one, any dtype; of a wrapper subclass its local tensor.

        Returns:
            Booleans of its shape, which outlive the mode.
        """
        with torch._C.DisableTorchFunction():
            if not self.run.escaped_void and not self.run.tag(tensor).void:
                return None
        with ordinary_pytorch():
            if self.run.escaped_void:
                return torch.ones_like(tensor, dtype=torch.bool)
            mask = self.dispatcher.void.of(tensor)
            return None if mask is None else mask.clone()

    def _bound(self, degree: Degree, *, trials: int, draws: int | None, void: bool) -> Bound:
        degree = degree.chosen_by(self.run.escaped)
        lost = NoBound.READ if self.run.left else None
        if lost is None and degree.chosen and not self.run.record_selections:
            lost = degree.lost or NoBound.SELECTION
        return bound_of(degree, prime=self.prime, trials=trials, draws=draws, void=void, lost=lost)

    @property
    def selections(self) -> tuple[Selection, ...]:
        """The ops that chose by order so far, with their operands; kept with `record_selections`."""
        return tuple(self.run.selections)

    @property
    def choices(self) -> Mapping[ChoicePlace, ChosenSides]:
        """Which of two tensors was chosen so far, by each line of the program that takes the larger or the smaller."""
        return dict(self.arithmetic.choices.found)

    @property
    def limits(self) -> frozenset[int]:
        """Of the numbers limited so far, x to at least y: the residues of x - y; see `followed_numbers.py`."""
        return frozenset(self.arithmetic.limits)

    @property
    def ops(self) -> int:
        """How many ATen ops have been carried out so far, those that composite ops consist of included."""
        return self.run.ops

    @property
    def zero_divisions(self) -> tuple[CodeLocation, ...]:
        """Where a division by zero modulo the prime made results void, in the order of execution."""
        return tuple(self.run.zero_divisions)

    @contextmanager
    def leaving_allowed(self) -> Iterator[None]:
        """For a few lines that are known to be safe, let residues become numbers; nothing after has a derived bound."""
        before, self.run.leaving = self.run.leaving, "allow"
        try:
            yield
        finally:
            self.run.leaving = before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ordinary PyTorch for a few lines: to look at residues as the numbers they are held as."""
        with ordinary_pytorch():
            yield

    def digits(self, tensor: Tensor, *, symbols: bool = False, compact: bool = False) -> Tensor:
        """A copy of the residues as int64, which outlives the mode; of a void element `VOID`.

        Args:
            tensor: a plain one; of a complex one the last dim holds the real and the imaginary parts.
            symbols: elements of masks are taken too: -inf and finfo.min are one and two beyond the representatives.
            compact: as int32 where no element is void.

        Raises:
            ValueError: it is a wrapper subclass; pass its local tensor.
            ExactArithmeticError: elements of a mask, or of memory never written, are no residues.
        """
        if type(tensor) not in PLAIN:
            msg = f"digits of a {type(tensor).__name__} are asked for; pass its local tensor"
            raise ValueError(msg)
        with ordinary_pytorch():
            residues = self.dispatcher.residues_of(tensor.detach())
            mask = self.void_mask(tensor)
            if mask is not None and tensor.is_complex():
                mask = mask.unsqueeze(-1).expand_as(residues)
            if mask is not None:
                residues = residues.masked_fill(mask, 0.0)
            # Few tensors hold symbols, and the least element tells without a mask in memory.
            symbols = symbols and residues.numel() > 0 and bool(residues.min() < -self.arithmetic.field.half)
            numbers = residues.masked_fill(residues < -self.arithmetic.field.half, 0.0) if symbols else residues
            if not self.arithmetic.field.is_canonical(numbers):
                msg = (
                    f"a tensor of shape {tuple(tensor.shape)} holds elements that are no residues (a mask, or memory "
                    "never written)"
                )
                raise ExactArithmeticError(msg)
            dtype = torch.int32 if compact and mask is None else torch.int64
            found = (number_symbols(residues, self.arithmetic.field) if symbols else residues).to(dtype)
            return found if mask is None else found.masked_fill_(mask, VOID)


def _refuse_nesting() -> NoReturn:
    raise ExactArithmeticError(
        f"exact arithmetic is entered inside exact arithmetic, at {user_line()}; leave the outer one first: "
        "one runs at a time in a process, whatever the thread"
    )


class _Ops(TorchDispatchMode):
    """Below autograd: each op goes to the dispatcher."""

    def __init__(self, dispatcher: Dispatcher, before: Callable[[OpOverload, Any, Any], None] | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher, self._before = dispatcher, before

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for kind in types:
            if kind not in PLAIN:
                if any(issubclass(kind, FakeTensor) for kind in types):
                    return func(*args, **(kwargs or {}))  # shapes alone
                return NotImplemented  # DTensor and LocalTensor first; their inner ops come back here
        if self._before is not None:
            self._before(func, args, kwargs or {})
        with torch._C.DisableTorchFunction():
            return self._dispatcher.carry_out(func, args, kwargs or {}, reenter=self)

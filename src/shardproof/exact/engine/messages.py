"""Point-to-point messages of residues, between real processes. Simulated ranks copy by ordinary ops.

A message is three: what is known of the numbers, the residues, and the real numbers that they stand for where these are
constants. All are posted by the call, as a blocking call of another rank may wait for them; a receive takes effect when
it is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._C._distributed_c10d import ProcessGroup, Work
from torch.utils._python_dispatch import _disable_current_modes

from shardproof.exact.algebra.degree import UNKNOWN, Degree
from shardproof.exact.engine.tags import REAL, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.writing import Writing

_LEVELS: Final = 12  # of degrees inside degrees; what is deeper has no bound anyway
_NUMBERS: Final = tuple(one.name for one in fields(Degree) if one.name != "queries")
_HEADER: Final = 6 + _LEVELS * (len(_NUMBERS) + 1)


@dataclass(slots=True, kw_only=True)
class Messages:
    """Carries out `send` and `recv_` of the c10d namespace."""

    run: Run
    constants: Constants
    writing: Writing

    def send(self, given: dict[str, Any]) -> Any:
        """Post a message; the work is done when it is received."""
        (tensor,) = given["tensors"]
        tag = self.run.tag(tensor)
        residues = (tensor if tag.real else self.constants.residues_of(tensor)).to(torch.float64).contiguous()
        value = self.constants.constant_of(tensor)
        known = value is not None and not tag.real
        numbers = value.to(torch.float64).contiguous() if value is not None and known else torch.zeros_like(residues)
        parts = [_encode(tag, known=known), residues, numbers]
        group = ProcessGroup.unbox(given["process_group"])
        works = [group.send([part], given["dst"], given["tag"]) for part in parts]
        return Work.boxed(_MessageWork(works, keep=parts))

    def receive(self, given: dict[str, Any]) -> Any:
        """Post a receive; its wait stores the residues, and what is known of them."""
        (tensor,) = given["tensors"]
        group = ProcessGroup.unbox(given["process_group"])
        header = torch.zeros(_HEADER, dtype=torch.float64)
        residues, numbers = (torch.empty(tensor.shape, dtype=torch.float64) for _ in range(2))
        parts = [header, residues, numbers]
        works = [group.recv([part], given["src"], given["tag"]) for part in parts]

        def store() -> None:
            tag, known = _decode(header)
            value = torch.empty_like(tensor, memory_format=torch.contiguous_format).copy_(residues)
            self.run.set(value, tag)
            if known:
                self.constants.keep_value(value, numbers)
            self.writing.store(tensor, value)

        return Work.boxed(_MessageWork(works, keep=parts, then=store))


class _MessageWork(Work):
    """Waits for the parts of one message."""

    _alive: Final[set[Any]] = set()  # until they are waited for: the binding keeps its C++ part alone

    def __init__(self, works: list[Any], *, keep: list[Tensor], then: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._works, self._keep, self._then = works, keep, then
        self._alive.add(self)

    def wait(self, timeout: Any = None) -> bool:  # noqa: ARG002 - the group has one
        works, self._works = self._works, []
        then, self._then = self._then, None
        with _disable_current_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
            for work in works:
                work.wait()
            if then is not None:
                then()
        self._alive.discard(self)
        return True

    def is_completed(self) -> bool:
        return all(work.is_completed() for work in self._works)

    def synchronize(self) -> None:
        self.wait()


def _encode(tag: Tag, *, known: bool) -> Tensor:
    numbers = [tag.real, tag.void, tag.symbols, tag.roots, tag.compared, known]
    degree: Degree | None = tag.degree
    levels = 0
    while degree is not None and levels < _LEVELS:
        numbers += [*(getattr(degree, name) for name in _NUMBERS), degree.queries is not None]
        degree, levels = degree.queries, levels + 1
    if degree is not None:
        return _encode(replace(tag.bare, degree=UNKNOWN), known=known)
    return torch.tensor([*map(float, numbers), *[0.0] * (_HEADER - len(numbers))], dtype=torch.float64)


def _decode(header: Tensor) -> tuple[Tag, bool]:
    real, void, symbols, roots, compared, known, *numbers = header.tolist()
    degree = _decode_degree(numbers)
    if real and degree == REAL.degree:
        return REAL, False
    tag = Tag(
        real=bool(real),
        degree=degree,
        symbols=bool(symbols),
        roots=bool(roots),
        void=bool(void),
        compared=bool(compared),
    )
    return tag, bool(known)


def _decode_degree(numbers: list[float]) -> Degree:
    width = len(_NUMBERS)
    own, has_queries, inner = numbers[:width], numbers[width], numbers[width + 1 :]
    values: dict[str, Any] = {
        name: bool(number) if isinstance(getattr(UNKNOWN, name), bool) else number
        for name, number in zip(_NUMBERS, own, strict=True)
    }
    return Degree(**values, queries=_decode_degree(inner) if has_queries else None)

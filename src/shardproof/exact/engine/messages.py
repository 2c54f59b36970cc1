"""Point-to-point messages of residues, between real processes. Simulated ranks copy by ordinary ops.

A message is three: what is known of the numbers, the residues, and the real numbers that they stand for where these are
constants. All are posted by the call, as a blocking call of another rank may wait for them; a receive takes effect when
it is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch._C._distributed_c10d import ProcessGroup, Work
from torch.utils._python_dispatch import _disable_current_modes

from shardproof.exact.algebra import degree_vector
from shardproof.exact.engine.tags import REAL, Tag

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.exact.engine.constants import Constants
    from shardproof.exact.engine.run import Run
    from shardproof.exact.engine.writing import Writing

_HEADER: Final = 6 + degree_vector.LENGTH


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
        parts = [_encode(tag, known=known).to(tensor.device), residues, numbers]
        group = ProcessGroup.unbox(given["process_group"])
        works = [group.send([part], given["dst"], given["tag"]) for part in parts]
        return Work.boxed(_MessageWork(works, keep=parts))

    def receive(self, given: dict[str, Any]) -> Any:
        """Post a receive; its wait stores the residues, and what is known of them."""
        (tensor,) = given["tensors"]
        group = ProcessGroup.unbox(given["process_group"])
        header = torch.zeros(_HEADER, dtype=torch.float64, device=tensor.device)
        residues, numbers = (torch.empty(tensor.shape, dtype=torch.float64, device=tensor.device) for _ in range(2))
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
    flags = [tag.real, tag.void, tag.symbols, tag.roots, tag.compared, known]
    return torch.tensor([*map(float, flags), *degree_vector.to_numbers(tag.degree)], dtype=torch.float64)


def _decode(header: Tensor) -> tuple[Tag, bool]:
    real, void, symbols, roots, compared, known, *numbers = header.tolist()
    degree = degree_vector.from_numbers(numbers)
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

"""A cause as fields of JSON, and read back from a certificate, which is not trusted.

Its kind, the fields that are not empty, and its words for a reader; the words are not read back.
"""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

from shardproof.errors import CannotRunError
from shardproof.proving.cause import Cause, CauseKind, Mend, Part
from shardproof.proving.records import CollectiveCall
from shardproof.report.words import describe_cause
from shardproof.worlds.early_access import EarlyAccess

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")

_LONGEST_FACTOR = 20  # characters


def cause_fields(cause: Cause | None, mesh: Mapping[str, int]) -> dict[str, object] | None:
    """A cause for JSON; None where there is none."""
    if cause is None:
        return None
    empty = Cause(kind=cause.kind)
    held = {one.name: getattr(cause, one.name) for one in fields(Cause)}
    told = {name: _plain(value) for name, value in held.items() if name == "kind" or value != getattr(empty, name)}
    return told | {"text": describe_cause(cause, mesh=mesh)}


def read_cause(content: object) -> Cause | None:
    """What `cause_fields` wrote.

    Raises:
        CannotRunError: it is not what `cause_fields` writes.
    """
    if content is None:
        return None
    given = _object(content)
    given.pop("text", None)
    unknown = [name for name in given if name not in _READERS]
    if unknown:
        raise CannotRunError(f"the certificate has a cause with {unknown[0]!r}, which no cause has")
    if "kind" not in given:
        raise CannotRunError("the certificate has a cause without a kind")
    return Cause(**{name: _READERS[name](value) for name, value in given.items()})


def _plain(value: object) -> object:
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, CollectiveCall | EarlyAccess):
        return asdict(value)
    if isinstance(value, tuple):
        return [asdict(one) if isinstance(one, Part) else one for one in value]
    return value


def _object(value: object) -> dict[str, Any]:
    return dict(_typed(value, dict))


def _typed(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CannotRunError(
            f"the certificate's cause holds {type(value).__name__} where {kind.__name__} is needed: {value!r:.40}"
        )
    return value


def _read_kind(value: object) -> CauseKind:
    text = _typed(value, str)
    if text not in tuple(CauseKind):
        raise CannotRunError(f"the certificate has a cause of kind {text!r:.40}, which is none")
    return CauseKind(text)


def _read_mend(value: object) -> Mend:
    text = _typed(value, str)
    if text not in tuple(Mend):
        raise CannotRunError(f"the certificate has a mend {text!r:.40}, which is none")
    return Mend(text)


def _read_factor(value: object) -> Fraction:
    text = _typed(value, str)
    numerator, _, denominator = text.removeprefix("-").partition("/")
    numbers = [numerator, denominator] if "/" in text else [numerator]
    if len(text) > _LONGEST_FACTOR or not all(one.isascii() and one.isdecimal() for one in numbers):
        raise CannotRunError(f"the certificate has a factor {text!r:.40}; needed is a fraction such as '1/2'")
    if denominator and not int(denominator):
        raise CannotRunError(f"the certificate has a factor {text!r:.40}, which divides by zero")
    return Fraction(text)


def _read_many(value: object, read: Callable[[object], T]) -> tuple[T, ...]:
    return tuple(read(one) for one in _typed(value, list))


def _text(value: object) -> str:
    return _typed(value, str)


def _integer(value: object) -> int:
    return _typed(value, int)


def _number(value: object) -> float:
    number = float(_integer(value)) if isinstance(value, int) else _typed(value, float)
    if not math.isfinite(number):
        raise CannotRunError(f"the certificate has a difference {number}; needed is a finite one")
    return number


def _integers(value: object) -> tuple[int, ...]:
    return _read_many(value, _integer)


def _read_part(value: object) -> Part:
    content = _object(value)
    index = content.get("index")
    return Part(rank=_integer(content.get("rank")), index=None if index is None else _integer(index))


def _read_collective(value: object) -> CollectiveCall:
    content = _object(value)
    return CollectiveCall(
        step=_integer(content.get("step")),
        kind=_text(content.get("kind")),
        ranks=_integers(content.get("ranks")),
        shapes=_read_many(content.get("shapes"), _integers),
        location=_text(content.get("location")),
        placement=_text(content.get("placement")),
        dtype=_text(content.get("dtype", "")),
        asynchronous=_typed(content.get("asynchronous", False), bool),
        recomputed=_typed(content.get("recomputed", False), bool),
        after_choices=_typed(content.get("after_choices", False), bool),
    )


def _read_early_access(value: object) -> EarlyAccess:
    content = _object(value)
    return EarlyAccess(
        call=_text(content.get("call")),
        call_line=_text(content.get("call_line")),
        access=_text(content.get("access")),
        access_line=_text(content.get("access_line")),
        of_input=_typed(content.get("of_input"), bool),
    )


_READERS: Mapping[str, Callable[[object], Any]] = {
    "kind": _read_kind,
    "mend": _read_mend,
    "approximate": lambda value: _typed(value, bool),
    "factor": _read_factor,
    "parameter": _text,
    "dim": _integer,
    "indices": _integers,
    "largest": _number,
    "axes": lambda value: _read_many(value, _text),
    "ranks": _integers,
    "shapes": lambda value: _read_many(value, _integers),
    "ranges": lambda value: _read_many(value, _integers),
    "parts": lambda value: _read_many(value, _read_part),
    "elements": _integer,
    "dtype": _text,
    "entries": lambda value: _read_many(value, _text),
    "operands": lambda value: _read_many(value, _text),
    "exact_collective": _read_collective,
    "native_collective": _read_collective,
    "forward_collective": _read_collective,
    "recomputed_collective": _read_collective,
    "early_access": _read_early_access,
}

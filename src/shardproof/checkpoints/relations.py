"""Relations between the values of two full tensors of one shape: scaled, offset, rounded, zero, not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

import torch

from shardproof.checkpoints.damage import Damage, Kind
from shardproof.checkpoints.full import FullPair
from shardproof.comparison.formats import DEFAULT_TOLERANCES, FLOAT_FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

    from shardproof.checkpoints.full import FullTensor

# Beyond so many elements, or so large a part, they are not called few.
_FEW, _FEW_PART = 64, 1 / 16
_NARROWER = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
_LARGEST_DENOMINATOR = 64
# Sums are in float64, in which a block has several copies.
_BLOCK = 1 << 17


@dataclass(slots=True)
class Sums:
    """Over all elements of both sides; where either is not finite, it is counted and left out of the sums."""

    count: int = 0
    differ: int = 0
    nonzero: int = 0
    not_finite: int = 0
    finite: int = 0
    product: float = 0.0
    square: float = 0.0
    difference: float = 0.0


def add_up(pair: FullPair) -> Sums:
    """One pass over both sides."""
    sums = Sums(count=pair.count)
    for block in pair.blocks():
        a, e = pair.read(block)
        sums.differ += int((a != e).count_nonzero()) if not _wide(a) else int((_widen(a) != _widen(e)).count_nonzero())
        sums.nonzero += int(_widen(a).count_nonzero())
        if not pair.dtype.is_floating_point:
            continue
        x, y = a.double(), e.double()
        finite = x.isfinite() & y.isfinite()
        sums.not_finite += int((~x.isfinite() & y.isfinite()).count_nonzero())
        x, y = x.where(finite, 0.0), y.where(finite, 0.0)
        sums.finite += int(finite.count_nonzero())
        sums.product += float(torch.dot(x, y))
        sums.square += float(torch.dot(y, y))
        sums.difference += float((x - y).sum())
    return sums


def find_relation(actual: FullTensor, expected: FullTensor, dtype: torch.dtype) -> Damage | None:
    """One that holds for every element, or None; both sides in `dtype`."""
    pair = FullPair(actual=actual, expected=expected, dtype=dtype, most=_BLOCK)
    sums = add_up(pair)
    if sums.nonzero == 0 and sums.differ:
        return Damage(kind=Kind.ZERO, count=sums.differ, total=sums.count)
    if sums.not_finite:
        return Damage(kind=Kind.NOT_FINITE, count=sums.not_finite, total=sums.count)
    found = _try(pair, _list_candidates(sums, dtype)) if dtype.is_floating_point and sums.square else None
    if found is not None:
        return found
    if 0 < sums.differ <= min(_FEW, sums.count * _FEW_PART):
        return Damage(kind=Kind.FEW, count=sums.differ, total=sums.count)
    return None


def count_differing(actual: FullTensor, expected: FullTensor, dtype: torch.dtype) -> Damage:
    """How many elements differ."""
    sums = add_up(FullPair(actual=actual, expected=expected, dtype=dtype, most=_BLOCK))
    return Damage(kind=Kind.DIFFERS, count=sums.differ, total=sums.count)


_Candidate = tuple[Damage, "Callable[[torch.Tensor], torch.Tensor]", bool]  # what expected becomes; whether exactly


def _list_candidates(sums: Sums, dtype: torch.dtype) -> list[_Candidate]:
    found: list[_Candidate] = []
    for factor in _simplify(sums.product / sums.square):
        if factor == 1:
            continue
        kind = Kind.NEGATED if factor == -1 else Kind.SCALED
        found.append((Damage(kind=kind, factor=factor), partial(torch.mul, other=factor), False))
    found += [
        (Damage(kind=Kind.OFFSET, factor=added), partial(torch.add, other=added), False)
        for added in _simplify(sums.difference / max(1, sums.finite))
    ]
    for narrow in _NARROWER:
        if narrow.itemsize < dtype.itemsize:
            name = str(narrow).removeprefix("torch.")
            found.append((Damage(kind=Kind.ROUNDED, other=name), partial(_round, narrow), True))
    return found


def _try(pair: FullPair, candidates: list[_Candidate]) -> Damage | None:
    """The first that holds for every element; another pass, which ends when none is left."""
    rtol, atol = DEFAULT_TOLERANCES.get(pair.dtype, (0.125, 1e-5))
    for block in pair.blocks():
        a, e = pair.read(block)
        kept = []
        for candidate in candidates:
            _, change, exactly = candidate
            wanted = change(e) if e.itemsize > 1 else change(e.float()).to(e.dtype)
            if torch.equal(a, wanted) if exactly else _is_close(a, wanted, e, rtol, atol):
                kept.append(candidate)
        candidates = kept
        if not candidates:
            return None
    return candidates[0][0]


def _is_close(a: torch.Tensor, wanted: torch.Tensor, e: torch.Tensor, rtol: float, atol: float) -> bool:
    """Within the rounding of either value: what is scaled or shifted was rounded before and after."""
    x, w = _widen(a).double(), _widen(wanted).double()
    reach = rtol * torch.maximum(w.abs(), _widen(e).double().abs()) + min(atol, 1e-7)
    return bool(((x - w).abs() <= reach).all())


def _simplify(number: float) -> list[float]:
    """The simple fraction that is near, and the number itself: which of them it is, the values must tell."""
    if not math.isfinite(number):
        return []
    simple = float(Fraction(number).limit_denominator(_LARGEST_DENOMINATOR))
    near = abs(simple - number) <= 1e-3 * abs(number)
    return [one for one in dict.fromkeys([simple, number] if near else [number]) if one != 0]


def _round(dtype: torch.dtype, values: torch.Tensor) -> torch.Tensor:
    return values.to(dtype).to(values.dtype)


def _wide(values: torch.Tensor) -> bool:
    """Whether PyTorch compares this dtype only after a conversion."""
    return values.is_floating_point() and values.dtype not in FLOAT_FORMATS


def _widen(values: torch.Tensor) -> torch.Tensor:
    return values.float() if _wide(values) else values

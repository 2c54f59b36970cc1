"""Tensors that stand under another tensor's name: exchanged, copied, renamed, tied, untied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from shardproof.checkpoints.damage import Damage, Kind
from shardproof.checkpoints.fingerprints import fingerprint_whole
from shardproof.checkpoints.full import FullPair, bits_equal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from shardproof.checkpoints.full import FullTensor

_SAMPLE = 1 << 12


def find_other_names(
    failed: Iterable[str],
    actual: Mapping[str, FullTensor],
    expected: Mapping[str, FullTensor],
    passed: Iterable[str],
) -> dict[str, Damage]:
    """What is explained by names, of tensors that differ or that one side lacks.

    Args:
        failed: names of both sides whose values differ, and names that one side lacks.
        actual: all tensors of the one side by name.
        expected: of the other.
        passed: the names of tensors that are equal.
    """
    failed, passed = list(failed), set(passed)
    names = _Names(actual), _Names(expected)
    found: dict[str, Damage] = {}
    for name in failed:
        if name in actual and name in expected:
            damage = _explain_differing(name, names, actual, expected, passed)
        elif name in expected:
            damage = _explain_absent(name, names, actual, expected)
        else:
            damage = _explain_extra(name, names, actual, expected)
        if damage is not None:
            found[name] = damage
    return found


class _Names:
    """The tensors of one side, found by their first values, which are read when a tensor of that shape is asked for."""

    def __init__(self, tensors: Mapping[str, FullTensor]) -> None:
        self._tensors = tensors
        self._by_kind: dict[object, list[str]] = {}
        for name, full in tensors.items():
            self._by_kind.setdefault(_kind_of(full), []).append(name)
        self._samples: dict[str, int] = {}

    def find(self, full: FullTensor, without: str) -> list[str]:
        """The names of tensors that are equal bit for bit, but for one name. Constants, which many are, find none."""
        sample = _take_sample(full)
        if sample is None:
            return []
        return [
            name
            for name in self._by_kind.get(_kind_of(full), ())
            if name != without and self._sample(name) == sample and bits_equal(self._tensors[name], full)
        ]

    def _sample(self, name: str) -> int | None:
        if name not in self._samples:
            self._samples[name] = _take_sample(self._tensors[name]) or 0
        return self._samples[name]


_Sides = tuple[_Names, _Names]


def _explain_differing(
    name: str,
    names: _Sides,
    actual: Mapping[str, FullTensor],
    expected: Mapping[str, FullTensor],
    passed: set[str],
) -> Damage | None:
    of_actual, of_expected = names
    for other in of_expected.find(actual[name], name):
        if other in passed:
            return Damage(kind=Kind.COPIED, other=other)
        if other in actual and other in of_actual.find(expected[name], name):
            return Damage(kind=Kind.EXCHANGED, other=other)
        return Damage(kind=Kind.MISNAMED, other=other)
    tied = [other for other in of_expected.find(expected[name], name) if other in passed]
    return Damage(kind=Kind.UNTIED, other=tied[0]) if tied else None


def _explain_absent(
    name: str, names: _Sides, actual: Mapping[str, FullTensor], expected: Mapping[str, FullTensor]
) -> Damage | None:
    renamed = [other for other in names[0].find(expected[name], name) if other not in expected]
    if renamed:
        return Damage(kind=Kind.RENAMED, other=renamed[0])
    tied = [other for other in names[1].find(expected[name], name) if other in actual]
    return Damage(kind=Kind.TIED, side="expected", other=tied[0]) if tied else None


def _explain_extra(
    name: str, names: _Sides, actual: Mapping[str, FullTensor], expected: Mapping[str, FullTensor]
) -> Damage | None:
    tied = [other for other in names[0].find(actual[name], name) if other in expected]
    return Damage(kind=Kind.TIED, side="actual", other=tied[0]) if tied else None


def _kind_of(full: FullTensor) -> object:
    return full.shape, full.dtype


def _take_sample(full: FullTensor) -> int | None:
    """A number from the first values; None where all of these are equal, which tells nothing."""
    if full.count < 2 or not full.shape:
        return None
    part = full
    for dim in range(len(full.shape)):
        part = part.narrow(dim, 0, min(full.shape[dim], max(1, _SAMPLE // max(1, _inner(full, dim)))))
    pair = FullPair(actual=part, expected=part, dtype=full.dtype)
    block, *_ = pair.blocks()
    values, _ = pair.read(block)
    if bool((values.view(-1).view(torch.uint8).view(len(values), -1) == values[:1].view(torch.uint8)).all()):
        return None
    return fingerprint_whole(part, full.dtype)


def _inner(full: FullTensor, dim: int) -> int:
    inner = 1
    for size in full.shape[dim + 1 :]:
        inner *= size
    return inner

"""The plot of errors: each tensor's error in units of its rounding noise, over the depth of the step."""

from __future__ import annotations

import math
from itertools import groupby
from typing import TYPE_CHECKING

from shardproof.proving.findings import FAR_RATIO, ROUNDING_RATIO
from shardproof.proving.records import Phase
from shardproof.report.page.description import NoisePlot, PlotLine, PlotPoint
from shardproof.report.page.tones import tone_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shardproof.proving.findings import Finding, Proof
    from shardproof.proving.records import Key

WIDTH, HEIGHT = 960.0, 240.0
_LEAST = 1e-2  # a smaller ratio is drawn at the bottom
_MOST_POINTS = 1500
_MOST = 1e12
_WIDTH_OF_LETTER = 6.0


def draw_plot(proof: Proof, ids: Mapping[Key, str]) -> NoisePlot | None:
    """The plot; None where no numbers were compared."""
    order = list(Phase)
    measured = sorted(
        (one for one in proof.findings if one.numbers is not None and not one.numbers.no_reference),
        key=lambda one: (one.key.step, order.index(one.key.phase)),
    )
    if not measured:
        return None
    shown = _thin_out(measured)
    highest = max(FAR_RATIO * 10, *(_ratio(one) for one in measured)) * 2
    place = {id(finding): number for number, finding in enumerate(measured)}
    points = tuple(
        PlotPoint(
            x=round((place[id(one)] + 0.5) / len(measured) * WIDTH, 1),
            y=_height(_ratio(one), highest),
            tone=tone_of(one),
            words=f"{one.key}: {_ratio(one):.2g} times the noise",
            href=f"#{ids[one.key]}",
            follows=one.failed and not one.root,
        )
        for one in shown
    )
    return NoisePlot(
        width=WIDTH,
        height=HEIGHT,
        points=points,
        levels=tuple(_levels(highest)),
        phases=tuple(_phases(measured)),
        words=_words(measured, len(shown)),
    )


def _ratio(finding: Finding) -> float:
    assert finding.numbers is not None
    ratio = finding.numbers.ratio
    return _MOST if math.isinf(ratio) else min(ratio, _MOST)


def _height(ratio: float, highest: float) -> float:
    """From 0 at the top to HEIGHT at the bottom, by the logarithm."""
    share = math.log(max(ratio, _LEAST) / _LEAST) / math.log(highest / _LEAST)
    return round(HEIGHT * (1 - share), 1)


def _levels(highest: float) -> list[PlotLine]:
    lines = [
        PlotLine(at=_height(ROUNDING_RATIO, highest), label=f"{ROUNDING_RATIO:g}: most of rounding", strong=True),
        PlotLine(at=_height(FAR_RATIO, highest), label=""),
        PlotLine(at=_height(1.0, highest), label="1: as noisy as one device"),
    ]
    top = math.floor(math.log10(highest))
    lines += [PlotLine(at=_height(10.0**e, highest), label=f"10^{e}") for e in range(3, top + 1, 3)]
    return lines


def _phases(measured: Sequence[Finding]) -> list[PlotLine]:
    """Where a step and phase begins; with its name where that has space."""
    lines: list[PlotLine] = []
    several = measured[-1].key.step > 0
    for (step, phase), group in groupby(enumerate(measured), key=lambda one: (one[1].key.step, one[1].key.phase)):
        numbers = [number for number, _ in group]
        label = f"{step + 1}: {phase}" if several else str(phase)
        fits = len(numbers) / len(measured) * WIDTH >= len(label) * _WIDTH_OF_LETTER
        lines.append(PlotLine(at=round(numbers[0] / len(measured) * WIDTH, 1), label=label if fits else ""))
    return lines


def _thin_out(measured: Sequence[Finding]) -> list[Finding]:
    """What fails or lies beyond rounding, as far as there is space, and evenly spaced ones of the rest."""
    far = [one for one in measured if one.failed or _ratio(one) > ROUNDING_RATIO][:_MOST_POINTS]
    rest = [one for one in measured if not (one.failed or _ratio(one) > ROUNDING_RATIO)]
    space = max(_MOST_POINTS - len(far), 200)
    return [*rest[:: max(1, -(-len(rest) // space))], *far]


def _words(measured: Sequence[Finding], shown: int) -> str:
    far = sum(_ratio(one) > ROUNDING_RATIO for one in measured)
    worst = max(measured, key=_ratio)
    thinned = f" {shown} of {len(measured)} are drawn." if shown < len(measured) else ""
    return (
        f"{far} of {len(measured)} tensors are more than {ROUNDING_RATIO:g} times the rounding noise from float64; the "
        f"largest ratio is {_ratio(worst):.2g}, at {worst.key}.{thinned}"
    )

"""`shardproof walkthrough` at the notebook's size, from start to end, against `python -c "import torch"`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.measure import Row, interleave

if TYPE_CHECKING:
    from collections.abc import Iterable

TARGET = 2.0


def rows() -> Iterable[Row]:
    """The whole command in a process of its own, the interpreter's start included on both sides."""
    timings = interleave(
        {
            "import": lambda: _run("-c", "import torch"),
            "walkthrough": lambda: _run("-m", "shardproof", "walkthrough"),
        }
    )
    yield Row(
        what="walkthrough: the notebook's size, start to end",
        ours=timings["walkthrough"].median,
        peer_name="import torch",
        peer=timings["import"].median,
        unit="ms",
        target=TARGET,
        spread=timings["walkthrough"].spread,
    )


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)  # noqa: S603 - our own command

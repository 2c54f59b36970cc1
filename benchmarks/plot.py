"""Plots of results.json, as SVG files beside docs/performance.md. Needs the extra `plot`: pip install '.[plot]'.

python -m benchmarks.plot
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.__main__ import RESULTS

TARGET = Path(__file__).parents[1] / "docs" / "performance.svg"
_GROWTH = "whole proof: growth with "


def main() -> None:
    """Left: whole proofs in float32 steps, by parameters. Right: how their time grows, beside their size."""
    mpl.rcParams["svg.hashsalt"] = "shardproof"  # the same file from the same numbers
    found = json.loads(RESULTS.read_text())["benchmarks"]["whole_proof"]["rows"]
    figure, (steps, growth) = plt.subplots(1, 2, figsize=(9, 3.4))
    _plot_steps(steps, [row for row in found if row["peer"]["name"] == "float32 step"])
    _plot_growth(growth, [row for row in found if row["what"].startswith(_GROWTH)])
    figure.tight_layout()
    figure.savefig(TARGET, metadata={"Date": None})


def _plot_steps(axes: Any, rows: list[dict[str, Any]]) -> None:
    millions = [float(row["what"].split(",")[1].split()[0]) for row in rows]
    axes.plot(millions, [row["ratio"] for row in rows], "o-", label="whole proof")
    axes.axhline(rows[0]["target"], linestyle="--", color="gray", label="target")
    axes.set(xscale="log", ylim=(0, None), xlabel="parameters, millions", ylabel="float32 steps")
    axes.legend()


def _plot_growth(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = [row["what"].removeprefix(_GROWTH).split(",")[0] for row in rows]
    places = range(len(rows))
    axes.bar([at - 0.2 for at in places], [row["peer"]["value"] for row in rows], 0.4, label="size", color="lightgray")
    axes.bar([at + 0.2 for at in places], [row["ours"] for row in rows], 0.4, label="time")
    axes.set_xticks(list(places), names)
    axes.set_ylabel("times the smaller proof")
    axes.legend()


if __name__ == "__main__":
    main()

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
_PEERS = ("arithmetic + collectives", "Megatron-style", "DTensor")


def main() -> None:
    """Whole proofs in float32 steps, by parameters; how their time grows, beside their size; ops; training layers."""
    mpl.rcParams["svg.hashsalt"] = "shardproof"  # the same file from the same numbers
    benchmarks = json.loads(RESULTS.read_text())["benchmarks"]
    found = benchmarks["whole_proof"]["rows"]
    figure, ((steps, growth), (ops, layers)) = plt.subplots(2, 2, figsize=(9, 6.8))
    _plot_steps(steps, [row for row in found if row["peer"]["name"] == "float32 step"])
    _plot_growth(growth, [row for row in found if row["what"].startswith(_GROWTH)])
    _plot_ops(ops, benchmarks["dispatch"]["rows"])
    _plot_layers(layers, benchmarks["parallel"]["rows"])
    figure.tight_layout()
    figure.savefig(TARGET, metadata={"Date": None})


def _plot_steps(axes: Any, rows: list[dict[str, Any]]) -> None:
    for each, label in ((False, "a proof of one trial"), (True, "each of three trials")):
        some = [row for row in rows if ("each of" in row["what"]) is each]
        millions = [float(row["what"].split(",")[1].split()[0]) for row in some]
        axes.plot(millions, [row["ratio"] for row in some], "o-", label=label)
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


def _plot_ops(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = [row["what"].rpartition(": ")[2] for row in rows]
    axes.barh(names, [row["ours"] for row in rows])
    axes.axvline(rows[0]["peer"]["value"], linestyle="--", color="gray", label="target")
    axes.invert_yaxis()
    axes.set_xlabel("microseconds over PyTorch's own op")
    axes.legend()


def _plot_layers(axes: Any, rows: list[dict[str, Any]]) -> None:
    ratios = {(row["what"].removeprefix("parallel: "), row["peer"]["name"]): row["ratio"] for row in rows}
    splits = list(dict.fromkeys(what for what, peer in ratios if peer in _PEERS))
    for shift, peer in enumerate(_PEERS):
        places = [at + 0.27 * (shift - 1) for at in range(len(splits))]
        axes.bar(places, [ratios[split, peer] for split in splits], 0.27, label=peer)
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.set_xticks(range(len(splits)), splits, fontsize=7, rotation=25, ha="right")
    axes.set(ylabel="our step over", ylim=(0, 2.4))
    axes.legend(fontsize=7, ncols=3)


if __name__ == "__main__":
    main()

"""Makes examples/by_hand.ipynb from examples/by_hand.py: the cells that jupytext reads, run, with their outputs.

What depends on the run alone (times, versions, ids) is left out, so that the file changes only where an output does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jupytext
import nbformat
from nbclient import NotebookClient

if TYPE_CHECKING:
    from nbformat import NotebookNode

SCRIPT = Path(__file__).parents[1] / "examples" / "by_hand.py"
NOTEBOOK = SCRIPT.with_suffix(".ipynb")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TIMEOUT = 300  # seconds for a cell


def main() -> int:
    """Write the notebook."""
    nbformat.write(run_script(SCRIPT), NOTEBOOK)
    print(f"{NOTEBOOK.name}: {NOTEBOOK.stat().st_size / 1e3:.0f} kB")
    return 0


def run_script(script: Path) -> NotebookNode:
    """The notebook of a script of jupytext, with the outputs of a run in the script's folder."""
    notebook = read_script(script)
    NotebookClient(notebook, timeout=TIMEOUT, resources={"metadata": {"path": str(script.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.clear()
    pairing = {"formats": "ipynb,py:percent"}
    notebook.metadata = {"jupytext": pairing, "kernelspec": _KERNEL, "language_info": {"name": "python"}}
    return notebook


def read_script(script: Path) -> NotebookNode:
    """The cells of a script, without outputs; each has its number as its id."""
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


if __name__ == "__main__":
    raise SystemExit(main())

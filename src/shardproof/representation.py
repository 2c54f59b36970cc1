"""How values show themselves: `print(proof)`, and what a notebook draws.

A value stands above `report/`, which renders it, so its renderer is imported when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

_RENDERERS: Final = {
    ("Proof", "text"): ("shardproof.report.text", "render_text"),
    ("Proof", "html"): ("shardproof.report.page.fragments", "render_proof_fragment"),
    ("Finding", "html"): ("shardproof.report.page.fragments", "render_finding_fragment"),
    ("Comparison", "html"): ("shardproof.report.page.fragments", "render_comparison_fragment"),
}


def represent(value: object, form: str) -> str:
    """A value as `text` or `html`."""
    module, name = _RENDERERS[type(value).__name__, form]
    return str(getattr(import_module(module), name)(value))

"""What is put into a page so that it stays text: data for scripts, compressed files, and the policy of what may run."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def compress(text: str) -> str:
    """Base64 of the gzipped text, the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def encode_json(data: object) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def make_policy(styles: Iterable[str], scripts: Iterable[str]) -> str:
    """The content security policy of a page: these styles and scripts run, nothing else does, nothing is loaded."""

    def hashes(texts: Iterable[str]) -> str:
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(x.encode()).digest()).decode()}'" for x in texts)

    return (
        f"default-src 'none'; style-src {hashes(styles)}; script-src {hashes(scripts)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )

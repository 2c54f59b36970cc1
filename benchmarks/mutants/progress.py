"""A file of results, a line of JSON each as it comes: a run that is interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.mutants.jobs import Job

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
DEFAULT = ROOT / "build" / "mutants.jsonl"


def digest_code() -> str:
    """Of the sources of the product and of the mutants: results of other sources are no results of these."""
    digest = hashlib.sha256()
    for folder in ("src/shardproof", "benchmarks/mutants"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class Progress:
    """Results by job, in a file."""

    def __init__(self, path: Path, code: str) -> None:
        self.path, self.code = path, code
        path.parent.mkdir(parents=True, exist_ok=True)

    def results(self) -> dict[Job, Mapping[str, Any]]:
        """Those of these sources; a last line that was cut off by an interruption is left out."""
        found: dict[Job, Mapping[str, Any]] = {}
        if not self.path.exists():
            return found
        for line in self.path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if entry["code"] == self.code:
                found[Job(entry["kind"], entry["name"])] = entry["result"]
        return found

    def add(self, job: Job, result: Mapping[str, Any]) -> None:
        """Append one line."""
        entry = {"code": self.code, "kind": job.kind, "name": job.name, "result": result}
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

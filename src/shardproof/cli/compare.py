"""`shardproof compare`."""

from __future__ import annotations


def compare_command() -> None:
    """Not written yet."""
    raise NotImplementedError

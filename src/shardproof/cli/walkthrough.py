"""`shardproof walkthrough`."""

from __future__ import annotations


def walkthrough_command() -> None:
    """Not written yet."""
    raise NotImplementedError

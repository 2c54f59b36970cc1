"""Exit codes, the same of every command."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command ends with."""

    AS_IT_SHOULD_BE = 0  # equal, proved, holds
    DIVERGED = 1
    COULD_NOT_RUN = 2

    @classmethod
    def of(cls, ok: bool) -> Exit:
        """Of a command that ran to its end."""
        return cls.AS_IT_SHOULD_BE if ok else cls.DIVERGED

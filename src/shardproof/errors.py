"""The one way in which a command says that it could not run."""

from __future__ import annotations


class CannotRunError(ValueError):
    """Bad input or bad luck: one line that says what was given, what was needed and what to do. Exit code 2."""

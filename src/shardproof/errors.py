"""The error of everything that could not run."""

from __future__ import annotations


class CannotRunError(ValueError):
    """Bad input, or a failure outside the program: one line that says what was given, what was needed and what to do.

    Commands exit with code 2.
    """

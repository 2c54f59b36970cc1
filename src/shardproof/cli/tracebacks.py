"""`--traceback`: the whole traceback of an error of the user's code, before the line that every error becomes."""

from __future__ import annotations

import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shardproof.errors import CannotRunError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def traceback_shown(wanted: bool) -> Iterator[None]:
    """Write the traceback of a `CannotRunError` to stderr, with what caused it and what ranks reported."""
    try:
        yield
    except CannotRunError as error:
        if wanted:
            traceback.print_exception(error)
        raise

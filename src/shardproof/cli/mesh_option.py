"""The option `--mesh`: axes and their sizes as text, and options that are KEY=VALUE."""

from __future__ import annotations

from shardproof.errors import CannotRunError


def split_at_equals(entry: str) -> tuple[str, str]:
    """The key and the value of KEY=VALUE.

    Raises:
        CannotRunError: it has another form.
    """
    key, equals, value = entry.partition("=")
    if not (key and equals and value):
        raise CannotRunError(f"{entry!r}: give KEY=VALUE")
    return key, value


def read_mesh(text: str) -> dict[str, int]:
    """The sizes of a mesh's axes by name, in order, of `dp=2,tp=2`.

    Raises:
        CannotRunError: it has another form, or an axis twice.
    """
    sizes: dict[str, int] = {}
    for name, size in map(split_at_equals, text.split(",")):
        if name in sizes or not size.isdecimal():
            raise CannotRunError(f"--mesh {text}: give each axis once, with its size: dp=2,tp=2")
        sizes[name] = int(size)
    return sizes

"""The environment variables that launchers set, for training scripts that read their rank from them."""

from __future__ import annotations

import socket


def make_environment(rank: int, size: int, port: int) -> dict[str, str]:
    """What torchrun sets on one machine.

    Args:
        rank: of this process or thread.
        size: how many ranks there are.
        port: for `MASTER_PORT`, see `find_free_port`.
    """
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def find_free_port() -> int:
    """A TCP port of this machine that nothing listens on now. Our own ranks meet without it."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

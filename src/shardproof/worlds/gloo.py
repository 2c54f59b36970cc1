"""Gloo between processes of this machine: over the loopback interface, whatever the host's name resolves to."""

from __future__ import annotations

import os
import socket


def use_loopback() -> None:
    """Make gloo use the loopback interface, unless the user has chosen one (GLOO_SOCKET_IFNAME).

    By default gloo resolves the host's name, which often fails in containers and sandboxes.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    for _, name in socket.if_nameindex():
        if name.startswith("lo"):
            os.environ["GLOO_SOCKET_IFNAME"] = name
            return

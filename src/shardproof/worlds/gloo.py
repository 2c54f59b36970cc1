"""Gloo among ranks that are all on this machine: over the loopback interface, whatever the host's name is."""

from __future__ import annotations

import os
import socket


def use_loopback() -> None:
    """Have gloo talk over loopback, unless the user has chosen an interface.

    By default gloo resolves the host's name, which in containers and sandboxes often leads nowhere.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    for _, name in socket.if_nameindex():
        if name.startswith("lo"):
            os.environ["GLOO_SOCKET_IFNAME"] = name
            return

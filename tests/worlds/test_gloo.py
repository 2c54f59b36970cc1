"""Gloo's interface: loopback, but for a user's own choice."""

import os
import socket

from shardproof.worlds.gloo import use_loopback


def test_loopback_is_chosen(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "eth0"), (2, "lo"), (3, "eth1")])
    use_loopback()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_the_users_choice_stays(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    use_loopback()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_without_loopback_nothing_is_set(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "eth0")])
    use_loopback()
    assert "GLOO_SOCKET_IFNAME" not in os.environ

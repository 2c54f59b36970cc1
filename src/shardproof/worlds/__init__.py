"""Worlds, which run ranks: simulated in this process, spawned as processes here, or launched by torchrun."""

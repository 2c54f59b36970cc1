"""Adapters: how a framework's models and sharding plans become a `Step` and a `parallelize`."""

"""Run a sharded training step in exact arithmetic and prove that it is still the same step."""

__version__ = "0.1.0"

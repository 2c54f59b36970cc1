"""Tensor-parallel modules: collectives in one file, layers in others, and a plan that applies them to a model."""

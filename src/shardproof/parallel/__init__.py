"""Tensor-parallel layers on `torch.distributed`, their backward derived by hand."""

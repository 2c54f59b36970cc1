"""Two checkpoints of one model, saved by different numbers of ranks, compared tensor by tensor.

Names, shapes and places in files are read first; a layout says how the pieces of ranks make each full tensor; then both
full tensors are read side by side, block by block, so that memory does not grow with the checkpoints.
"""

from shardproof.checkpoints.comparing import Settings, compare_paths
from shardproof.checkpoints.rows import CheckpointComparison, Row

__all__ = ["CheckpointComparison", "Row", "Settings", "compare_paths"]

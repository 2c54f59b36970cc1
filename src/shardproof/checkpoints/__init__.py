"""Two checkpoints of one model, saved by different numbers of ranks, compared tensor by tensor.

Names, shapes and places in files are read first; a layout says how the pieces of ranks make each full tensor; then both
full tensors are read side by side, block by block, so that memory does not grow with the checkpoints.
"""

from shardproof.checkpoints.comparing import Settings, compare_paths
from shardproof.checkpoints.damage import Damage, Kind
from shardproof.checkpoints.layout_file import Layout, read_layout
from shardproof.checkpoints.renaming import parse_renaming
from shardproof.checkpoints.rows import CheckpointComparison, Row

__all__ = [
    "CheckpointComparison",
    "Damage",
    "Kind",
    "Layout",
    "Row",
    "Settings",
    "compare_paths",
    "parse_renaming",
    "read_layout",
]

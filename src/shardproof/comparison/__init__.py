"""How two tensors differ: exact, approximate, the largest difference and its index. The notebook's `cmp`.

The tensors are read once, in blocks that stay in the processor's cache; no temporary is as large as a tensor.
"""

from shardproof.comparison.blocks import Block, Blocks, cut_blocks
from shardproof.comparison.comparison import Comparison, Worst
from shardproof.comparison.pair import check_readable, compare, compare_blocks, open_pair

__all__ = [
    "Block",
    "Blocks",
    "Comparison",
    "Worst",
    "check_readable",
    "compare",
    "compare_blocks",
    "cut_blocks",
    "open_pair",
]

"""How two tensors differ: exact, approximate, the largest difference and its index. The notebook's `cmp`.

The tensors are read once, in blocks that stay in the processor's cache; no temporary is as large as a tensor.
"""

from shardproof.comparison.comparison import Comparison, Worst
from shardproof.comparison.pair import compare

__all__ = ["Comparison", "Worst", "compare"]

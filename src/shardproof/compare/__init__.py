"""Two tensors -> how they differ: exact, approximate, the largest difference and where it is. The seed's `cmp`.

The tensors are read once, in blocks that stay in the processor's cache; no temporary is as large as a tensor.
"""

from shardproof.compare.comparison import Comparison, Worst
from shardproof.compare.pair import compare

__all__ = ["Comparison", "Worst", "compare"]

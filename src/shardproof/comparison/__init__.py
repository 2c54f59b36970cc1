"""Two tensors -> how they differ: exact, approximate, the largest difference and where it is. The seed's `cmp`.

The tensors are read once, in blocks that stay in the processor's cache; no temporary is as large as a tensor.
"""

from shardproof.comparison.comparison import Comparison, Worst
from shardproof.comparison.pair import compare

__all__ = ["Comparison", "Worst", "compare"]

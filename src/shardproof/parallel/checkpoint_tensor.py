"""A rank's tensor as `torch.distributed.checkpoint` sees it: pieces of a full tensor, as its `Sharding` lists them.

The protocol (`torch.distributed._checkpointable`) asks a tensor which pieces to write, which to read, and for the
memory of each. DTensor has one piece a rank; a fused projection has several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType

if TYPE_CHECKING:
    from torch._ops import OpOverload

    from shardproof.parallel.sharding import Piece, Sharding


class CheckpointTensor(Tensor):
    """Has the full tensor's shape and dtype, and the memory of the rank's tensor. For checkpoints only: it has no ops.

    The first rank that holds a piece writes it; every rank reads the pieces that it holds. Along another mesh axis
    ranks hold equal tensors and offer the same pieces; PyTorch writes one of them.
    """

    local: Tensor
    sharding: Sharding

    def __new__(cls, local: Tensor, sharding: Sharding) -> Self:
        """Wrap a tensor of `sharding.local_shape`; it is not copied."""
        made: Self = Tensor._make_wrapper_subclass(cls, sharding.shape, dtype=local.dtype, device=local.device)  # noqa: SLF001 - torch's way
        made.local, made.sharding = local, sharding
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override] # torch calls it with the op first, and types it otherwise
        cls, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(f"{func}: a CheckpointTensor is for checkpoints and has no ops")

    def __repr__(self) -> str:  # type: ignore[override] # torch's has an argument for itself
        return f"CheckpointTensor({list(self.sharding.shape)}, rank {self.sharding.rank} of {self.sharding.size})"

    def __create_write_items__(self, fqn: str, _object: object) -> list[WriteItem]:
        """The pieces that this rank counts, and so writes."""
        sharding = self.sharding
        counted: list[Piece | None] = [*sharding.counted_pieces()]
        if sharding.dim is None and sharding.rank == 0:
            counted = [None]
        properties = TensorProperties.create_from_tensor(self.local)
        return [
            WriteItem(
                index=MetadataIndex(fqn, self._chunk(piece).offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=self._chunk(piece), properties=properties, size=torch.Size(sharding.shape)
                ),
            )
            for piece in counted
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """The pieces that this rank holds, and so reads."""
        sharding = self.sharding
        held: list[Piece | None] = [None] if sharding.dim is None else [*sharding.pieces[sharding.rank]]
        return [self._chunk(piece) for piece in held]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        """The memory of one piece, to be read from or written into."""
        dim = self.sharding.dim
        if dim is None:
            return self.local
        assert index.offset is not None
        held = {piece.full: piece for piece in self.sharding.pieces[self.sharding.rank]}
        piece = held[index.offset[dim]]
        return self.local.narrow(dim, piece.local, piece.length)

    def _chunk(self, piece: Piece | None) -> ChunkStorageMetadata:
        """Where a piece lies in the full tensor; None stands for the full tensor."""
        offsets, sizes = [0] * len(self.sharding.shape), list(self.sharding.shape)
        if piece is not None:
            assert self.sharding.dim is not None
            offsets[self.sharding.dim], sizes[self.sharding.dim] = piece.full, piece.length
        return ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))

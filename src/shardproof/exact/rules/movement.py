"""Ops that move, copy or select elements by shape, integers or booleans: PyTorch carries them out on the residues."""

from __future__ import annotations

from shardproof.exact.rules.registry import moves

# Views
moves(
    *("alias.default", "as_strided.default", "detach.default", "diagonal.default", "expand.default", "lift.default"),
    *(
        "lift_fresh.default",
        "permute.default",
        "select.int",
        "slice.Tensor",
        "split.Tensor",
        "split_with_sizes.default",
    ),
    *("squeeze.default", "squeeze.dim", "squeeze.dims", "t.default", "transpose.int", "unbind.int", "unfold.default"),
    *("unsqueeze.default", "view.default", "_unsafe_view.default", "_reshape_alias.default", "unsafe_split.Tensor"),
    *("unsafe_split_with_sizes.default", "view_as.default"),
)

# Copies
moves(
    *("clone.default", "contiguous.default", "_to_copy.default", "copy.default", "cat.default", "stack.default"),
    *(
        "repeat.default",
        "flip.default",
        "roll.default",
        "rot90.default",
        "tril.default",
        "triu.default",
        "reshape.default",
    ),
    *("constant_pad_nd.default", "reflection_pad1d.default", "reflection_pad2d.default", "replication_pad1d.default"),
    *("replication_pad2d.default", "as_strided_copy.default", "fill.Scalar", "fill.Tensor", "zero.default"),
    *("diag_embed.default", "pixel_shuffle.default", "pixel_unshuffle.default", "channel_shuffle.default"),
    *("slice_scatter.default", "select_scatter.default", "diagonal_scatter.default", "as_strided_scatter.default"),
    *("slice_backward.default", "select_backward.default", "block_diag.default", "im2col.default"),
    *("expand_copy.default", "permute_copy.default", "view_copy.default", "unfold_copy.default", "detach_copy.default"),
)

# Chosen by integers or booleans
moves(
    *("embedding.default", "gather.default", "index.Tensor", "index_select.default", "masked_select.default"),
    *(
        "take.default",
        "where.self",
        "where.ScalarSelf",
        "where.ScalarOther",
        "masked_fill.Scalar",
        "masked_fill.Tensor",
    ),
    *("index_fill.int_Scalar", "index_fill.int_Tensor", "index_copy.default", "scatter.src", "scatter.value"),
    *("masked_scatter.default", "_unsafe_index.Tensor", "_unsafe_masked_index.default"),
)

"""Cross-entropy of logits that are split by the vocabulary.

Per token with logits z_j over the vocabulary V, target t, smoothing e and z-loss coefficient c:

    m = max_j z_j,   s = sum_j exp(z_j - m),   lse = m + log s
    loss = log s - (1 - e) (z_t - m) - e / V sum_j (z_j - m) + c lse^2
    dloss/dz_j = p_j (1 + 2 c lse) - (1 - e) [j = t] - e / V,   p_j = exp(z_j - m) / s

Once m and s are known, the gradient needs no communication. Sources: Shoeybi et al., "Megatron-LM" (arXiv:1909.08053),
section 3, for the split; Szegedy et al. (arXiv:1512.00567), section 7, for smoothing; Chowdhery et al., "PaLM"
(arXiv:2204.02311), section 5, for the z-loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from shardproof.errors import CannotRunError
from shardproof.parallel.collectives import all_reduce, all_reduce_max
from shardproof.parallel.embedding import own_vocabulary
from shardproof.parallel.traffic import Traffic

if TYPE_CHECKING:
    from shardproof.parallel.axis import Axis
    from shardproof.parallel.sharding import Sharding


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularySplit:
    """This rank's part of the vocabulary, and the options of the loss.

    Attributes:
        axis: the ranks that share the vocabulary.
        start: the first id whose logit this rank has.
        stop: one past the last.
        width: the number of this rank's logits; those of padding, after the logits of its ids, are ignored.
        vocabulary: the number of ids, without padding.
        ignore_index: tokens with this target have loss 0 and do not count in the mean.
        label_smoothing: e, 0 <= e <= 1.
        z_loss: c.
    """

    axis: Axis
    start: int
    stop: int
    width: int
    vocabulary: int
    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0

    def token_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each token: an all-reduce of maxima and one of sums forward; no collective backward.

        Args:
            logits: [..., v], of this rank's part of the vocabulary, with its padding.
            targets: [...], ids of the full vocabulary, the same on all ranks.

        Returns:
            [...], the same on all ranks, 0 for ignored tokens; in float32, or in the logits' dtype if that is wider.

        Raises:
            CannotRunError: the shapes do not fit, or the targets are not integers.
            RuntimeError: a target is outside the vocabulary and is not `ignore_index`.
        """
        if targets.is_floating_point():
            raise CannotRunError(f"targets of dtype {targets.dtype}; class probabilities are not split: give class ids")
        if logits.shape != (*targets.shape, self.width):
            raise CannotRunError(
                f"logits {list(logits.shape)} and targets {list(targets.shape)} on rank {self.axis.rank}; needed are "
                f"[..., {self.width}] and [...]: the rank's own part of the vocabulary, not gathered"
            )
        losses: Tensor = _VocabularyCrossEntropy.apply(logits, targets, self)  # type: ignore[no-untyped-call] # torch's
        return losses


class VocabularyParallelCrossEntropy(nn.Module):
    """`nn.CrossEntropyLoss` of logits split by the vocabulary: two all-reduces forward, none backward.

    Made by `from_loss`.
    """

    def __init__(self, split: VocabularySplit, reduction: str) -> None:
        super().__init__()
        self.split, self.reduction = split, reduction

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        return Traffic(forward=("all_reduce_max", "all_reduce"))

    @classmethod
    def from_loss(
        cls, loss: nn.CrossEntropyLoss, axis: Axis, *, sharding: Sharding, z_loss: float = 0.0
    ) -> VocabularyParallelCrossEntropy:
        """The split form of an ordinary cross-entropy.

        Args:
            loss: the ordinary cross-entropy.
            axis: the ranks.
            sharding: of the head's weight [V, h]; the logits are split in the same way.
            z_loss: c, the coefficient of lse^2.

        Raises:
            CannotRunError: the loss has class weights.
        """
        if loss.weight is not None:
            raise CannotRunError("a cross-entropy with class weights is not split by the vocabulary: leave them out")
        start, stop = own_vocabulary(sharding)
        split = VocabularySplit(
            axis=axis,
            start=start,
            stop=stop,
            width=sharding.lengths[sharding.rank],
            vocabulary=sharding.shape[0],
            ignore_index=loss.ignore_index,
            label_smoothing=loss.label_smoothing,
            z_loss=z_loss,
        )
        return cls(split, loss.reduction)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, the same on all ranks.

        Args:
            logits: [v], [T, v] or [B, v, ...], as for `nn.CrossEntropyLoss`.
            targets: [], [T] or [B, ...].

        Returns:
            A scalar; without reduction, the targets' shape. The mean is over the tokens that are not ignored.
        """
        losses = self.split.token_losses(logits.movedim(1, -1) if logits.ndim > 2 else logits, targets)
        if self.reduction == "none":
            return losses
        total = losses.sum()
        return total if self.reduction == "sum" else total / (targets != self.split.ignore_index).sum()


class _VocabularyCrossEntropy(torch.autograd.Function):
    """Two all-reduces forward; gradient times (p (1 + 2 c lse) - (1 - e) onehot(t) - e / V) backward, no collective."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, split: VocabularySplit) -> Tensor:
        columns = logits.detach()[..., : split.stop - split.start]  # [..., c]
        z = columns.to(torch.promote_types(columns.dtype, torch.float32))
        highest = all_reduce_max(z.amax(-1, keepdim=True), split.axis)  # [..., 1]
        p = z - highest  # [..., c]
        counts = targets != split.ignore_index  # [...]
        inside, index = _local_targets(targets, counts, split)
        sums = [p.gather(-1, index).squeeze(-1).masked_fill(~inside, 0.0)]
        if split.label_smoothing:
            sums.append(p.sum(-1))
        p = p.exp_()
        total, picked, *rest = all_reduce(torch.stack([p.sum(-1), *sums]), split.axis).unbind()  # [...] each
        p = p.div_(total.unsqueeze(-1))
        log_total = total.log()
        losses = log_total - (1 - split.label_smoothing) * picked
        if rest:
            losses = losses - split.label_smoothing / split.vocabulary * rest[0]
        log_sum_exp = log_total + highest.squeeze(-1)
        if split.z_loss:
            losses = losses + split.z_loss * log_sum_exp.square()
        ctx.save_for_backward(p, log_sum_exp, counts, inside, index)
        ctx.split, ctx.width, ctx.dtype = split, logits.shape[-1], logits.dtype
        return losses.masked_fill(~counts, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        p, log_sum_exp, counts, inside, index = ctx.saved_tensors
        split: VocabularySplit = ctx.split
        scale = gradient.masked_fill(~counts, 0.0)  # [...]
        of_p = scale * (1 + 2 * split.z_loss * log_sum_exp) if split.z_loss else scale
        dz = p * of_p.unsqueeze(-1)  # [..., c]
        if split.label_smoothing:
            dz = dz - (split.label_smoothing / split.vocabulary * scale).unsqueeze(-1)
        at_target = (scale * (split.label_smoothing - 1)).masked_fill(~inside, 0.0)  # [...]
        dz = dz.scatter_add(-1, index, at_target.unsqueeze(-1))
        padding = ctx.width - dz.shape[-1]
        if padding:
            dz = torch.cat([dz, dz.new_zeros(*dz.shape[:-1], padding)], -1)  # [..., v]
        return dz.to(ctx.dtype), None, None


def _local_targets(targets: Tensor, counts: Tensor, split: VocabularySplit) -> tuple[Tensor, Tensor]:
    """Whether each target's logit is on this rank [...], and its index among this rank's logits [..., 1].

    The index is 0 for targets of other ranks. It is -1 for targets outside the vocabulary: there `gather` raises, as
    PyTorch does on one device.
    """
    inside = counts & (targets >= split.start) & (targets < split.stop)
    outside = counts & ((targets < 0) | (targets >= split.vocabulary))
    index = (targets - split.start).masked_fill(~inside, 0).masked_fill(outside, -1)
    return inside, index.unsqueeze(-1)

"""Cross-entropy of logits of which each rank has its part of the vocabulary.

Per token with logits z_j over the vocabulary V, target t, smoothing e and z-loss coefficient c:

    m = max_j z_j,   s = sum_j exp(z_j - m),   lse = m + log s
    loss = log s - (1 - e) (z_t - m) - e / V sum_j (z_j - m) + c lse^2
    dloss/dz_j = p_j (1 + 2 c lse) - (1 - e) [j = t] - e / V,   p_j = exp(z_j - m) / s

The gradient needs no other rank once m and s are known. Sources: Shoeybi et al., "Megatron-LM" (arXiv:1909.08053),
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
class VocabularyLoss:
    """What a token's loss is.

    Attributes:
        axis: the ranks that share the vocabulary.
        start: the first id whose logit this rank has.
        stop: one past the last.
        width: how many logits this rank has; those after its ids', of padding, are ignored.
        vocabulary: how many ids there are, without padding.
        ignore_index: targets that count for nothing.
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

    def of_tokens(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Each token's loss, 0 where ignored. Forward: one all-reduce of the maxima, one of the sums; backward: none.

        Args:
            logits: [..., v], this rank's part of the vocabulary, with its padding.
            targets: [...] ids of the whole vocabulary, the same on all ranks.

        Returns:
            [...], the same on all ranks; float32 for logits of less.

        Raises:
            CannotRunError: the shapes do not fit, or the targets are no ids.
            RuntimeError: a target is in no rank's vocabulary, and is not `ignore_index`.
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

    def __init__(self, loss: VocabularyLoss, reduction: str) -> None:
        super().__init__()
        self.loss, self.reduction = loss, reduction

    @property
    def traffic(self) -> Traffic:
        """The collectives of one forward and backward."""
        return Traffic(forward=("all_reduce_max", "all_reduce"))

    @classmethod
    def from_loss(
        cls, loss: nn.CrossEntropyLoss, axis: Axis, *, sharding: Sharding, z_loss: float = 0.0
    ) -> VocabularyParallelCrossEntropy:
        """Take the place of an ordinary cross-entropy.

        Args:
            loss: the ordinary one.
            axis: the ranks.
            sharding: of the head's weight [V, h], which says how the logits are split.
            z_loss: coefficient of the squared logarithm of the softmax's denominator.

        Raises:
            CannotRunError: the loss has class weights.
        """
        if loss.weight is not None:
            raise CannotRunError("a cross-entropy with class weights is not split by the vocabulary: leave them out")
        start, stop = own_vocabulary(sharding)
        spec = VocabularyLoss(
            axis=axis,
            start=start,
            stop=stop,
            width=sharding.lengths[sharding.rank],
            vocabulary=sharding.shape[0],
            ignore_index=loss.ignore_index,
            label_smoothing=loss.label_smoothing,
            z_loss=z_loss,
        )
        return cls(spec, loss.reduction)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss, the same on all ranks.

        Args:
            logits: [v], [T, v] or [B, v, ...], the classes where `nn.CrossEntropyLoss` has them.
            targets: [], [T] or [B, ...].

        Returns:
            A scalar, or the targets' shape without reduction. The mean is over the tokens that are not ignored.
        """
        losses = self.loss.of_tokens(logits.movedim(1, -1) if logits.ndim > 2 else logits, targets)
        if self.reduction == "none":
            return losses
        total = losses.sum()
        return total if self.reduction == "sum" else total / (targets != self.loss.ignore_index).sum()


class _VocabularyCrossEntropy(torch.autograd.Function):
    """Two all-reduces forward; gradient times (p (1 + 2 c lse) - (1 - e) onehot(t) - e / V) backward, no collective."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, loss: VocabularyLoss) -> Tensor:
        columns = logits.detach()[..., : loss.stop - loss.start]  # [..., c]
        z = columns.to(torch.promote_types(columns.dtype, torch.float32))
        highest = all_reduce_max(z.amax(-1, keepdim=True), loss.axis)  # [..., 1]
        p = z - highest  # [..., c]
        counts = targets != loss.ignore_index  # [...]
        inside, place = _own_places(targets, counts, loss)
        sums = [p.gather(-1, place).squeeze(-1).masked_fill(~inside, 0.0)]
        if loss.label_smoothing:
            sums.append(p.sum(-1))
        p = p.exp_()
        total, picked, *rest = all_reduce(torch.stack([p.sum(-1), *sums]), loss.axis).unbind()  # [...] each
        p = p.div_(total.unsqueeze(-1))
        log_total = total.log()
        losses = log_total - (1 - loss.label_smoothing) * picked
        if rest:
            losses = losses - loss.label_smoothing / loss.vocabulary * rest[0]
        log_sum_exp = log_total + highest.squeeze(-1)
        if loss.z_loss:
            losses = losses + loss.z_loss * log_sum_exp.square()
        ctx.save_for_backward(p, log_sum_exp, counts, inside, place)
        ctx.loss, ctx.width, ctx.dtype = loss, logits.shape[-1], logits.dtype
        return losses.masked_fill(~counts, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        p, log_sum_exp, counts, inside, place = ctx.saved_tensors
        loss: VocabularyLoss = ctx.loss
        scale = gradient.masked_fill(~counts, 0.0)  # [...]
        of_p = scale * (1 + 2 * loss.z_loss * log_sum_exp) if loss.z_loss else scale
        dz = p * of_p.unsqueeze(-1)  # [..., c]
        if loss.label_smoothing:
            dz = dz - (loss.label_smoothing / loss.vocabulary * scale).unsqueeze(-1)
        at_target = (scale * (loss.label_smoothing - 1)).masked_fill(~inside, 0.0)  # [...]
        dz = dz.scatter_add(-1, place, at_target.unsqueeze(-1))
        padding = ctx.width - dz.shape[-1]
        if padding:
            dz = torch.cat([dz, dz.new_zeros(*dz.shape[:-1], padding)], -1)  # [..., v]
        return dz.to(ctx.dtype), None, None


def _own_places(targets: Tensor, counts: Tensor, loss: VocabularyLoss) -> tuple[Tensor, Tensor]:
    """Whether a target's logit is on this rank [...], and its place among the rank's [..., 1]; 0 for other ranks'.

    A target of no rank gets place -1, at which `gather` raises, as PyTorch does on one device.
    """
    inside = counts & (targets >= loss.start) & (targets < loss.stop)
    nowhere = counts & ((targets < 0) | (targets >= loss.vocabulary))
    place = (targets - loss.start).masked_fill(~inside, 0).masked_fill(nowhere, -1)
    return inside, place.unsqueeze(-1)

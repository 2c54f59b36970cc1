"""Styles for embeddings, and for losses of logits that are split by the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from shardproof.errors import CannotRunError
from shardproof.parallel.embedding import FeatureParallelEmbedding, VocabularyParallelEmbedding, split_vocabulary
from shardproof.parallel.linear import REPLICATE
from shardproof.parallel.loss import VocabularyParallelCrossEntropy
from shardproof.parallel.styles import Change, is_plain

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.tensor import Replicate, Shard

    from shardproof.parallel.styles import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyRows:
    """An embedding split by its rows; see `VocabularyParallelEmbedding.from_embedding`."""

    output: Replicate | Shard = REPLICATE
    multiple: int | None = None

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        whole = check_embedding(site)
        split = VocabularyParallelEmbedding.from_embedding(whole, site.axis, multiple=self.multiple, output=self.output)
        return Change(module=split, traffic=((site.axis, split.traffic),))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFeatures:
    """An embedding split by its features; see `FeatureParallelEmbedding.from_embedding`."""

    output: Replicate | Shard = REPLICATE

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        split = FeatureParallelEmbedding.from_embedding(check_embedding(site), site.axis, output=self.output)
        return Change(module=split, traffic=((site.axis, split.traffic),))


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyLoss:
    """An `nn.CrossEntropyLoss` of logits split by the vocabulary; see `VocabularyParallelCrossEntropy.from_loss`.

    Attributes:
        vocabulary: the number of classes, without padding.
        multiple: of the head's padding, as in `VocabularyRows`.
        z_loss: the coefficient of the squared log-sum-exp.
    """

    vocabulary: int
    multiple: int | None = None
    z_loss: float = 0.0

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        if not is_plain(site.module, nn.CrossEntropyLoss):
            raise CannotRunError(f"{site.name} is a {type(site.module).__name__}; needed is an nn.CrossEntropyLoss")
        assert isinstance(site.module, nn.CrossEntropyLoss)
        sharding = split_vocabulary((self.vocabulary,), site.axis, multiple=self.multiple)
        split = VocabularyParallelCrossEntropy.from_loss(site.module, site.axis, sharding=sharding, z_loss=self.z_loss)
        return Change(module=split, traffic=((site.axis, split.traffic),))


@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLoss:
    """The loss of a transformers causal language model on split logits, which are never gathered.

    For the model itself, path "", together with a head whose output stays split ("colwise"). It replaces the model's
    `loss_function`; the logits that the model returns are each rank's shard.

    Attributes:
        z_loss: the coefficient of the squared log-sum-exp.
        multiple: of the head's padding, as in `Column`.
    """

    z_loss: float = 0.0
    multiple: int | None = None

    def prepare(self, site: Site) -> Change:
        """See `Style`."""
        ordinary = getattr(getattr(site.module, "loss_function", None), "__name__", None)
        if ordinary != "ForCausalLMLoss" or not hasattr(site.module, "lm_head"):
            raise CannotRunError(
                f"{site.name} has loss_function {ordinary}; needed is a causal model of transformers, with its "
                "ForCausalLMLoss and an lm_head"
            )
        vocabulary = site.module.get_parameter("lm_head.weight").shape[0]
        sharding = split_vocabulary((vocabulary,), site.axis, multiple=self.multiple)
        mean, total = (
            VocabularyParallelCrossEntropy.from_loss(
                nn.CrossEntropyLoss(reduction=reduction), site.axis, sharding=sharding, z_loss=self.z_loss
            )
            for reduction in ("mean", "sum")
        )
        loss = _NextTokenLoss(mean=mean, total=total)

        def install(module: Any) -> None:
            module.loss_function = loss  # a property of transformers' models, with a setter

        return Change(module=site.module, install=install, traffic=((site.axis, mean.traffic),))


@dataclass(frozen=True, slots=True, kw_only=True)
class _NextTokenLoss:
    """transformers' `ForCausalLMLoss`: token t is predicted at t - 1; a mean, or a sum divided by a given count."""

    mean: VocabularyParallelCrossEntropy
    total: VocabularyParallelCrossEntropy

    def __call__(
        self,
        logits: Tensor,
        labels: Tensor | None,
        vocab_size: int,
        num_items_in_batch: Tensor | int | None = None,
        ignore_index: int = -100,
        shift_labels: Tensor | None = None,
        **_options: Any,
    ) -> Tensor:
        del vocab_size  # the split loss knows it
        if ignore_index != self.mean.split.ignore_index:
            raise CannotRunError(f"ignore_index is {ignore_index}; a split loss ignores {self.mean.split.ignore_index}")
        if shift_labels is None:
            assert labels is not None
            shift_labels = nn.functional.pad(labels, (0, 1), value=ignore_index)[..., 1:]
        targets, rows = shift_labels.reshape(-1), logits.flatten(0, -2)
        if num_items_in_batch is None:
            loss: Tensor = self.mean(rows, targets)
            return loss
        summed: Tensor = self.total(rows, targets)
        return summed / num_items_in_batch


def check_embedding(site: Site) -> nn.Embedding:
    """The site's module as an `nn.Embedding`.

    Raises:
        CannotRunError: it is no embedding, or has a forward of its own.
    """
    if not is_plain(site.module, nn.Embedding):
        raise CannotRunError(
            f"{site.name} is a {type(site.module).__name__}; needed is an nn.Embedding without a forward of its own"
        )
    assert isinstance(site.module, nn.Embedding)
    return site.module

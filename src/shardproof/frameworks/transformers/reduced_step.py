"""A training step on a reduced model: its batch has a token for every shard of the vocabulary and for every expert."""

from __future__ import annotations

from math import ceil, log, prod
from typing import TYPE_CHECKING, Any

import torch

from shardproof.errors import CannotRunError
from shardproof.frameworks.transformers.inputs import IGNORED
from shardproof.frameworks.transformers.reduction import reduce_configuration
from shardproof.frameworks.transformers.step import build_step_model, make_step
from shardproof.proving.axes import make_axes
from shardproof.worlds.communicator import shard_range

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from shardproof.frameworks.transformers.plans import OwnPlan
    from shardproof.proving.reduction import Reduction
    from shardproof.proving.step import Step

SEQUENCE = 9
_SPARE = 3.0  # an expert without a token has probability exp(-3) over all experts, if tokens choose at random


def reduced_step(
    source: str, settings: Mapping[str, Any], *, mesh: Mapping[str, int], plan: OwnPlan | None, seed: int = 0
) -> tuple[Step, Reduction]:
    """One AdamW step with clipping on a model that is reduced for a mesh, and how it was reduced.

    Args:
        source: a model type, a config.json or a folder that holds one.
        settings: entries of the full configuration to change.
        mesh: the sizes of the mesh's axes by name.
        plan: by which the model is split; None for code of the user's.
        seed: draws the inputs.

    Raises:
        CannotRunError: a condition of the reduction cannot be met; the message names it.
    """
    reduced = reduce_configuration(source, settings, mesh, plan)
    config = reduced.config
    if not hasattr(config, "vocab_size") or not reduced.model_class.__name__.endswith("ForCausalLM"):
        raise CannotRunError(
            f"--reduce: {reduced.model_class.__name__} is no language model with a loss of its own; leave --reduce out"
        )
    batch = {"inputs": _make_inputs(config, mesh, seed)}
    step = make_step(lambda: build_step_model(reduced.model_class, config), batch, steps=1)
    return step, reduced.reduction


def _make_inputs(config: Any, mesh: Mapping[str, int], seed: int) -> dict[str, Tensor]:
    axes = make_axes(devices=None, mesh=mesh, data_axes=None)
    rows = count_rows(config, ranks=axes.size, shares=axes.shares)
    ids = draw_ids(config.vocab_size, mesh, rows, seed)
    labels = ids.clone()
    labels[:, 1:4] = IGNORED  # as many in each row: on a data axis the loss is the mean of the means of the ranks
    return {"input_ids": ids, "labels": labels}


def count_rows(config: Any, *, ranks: int, shares: int) -> int:
    """How many rows of tokens: a multiple of the shares of a batch; enough for each rank's vocabulary and experts.

    Tokens that choose k of E experts at random leave out none, mostly, where there are (E / k) (log E + c) of them.
    """
    experts = next(
        (getattr(config, name) for name in ("num_local_experts", "n_routed_experts") if hasattr(config, name)), 0
    )
    chosen = getattr(config, "num_experts_per_tok", 1) or 1
    tokens = max(2 * ranks, ceil(experts / chosen * (log(experts) + _SPARE)) if experts else 0)
    least = max(2, -(-tokens // (SEQUENCE - 1)))
    return -(-least // shares) * shares


def draw_ids(vocabulary: int, mesh: Mapping[str, int], rows: int, seed: int) -> Tensor:
    """Draw token ids [rows, S] with the first id of every vocabulary shard, and the last ones while there is room.

    Of shards over each set of axes, both as torch.chunk cuts and as evenly as possible.
    """
    ranks = sorted({prod(mesh.values()), *mesh.values()})
    firsts = {min(rank * -(-vocabulary // count), vocabulary - 1) for count in ranks for rank in range(count)}
    firsts |= {shard_range(vocabulary, rank, count)[0] % vocabulary for count in ranks for rank in range(count)}
    edges = [*sorted(firsts), *sorted({(first - 1) % vocabulary for first in firsts} - firsts)]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (rows * SEQUENCE,), generator=generator)
    ids = ids.view(rows, SEQUENCE)
    # The last token of a row predicts nothing, so no gradient reaches its row of the embedding.
    places = torch.randperm(rows * (SEQUENCE - 1), generator=generator)[: len(edges)]
    ids[places // (SEQUENCE - 1), places % (SEQUENCE - 1)] = torch.tensor(edges)[: len(places)]
    return ids

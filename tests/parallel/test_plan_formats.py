"""Torch's styles and transformers' strings become ours; what has no counterpart is refused."""

import pytest
from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    PrepareModuleInputOutput,
    PrepareModuleOutput,
    RowwiseParallel,
    SequenceParallel,
)
from transformers.distributed import expert_parallel
from transformers.distributed.tensor_parallel import ALL_PARALLEL_STYLES

from shardproof.errors import CannotRunError
from shardproof.parallel import (
    Boundary,
    Column,
    EmbeddingFeatures,
    GradientAllReduce,
    Move,
    Row,
    VocabularyRows,
)
from shardproof.parallel.plan_formats import TRANSFORMERS, translate

LINEAR, EMBEDDING = nn.Linear(2, 2), nn.Embedding(2, 2)
GATHER = Move(source=Shard(1), target=Replicate())
SUM = Move(source=Partial(), target=Replicate())


@pytest.mark.parametrize(
    ("entry", "module", "style"),
    [
        ("colwise", LINEAR, Column()),
        ("packed_rowwise", LINEAR, Row(parts=2)),
        (ColwiseParallel(), LINEAR, Column()),
        (
            ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
            LINEAR,
            Column(input=Shard(1), output=Replicate()),
        ),
        (ColwiseParallel(output_layouts=Replicate()), EMBEDDING, EmbeddingFeatures()),
        (RowwiseParallel(), LINEAR, Row()),
        (RowwiseParallel(output_layouts=Shard(1)), LINEAR, Row(output=Shard(1))),
        (RowwiseParallel(input_layouts=Replicate()), EMBEDDING, VocabularyRows()),
        (SequenceParallel(), nn.LayerNorm(2), GradientAllReduce()),
        (
            PrepareModuleInput(input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)),
            LINEAR,
            Boundary(inputs={0: GATHER}),
        ),
        (
            PrepareModuleOutput(output_layouts=Partial(), desired_output_layouts=Replicate()),
            LINEAR,
            Boundary(outputs={0: SUM}),
        ),
        (
            PrepareModuleInputOutput(
                input_layouts=Shard(1),
                desired_input_layouts=Replicate(),
                output_layouts=Partial(),
                desired_output_layouts=Replicate(),
            ),
            LINEAR,
            Boundary(inputs={0: GATHER}, outputs={0: SUM}),
        ),
        (Row(parts=3), LINEAR, Row(parts=3)),
    ],
)
def test_an_entry_becomes_the_style_that_does_the_same(entry, module, style):
    assert translate(entry, module, "x") == style


@pytest.mark.parametrize(
    ("entry", "module", "said"),
    [
        ("ep_router", LINEAR, "x: no style 'ep_router'"),
        (3, LINEAR, "x: the plan has a int for it"),
        (ColwiseParallel(output_layouts=Partial()), LINEAR, "needed is one Replicate"),
        (RowwiseParallel(input_layouts=Shard(0)), EMBEDDING, "x: an embedding whose ids are"),
    ],
)
def test_what_has_no_counterpart_is_refused(entry, module, said):
    with pytest.raises(CannotRunError, match=said):
        translate(entry, module, "x")


def test_every_string_is_one_of_transformers_and_each_of_theirs_is_taken():
    assert expert_parallel.AllToAllEP  # its module registers more of them
    assert set(ALL_PARALLEL_STYLES.keys()) <= set(TRANSFORMERS)
    assert set(TRANSFORMERS) - set(ALL_PARALLEL_STYLES.keys()) <= {
        "colwise_rep",
        "rowwise_rep",
        "local_params",
        "replicate",
    }

"""Entries of a plan that would mend what is wrong: where every first cause is a gradient that lacks an all-reduce."""

import pytest

from shardproof.census.suggestions import suggest_entries
from shardproof.proving.cause import Cause, CauseKind, Mend
from shardproof.proving.findings import Finding, Verdict
from shardproof.proving.records import Key, Phase


def root(name, phase=Phase.GRADIENT, mend=Mend.ALL_REDUCE_GRADIENT):
    cause = Cause(kind=CauseKind.MISSING_ALL_REDUCE, axes=("tp",), mend=mend)
    return Finding(key=Key(0, phase, name), verdict=Verdict.WRONG, cause=cause, root=True)


def test_layers_share_an_entry_and_names_with_digits_stay():
    names = ("model.layers.0.attn.q_norm.weight", "model.layers.12.attn.q_norm.weight", "model.norm2.weight")
    style = "replicated_with_grad_allreduce"
    assert suggest_entries(map(root, names)) == {"model.layers.*.attn.q_norm": style, "model.norm2": style}


@pytest.mark.parametrize(
    "other",
    [
        root("model.layers.0.mlp", phase=Phase.OUTPUT),
        root("model.layers.0.mlp.weight", mend=Mend.AVERAGE_GRADIENT),
        Finding(key=Key(0, Phase.GRADIENT, "x.weight"), verdict=Verdict.WRONG, root=True),
    ],
)
def test_with_another_cause_beside_it_nothing_is_suggested(other):
    assert suggest_entries([root("model.norm.weight"), other]) == {}


def test_of_no_causes_nothing_is_suggested():
    assert suggest_entries([]) == {}

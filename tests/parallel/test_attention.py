"""Attention split by heads is the whole one, also with fewer KV heads than ranks; bugs beside are caught."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.parallel.ranks import alone, calls_of, make_step, proof_of, random
from torch import nn
from torch.distributed.tensor import Replicate, Shard

from shardproof.errors import CannotRunError
from shardproof.parallel import attention as attention_file
from shardproof.parallel import heads as heads_file
from shardproof.parallel.attention import Attention, Heads
from shardproof.parallel.collectives import gather_shards, take_shard
from shardproof.parallel.linear import ColumnLinear
from shardproof.parallel.sharding import sharding_of
from shardproof.parallel.traffic import count_calls
from shardproof.proving.cause import CauseKind
from shardproof.proving.records import ACTIVATIONS, Phase

H, S = 6, 5


class Model(nn.Module):
    def __init__(self, heads, **options):
        super().__init__()
        self.attention = Attention.of_sizes(H, heads, **options)

    def forward(self, x):
        return x + self.attention(x)


def step(queries, kv, **options):
    heads = Heads(queries=queries, kv=kv, width=2)
    return make_step(lambda: Model(heads, **options), (random(2, S, H), random(2, S, H)), loss=F.mse_loss)


def split(model, axis):
    model.attention = Attention.from_attention(model.attention, axis)


def split_sequence(model, axis):
    model.attention = Attention.from_attention(model.attention, axis, placement=Shard(1), length=S)
    whole = model.forward
    model.forward = lambda x: gather_shards(whole(take_shard(x, axis, dim=1)), axis, dim=1, total=S)


@pytest.mark.parametrize(
    ("change", "devices", "arguments"),
    [
        pytest.param(split, 2, {"queries": 2, "kv": 2}, id="a KV head a query"),
        pytest.param(split, 2, {"queries": 4, "kv": 2, "bias": True, "norms": True}, id="groups"),
        pytest.param(split, 3, {"queries": 6, "kv": 3}, id="three ranks"),
        pytest.param(split, 4, {"queries": 4, "kv": 2, "bias": True, "norms": True}, id="two ranks a KV head"),
        pytest.param(split, 3, {"queries": 3, "kv": 1}, id="one KV head"),
        pytest.param(split_sequence, 2, {"queries": 4, "kv": 2, "norms": True}, id="sequence"),
        pytest.param(split_sequence, 4, {"queries": 4, "kv": 2, "bias": True}, id="sequence, two ranks a KV head"),
    ],
)
def test_a_split_attention_is_proved(change, devices, arguments):
    proof = proof_of(step(**arguments), change, devices)
    assert proof.ok, proof.roots


def test_kv_gradients_that_sharers_do_not_sum_are_found(monkeypatch):
    """M23."""
    monkeypatch.setattr(attention_file, "kv_replica_axis", lambda _axis, _heads: None)
    proof = proof_of(step(4, 2, bias=True), split, 4)
    assert {(f.key.phase, f.key.name) for f in proof.roots} == {
        (Phase.GRADIENT, "attention.qkv.weight"),
        (Phase.GRADIENT, "attention.qkv.bias"),
    }


def test_head_norms_that_ranks_do_not_sum_are_found(monkeypatch):
    """M07."""
    monkeypatch.setattr(attention_file, "sum_gradients_of_parameters", lambda module, _axis, **_names: module)
    proof = proof_of(step(2, 2, norms=True), split, 2)
    assert {(f.key.phase, f.key.name) for f in proof.roots} == {
        (Phase.GRADIENT, "attention.q_norm.weight"),
        (Phase.GRADIENT, "attention.k_norm.weight"),
    }
    assert {f.cause.kind for f in proof.roots} == {CauseKind.MISSING_ALL_REDUCE}


def test_queries_keys_and_values_cut_as_one_are_found():
    """M20."""

    def change(model, axis):
        whole = model.attention.qkv
        split(model, axis)
        model.attention.qkv = ColumnLinear.from_linear(whole, axis)

    proof = proof_of(step(2, 2), change, 2)
    assert not proof.ok
    assert all(f.key.name.startswith("attention") and f.key.phase in ACTIVATIONS for f in proof.roots)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("placement", [Replicate(), Shard(1)])
def test_the_calls_are_those_predicted(size, placement):
    with alone(size) as axis:
        whole = Attention.of_sizes(H, Heads(queries=4, kv=2, width=2), norms=True)
        module = Attention.from_attention(whole, axis, placement=placement)
        predicted = [
            sum((count_calls(way(one), among) for among, one in module.traffics), start=count_calls((), axis))
            for way in (lambda one: one.forward, lambda one: one.backward)
        ]
        outputs = []
        x = torch.randn(2, 4, H, requires_grad=True)
        assert calls_of(lambda: outputs.append(module(x))) == predicted[0]
        assert calls_of(lambda: outputs[0].sum().backward()) == predicted[1]
        # Input (and output, along the sequence), both norms, shared KV heads; of four ranks a sum is two calls.
        assert sum(predicted[1].values()) == (5 if size == 4 else 3 if placement == Shard(1) else 2)


def test_shared_heads_are_noted_and_counted_once():
    with alone(4) as axis:
        whole = Attention.of_sizes(H, Heads(queries=4, kv=2, width=2))
        noted = sharding_of(Attention.from_attention(whole, axis).qkv.weight)
        assert noted.holders(noted.pieces[0][1]) == (0, 1)
        assert sum(piece.length for rank in range(4) for piece in noted.on_rank(rank).counted_pieces()) == 16


def test_a_copy_computes_the_same():
    with alone(4) as axis:
        whole = Attention.of_sizes(H, Heads(queries=4, kv=2, width=2))
        module = Attention.from_attention(whole, axis)
        other = copy.deepcopy(module)
        x = torch.randn(2, 4, H)
        other(x)
        assert calls_of(lambda: other(x).sum().backward()) == calls_of(lambda: module(x).sum().backward())


def test_heads_that_make_no_groups_say_so():
    with pytest.raises(CannotRunError, match="3 query heads on 2 KV heads"):
        Heads(queries=3, kv=2, width=2)


@pytest.mark.parametrize(
    ("queries", "kv", "size", "said"),
    [
        (4, 2, 3, "4 heads on 3 ranks; needed are ranks that divide the heads"),
        (12, 3, 4, "3 heads on 4 ranks; needed are ranks that divide the heads, or that the heads divide"),
        (2, 2, 4, "2 heads on 4 ranks"),
    ],
)
def test_heads_that_ranks_cannot_share_say_so(queries, kv, size, said):
    with alone(size) as axis, pytest.raises(CannotRunError, match=said):
        Attention.from_attention(Attention.of_sizes(H, Heads(queries=queries, kv=kv, width=2)), axis)


def test_layers_share_a_group():
    with alone(4) as axis:
        whole = Attention.of_sizes(H, Heads(queries=4, kv=2, width=2))
        kv_replicas = heads_file.kv_replica_axis(axis, 2)
        assert (kv_replicas.rank, kv_replicas.size) == (0, 2)
        assert heads_file.kv_replica_axis(axis, 4) is None
        layers = [Attention.from_attention(whole, axis, kv_replicas=kv_replicas) for _ in range(2)]
        assert all(layer.traffics[-1][0] is kv_replicas for layer in layers)

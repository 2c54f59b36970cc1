"""The step on N devices is PyTorch's, for every split, size and depth; and it asks for the collectives it should."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from shardproof.byhand import reference
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.n_devices import train_on_rank
from shardproof.byhand.settings import Settings
from shardproof.byhand.sharding import plan_splits, shard_layers
from shardproof.byhand.walkthrough import draw_batches, gather_step, take_steps
from shardproof.worlds.simulated import SimulatedWorld

CLOSE = {"rtol": 1e-11, "atol": 1e-13}  # float64 leaves a thousand times less


@st.composite
def draw_settings(draw, dtype=torch.float64):
    devices = draw(st.integers(1, 8))
    layers = draw(st.integers(1, 5))
    samples = draw(st.integers(1, 12))
    return Settings(
        widths=tuple(draw(st.lists(st.integers(devices, devices + 9), min_size=layers + 1, max_size=layers + 1))),
        samples=samples,
        batch_size=draw(st.integers(1, samples)),
        activation=draw(st.sampled_from(["none", "relu", "gelu"])),
        loss=draw(st.sampled_from(["mse", "cross-entropy"])),
        lr=0.1,
        steps=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 99)),
        dtype=dtype,
        devices=devices,
        splits=tuple(draw(st.lists(st.sampled_from(["column", "row"]), min_size=layers, max_size=layers))),
    )


@hypothesis_settings(max_examples=60, deadline=None)
@given(draw_settings())
def test_step_is_pytorchs_in_float64(settings):
    layer_splits = plan_splits(settings.widths, settings.splits)
    layers = initialise_layers(settings.widths, seed=settings.seed, dtype=settings.dtype)
    model = reference.build_model(
        settings.widths, activation=settings.activation, seed=settings.seed, dtype=settings.dtype
    )
    epoch = draw_batches(settings)
    batches = [epoch[step % len(epoch)] for step in range(settings.steps)]
    results = SimulatedWorld(size=settings.devices).run(train_on_rank, settings, layers, batches)
    for batch, ranks in zip(batches, zip(*results, strict=True), strict=True):
        actual = gather_step(ranks, layer_splits, settings, batch)
        expected = reference.take_step(model, batch, loss=settings.loss, lr=settings.lr)
        torch.testing.assert_close(actual.out, expected.out, **CLOSE)
        torch.testing.assert_close(actual.loss, expected.loss, **CLOSE)
        for ours, theirs in zip(
            (*actual.gradients, *actual.updated), (*expected.gradients, *expected.updated), strict=True
        ):
            torch.testing.assert_close(ours.W, theirs.W, **CLOSE)
            torch.testing.assert_close(ours.b, theirs.b, **CLOSE)
        for rank in ranks:  # what is replicated is the same bits everywhere
            assert torch.equal(rank.tensors["out"], actual.out)
            for l, layer_split in enumerate(layer_splits, start=1):
                if not layer_split.z_is_sharded:
                    assert torch.equal(rank.tensors[f"db{l}"], ranks[0].tensors[f"db{l}"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_comparison_is_approximate(dtype):
    @hypothesis_settings(max_examples=25, deadline=None, derandomize=True)
    @given(draw_settings(dtype))
    def check(settings):
        for report in take_steps(settings, SimulatedWorld(size=settings.devices)):
            assert [str(line) for line in report.comparisons if not line.approximate] == []

    check()


EXPECTED = {  # of the first of two layers: forward, backward
    ("column", "column"): ([("all_gather", "h1")], [("reduce_scatter", "dh1")]),
    ("column", "row"): ([], []),
    ("row", "column"): ([("all_reduce", "z1")], [("all_reduce", "dh1")]),
    ("row", "row"): ([("reduce_scatter", "z1")], [("all_gather", "dz1")]),
}


@pytest.mark.parametrize("splits", list(product(["column", "row"], repeat=2)), ids="-".join)
def test_collectives_follow_from_the_two_splits(splits):
    settings = Settings(widths=(6, 4, 8), devices=2, splits=splits, activation="relu")
    (report,) = take_steps(settings, SimulatedWorld(size=2))
    forward, backward = EXPECTED[splits]
    forward = [*forward, ("all_gather" if splits[1] == "column" else "all_reduce", "out")]
    sections = {section.number: [(e.collective, e.tensor) for e in section.entries] for section in report.sections}
    pipeline = {"5.1": [], "5.2": [], "5.3": []}
    assert sections == {"3.1.1": [], "3.1.2": forward, "3.2.1": [], "3.2.2": backward, "4.1": []} | pipeline


def test_bytes_of_the_seeds_step():
    (report,) = take_steps(Settings(), SimulatedWorld(size=2))
    entries = {entry.tensor: entry.bytes_per_rank for section in report.sections for entry in section.entries}
    # Half of h [32, 4], of out [32, 2] and of dh [32, 4] in float32.
    assert entries == {"h1": 32 * 2 * 4, "out": 32 * 1 * 4, "dh1": 32 * 2 * 4}


def test_one_device_communicates_nothing():
    (report,) = take_steps(Settings(devices=1), SimulatedWorld(size=1))
    assert not any(section.entries or section.messages for section in report.sections)


def test_shards_have_memory_of_their_own():
    layers = initialise_layers((6, 4, 2), seed=1)
    for split in ("column", "row"):
        for shard, layer in zip(
            shard_layers(layers, plan_splits((6, 4, 2), (split, split)), rank=0, size=2), layers, strict=True
        ):
            assert shard.W.is_contiguous()
            assert shard.W.untyped_storage().nbytes() == layer.W.untyped_storage().nbytes() // 2

"""Both ways of splitting a step in one run: each is what it is alone, and goes on from its own parameters."""

import torch

from shardproof.byhand.both_splits import train_both_ways
from shardproof.byhand.model import initialise_layers
from shardproof.byhand.n_devices import train_on_rank
from shardproof.byhand.pipeline import train_on_stage
from shardproof.byhand.settings import Settings
from shardproof.byhand.walkthrough import draw_batches
from shardproof.worlds.simulated import SimulatedWorld

SETTINGS = Settings(samples=6, batch_size=3, steps=2)


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_each_way_is_what_it_is_alone():
    first, second = (initialise_layers(SETTINGS.widths, seed=seed) for seed in (1, 2))
    batches, world = draw_batches(SETTINGS), SimulatedWorld(size=2)
    shards = world.run(train_on_rank, SETTINGS, first, batches)
    stages = world.run(train_on_stage, SETTINGS, second, batches)
    for rank, steps in enumerate(world.run(train_both_ways, SETTINGS, first, second, batches)):
        assert len(steps) == 2
        for step, (shard, stage) in enumerate(steps):
            assert equal(shard.tensors, shards[rank][step].tensors)
            assert equal(stage.tensors, stages[rank][step].tensors)


def test_another_training_takes_its_place():
    layers, batches = initialise_layers(SETTINGS.widths, seed=1), draw_batches(SETTINGS)

    def no_stages(comm, settings, layers, batches):
        return [None for _ in batches]

    def run(comm):
        return train_both_ways(comm, SETTINGS, layers, layers, batches, stages=no_stages)

    assert [stage for _, stage in SimulatedWorld(size=2).run(run)[0]] == [None, None]

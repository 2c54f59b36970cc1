"""The data set and its batches are the notebook's."""

from __future__ import annotations

import pytest
import torch

from shardproof.byhand.data import draw_samples, split_batches


@pytest.mark.parametrize(("in_features", "out_features"), [(6, 2), (17, 5), (33, 16)])
def test_data_are_the_notebooks(in_features, out_features):
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        pairs = [(torch.randn(in_features), torch.randn(out_features)) for _ in range(32)]
    data = draw_samples(samples=32, in_features=in_features, out_features=out_features, seed=12345)
    assert torch.equal(data.x, torch.stack([x for x, _ in pairs]))
    assert torch.equal(data.y, torch.stack([y for _, y in pairs]))


def test_batches_are_a_data_loaders():
    data = draw_samples(samples=10, in_features=3, out_features=2, seed=1)
    loader = torch.utils.data.DataLoader(list(zip(data.x, data.y, strict=True)), batch_size=4, shuffle=False)
    batches = split_batches(data, 4)
    assert [len(batch.x) for batch in batches] == [4, 4, 2]
    for batch, (x, y) in zip(batches, loader, strict=True):
        assert torch.equal(batch.x, x)
        assert torch.equal(batch.y, y)


def test_drawing_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    draw_samples(samples=3, in_features=2, out_features=2, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)

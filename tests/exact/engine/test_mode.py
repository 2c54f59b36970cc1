"""A whole training step in exact arithmetic: the thinnest path from end to end."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from shardproof.exact import ExactArithmetic, LeavingFieldError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.up = nn.Linear(16, 32)
        self.norm = nn.LayerNorm(32)
        self.down = nn.Linear(32, 50)

    def forward(self, ids):
        return self.down(self.norm(F.gelu(self.up(self.embedding(ids)))))


def train(seed, split_batch):
    """Two AdamW steps with clipping; the batch whole, or in two halves whose gradients accumulate."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = Net()
    ids = torch.randint(0, 50, (4, 7), generator=generator)
    labels = torch.randint(0, 50, (4, 7), generator=generator)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with ExactArithmetic(seed=seed, check=True) as exact:
        for _ in range(2):
            optimizer.zero_grad()
            parts = zip(ids.chunk(2), labels.chunk(2), strict=True) if split_batch else [(ids, labels)]
            for x, y in parts:
                loss = F.cross_entropy(net(x).flatten(0, 1), y.flatten())
                (loss / (2 if split_batch else 1)).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
        return {name: exact.digits(p) for name, p in net.named_parameters()}


def test_two_ways_of_computing_one_step_give_the_same_digits():
    whole, halves = train(1, split_batch=False), train(1, split_batch=True)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_another_seed_gives_other_digits():
    assert not torch.equal(train(1, split_batch=False)["up.weight"], train(2, split_batch=False)["up.weight"])


def test_a_wrong_learning_rate_is_seen():
    net = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    digits = []
    for lr in (0.1, 0.1000001):
        with ExactArithmetic(seed=1) as exact:
            optimizer = torch.optim.SGD(net.parameters(), lr=lr)
            net(x).square().mean().backward()
            optimizer.step()
            digits.append(exact.digits(net.weight))
    assert not torch.equal(*digits)


def test_parameters_are_put_back_bit_for_bit_even_after_an_exception():
    net = Net().to(torch.bfloat16)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with pytest.raises(LeavingFieldError, match=r"item|_local_scalar_dense"), ExactArithmetic(seed=1):
        net(torch.tensor([[1, 2]])).sum().item()
    for name, p in net.named_parameters():
        assert p.dtype == torch.bfloat16
        assert torch.equal(p, before[name])

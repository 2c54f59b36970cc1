"""An optimizer on the list does to pieces what it does to the whole, bit for bit; one that does not is refused."""

import pytest
import torch
from tests.parallel.ranks import random
from torch import nn, optim

from shardproof.errors import CannotRunError
from shardproof.parallel.optimizers import ELEMENTWISE, check_optimizer
from shardproof.parallel.sharding import assemble, cut_parameter, replicated, split

SHAPE, SIZE = (7, 10), 3
WITH_OPTIONS = [
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    (optim.AdamW, {"lr": 0.1, "foreach": True}),
    (optim.AdamW, {"lr": 0.1, "fused": True}),
    (optim.RMSprop, {"lr": 0.1, "centered": True, "momentum": 0.9}),
]
WHOLE_TENSOR = [optim.Muon, optim.Adafactor, optim.LBFGS]


def train(kind, options, start, gradients):
    """Three steps on one parameter."""
    parameter = nn.Parameter(start.clone())
    optimizer = kind([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step(*([lambda: torch.zeros(())] if kind is optim.LBFGS else []))
    return parameter.detach()


def differs(kind, options, dim):
    """Whether pieces are trained otherwise than the whole."""
    start, gradients = random(*SHAPE).float(), [random(*SHAPE, seed=seed).float() for seed in range(3)]
    shardings = [split(SHAPE, dim, rank=rank, size=SIZE) for rank in range(SIZE)]
    pieces = [
        train(kind, options, *(cut_parameter(start, s).detach(),), [cut_parameter(g, s).detach() for g in gradients])
        for s in shardings
    ]
    whole = train(kind, options, start, gradients)
    assert not torch.equal(whole, start)
    return not torch.equal(assemble(pieces, shardings[0]), whole)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, {}) for kind in sorted(ELEMENTWISE, key=lambda kind: kind.__name__)] + WITH_OPTIONS,
    ids=lambda value: getattr(value, "__name__", None) or "-".join(value) or "defaults",
)
def test_an_elementwise_optimizer_trains_pieces_as_the_whole(kind, options, dim):
    assert not differs(kind, options, dim)


@pytest.mark.parametrize("kind", WHOLE_TENSOR)
def test_others_train_pieces_otherwise_and_are_refused(kind):
    assert differs(kind, {}, 1)
    parameter = cut_parameter(random(*SHAPE), split(SHAPE, 1, rank=0, size=SIZE))
    with pytest.raises(
        CannotRunError, match=f"{kind.__name__} is not known to be elementwise, and 1 of its parameters"
    ):
        check_optimizer(kind([parameter]))


@pytest.mark.parametrize("kind", WHOLE_TENSOR)
def test_on_parameters_that_every_rank_holds_whole_any_is_right(kind):
    for sharding in (replicated(SHAPE, rank=1, size=SIZE), split(SHAPE, 1, rank=0, size=1)):
        optimizer = kind([cut_parameter(random(*SHAPE), sharding)])
        assert check_optimizer(optimizer) is optimizer
    check_optimizer(kind([nn.Parameter(random(*SHAPE))]))


def test_one_of_ones_own_says_that_it_knows_of_shards():
    class Own(optim.SGD):
        """May do anything."""

    optimizer = Own([cut_parameter(random(*SHAPE), split(SHAPE, 0, rank=0, size=SIZE))], lr=0.1)
    with pytest.raises(CannotRunError, match="Own is not known to be elementwise"):
        check_optimizer(optimizer)
    optimizer.shard_aware = True
    assert check_optimizer(optimizer) is optimizer

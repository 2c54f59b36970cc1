"""A loop of one's own around DistributedDataParallel, with accumulation of gradients."""

from contextlib import nullcontext

import pytest
import torch.distributed as dist
import torch.nn.functional as F
from tests.others.steps import MAX_NORM, make_optimizer, make_step
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

LIBRARY = "torch"
WHAT = "DistributedDataParallel, DistributedSampler, two micro-batches a step under `no_sync`, clipping"


def make_train(*, last=1, divisor=2, rows=2):
    def train(run):
        model = DistributedDataParallel(run.model())
        data = run.dataset()
        loader = DataLoader(data, batch_size=rows, sampler=DistributedSampler(data, shuffle=False))
        optimizer = make_optimizer(model.parameters())
        total = 0.0
        for number, (x, y) in enumerate(loader):
            with nullcontext() if number % 2 == last else model.no_sync():
                loss = F.mse_loss(model(x), y) / divisor
                loss.backward()
            total = total + loss.detach()
            if number % 2 == 0:
                continue
            dist.all_reduce(total)
            run.record_loss(total / run.size * divisor / 2)
            run.record_gradients()
            norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            run.record_update(optimizer, norm=norm)
            optimizer.zero_grad()
            total = 0.0

    return train


def test_accumulation_is_proved(answers):
    answers.proves(WHAT, make_step(), candidate=make_train(), mesh={"dp": 2})


@pytest.mark.parametrize(
    ("planted", "named", "settings"),
    [
        (
            "no micro-batch is synchronised",
            "gradient 0.weight WRONG - ranks hold values of their own whose mean",
            {"last": 2},
        ),
        ("the loss is not divided by the micro-batches", "gradient 0.weight WRONG - 2 times too large", {"divisor": 1}),
        ("the first micro-batch is synchronised, not the last", "gradient 0.weight WRONG", {"last": 0}),
    ],
)
def test_bugs_are_caught(answers, planted, named, settings):
    answers.catches(WHAT, planted, named, make_step(), candidate=make_train(**settings), mesh={"dp": 2})

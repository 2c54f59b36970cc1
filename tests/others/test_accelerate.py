"""accelerate's loop as its documentation writes it: prepare, accumulate, backward, clip, step."""

import pytest
import torch.nn.functional as F
from accelerate import Accelerator
from tests.others.steps import MAX_NORM, make_optimizer, make_step
from torch.utils.data import DataLoader

LIBRARY = "accelerate"
WHAT = "Accelerator: prepare, accumulate over two micro-batches, backward, clip_grad_norm_"


def make_train(*, prepared=True, divided_twice=False):
    def train(run):
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = run.model()
        optimizer, loader = accelerator.prepare(
            make_optimizer(model.parameters()), DataLoader(run.dataset(), batch_size=2)
        )
        if prepared:
            model = accelerator.prepare(model)
        losses = []
        for x, y in loader:
            with accelerator.accumulate(model):
                loss = F.mse_loss(model(x), y)
                losses.append(loss.detach())
                accelerator.backward(loss / 2 if divided_twice else loss)
                if accelerator.sync_gradients:
                    run.record_loss(accelerator.reduce(sum(losses) / 2, "mean"))
                    losses.clear()
                    run.record_gradients()
                    norm = accelerator.clip_grad_norm_(model.parameters(), MAX_NORM)
                optimizer.step()
                if accelerator.sync_gradients:
                    run.record_update(optimizer.optimizer, norm=norm)
                optimizer.zero_grad()

    return train


def test_the_loop_is_proved(answers):
    answers.proves(WHAT, make_step(), candidate=make_train(), mesh={"dp": 2})


@pytest.mark.parametrize(
    ("planted", "named", "settings"),
    [
        (
            "the model is not prepared",
            "gradient 0.weight WRONG - ranks hold values of their own whose mean",
            {"prepared": False},
        ),
        ("the loss is divided once more", "gradient 0.weight WRONG - 2 times too small", {"divided_twice": True}),
    ],
)
def test_bugs_are_caught(answers, planted, named, settings):
    answers.catches(WHAT, planted, named, make_step(), candidate=make_train(**settings), mesh={"dp": 2})

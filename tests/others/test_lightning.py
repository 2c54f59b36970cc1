"""Lightning's Trainer with its DDP strategy: automatic optimization, accumulation, clipping, logging."""

import lightning
import pytest
import torch.nn.functional as F
from tests.others.steps import MAX_NORM, make_optimizer, make_step
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler

LIBRARY = "lightning"
WHAT = "Trainer, strategy ddp: training_step, accumulate_grad_batches=2, gradient_clip_val, self.log"


class Module(lightning.LightningModule):
    """A user's module, which also tells the run what is computed."""

    def __init__(self, run):
        super().__init__()
        self.net, self.run, self.losses = run.model(), run, []

    def training_step(self, batch, _number):
        x, y = batch
        loss = F.mse_loss(self.net(x), y)
        self.losses.append(loss.detach())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return make_optimizer(self.parameters())

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        mean = sum(self.losses) / len(self.losses)
        self.run.record_loss(self.trainer.strategy.reduce(mean, reduce_op="mean"))
        self.losses.clear()
        self.run.record_gradients()
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_batch_end(self, _outputs, _batch, number):
        if number % 2:
            self.run.record_update(self.trainer.optimizers[0])


class DividesAgain(Module):
    """Lightning divides the loss by accumulate_grad_batches itself."""

    def training_step(self, batch, number):
        return super().training_step(batch, number) / 2


class NeverSynchronised(Module):
    """Manual backward outside DistributedDataParallel: its hooks never run."""

    automatic_optimization = False

    def training_step(self, batch, number):
        optimizer = self.optimizers()
        loss = super().training_step(batch, number)
        with self.trainer.model.no_sync():
            self.manual_backward(loss / 2)
        if number % 2:
            self.configure_gradient_clipping(optimizer, MAX_NORM, "norm")
            optimizer.step()
            optimizer.zero_grad()


def make_train(module=Module):
    def train(run):
        automatic = module.automatic_optimization is not False
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=run.size,
            strategy="ddp",
            max_epochs=1,
            **({"accumulate_grad_batches": 2, "gradient_clip_val": MAX_NORM} if automatic else {}),
            use_distributed_sampler=False,  # Lightning's own shuffles: then a step's rows are not the first ones
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        model, data = module(run), run.dataset()
        loader = DataLoader(data, batch_size=2, sampler=DistributedSampler(data, run.size, run.rank, shuffle=False))
        trainer.fit(model, loader)

    return train


def clip(model):
    """As Lightning, which tells no norm."""
    nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)


def make_clipped_step():
    return make_step(clip_norm=None, clip=clip)


def test_fit_is_proved(answers):
    answers.proves(WHAT, make_clipped_step(), candidate=make_train(), mesh={"dp": 2}, trials=1)


@pytest.mark.parametrize(
    ("planted", "named", "module"),
    [
        (
            "training_step divides the loss once more",
            "step 1, gradient 0.weight WRONG - 2 times too small",
            DividesAgain,
        ),
        (
            "manual optimization, every backward under no_sync",
            "WRONG - ranks hold values of their own",
            NeverSynchronised,
        ),
    ],
)
def test_bugs_are_caught(answers, planted, named, module):
    answers.catches(WHAT, planted, named, make_clipped_step(), candidate=make_train(module), mesh={"dp": 2})

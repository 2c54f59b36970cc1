"""transformers' Trainer on two ranks, accumulating gradients over micro-batches with unequal numbers of tokens."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import shardproof as sp

LIBRARY = "transformers"
WHAT = "Trainer with a Llama: two micro-batches a step, unequal numbers of tokens, clipping, logging"

CONFIG = LlamaConfig(
    vocab_size=32,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    attn_implementation="eager",
)


def make_batch():
    torch.manual_seed(1)
    ids = torch.randint(0, 32, (8, 5))
    labels = ids.clone()
    for row in range(8):
        labels[row, : row % 4] = -100
    return {"input_ids": ids, "labels": labels}


class Recording(TrainerCallback):
    def __init__(self, run):
        self.run = run

    def on_optimizer_step(self, args, state, control, optimizer, **_):
        self.run.record_update(optimizer.optimizer, norm=self.norm)


class RecordedTrainer(Trainer):
    """Tells the run what Trainer computes; changes nothing."""

    def __init__(self, run, **settings):
        super().__init__(**settings)
        self.run, self.norm, self.loss, self.losses = run, None, 0, []
        self.recording = Recording(run)
        self.add_callback(self.recording)

    def training_step(self, *args, **settings):
        loss = super().training_step(*args, **settings)
        self.losses.append(loss)
        return loss

    def _clip_grad_norm(self, model):
        self.run.record_loss(self.accelerator.reduce(sum(self.losses), "mean"))
        self.losses.clear()
        self.run.record_gradients()
        self.recording.norm = super()._clip_grad_norm(model)
        return self.recording.norm


def make_train(folder, trainer_class=RecordedTrainer, **settings):
    def train(run):
        args = TrainingArguments(
            **{
                "output_dir": str(folder),
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "max_steps": run.steps,
                "learning_rate": 1e-2,
                "max_grad_norm": 0.1,
                "lr_scheduler_type": "constant",
                "logging_steps": 1,
                "use_cpu": True,
                "save_strategy": "no",
                "report_to": [],
                "disable_tqdm": True,
                "train_sampling_strategy": "sequential",
            }
            | settings
        )
        trainer_class(run=run, model=run.model(), args=args, train_dataset=run.dataset()).train()

    return train


def make_step(steps=2):
    return sp.Step(
        model=lambda: LlamaForCausalLM(CONFIG),
        batch=make_batch(),
        forward=lambda model, batch: model(**batch).loss,
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0),
        clip_norm=0.1,
        steps=steps,
    )


class MeanOfMeans(RecordedTrainer):
    """A loss of one's own that takes no notice of how many tokens the other micro-batches have."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, **_):
        return model(**inputs).loss


class Unsynchronised(RecordedTrainer):
    """A step that calls the model inside DistributedDataParallel."""

    def training_step(self, model, *args, **settings):
        return super().training_step(model.module, *args, **settings)


def test_training_is_proved(answers, tmp_path):
    answers.proves(WHAT, make_step(), candidate=make_train(tmp_path), mesh={"dp": 2}, trials=1)


@pytest.mark.parametrize(
    ("planted", "named", "trainer_class", "settings"),
    [
        (
            "tokens are counted on each rank alone (average_tokens_across_devices=False)",
            "step 1, loss loss WRONG",
            RecordedTrainer,
            {"average_tokens_across_devices": False},
        ),
        ("each micro-batch's loss is its own mean", "step 1, loss loss WRONG", MeanOfMeans, {}),
        (
            "training_step calls the model inside DistributedDataParallel",
            "WRONG - ranks hold values of their own whose mean over dp is right",
            Unsynchronised,
            {},
        ),
    ],
)
def test_bugs_are_caught(answers, tmp_path, planted, named, trainer_class, settings):
    train = make_train(tmp_path, trainer_class, **settings)
    answers.catches(WHAT, planted, named, make_step(steps=1), candidate=train, mesh={"dp": 2})

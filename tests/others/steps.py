"""A small training step for loops whose model is the user's own."""

import torch
import torch.nn.functional as F
from torch import nn

import shardproof as sp

ROWS, MAX_NORM, LEARNING_RATE = 8, 0.1, 1e-2


def make_model():
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4))


def make_optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)


def make_step(**changes):
    draws = torch.Generator().manual_seed(0)
    batch = (torch.randn(ROWS, 6, generator=draws), torch.randn(ROWS, 4, generator=draws))
    given = {
        "model": make_model,
        "batch": batch,
        "loss": F.mse_loss,
        "optimizer": make_optimizer,
        "clip_norm": MAX_NORM,
    }
    return sp.Step(**(given | {"steps": 2} | changes))

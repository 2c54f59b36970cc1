"""Tensor-parallel modules: collectives in one file, layers in others, and a plan that applies them to a model."""

from shardproof.parallel.axis import Axis
from shardproof.parallel.boundaries import Boundary, Divided, Enter, Experts, Move, RotaryKeys
from shardproof.parallel.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from shardproof.parallel.clipping import clip_gradients, gradient_norm
from shardproof.parallel.export import load_model, save_model
from shardproof.parallel.optimizers import check_optimizer
from shardproof.parallel.plans import GPT2_PLAN, parallelize, traffic_of
from shardproof.parallel.sharding import Sharding, sharding_of
from shardproof.parallel.styles import Column, Dropout, InParts, LocalAttributes, Row, Whole
from shardproof.parallel.vocabulary import CausalLoss, EmbeddingFeatures, VocabularyLoss, VocabularyRows

__all__ = [
    "GPT2_PLAN",
    "Axis",
    "Boundary",
    "CausalLoss",
    "Column",
    "Divided",
    "Dropout",
    "EmbeddingFeatures",
    "Enter",
    "Experts",
    "InParts",
    "LocalAttributes",
    "Move",
    "RotaryKeys",
    "Row",
    "Sharding",
    "VocabularyLoss",
    "VocabularyRows",
    "Whole",
    "check_optimizer",
    "clip_gradients",
    "gradient_norm",
    "latest_checkpoint",
    "load_checkpoint",
    "load_model",
    "parallelize",
    "save_checkpoint",
    "save_model",
    "sharding_of",
    "traffic_of",
]

"""Tensor-parallel layers, the collectives under them, and plans that apply them to a model."""

from shardproof.parallel.axis import Axis
from shardproof.parallel.boundaries import Boundary, DividedInput, Experts, Move, RotaryKeys, SharedInput
from shardproof.parallel.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
from shardproof.parallel.clipping import clip_gradients, gradient_norm
from shardproof.parallel.export import load_model, save_model
from shardproof.parallel.optimizers import check_optimizer
from shardproof.parallel.plans import GPT2_PLAN, parallelize, traffic_of
from shardproof.parallel.sharding import Sharding, sharding_of
from shardproof.parallel.styles import Column, Dropout, GradientAllReduce, LocalAttributes, Replicated, Row
from shardproof.parallel.vocabulary import CausalLoss, EmbeddingFeatures, VocabularyLoss, VocabularyRows
from shardproof.parallel.whole_experts import WholeExperts

__all__ = [
    "GPT2_PLAN",
    "Axis",
    "Boundary",
    "CausalLoss",
    "Column",
    "DividedInput",
    "Dropout",
    "EmbeddingFeatures",
    "Experts",
    "GradientAllReduce",
    "LocalAttributes",
    "Move",
    "Replicated",
    "RotaryKeys",
    "Row",
    "Sharding",
    "SharedInput",
    "VocabularyLoss",
    "VocabularyRows",
    "WholeExperts",
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

"""transformers models with their own tensor-parallel plan: small, from a configuration, without weights or network."""

from shardproof.frameworks.transformers.crashes import ShardedCrashError
from shardproof.frameworks.transformers.inputs import IGNORED, probing_ids
from shardproof.frameworks.transformers.mending import MOST_TRIES, Suggestion, find_mend
from shardproof.frameworks.transformers.plans import OwnPlan, PlanChange
from shardproof.frameworks.transformers.reduced_step import reduced_step
from shardproof.frameworks.transformers.repro import make_reproduction, save_reproduction
from shardproof.frameworks.transformers.step import MOST_MEMORY, OneDeviceError, tiny_step

__all__ = [
    "IGNORED",
    "MOST_MEMORY",
    "MOST_TRIES",
    "OneDeviceError",
    "OwnPlan",
    "PlanChange",
    "ShardedCrashError",
    "Suggestion",
    "find_mend",
    "make_reproduction",
    "probing_ids",
    "reduced_step",
    "save_reproduction",
    "tiny_step",
]

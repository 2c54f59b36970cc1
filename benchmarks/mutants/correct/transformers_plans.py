"""Models of transformers, tiny, by the tensor-parallel plans that they come with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.mutants.configuration import CAST, Configuration
from shardproof.frameworks.transformers import OwnPlan, PlanChange, tiny_step

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shardproof.proving.step import Step

LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
INDEXED = LATENT | {"index_n_heads": 2, "index_head_dim": 8}
# Their indexers only choose: no gradient reaches them.
NO_GRADIENT = dict.fromkeys(("axk2", "deepseek_v32", "glm_moe_dsa"), ("VACUOUS *indexer*",))
FULL_ATTENTION = {"layer_types": ["full_attention"]}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1}

PLAIN = """
    afmoe arcee beam cohere cohere2 cohere2_moe cwm ernie4_5 exaone4 exaone_moe flex_olmo flint gemma gemma2 gemma3_text
    glm glm4 gpt_neox granite granitemoe granitemoeshared helium hy_v3 hyperclovax internlm3 iquestcoder jais2 laguna
    llama mellum ministral ministral3 mistral mixtral nanochat nemotron olmo olmo2 olmo3 olmoe phi phi3 qwen2 qwen2_moe
    qwen3 qwen3_moe smollm3 starcoder2 vaultgemma
"""

FOUR_RANKS = (
    "cohere deepseek_v3 ernie4_5_moe gemma3_text glm4_moe_lite gpt_neox llama mixtral olmoe phi3 qwen3 starcoder2"
)

# One layer each; what their configurations need to be tiny.
TYPES: dict[str, Mapping[str, Any]] = {
    **{name: {} for name in PLAIN.split()},
    **dict.fromkeys(("axk1", "axk2", "deepseek_v3", "glm4_moe_lite", "minicpm3", "youtu"), LATENT),
    **dict.fromkeys(("deepseek_v32", "glm_moe_dsa"), INDEXED),
    **dict.fromkeys(("lfm2_moe", "minimax", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next"), FULL_ATTENTION),
    **dict.fromkeys(("dots1", "glm4_moe"), ROUTED | {"first_k_dense_replace": 0}),
    "solar_open": ROUTED,
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "ernie4_5_moe": {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 0},
    "hunyuan_v1_moe": {"moe_topk": 2},
    "jamba": {"attn_layer_offset": 0, "attn_layer_period": 1, "expert_layer_offset": 0, "expert_layer_period": 1},
    "seed_oss": {"attention_dropout": 0.0, "residual_dropout": 0.0},
}


def configurations() -> Iterator[Configuration]:
    """Each at 2 ranks, some at 4 with as many KV heads; some deeper with odd sizes, some at 3 ranks."""
    for kind, settings in TYPES.items():
        yield by_own_plan(kind, 2, settings)
    for kind in FOUR_RANKS.split():
        heads = {} if kind == "gpt_neox" else {"num_key_value_heads": 4}
        yield by_own_plan(kind, 4, heads | dict(TYPES[kind]))
    for kind in ("llama", "mixtral", "gemma2", "qwen3"):
        yield by_own_plan(kind, 2, {"num_hidden_layers": 2, "intermediate_size": 57, "vocab_size": 61}, steps=2)
    three = {
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "vocab_size": 61,
        "intermediate_size": 40,
    }
    for kind in ("llama", "gemma", "qwen2", "olmo2"):
        yield by_own_plan(kind, 3, three)


def by_own_plan(kind: str, devices: int, settings: Mapping[str, Any], *, steps: int = 1) -> Configuration:
    changed = "" if steps == 1 else f", {steps} steps, two layers, uneven"

    def make_step() -> Step:
        return replace(tiny_step(kind, {"num_hidden_layers": 1} | dict(settings)), steps=steps)

    return Configuration(
        name=f"transformers' {kind}{changed}, {devices} ranks",
        make_step=make_step,
        parallelize=OwnPlan(change=PlanChange()),
        mesh={"tp": devices},
        tolerance=CAST,
        allow=NO_GRADIENT.get(kind, ()),
    )

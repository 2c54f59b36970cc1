"""Tiny models of transformers, each computed in two ways and with a bug; nothing is downloaded.

llama        attention: eager, and PyTorch's fused one           bug: another epsilon in the norms
mixtral      experts: grouped products, and a loop over experts  bug: one expert a token, not two
gemma2       the batch: whole, and in accumulated halves         bug: the halves are not averaged
deepseek_v3  experts: grouped products, and batched products     bug: the routed experts are not scaled
"""

import sys
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
)
from two_ways import Way, compare, in_parts

SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
LLAMA = partial(LlamaConfig, **SIZES)
MIXTRAL = partial(MixtralConfig, **SIZES, num_local_experts=4)
GEMMA2 = partial(Gemma2Config, **SIZES, head_dim=8, query_pre_attn_scalar=8, sliding_window=4)
DEEPSEEK_V3 = partial(
    DeepseekV3Config,
    **SIZES | {"num_key_value_heads": 4},
    moe_intermediate_size=16,
    q_lora_rank=16,
    kv_lora_rank=8,
    qk_rope_head_dim=4,
    qk_nope_head_dim=4,
    v_head_dim=8,
    n_routed_experts=8,
    n_group=2,
    topk_group=1,
    num_experts_per_tok=2,
    first_k_dense_replace=1,
)
TOKENS = torch.randint(61, (4, 8), generator=torch.Generator().manual_seed(1))


def build(config: PretrainedConfig, attention: str, experts: str | None) -> nn.Module:
    """The model with random weights."""
    chosen: dict[str, Any] = {} if experts is None else {"experts_implementation": experts}
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention, **chosen)


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    """The model's own loss."""
    return model(input_ids=tokens, labels=tokens, use_cache=False).loss


def way(
    config: PretrainedConfig,
    *,
    attention: str = "eager",
    experts: str | None = None,
    parts: int = 1,
    averaged: bool = True,
) -> Way:
    """One way of computing a model's step."""
    return Way(
        build=partial(build, config, attention, experts), loss=in_parts(loss_of, TOKENS, parts, averaged=averaged)
    )


def main() -> int:
    """Exit code 0 if every two ways agree and every bug is seen."""
    found = [
        compare(
            "llama",
            way(LLAMA()),
            same={"fused attention": way(LLAMA(), attention="sdpa")},
            bugs={"epsilon 1e-5 in the norms": way(LLAMA(rms_norm_eps=1e-5))},
        ),
        compare(
            "mixtral",
            way(MIXTRAL(), experts="grouped_mm"),
            same={"a loop over the experts": way(MIXTRAL(), experts="eager")},
            bugs={"one expert a token": way(MIXTRAL(num_experts_per_tok=1), experts="eager")},
        ),
        compare(
            "gemma2",
            way(GEMMA2()),
            same={"two halves, accumulated": way(GEMMA2(), parts=2)},
            bugs={"two halves, not averaged": way(GEMMA2(), parts=2, averaged=False)},
        ),
        compare(
            "deepseek_v3",
            way(DEEPSEEK_V3(), experts="grouped_mm"),
            same={"batched products of experts": way(DEEPSEEK_V3(), experts="batched_mm")},
            bugs={"routed experts not scaled": way(DEEPSEEK_V3(routed_scaling_factor=1.0), experts="batched_mm")},
        ),
    ]
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())

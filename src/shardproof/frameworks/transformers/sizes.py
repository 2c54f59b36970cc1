"""Sizes: the rule by which the numbers of a configuration are made small.

Every integer field has a kind, told by its name, and every kind a largest value. What is smaller stays. Equal fields
of one kind stay equal, so what fits together does. Layers are kept by kind (`layers.py`). Rotary sections are divided
anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from shardproof.frameworks.transformers.layers import LABELS, choose_layers, count_layers, is_count, reduce_layer_field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shardproof.frameworks.transformers.layers import KeptLayers

HEADS = 4
_SHARED_HEADS = 2  # key-value heads, where several query heads share one
_HEAD_DIM = 8
_WIDTH = 32
_VOCABULARY = 64

# Kinds in order: the first pattern that matches a whole name decides. None: the field stays.
_KINDS: tuple[tuple[str, int | None], ...] = (
    (r"seed|version|.*_factor|pretraining_tp|num_labels|bits", None),
    (r".*(vocab|codebook).*", _VOCABULARY),
    (r"pos_emb_(height|width)", 4),
    (r".*(position|pos_emb|max_length|extent|max_seq).*", 64),
    (r".*right_context", 2),  # less than the chunk that it follows
    (r".*(floor).*", 4),
    (r".*(kernel|conv_l_cache|d_conv|expand|channels?|patch_temporal|merge_size|temporal).*", None),
    (r".*patch_sizes?", 2),
    (r".*(image_size|crop_size)", 8),
    (r"index_kpool|.*compress_ratio", 2),
    (r".*(index_topk|topk_blocks|budget).*", 4),
    (r".*(window|chunk|block_size).*", 4),
    (r".*(experts?_per_tok(en)?|topk|top_k|moe_k)", 2),
    (r".*(shared_expert(s)?)", 2),
    (r".*(experts?|expert_num)", 4),
    (r"topk_group", 1),
    (r".*(n_groups?|expert_group|o_groups)", 2),
    (r".*(rope_head_dim|rope_dim)", 4),
    (r".*(head_dim|d_head|linear_head_dim).*", _HEAD_DIM),
    (r".*rank.*", 16),
    (r".*(state).*", 8),
    (r".*(moe|expert|shared).*intermediate_size.*|expert_ffn_hidden_size|share_expert_dim", _WIDTH),
    (r".*(intermediate_size|ffn_hidden_size|ffn_dim).*", 2 * _WIDTH),
    (r"hidden_size_per_layer_input", 8),
    (r".*(hidden_size|d_model|dim|size|width|n_embd).*", _WIDTH),
)
_COMPILED = tuple((re.compile(pattern), largest) for pattern, largest in _KINDS)
_LARGEST_OTHER = 8
_TOKEN = re.compile(r".*(token_id|token_index|bos_id|eos_id)s?")
_QUERY_HEADS = re.compile(r".*(attention_heads|num_heads|n_heads?|query_heads).*|.*num_value_heads")
_SHARED = re.compile(r".*(key_value|kv|num_key)_heads.*")


def reduce_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration (as `to_dict` gives it) with small sizes, and its sub-configurations likewise."""
    layers = choose_layers(config)
    reduced = {name: _reduce_field(name, value, config, layers) for name, value in config.items()}
    _fit_heads(config, reduced)
    fit_latent_heads(config, reduced)
    _fit_state_space(config, reduced)
    _fit_pixel_shuffle(reduced)
    _fit_groups(reduced)
    fit_tokens(config, reduced)
    _fit_rotation(reduced)
    return reduced


def fill_sizes(reduced: Mapping[str, Any], source: str) -> dict[str, Any]:
    """What a small configuration leaves open (None), filled with the values of its kind.

    For the types whose configuration alone makes no model: checkpoints or the configuration around it bring these
    fields along. So are fields that the modelling file reads and the configuration lacks; a rate of dropout is 0. Ranks
    and token ids stay open, for which None has a meaning.

    Args:
        reduced: as `reduce_sizes` gives it.
        source: the text of the modelling file, which says the kinds of layers and whether rotary sections are used.
    """
    read = dict.fromkeys(re.findall(r"\bconfig\.(\w+)", source))
    filled = {name: _fill_field(name, value, source) for name, value in {**read, **reduced}.items()}
    filled = {name: value for name, value in filled.items() if value is not None or name in reduced}
    types = filled.get("layer_types")
    count = count_layers(reduced)
    for name in ("layer_types", "mlp_layer_types"):
        if filled.get(name) and reduced.get(name) is None and count:
            filled[name] = (filled[name] * count)[:count]
    rope = filled.get("rope_parameters")
    if isinstance(rope, dict):
        rope = rope or ({name: {"rope_type": "default", "rope_theta": 10000.0} for name in types} if types else rope)
        inner = [part for part in rope.values() if isinstance(part, dict)] or [rope]
        for part in inner:
            if "mrope_section" in source:
                part.setdefault("mrope_section", [1, 1, 2])
        filled["rope_parameters"] = rope
    _fit_heads(filled, filled)
    _fit_rotation(filled)
    return filled


def _fill_field(name: str, value: Any, source: str) -> Any:
    """The value of one field; of one that is None, what its kind has."""
    if value is not None:
        return value
    if name in ("layer_types", "mlp_layer_types"):
        return _list_kinds(name, source)
    if re.fullmatch(r"first_k_dense_replace|num_dense_layers", name):
        return 1
    lower = name.lower()
    if "dropout" in lower:
        return 0.0
    if _TOKEN.fullmatch(name) or re.search(r"rank|chunk|seed|label|position|size_per_layer", lower):
        return None
    if _SHARED.fullmatch(lower):
        return 1 if "index" in lower else _SHARED_HEADS  # an indexer has one key for all of its heads
    if _QUERY_HEADS.fullmatch(lower):
        return HEADS
    return next((largest for pattern, largest in _COMPILED if pattern.fullmatch(lower)), None)


def _list_kinds(name: str, source: str) -> list[str] | None:
    """The kinds of layers of transformers' own list that the modelling file names in quotes."""
    import transformers.configuration_utils as known

    kinds = getattr(known, "ALLOWED_MLP_LAYER_TYPES" if name.startswith("mlp") else "ALLOWED_ATTN_LAYER_TYPES", ())
    return [kind for kind in kinds if f'"{kind}"' in source] or None


def _reduce_field(name: str, value: Any, config: Mapping[str, Any], layers: KeptLayers | None) -> Any:
    if name in LABELS:
        return value
    if layers is not None:
        found = reduce_layer_field(name, value, layers)
        if found is not NotImplemented:
            if isinstance(found, dict):
                return {key: _reduce_field(name, entry, config, None) for key, entry in found.items()}
            inner = isinstance(found, list) and not _speaks_of_layers(name, found, layers)
            return _reduce_field(name, found, config, None) if inner else found
    if isinstance(value, dict):
        return reduce_sizes(value) if all(isinstance(key, str) for key in value) else value  # else it is no section
    if isinstance(value, list | tuple) and value and all(map(is_count, value)) and "section" not in name:
        return [_reduce_number(name, one, config) for one in value]
    return _reduce_number(name, value, config) if is_count(value) else value


def _speaks_of_layers(name: str, found: list[Any], layers: KeptLayers) -> bool:
    """Whether the numbers of a list are layers, or flags, and no sizes."""
    return "heads" not in name and "size" not in name and all(is_count(one) and one < layers.count for one in found)


def _reduce_number(name: str, value: int, config: Mapping[str, Any]) -> int:
    if value <= 1 or _TOKEN.fullmatch(name):
        return value
    lower = name.lower()
    if _SHARED.fullmatch(lower):
        return min(value, HEADS if value >= _count_query_heads(name, config) else _SHARED_HEADS)
    if _QUERY_HEADS.fullmatch(lower):
        return _reduce_query_heads(lower, value, config)
    for pattern, largest in _COMPILED:
        if pattern.fullmatch(lower):
            return value if largest is None else min(value, largest)
    while value > _LARGEST_OTHER:
        value //= 2
    return value


def _reduce_query_heads(name: str, value: int, config: Mapping[str, Any]) -> int:
    """Four; twice or half as many for layers that have more or fewer attention heads than the others."""
    usual = config.get("num_attention_heads", value)
    if "attention_heads" not in name or not is_count(usual) or value == usual or min(usual, value) < HEADS:
        return min(value, HEADS)
    return 2 * HEADS if value > usual else HEADS // 2


def _count_query_heads(name: str, config: Mapping[str, Any]) -> int:
    """How many query heads go with a field of key-value heads."""
    for key, query in (("key_value", "attention"), ("num_key_heads", "num_value_heads"), ("num_kv_heads", "num_heads")):
        other = config.get(name.replace(key, query))
        if key in name and is_count(other):
            return int(other)
    other = config.get("num_attention_heads", 0)
    return other if is_count(other) else 0


def _fit_heads(config: Mapping[str, Any], reduced: dict[str, Any]) -> None:
    """Where a head's size is the width over the heads, it stays so."""
    heads, width = reduced.get("num_attention_heads"), reduced.get("hidden_size")
    if not (is_count(heads) and is_count(width)) or not heads:
        return
    if is_count(config.get("head_dim")) and config["head_dim"]:
        return
    if width % (2 * heads):  # a rotary embedding turns pairs
        reduced["hidden_size"] = heads * _HEAD_DIM


def fit_latent_heads(config: Mapping[str, Any], reduced: dict[str, Any]) -> None:
    """Latent attention: a query's head is a part without rotation beside a rotated one."""
    rotated, unrotated = reduced.get("qk_rope_head_dim"), reduced.get("qk_nope_head_dim")
    if not (is_count(rotated) and is_count(unrotated)):
        return
    sums = {config["qk_rope_head_dim"] + config["qk_nope_head_dim"]: rotated + unrotated}
    equal = {config["qk_nope_head_dim"]: unrotated, config["qk_rope_head_dim"]: rotated} | sums
    for name in ("qk_head_dim", "head_dim"):
        if is_count(config.get(name)):
            reduced[name] = equal.get(config[name], rotated + unrotated)
    share = (reduced.get("rope_parameters") or {}).get("partial_rotary_factor")
    if share and reduced.get("head_dim"):  # the rotated part is a share of the head: both parts are as wide as it
        reduced["qk_nope_head_dim"] = unrotated = round(rotated / share) - rotated
        reduced["qk_head_dim"] = reduced["head_dim"] = rotated + unrotated


def _fit_state_space(config: Mapping[str, Any], reduced: dict[str, Any]) -> None:
    """State-space layers: the heads of a layer are as wide as its input, expanded."""
    for heads, size, expand in (
        ("mamba_n_heads", "mamba_d_head", "mamba_expand"),
        ("mamba_num_heads", "mamba_head_dim", "expand"),
    ):
        if all(is_count(config.get(name)) for name in (heads, size, expand, "hidden_size")):
            reduced[size] = reduced[expand] * reduced["hidden_size"] // reduced[heads]


def _fit_pixel_shuffle(reduced: dict[str, Any]) -> None:
    """A shuffle of pixels puts the widths of several patches beside each other; the layer after it takes them."""
    ratio = reduced.get("pixel_shuffle_ratio")
    if ratio and is_count(reduced.get("hidden_size")):
        reduced["intermediate_size"] = round(reduced["hidden_size"] / ratio**2)


def _fit_groups(reduced: dict[str, Any]) -> None:
    """Groups of experts: not more are chosen than there are."""
    groups = next((reduced[name] for name in ("n_group", "num_expert_group") if is_count(reduced.get(name))), None)
    if groups is not None and is_count(reduced.get("topk_group")):
        reduced["topk_group"] = min(reduced["topk_group"], groups)


def fit_tokens(config: Mapping[str, Any], reduced: dict[str, Any]) -> None:
    """Token ids lie in the vocabulary, and different ones stay different; there is no padding."""
    vocabulary = reduced.get("vocab_size", _VOCABULARY)
    if not is_count(vocabulary):
        return
    given = {name: value for name, value in config.items() if _TOKEN.fullmatch(name)}
    used = {value for value in given.values() if is_count(value) and 0 <= value < vocabulary}
    free = (token for token in range(vocabulary - 1, -1, -1) if token not in used)
    new: dict[int, int] = {}
    for name, value in given.items():
        if name == "pad_token_id":
            reduced[name] = None
        elif is_count(value) and value >= vocabulary:
            reduced[name] = new.setdefault(value, next(free, vocabulary - 1))
        elif isinstance(value, list):
            reduced[name] = [
                one if one < vocabulary else new.setdefault(one, next(free, vocabulary - 1)) for one in value
            ]


def _fit_rotation(reduced: dict[str, Any]) -> None:
    """The rotated part of a head has two pairs at least; rotary sections add up to half of it."""
    rope = reduced.get("rope_parameters") or reduced.get("rope_scaling")
    if not isinstance(rope, dict) or not is_count(reduced.get("hidden_size")) or "qk_rope_head_dim" in reduced:
        return
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    for part in parts:
        sections = part.get("mrope_section") or []
        share = part.get("partial_rotary_factor") or reduced.get("partial_rotary_factor") or 1.0
        pairs = _make_room(reduced, max(2, len(sections)), share)
        if sections:
            part["mrope_section"] = _divide(pairs, sections)
    for part in parts:  # a later part may have made the heads larger
        sections = part.get("mrope_section") or []
        share = part.get("partial_rotary_factor") or reduced.get("partial_rotary_factor") or 1.0
        if sections:
            part["mrope_section"] = _divide(_make_room(reduced, len(sections), share), sections)


def _make_room(reduced: dict[str, Any], pairs: int, share: float) -> int:
    """Half of the rotated part of a head, made at least so large."""
    heads = reduced.get("num_attention_heads") or reduced.get("num_heads") or HEADS
    size = reduced.get("head_dim") or reduced["hidden_size"] // heads
    while int(size * share) // 2 < pairs:
        size *= 2
    if reduced.get("head_dim"):
        reduced["head_dim"] = size
    else:
        reduced["hidden_size"] = size * heads
    return int(size * share) // 2


def _divide(total: int, sections: list[int]) -> list[int]:
    """Divide a total as the sections were, each at least one (a section of nothing stays so)."""
    whole = sum(sections)
    shares = [min(1, section) if not section else max(1, section * total // whole) for section in sections]
    while sum(shares) > total:
        shares[shares.index(max(shares))] -= 1
    shares[0] += total - sum(shares)
    return shares

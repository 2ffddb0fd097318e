"""Tiny models of every class of transformers' auto mappings, from the sizes that their configurations begin with."""

import re
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from tests.fakes import make_tokenizer

MAPPINGS = {"policy": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "reward": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES}
AUTO_CLASSES = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}
LAYERS, HIDDEN, HEADS, WINDOW, POSITIONS, MOST_PARAMETERS = 4, 64, 4, 16, 640, 100_000_000
# The size that a whole number of a configuration gets, by its name: the first line that matches. None: the number is
# kept; a callable makes it of what it was.
SIZES: list[tuple[str, Any]] = [
    (r"^pad_token_id$|^decoder_start_token_id$", lambda n: 0),
    (r"^bos_token_id$", lambda n: 1),
    (r"^eos_token_id$", lambda n: 2),
    (r"type_vocab_size|languages|^seed$|_groups?$|^groups$|n_group|^expand$|mamba_expand", lambda n: min(n, 2)),
    (r"(_token_id|_token_index|_index|_idx|_id)$", lambda n: min(n, 300)),
    (r"layer_offset|layer_start_index|altup|pretraining_tp", None),
    (r"layer_period|layer_interval|every_n|sliding_window_pattern", lambda n: min(n, 2)),
    (r"num_kv_shared_layers|nextn|mtp", lambda n: 0),
    (r"dense_replace|dense_layers|max_window_layers|num_mem_blocks", lambda n: min(n, 1)),
    (r"layers?$|^num_blocks$|layers_per_stack|layers_per_block", lambda n: min(n, LAYERS)),
    (r"window|local_attention|block_size$|topk_tokens|index_topk|chunk", lambda n: min(n, WINDOW)),
    (r"experts_per_tok|moe_top_?k|^moe_k$|top_k_experts|expert_top", lambda n: min(n, 2)),
    (r"shared_expert_intermediate|shared_experts_intermediate|shared_intermediate", lambda n: min(n, HIDDEN)),
    (r"shared_experts", lambda n: min(n, 1)),
    (r"experts|zero_expert", lambda n: min(n, 4)),
    (r"(key_value|kv|key)_heads|kv_n_heads|_groups_kv", lambda n: min(n, 2)),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", lambda n: 8),
    (r"^rotary_dim$", lambda n: 8),
    (r"head_dim|head_size|headdim|^d_kv$|d_head$|query_pre_attn", lambda n: 16),
    (r"heads?$|num_heads|attention_heads", lambda n: min(n, HEADS)),
    (r"rank$|^d_rel$|lora", lambda n: min(n, 16)),
    (
        r"max_position|n_positions|max_seq_len|context_length|n_ctx|model_max_length|target_positions",
        lambda n: POSITIONS,
    ),
    (r"vocab_size", lambda n: 400),
    (r"state|conv|kernel", lambda n: min(n, 16)),
    (r".", lambda n: min(n, HIDDEN)),
]
DERIVED = {
    "transformers_version",
    "architectures",
    "_name_or_path",
    "id2label",
    "label2id",
    "dtype",
    "per_layer_config",
}
DERIVED |= {"qk_head_dim", "attention_layers", "return_dict", "label_names"}
SCALES = ("initializer_range", "init_std", "initializer_factor", "init_method_std")


class NotBuilt(Exception):
    """No tiny model of a class can be made from its configuration."""


def make_tiny(folder: Path, role: str, model_type: str) -> Path:
    """A model of that type's class for a role, with random float32 weights, saved with its tokenizer."""
    torch.manual_seed(0)
    try:
        config = tiny_config(model_type)
        if role == "reward":
            config.num_labels = 1
        kind = AUTO_CLASSES[role]
        with torch.device("meta"):
            size = sum(p.numel() for p in kind.from_config(config).parameters())
        if size > MOST_PARAMETERS:
            raise NotBuilt(f"{size:,} parameters")
        model = kind.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if not weight.isfinite().all():
                    raise NotBuilt(f"{name} begins as no number")
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
    except NotBuilt:
        raise
    except Exception as error:
        raise NotBuilt(short(error)) from error
    return folder


def short(error: Exception) -> str:
    """An error in one line: its last one, if configurations say by what check it comes."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1 if lines[0].endswith(':') else 0].strip()}"[:160]


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The configuration of a model type with small sizes, and weights large enough that attention and caps matter."""
    kind = CONFIG_MAPPING[model_type]
    config = kind(**shrink(kind().to_dict()))
    for part in (config, config.get_text_config()):
        for name in SCALES:
            if isinstance(getattr(part, name, None), float) and name != "initializer_factor":
                setattr(part, name, 0.1)
    return config


ROPE = {"rope_type": "default", "rope_theta": 10000.0}
BY_KIND = {"sliding_attention": ROPE, "full_attention": ROPE}
# What a configuration leaves open, or demands.
FURTHER: dict[str, dict[str, Any]] = {
    "cohere_compass_text": {"rope_parameters": BY_KIND},
    "blenderbot": {"encoder_layers": LAYERS},
    "bamba": {"attn_layer_indices": [1, 3]},
    "dbrx": {"attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note_text": {"num_key_value_heads": HEADS},
    "esm": {"vocab_size": 400, "mask_token_id": 5, "pad_token_id": 0},
    "esmc": {"vocab_size": 400, "num_key_value_heads": HEADS},
    "falcon_h1": {"mamba_d_ssm": 128},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "hrm_text": {"num_hidden_layers": 8, "num_layers_per_stack": 1},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 16},
    "mistral4": {"head_dim": 32},
    "mt5": {"decoder_start_token_id": 0},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "t5": {"decoder_start_token_id": 0},
    "umt5": {"decoder_start_token_id": 0},
    "xlstm": {"qk_dim_factor": 1.0, "max_inference_chunksize": 16384},  # pieces below that are rounded with a cache
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
    },
}


def shrink(tree: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a mapping, with small sizes; what follows from other sizes is left out."""
    layers = next(
        (tree[name] for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if name in tree), 0
    )
    kept = {name: value for name, value in tree.items() if name not in DERIVED and value is not None}
    small = {name: smaller(name, value, layers) for name, value in kept.items()}
    if "kv_lora_rank" in tree:  # keys and values of each head are made of one latent state
        small["num_key_value_heads"] = HEADS
    return small | FURTHER.get(tree.get("model_type"), {})


def smaller(name: str, value: Any, layers: int) -> Any:
    """A setting's value in a tiny model. layers: how many the configuration begins with, for what it lists by layer."""
    if isinstance(value, dict):
        return shrink(value) if name.endswith("config") or name in ("encoder", "decoder") else value
    if isinstance(value, list | tuple):
        kinds = list(dict.fromkeys(map(repr, value)))
        if len(value) == layers and layers > LAYERS:
            value = [value[[*map(repr, value)].index(kind)] for kind in kinds]  # a layer of each kind
            value = (value * LAYERS)[: max(LAYERS, len(kinds))]
        return [smaller(name, item, 0) if isinstance(item, int) else item for item in value]
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    change = next(change for pattern, change in SIZES if re.search(pattern, name))
    return value if change is None else change(value)

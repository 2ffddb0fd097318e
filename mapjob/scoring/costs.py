"""What a model costs before it is loaded: parameters and bytes from safetensors headers, operations from its shape."""

import re
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from transformers import CONFIG_MAPPING, PreTrainedConfig

from mapjob.scoring.model_files import ModelFiles

POSITIONS = re.compile(r"wpe|position_embeddings|embed_positions")
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class ModelCost:
    """parameters: all of them; multiplied: those that every token meets (no input embedding, no output embedding).

    head: of the output embedding, met by completion tokens alone. attention: multiply-adds of one token with one token
    before it, over all layers.
    """

    parameters: int
    multiplied: int
    head: int
    attention: int
    weight_bytes: int

    def operations(self, tokens: float, completion_tokens: float, pairs_of_tokens: float) -> float:
        """Floating-point operations of a forward pass; pairs_of_tokens: a token and one before it, summed over all."""
        met = self.multiplied * tokens + self.head * completion_tokens + self.attention * pairs_of_tokens
        return 2.0 * met


@dataclass(frozen=True)
class Shape:
    """Sizes of a transformer's layers. A model without attention heads counts as having one."""

    hidden: int
    heads: int
    head_dim: int
    groups: int  # of query heads that share keys and values
    inner: int  # of the feed-forward network

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Of transformers' configuration."""
        config = config.get_text_config()
        hidden, heads = config.hidden_size, largest(config, "num_attention_heads") or 1
        head_dim = largest(config, "head_dim") or hidden // heads
        groups = largest(config, "num_key_value_heads") or heads
        inner = largest(config, "intermediate_size") or largest(config, "n_inner") or 4 * hidden
        return cls(hidden, heads, head_dim, groups, inner)


def largest(config: PreTrainedConfig, name: str) -> Any:
    """A size that may differ from layer to layer (Gemma 3n, Gemma 4): the largest of them; None if there is none."""
    varies = getattr(config, "is_heterogeneous", False)
    found = [getattr(layer, name, None) for layer in (config.per_layer_config if varies else [config])]
    sizes = [size for value in found for size in (value if isinstance(value, list | tuple) else [value])]
    return max((size for size in sizes if size is not None), default=None)


def model_cost(files: ModelFiles, head: bool) -> ModelCost:
    """head: the scorer multiplies with the output embedding (policies do, reward models do not)."""
    config, shapes = model_config(files), files.shapes()
    shape, vocabulary = Shape.of(config), config.vocab_size
    heads = largest(config, "num_attention_heads") or 0  # a state space model has none
    # Looked up, not multiplied; an output embedding counts with the head.
    met = [sizes for name, sizes in shapes.items() if len(sizes) > 1 and not POSITIONS.search(name)]
    parameters = sum(map(prod, shapes.values()))
    return ModelCost(
        parameters,
        sum(prod(sizes) for sizes in met if vocabulary not in sizes),
        shape.hidden * vocabulary if head else 0,
        2 * config.num_hidden_layers * heads * shape.head_dim,
        parameters * DTYPE_BYTES[files.dtype],
    )


def token_cost(files: ModelFiles) -> int:
    """Multiplications of one token in the layers, by the model's configuration alone: what models are compared by."""
    config = model_config(files)
    shape = Shape.of(config)
    gated = 3 if getattr(config, "hidden_act", "") in ("silu", "swiglu") else 2
    experts = largest(config, "num_experts_per_tok") or 1
    attention = 2 * shape.head_dim * (shape.heads + shape.groups)
    return config.num_hidden_layers * shape.hidden * (attention + experts * gated * shape.inner)


def model_config(files: ModelFiles) -> PreTrainedConfig:
    """The language model's configuration in transformers' names (GPT-2 has others in its file), without running any of
    its own code.
    """
    tree, _ = PreTrainedConfig.get_config_dict(files.folder())  # numbers that JSON has no word for are in it as such
    if tree.get("model_type") in CONFIG_MAPPING:
        return CONFIG_MAPPING[tree["model_type"]].from_dict(tree).get_text_config()
    language = tree.pop("text_config", {})
    return PreTrainedConfig.from_dict({**tree, **language})


class Gpu(NamedTuple):
    """Memory in GiB; dense TFLOP/s of one GPU, without sparsity: bfloat16 on tensor cores, float32 off them."""

    gib: int
    bfloat16: float
    float32: float


# NVIDIA's data sheets of each (SXM versions of A100, H100 and H200, B200 of an HGX board).
GPUS = {
    "l4": Gpu(24, 121, 30.3),
    "a10g": Gpu(24, 70, 35),
    "l40s": Gpu(48, 362, 91.6),
    "a100": Gpu(80, 312, 19.5),
    "h100": Gpu(80, 989, 67),
    "h200": Gpu(141, 989, 67),
    "b200": Gpu(180, 2250, 80),
}


def peak_flop_per_s(device_name: str, dtype: str) -> float | None:
    """The most floating-point operations per second of a device as CUDA names it; None if that is not known here.

    float16 is as fast as bfloat16.
    """
    words = device_name.lower().replace("-", " ").split()
    gpu = next((gpu for name, gpu in GPUS.items() if name in words), None)
    if gpu is None or "pcie" in words or "mig" in words:  # slower versions, and parts of one
        return None
    return 1e12 * (gpu.float32 if dtype == "float32" else gpu.bfloat16)

"""Tiny real models and corpora for tests: nothing is mocked; all is made on the spot and loads like the real thing."""

import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

CHAT_TEMPLATE = (
    "{% if bos %}{{ bos_token }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
# As Qwen3's: tools first, names, thoughts, calls of tools, and a flag of the caller.
THINKING_TEMPLATE = (
    "{% if tools is not none %}{{ '<|system|>\n' }}{% for tool in tools %}{{ (tool | tojson) + '\n' }}{% endfor %}"
    "{{ '<|end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{% if m.name %}{{ ' ' + m.name }}{% endif %}{{ '\n' }}"
    "{% if m.reasoning_content is string %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% endif %}"
    "{% for call in m.tool_calls or [] %}{{ '<tool_call>' + (call.function | tojson) + '</tool_call>' }}{% endfor %}"
    "{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
SPECIAL = ["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
TEXT = [
    "The quick brown fox jumps over the lazy dog. What is 12 + 30? It is 42, of course!",
    "Please write a short poem about the sea. The sea is wide, the sea is deep, it sings the sailors all to sleep.",
    "Human: how do I bake bread?\n\nAssistant: Mix flour, water, salt and yeast; wait an hour; bake it hot.",
    "def add(a, b):\n    return a + b\n# Überraschung: naïve café – 東京 🙂",
]

Architecture = Literal[
    "llama", "qwen2", "gemma2", "gpt_neox", "gpt2", "mistral", "qwen3", "gemma3", "phi3", "olmo2", "bloom", "mamba"
]
ARCHITECTURES: tuple[Architecture, ...] = ("llama", "qwen2", "gemma2", "gpt_neox", "gpt2")
ARCHITECTURES += ("mistral", "qwen3", "gemma3", "phi3", "olmo2")
UNPACKED: tuple[Architecture, ...] = ("bloom", "mamba")  # positions in the attention's bias; no attention at all


def make_tokenizer(
    *, chat: bool = True, bos: bool = False, pad_is_eos: bool = False, padding_side: str = "right"
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 entries. bos: the template and the post-processor both write a BOS token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT * 4, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A", special_tokens=[("<|bos|>", core.token_to_id("<|bos|>"))]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|end|>" if pad_is_eos else "<|pad|>",
        padding_side=padding_side,
    )
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE.replace("{% if bos %}", "{% if true %}" if bos else "{% if false %}")
    return tokenizer


def make_thinking_tokenizer() -> PreTrainedTokenizerFast:
    """One whose template takes further keys of messages, tools, and enable_thinking."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = THINKING_TEMPLATE
    return tokenizer


def make_config(architecture: Architecture, tokenizer: PreTrainedTokenizerFast, **more: Any) -> PreTrainedConfig:
    """Two layers, hidden size 32, weights large enough that attention and soft caps matter; short sliding windows."""
    shape = {"vocab_size": len(tokenizer), "initializer_range": 0.1, "bos_token_id": tokenizer.bos_token_id}
    shape |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, **more}
    if architecture == "gpt2":
        return GPT2Config(**{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 1024} | shape)
    shape = {"hidden_size": 32, "num_hidden_layers": 2} | shape
    if architecture == "bloom":
        return BloomConfig(**{"n_head": 4} | shape)
    if architecture == "mamba":
        return MambaConfig(**shape)
    shape = {"num_attention_heads": 4, "max_position_embeddings": 1024, "intermediate_size": 64} | shape
    if architecture == "gpt_neox":
        return GPTNeoXConfig(**shape)
    config, own = WITH_KEY_HEADS[architecture]
    return config(**{"num_key_value_heads": 2} | own | shape)


WINDOW = {"sliding_window": 16}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, **WINDOW}
WITH_KEY_HEADS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "gemma2": (Gemma2Config, GEMMA),
    "mistral": (MistralConfig, WINDOW),
    "qwen3": (Qwen3Config, {"head_dim": 16}),  # twice what hidden size and heads would give
    "gemma3": (Gemma3TextConfig, {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "phi3": (Phi3Config, {}),
    "olmo2": (Olmo2Config, {}),
}


def make_policy(
    folder: Path,
    architecture: Architecture = "llama",
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 0,
    **more: Any,
) -> Path:
    """A causal language model with random float32 weights, saved as safetensors with its tokenizer."""
    return _save(folder, AutoModelForCausalLM, architecture, tokenizer or make_tokenizer(), seed, **more)


def make_reward(
    folder: Path,
    architecture: Architecture = "llama",
    tokenizer: PreTrainedTokenizerFast | None = None,
    seed: int = 1,
    **more: Any,
) -> Path:
    """A sequence classification model with one label (or `num_labels=...`), random float32 weights."""
    return _save(
        folder,
        AutoModelForSequenceClassification,
        architecture,
        tokenizer or make_tokenizer(),
        seed,
        **{"num_labels": 1, **more},
    )


def make_open_rlhf(folder: Path, head: str, tokenizer: PreTrainedTokenizerFast | None = None, **config: Any) -> Path:
    """A reward model as OpenRLHF saves its class: a network, one linear layer `head`, further keys in config.json."""
    make_reward(folder, tokenizer=tokenizer)
    weights = load_file(folder / "model.safetensors")
    weights[f"{head}.weight"] = weights.pop("score.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tree = json.loads((folder / "config.json").read_text()) | {"architectures": ["RewardModel"], **config}
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


def _save(folder: Path, kind: Any, architecture: Architecture, tokenizer: Any, seed: int, **more: Any) -> Path:
    torch.manual_seed(seed)
    model = kind.from_config(make_config(architecture, tokenizer, **more))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_pairs(num: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of plain strings, all different, with texts of many lengths."""
    generator = torch.Generator().manual_seed(seed)
    words = " ".join(TEXT).split()

    def text(most: int) -> str:
        n = int(torch.randint(1, most, (1,), generator=generator))
        return " ".join(words[i] for i in torch.randint(len(words), (n,), generator=generator))

    return [
        {"prompt": f"{i}: {text(12)}", "chosen": text(30), "rejected": f"{text(30)} {i}", "source": f"group {i % 3}"}
        for i in range(num)
    ]


def write_corpus(folder: Path, rows: list[dict[str, Any]], num_files: int = 2, row_group_size: int = 50) -> Path:
    """The rows as Parquet shards, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    size = max(1, -(-len(rows) // num_files))
    for number in range(num_files):
        table = pa.Table.from_pylist(rows[number * size : (number + 1) * size])
        pq.write_table(table, folder / f"part-{number:03}.parquet", row_group_size=row_group_size)
    return folder


def config_tree(corpus: Path, output: Path, policy: Path, reward: Path, **sections: Any) -> dict[str, Any]:
    """A run file for float32 models, as a mapping. One actor a pool: each start imports torch, which takes seconds."""
    tree: dict[str, Any] = {
        "input": {"path": str(corpus)},
        "output": {"path": str(output)},
        "models": {
            "policy": {"path": str(policy), "dtype": "float32"},
            "reward": {"path": str(reward), "dtype": "float32"},
        },
        "scoring": {"max_length": 512},
        "execution": {"pools": {name: {"max_size": 1} for name in ("policy", "reference", "reward")}},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return tree

"""A stand-in for a model: scores from a hash of the tokens, at no cost, through the actors' interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from mapjob.pipeline.stages import Cost, Todo, tokens_column, with_columns, with_cost
from mapjob.scoring.encode import Encoded, from_table
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.tables import from_ipc

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' <end> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant> ' }}{% endif %}"
)
SENTENCE = "what is a good way to sort the words of this list by length and then by name"
WORDS = SENTENCE.split()
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class HashScorer:
    """unit with token ids -> unit with the columns of its scorers, as mapjob.pipeline.actors.ScorerActor gives them."""

    def __init__(self, specs: Sequence[ScorerSpec], tokens_per_batch: Any, num_gpus: float, attempts: Any):
        self._specs = specs

    def __call__(self, block: pa.Table) -> pa.Table:
        missing = Todo.of(block).missing
        return with_columns(block, {spec.name: _score(spec, block) for spec in self._specs if spec.name in missing})


def _score(spec: ScorerSpec, block: pa.Table) -> pa.Table:
    records = from_table(from_ipc(block[tokens_column(spec.encoding.key)][0].as_buffer()))
    values = [[_hashed(ids, spec.kind) for ids in r.completions] if isinstance(r, Encoded) else None for r in records]
    num_tokens = [[len(ids) for ids in r.completions] if isinstance(r, Encoded) else None for r in records]
    errors = [None if isinstance(record, Encoded) else record for record in records]
    columns = {spec.kind: pa.array(values, pa.list_(pa.float64()))}
    if spec.kind == "logps":
        columns["num_tokens"] = pa.array(num_tokens, pa.list_(pa.int32()))
    flags = pa.array([False] * len(records))
    columns |= {"truncated": flags, "boundary_moved": flags, "text_not_kept": flags}
    columns["reason"] = pa.array([error.reason.value if error else None for error in errors], pa.string())
    columns["detail"] = pa.array([error.detail if error else None for error in errors], pa.string())
    tokens = sum(sum(lengths) for lengths in num_tokens if lengths)
    return with_cost(pa.table(columns), Cost(tokens, 0.0, 0.0, 0.0, f"{spec.name}: a hash of the tokens"))


def _hashed(ids: np.ndarray, kind: str) -> float:
    """A number of 53 bits that depends on the kind, every token and its index; below 0 for log-probabilities."""
    places = np.arange(1, len(ids) + 1, dtype=np.uint64)
    start = np.uint64(kind == "logps")  # else MAP, the difference of two scaled margins, is 0 for every pair
    mixed = np.bitwise_xor.reduce((ids.astype(np.uint64) + places * MULTIPLIER + start) * MULTIPLIER)
    unit = (int(mixed) * int(MULTIPLIER) % 2**64 >> 11) / 2**53
    return -len(ids) * (1 + unit) if kind == "logps" else 8 * unit - 4


def make_nothing_models(folder: Path) -> None:
    """Write `policy` and `reward`: model folders with one word-level tokenizer and almost no weights."""
    tokens = ["<pad>", "<end>", "<unknown>", *map(str, range(10)), *dict.fromkeys(WORDS)]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = TEMPLATE
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    shape |= {"vocab_size": len(vocabulary), "pad_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    for name, kind, more in (
        ("policy", LlamaForCausalLM, {}),
        ("reward", LlamaForSequenceClassification, {"num_labels": 1}),
    ):
        kind(LlamaConfig(**shape, **more)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)

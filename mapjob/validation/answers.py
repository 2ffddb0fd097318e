"""What a policy answers to held-out prompts, and how it scores completions; what reward models say of answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mapjob.config import Config, Model, Scoring
from mapjob.corpus.layouts import LAYOUTS
from mapjob.corpus.plan import Style
from mapjob.corpus.records import Record, Text
from mapjob.metrics.margins import dpo_margin, simpo_margin
from mapjob.metrics.statistics import F64
from mapjob.scoring.encode import Encoder
from mapjob.scoring.model_files import model_files
from mapjob.scoring.models import default_device, load_model
from mapjob.scoring.scorers import Scorer
from mapjob.scoring.spec import EncodingSpec, ScorerSpec, is_reward
from mapjob.scoring.tokenizers import load_tokenizer
from mapjob.validation.held_out import HeldOut


@dataclass(frozen=True)
class Answers:
    """One answer to each prompt, greedy. num_tokens: (P,), end of turn not counted; unfinished: cut at the limit."""

    texts: list[str]
    num_tokens: list[int]
    unfinished: int


class Scores:
    """A model of a run as a scorer of records: the engine that scores a corpus, in this process."""

    def __init__(self, name: str, model: Model, style: Style, scoring: Scoring):
        files = model_files(model, name)
        own: Style = "chat" if is_reward(name) and files.has_chat_template else style
        encoding = EncodingSpec(files, own, scoring.model_copy(update={"control_tokens": "keep"}), ())
        self._kind = "rewards" if is_reward(name) else "logps"
        self._encoder = Encoder(encoding, LAYOUTS["trl"])
        self._scorer = Scorer(ScorerSpec(name, self._kind, files, encoding, {}))

    def of(self, records: Sequence[Record]) -> tuple[F64, F64]:
        """(rewards or sums of log-probabilities, tokens), each (len(records), completions); NaN where there is none."""
        table = self._scorer.score(self._encoder.encode(records)).table
        missing = [None] * len(records[0].completions)
        values = [row or missing for row in table[self._kind].to_pylist()]
        tokens = [row or missing for row in table["num_tokens"].to_pylist()] if self._kind == "logps" else values
        return np.array(values, np.float64), np.array(tokens, np.float64)


def implicit_margins(policy: Scores, held_out: HeldOut, of_reference: bool) -> F64:
    """How far a policy has the chosen side ahead, (N,): DPO's log-ratio gap, else the difference of mean log p."""
    (chosen, rejected), (n_chosen, n_rejected) = (column.T for column in policy.of(held_out.records))
    if of_reference:
        return dpo_margin(chosen, rejected, held_out.column("ref_chosen_logps"), held_out.column("ref_rejected_logps"))
    return simpo_margin(chosen, rejected, n_chosen, n_rejected)


def rewards_of(
    config: Config, manifest: dict[str, Any], style: Style, prompts: Sequence[Record], answers: Sequence[str]
) -> F64:
    """The run's reward model on an answer to each prompt, (P,); of several, the mean in standard deviations of each."""
    records = [Record(record.prompt, [_turn(record.prompt, text)]) for record, text in zip(prompts, answers)]
    rewards = []
    for name, model in config.scored_models.items():
        if model is not None and is_reward(name):
            own = Scores(name, model, style, config.scoring).of(records)[0][:, 0]
            moments = manifest["statistics"].get("rewards", {}).get(name.removeprefix("reward."))
            rewards.append(own if moments is None else (own - moments["mean"]) / moments["std"])
    return np.mean(rewards, axis=0)


def _turn(prompt: Text, text: str) -> Text:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


@torch.inference_mode()
def answers_of(model: Model, style: Style, prompts: Sequence[Record], max_new_tokens: int, batch_size: int) -> Answers:
    """Greedy answers to the prompts of some records, by transformers' own `generate`, in batches of like length."""
    files, device = model_files(model, "policy"), default_device()
    tokenizer = load_tokenizer(files)
    spec = ScorerSpec("policy", "logps", files, EncodingSpec(files, style, Scoring(), ()), {})
    policy = load_model([spec], device)
    if style == "chat":
        heads = [record.prompt for record in prompts]
        heads = tokenizer.apply_chat_template(heads, tokenize=False, add_generation_prompt=True)
    else:
        heads = [record.prompt for record in prompts]
    ids = tokenizer(heads, add_special_tokens=style == "raw")["input_ids"]
    ends = _end_tokens(policy.generation_config.eos_token_id) | {tokenizer.eos_token_id} - {None}
    filler = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    texts, num_tokens = [""] * len(ids), [0] * len(ids)
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    for start in range(0, len(ids), batch_size):
        batch = by_length[start : start + batch_size]
        width = max(len(ids[i]) for i in batch)
        input_ids = torch.tensor([[filler] * (width - len(ids[i])) + ids[i] for i in batch], device=device)
        pads = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in batch], device=device)
        output = policy.generate(
            input_ids=input_ids,
            attention_mask=pads,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(ends) or None,
            pad_token_id=filler,
        )
        for i, own in zip(batch, output[:, width:].tolist()):
            end = next((place for place, token in enumerate(own) if token in ends), len(own))
            texts[i], num_tokens[i] = tokenizer.decode(own[:end], skip_special_tokens=True), end
    return Answers(texts, num_tokens, sum(number == max_new_tokens for number in num_tokens))


def _end_tokens(ids: int | list[int] | None) -> set[int]:
    return set(ids) if isinstance(ids, list) else {ids} - {None}

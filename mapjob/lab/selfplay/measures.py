"""Held-out prompts: what a policy's answers to them are worth, how far it has moved from the first policy, and whether
a judge sees it get worse.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from mapjob.arrays import F64, Bools
from mapjob.config.load import fingerprint
from mapjob.config.run import Model
from mapjob.corpus.plan import Style
from mapjob.corpus.records import Record
from mapjob.errors import ConfigError, RowError
from mapjob.lab.selfplay.config import SelfPlayConfig
from mapjob.lab.selfplay.local import LocalEngine
from mapjob.lab.selfplay.prompts import Prompt, read_prompts
from mapjob.lab.selfplay.requests import Request
from mapjob.lab.validation.answers import Scores, answers_of, as_completion, grade_answers, probability_of_right
from mapjob.lab.validation.statistics import Estimate, prompt_weights
from mapjob.ranking.gather import is_held_out
from mapjob.scoring.model_files import model_files
from mapjob.scoring.spec import is_reward
from mapjob.store.storage import Storage

Measured = dict[str, Any]  # prompts: their ids; unanswered; by_prompt: measure -> a value per prompt, or null
DRAWS = 1000


@dataclass(frozen=True)
class HeldOutPrompts:
    """The prompts that no policy is trained on."""

    config: SelfPlayConfig
    prompts: list[Prompt]
    style: Style

    @classmethod
    def of(cls, config: SelfPlayConfig, style: Style) -> "HeldOutPrompts":
        """`selection.held_out` of the prompts, by their texts. Raises ConfigError if that is none, or all."""
        prompts = read_prompts(config.prompts, style).prompts
        keys = np.frombuffer(bytes.fromhex("".join(prompt.id for prompt in prompts)), np.uint64).reshape(-1, 2)
        apart = is_held_out(keys, config.selection.held_out, config.selection.seed)
        if config.selection.held_out and apart.all() | ~apart.any():
            raise ConfigError(
                f"{apart.sum():,} of {len(prompts):,} prompts are held out: some have to be, and not all of them",
                f"selection.held_out: {config.selection.held_out}",
                "give another share, or more prompts",
            )
        return cls(config, [prompt for prompt, is_apart in zip(prompts, apart) if is_apart], style)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(prompt.id for prompt in self.prompts)

    def measure(self, policy: Model) -> Measured:
        """A policy on these prompts; measured once, and stored in measures/ of the output."""
        storage, name = Storage(self.config.output.path).below("measures"), f"{self._name(policy)}.json"
        if (stored := storage.read(name)) is None:
            storage.create(name, json.dumps(self._measure(policy)).encode())
            stored = storage.read(name)
            assert stored is not None
        return json.loads(stored)

    def _name(self, policy: Model) -> str:
        """Covers all that can change a measure."""
        config = self.config
        models = {**config.models.by_scorer, "measured": policy, "first": config.models.policy, "judge": config.judge}
        files = {name: model_files(model, name) for name, model in models.items() if model is not None}
        parts = ("weights_hash", "tokenizer_hash", "dtype", "adapter", "reward_token")
        covers = {name: [str(getattr(of, part)) for part in parts] for name, of in files.items() if name != "policy"}
        sampling = config.generation.model_dump(mode="json", exclude={"engine", "server", "rows_per_batch"})
        scoring = config.scoring.model_dump(mode="json")
        return fingerprint(covers | {"prompts": sorted(self.ids), "sampling": sampling, "scoring": scoring})

    def _measure(self, policy: Model) -> Measured:
        samples, refused = self._sample(policy)
        records = [
            Record(prompt.text, [as_completion(prompt.text, text)])
            for prompt, texts in zip(self.prompts, samples)
            for text in texts
        ]
        now, num_tokens = self._score("policy", policy, records)
        first, _ = self._score("policy", self.config.models.policy, records)
        judges = {name: model for name, model in self.config.models.by_scorer.items() if is_reward(name)}
        judges |= {"judge": self.config.judge} if self.config.judge is not None else {}
        by_prompt = {name: self._score(name, model, records)[0].mean(1) for name, model in judges.items()}
        by_prompt |= {
            "tokens": num_tokens.mean(1),
            "identical": np.array([np.mean([a == b for a, b in combinations(texts, 2)]) for texts in samples]),
            "log_ratio": (np.abs(now - first) / num_tokens).mean(1),
            **self._right_answers(policy),
        }
        values = {name: np.where(refused, np.nan, of).tolist() for name, of in by_prompt.items()}
        return {
            "prompts": [prompt.id for prompt in self.prompts],
            "unanswered": int(refused.sum()),
            "by_prompt": {name: [_plain(value) for value in of] for name, of in values.items()},
        }

    def _sample(self, policy: Model) -> tuple[list[list[str]], Bools]:
        """(samples of each prompt; whether it cannot be answered, (P,): its samples are then empty)."""
        num = self.config.generation.num_responses
        engine = LocalEngine(model_files(policy, "policy"), self.config.generation, self.style)
        answers = engine.answer([Request(prompt.id, prompt.text) for prompt in self.prompts], num)
        texts = [[""] * num if isinstance(a, RowError) else [response.text for response in a] for a in answers]
        return texts, np.array([isinstance(answer, RowError) for answer in answers])

    def _score(self, name: str, model: Model, records: Sequence[Record]) -> tuple[F64, F64]:
        """(rewards or sums of log-probabilities, tokens) of each sample, both (P, samples)."""
        scorer = Scores("reward.judge" if name == "judge" else name, model, self.style, self.config.scoring)
        values, num_tokens = scorer.of(records)
        shape = (len(self.prompts), self.config.generation.num_responses)
        return values.reshape(shape), num_tokens.reshape(shape)

    def _right_answers(self, policy: Model) -> dict[str, F64]:
        """In a known world, whether the greedy answer to each prompt is right, and the probability of all wordings of
        the right answer, (P,); NaN if the prompt is hopeless.
        """
        world = self.config.world
        if world is None:
            return {}
        by_prompt, records = world.tasks(), [Record(prompt.text, []) for prompt in self.prompts]
        tasks = [by_prompt[prompt.last_turn] for prompt in self.prompts]
        greedy = answers_of(policy, self.style, records, self.config.generation.max_new_tokens)
        scorer = Scores("policy", policy, self.style, self.config.scoring)
        hopeless = np.array([task.group == "hopeless" for task in tasks])
        measured = {
            "right": np.array(grade_answers(tasks, greedy.texts)["right"]),
            "right_probability": probability_of_right(scorer, records, tasks, world.gives_reasons),
        }
        return {name: np.where(hopeless, np.nan, values) for name, values in measured.items()}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(f"{value:.6g}")


def means_of(measured: Measured) -> dict[str, float | None]:
    """The mean of each measure over the prompts that have it."""
    known = {name: [v for v in values if v is not None] for name, values in measured["by_prompt"].items()}
    return {name: float(np.mean(values)) if values else None for name, values in known.items()}


def describe_means(measured: Measured) -> str:
    """In one line, for people."""
    means = means_of(measured)
    return ", ".join(f"{name} {'unknown' if mean is None else format(mean, '.3f')}" for name, mean in means.items())


def best_of(measured: Sequence[Measured]) -> int:
    """Index of the policy whose answers are worth most to the judge; without a judge, the last."""
    worth = [means_of(policy).get("judge") for policy in measured]
    return len(measured) - 1 if None in worth else int(np.argmax(np.array(worth)))


def describe_fall(measured: Sequence[Measured]) -> str | None:
    """For people: by how much the last policy's answers are worth less to the judge than the best ones before; None
    unless the 95 % interval of the difference, by bootstrap over the prompts, is below 0.
    """
    if len(measured) < 2 or "judge" not in measured[-1]["by_prompt"]:
        return None
    best = best_of(measured[:-1])
    before, after = (np.array(m["by_prompt"]["judge"], np.float64) for m in (measured[best], measured[-1]))
    change = (after - before)[~np.isnan(after - before)]
    if not len(change):
        return None
    fall = Estimate.of(prompt_weights(len(change), DRAWS, 0) @ change / len(change))
    if fall.high >= 0:
        return None
    since = f"after iteration {best}" if best else "before the first iteration"
    return (
        f"the judge's reward of answers to held-out prompts fell by {-fall.mean:.3f} "
        f"(95 % interval {-fall.high:.3f} to {-fall.low:.3f}) from what it was {since}"
    )

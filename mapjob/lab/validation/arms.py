"""The arms of a validation: one training per arm, measured on held-out prompts; the result is plain JSON values."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from mapjob.arrays import I64
from mapjob.config.run import Model
from mapjob.corpus.plan import Style
from mapjob.lab.training.config import Training
from mapjob.lab.training.losses import needs_reference
from mapjob.lab.training.train import train
from mapjob.lab.validation.answers import Scores, answers_of, gold_rewards, implicit_margins, rewards_of
from mapjob.lab.validation.config import Validation
from mapjob.lab.validation.held_out import HeldOut
from mapjob.ranking.compare import Choice
from mapjob.store.run_folder import FinishedRun

RANDOM = "random"


@dataclass(frozen=True)
class Arm:
    """One training. seed: of the training, and of the choice of a random subset; max_steps: None if epochs decide."""

    choice: Choice
    max_steps: int | None
    seed: int

    @property
    def name(self) -> str:
        alpha = "" if self.choice.alpha is None else f"-alpha-{self.choice.alpha}"
        steps = "" if self.max_steps is None else f"-steps-{self.max_steps}"
        return f"{self.choice.metric}{alpha}-keep-{self.choice.ratio:g}{steps}-seed-{self.seed}"


def arms_of(validation: Validation) -> Iterator[Arm]:
    """Every training, one per selection first, so that an interrupted validation still compares all of them."""
    lengths = validation.recipe.max_steps or (None,)
    for seed in range(max(validation.seeds, validation.random)):
        for steps in lengths:
            if seed < validation.random:
                yield from (Arm(choice, steps, seed) for choice in validation.at_random)
            if seed < validation.seeds:
                yield from (Arm(choice, steps, seed) for choice in validation.choices)


@dataclass(frozen=True)
class Evaluation:
    """Trains and measures arms: all start from the policy of `run`, which publishes all pairs."""

    validation: Validation
    run: FinishedRun
    held_out: HeldOut

    @property
    def style(self) -> Style:
        return self.run.manifest["corpus"]["style"]

    def train(self, arm: Arm, rows: I64) -> dict[str, Any]:
        """Train the policy on these rows of the run, measure it, delete it; returns plain JSON values."""
        folder = Path(self.validation.models_folder)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="arm-", dir=folder) as scratch:
            start = time.process_time()
            cost = self._train(arm, rows, Path(scratch) / "model")
            cost["cpu_seconds"] = round(time.process_time() - start, 3)
            measured = self.measure(Model(path=cost.pop("output"), dtype="float32"))
        return {"arm": asdict(arm), "training": cost, **measured}

    def _train(self, arm: Arm, rows: I64, output: Path) -> dict[str, Any]:
        recipe = self.validation.recipe.model_dump() | {"max_steps": arm.max_steps, "seed": arm.seed}
        # In the order of the corpus, not of a rank: only the trainer's seed shuffles.
        return train(self.run, Training(**recipe), output, rows=np.sort(rows))

    def measure(self, policy: Model) -> dict[str, Any]:
        """A policy on the held-out prompts: implicit margins of pairs, and its answers with their rewards."""
        validation, config, prompts = self.validation, self.validation.everything, self.held_out.prompts
        of_reference = needs_reference(validation.recipe.objective)
        margins = implicit_margins(Scores("policy", policy, self.style, config.scoring), self.held_out, of_reference)
        answers = answers_of(policy, self.style, prompts, validation.max_new_tokens)
        rewards = rewards_of(config, self.run.manifest, self.style, prompts, answers.texts)
        measured = {
            "implicit_margin": _plain(margins),
            "reward": _plain(rewards),
            "num_tokens": answers.num_tokens,
            "unfinished": answers.unfinished,
            "unanswered": answers.unanswered,
        }
        if validation.world is not None:
            texts = [record.prompt[0]["content"] for record in prompts]
            measured["gold"] = gold_rewards(validation.world, texts, answers.texts)
        return measured


def _plain(values: np.ndarray) -> list[float | None]:
    """Six digits; None for NaN, which JSON does not have."""
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]

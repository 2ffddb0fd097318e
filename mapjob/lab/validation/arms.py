"""The arms of a validation: one training per arm, measured on held-out prompts; the result is plain JSON values."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from mapjob.arrays import I64, Bools
from mapjob.config.run import Model
from mapjob.corpus.plan import Style
from mapjob.lab.training.config import Training
from mapjob.lab.training.losses import needs_reference
from mapjob.lab.training.train import train
from mapjob.lab.validation.answers import (
    Scores,
    answers_of,
    grade_answers,
    implicit_margins,
    preference_for_form,
    probability_of_right,
    rewards_of,
)
from mapjob.lab.validation.config import Validation
from mapjob.lab.validation.held_out import HeldOut
from mapjob.ranking.compare import Choice
from mapjob.scoring.spec import is_reward
from mapjob.store.run_folder import FinishedRun

RANDOM = "random"


@dataclass(frozen=True)
class Arm:
    """One training. seed: of the training, and of the choice of a random subset; max_steps: None if epochs decide.

    part: `best`, `middle` or `last` of the choice's order; `ceiling`: all pairs of a known world, with the right label.
    """

    choice: Choice
    max_steps: int | None
    seed: int
    part: Literal["best", "middle", "last", "ceiling"] = "best"

    @property
    def name(self) -> str:
        alpha = "" if self.choice.alpha is None else f"-alpha-{self.choice.alpha}"
        steps = "" if self.max_steps is None else f"-steps-{self.max_steps}"
        part = "" if self.part == "best" else f"-{self.part}"
        return f"{self.choice.metric}{alpha}-keep-{self.choice.ratio:g}{part}{steps}-seed-{self.seed}"


def arms_of(validation: Validation) -> Iterator[Arm]:
    """Every training, one per selection first, so that an interrupted validation still compares all of them."""
    lengths = validation.recipe.max_steps or (None,)
    for seed in range(max(validation.seeds, validation.random)):
        for steps in lengths:
            if seed < validation.random:
                yield from (Arm(choice, steps, seed) for choice in validation.at_random)
            if seed < validation.seeds:
                if validation.world is not None:
                    yield Arm(Choice("explicit", None, 1.0), steps, seed, "ceiling")
                yield from (Arm(choice, steps, seed) for choice in validation.choices)
                yield from (Arm(choice, steps, seed, "middle") for choice in validation.in_the_middle)
                yield from (Arm(choice, steps, seed, "last") for choice in validation.at_the_bottom)


@dataclass(frozen=True)
class Evaluation:
    """Trains and measures arms: all start from the policy of `run`, which publishes all pairs."""

    validation: Validation
    run: FinishedRun
    held_out: HeldOut

    @property
    def style(self) -> Style:
        return self.run.manifest["corpus"]["style"]

    def train(self, arm: Arm, rows: I64, swapped: Bools) -> dict[str, Any]:
        """Train the policy on these rows of the run, measure it, delete it; returns plain JSON values.

        swapped: of the rows, those that are trained on with their sides exchanged.
        """
        folder = Path(self.validation.models_folder)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="arm-", dir=folder) as scratch:
            start = time.process_time()
            cost = self._train(arm, rows, swapped, Path(scratch) / "model")
            cost["cpu_seconds"] = round(time.process_time() - start, 3)
            measured = self.measure(Model(path=cost.pop("output"), dtype="float32"))
        return {"arm": asdict(arm), "training": cost, **measured}

    def _train(self, arm: Arm, rows: I64, swapped: Bools, output: Path) -> dict[str, Any]:
        recipe = self.validation.recipe.model_dump() | {"max_steps": arm.max_steps, "seed": arm.seed}
        # In the order of the corpus, not of a rank: only the trainer's seed shuffles.
        order = np.argsort(rows)
        return train(self.run, Training(**recipe), output, rows=rows[order], swapped=swapped[order])

    def measure(self, policy: Model) -> dict[str, Any]:
        """A policy on the held-out prompts: implicit margins of pairs, and its answers with their rewards."""
        validation, config, prompts = self.validation, self.validation.everything, self.held_out.prompts
        of_reference = needs_reference(validation.recipe.objective)
        scores = Scores("policy", policy, self.style, config.scoring)
        margins = implicit_margins(scores, self.held_out, of_reference)
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
            measured |= grade_answers(self.held_out.tasks, answers.texts)
            measured["right_probability"] = _plain(
                probability_of_right(scores, prompts, self.held_out.tasks, validation.world.gives_reasons)
            )
        return measured

    def preference_for_form(self) -> float:
        """See `answers.preference_for_form`; of the first reward model."""
        config = self.validation.everything
        name, model = next((n, m) for n, m in config.scored_models.items() if m is not None and is_reward(n))
        return preference_for_form(Scores(name, model, self.style, config.scoring), self.held_out)


def _plain(values: np.ndarray) -> list[float | None]:
    """Six digits; None for NaN, which JSON does not have."""
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]

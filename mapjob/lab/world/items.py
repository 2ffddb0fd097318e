"""A world with a middle: questions that come back in other words, of which a policy knows some answers, is unsure of
others and mistaken about the rest. Its pairs are the policy's own samples, best against worst by the reward model.
"""

import logging
import random
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mapjob.lab.world.beliefs import make_items
from mapjob.lab.world.corpus import describe, flip, read_shards, write_shards
from mapjob.lab.world.settings import WorldSettings
from mapjob.lab.world.tasks import Task

log = logging.getLogger(__name__)


class ItemWorld(WorldSettings):
    """Questions that a policy knows, is unsure of, or mistaken about; one kind is hopeless. Built if it does not exist.

    Trainings have steps, not seconds, so that a seed gives the same models on a slow machine.
    """

    kind: Literal["items"] = "items"
    seed: int = Field(0, description="who knows what, both models, the samples")
    num_prompts: int = Field(2000, ge=1, description="each gives a pair, unless all its samples are the same")
    hopeless_share: float = Field(0.15, ge=0, lt=1, description="prompts of sums, which few pairs cannot teach")
    flipped_share: float = Field(0.0, ge=0, le=0.5, description="share of the corpus's labels that are wrong")
    policy_steps: int = Field(500, ge=1)
    reward_steps: int = Field(900, ge=1, description="of the reward model's training; fewer make a worse model")
    reward_flipped: float = Field(0.05, ge=0, le=0.5, description="share of the reward model's labels that are wrong")
    form_bias: float = Field(
        0.0, ge=0, description="what a reason is worth in those labels, if a right answer is worth 1; 0: no reasons"
    )
    hidden_size: int = Field(128, ge=16, multiple_of=16, description="of both models")

    @property
    def gives_reasons(self) -> bool:
        """Whether answers of the policy may state a reason."""
        return self.form_bias > 0

    def tasks(self) -> dict[str, Task]:
        """The tasks of the corpus's prompts; they grade any answer to these."""
        return {prompt: item.task(prompt) for item in make_items(self.seed) for prompt in item.corpus}

    @property
    def base(self) -> "ItemWorld | None":
        return self.model_copy(update={"flipped_share": 0.0}) if self.flipped_share else None

    def make(self, building: Path, base: Path | None) -> dict[str, Any]:
        """Write corpus, policy and reward model; returns facts about them."""
        if base is None:
            # Imported here because a world that exists must not wait for PyTorch.
            from mapjob.lab.world.item_models import make_models

            given = self.model_dump(exclude={"kind", "folder", "flipped_share"})
            rows = make_models(building, make_items(self.seed), **given)
        else:
            rows = read_shards(base / "corpus")
            for model in ("policy", "reward"):
                shutil.copytree(base / model, building / model)
            wrong = random.Random(f"flips {self.seed}").sample(range(len(rows)), int(self.flipped_share * len(rows)))
            for index in wrong:
                rows[index] = flip(rows[index])
        write_shards(rows, building / "corpus", num_shards=2)
        worse = sum(row.chosen_quality < row.rejected_quality for row in rows) / len(rows)
        log.info(f"world: {len(rows):,} pairs of the policy's samples; the chosen side is the worse one in {worse:.1%}")
        return {"corpus": describe(rows), "wrong": round(worse, 4)}

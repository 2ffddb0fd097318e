"""The training recipe of `mapjob train`, of self-play, and of every arm of a validation."""

from typing import Annotated, Literal

from pydantic import Field

from mapjob.config.run import Section

Objective = Literal["dpo", "simpo", "repo", "amapo", "gamma_po", "madpo", "bpo", "bpo_hinge", "mmpo"]


class Recipe(Section):
    """What compared trainings have in common; as in the MAP paper, 128 pairs per step, warm-up and cosine."""

    objective: Objective = "simpo"
    parameters: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        {}, description="parameters of the objective, such as beta, above 0; default: those of the objective"
    )
    epochs: float = Field(1.0, gt=0, allow_inf_nan=False, description="passes over the selection")
    batch_size: int = Field(8, ge=1, description="pairs per forward pass; amapo takes its statistics over them")
    accumulate: int = Field(16, ge=1, description="forward passes per step")
    learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="null: 1e-6, or 1e-5 for an adapter"
    )
    lora: bool = Field(False, description="train an adapter of rank 16, then merge it")


class Training(Recipe):
    """One training."""

    explained_by = "mapjob train --help"

    max_steps: Annotated[int, Field(ge=1)] | None = Field(None, description="instead of epochs")
    max_length: Annotated[int, Field(ge=2)] | None = Field(
        None, description="tokens; longer pairs are dropped, and counted; null: the run's scoring.max_length"
    )
    seed: int = Field(0, ge=0)

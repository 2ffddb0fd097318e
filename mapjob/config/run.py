"""The run file of `mapjob run`: frozen pydantic models that mirror its YAML key for key."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mapjob.config.models import Model, Models, Section
from mapjob.config.selection import Selection

Layout = Literal["trl", "hh", "sharegpt", "openrlhf", "ultrafeedback", "candidates"]
OutputFormat = Literal["trl", "openrlhf", "llama_factory", "columns"]


class Columns(Section):
    """Names of the corpus's columns, if they differ from the layout's."""

    id: str | None = Field(None, description="column to use as pair_id; null: a hash of the pair's text")
    group: str | None = Field(None, description="column that reports go by")
    prompt: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    responses: str | None = None


class Input(Section):
    path: str | list[str] = Field(description="folder, file, glob, or a list of them; local or any fsspec URL")
    layout: Literal["auto"] | Layout = "auto"
    columns: Columns = Columns()
    plain_text: Literal["auto", "chat", "raw"] = Field("auto", description="how plain strings meet the models")


class Output(Section):
    path: str


class Scoring(Section):
    max_length: int = Field(2048, ge=2, description="tokens of prompt and completion together, in each model's tokens")
    overlength: Literal["drop", "keep_start"] = "drop"
    control_tokens: Literal["error", "sanitize", "keep"] = "error"


class Pool(Section):
    """One scorer's actors; what is null is worked out from the cluster."""

    num_gpus: Annotated[float, Field(ge=0)] | None = None
    min_size: Annotated[int, Field(ge=1)] | None = None
    max_size: Annotated[int, Field(ge=1)] | None = None


class Execution(Section):
    address: str | None = Field(None, description="null: a local Ray; auto, or host:port of a head: a cluster")
    schedule: Literal["together", "one_by_one"] = "together"
    pools: dict[Annotated[str, Field(pattern=r"^(policy|reference|reward(\.[\w-]+)?)$")], Pool] = Field(
        {}, description="by scorer; reward: of every reward model, reward.<name>: of one"
    )
    rows_per_unit: int = Field(2000, ge=1, description="the grain of work; another value scores the corpus again")
    stall_after_s: float = Field(
        7200,
        gt=0,
        description="without a finished unit for so long, the run ends as resumable; after 1/24 of it on a cluster "
        "that has become smaller, it starts again on what is left",
    )
    tokens_per_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="tokens of one forward pass; auto: what is fastest and fits into the device's memory"
    )


class Config(Section):
    """A whole run. Only `input.path`, `output.path` and two models are required."""

    input: Input
    output: Output
    models: Models
    scoring: Scoring = Scoring()
    selection: Selection = Selection()
    output_format: OutputFormat = Field(
        "trl", description="the layout that the selection is written in: a trainer's, or columns: the corpus's own"
    )
    execution: Execution = Execution()
    max_error_rate: float = Field(0.01, ge=0, le=1, description="share of broken rows that ends the run")

    @model_validator(mode="after")
    def _all_that_is_needed(self) -> "Config":
        if self.selection.of_reference and not self.scored_models["reference"]:
            needing = ", ".join(self.selection.of_reference)
            raise ValueError(f"selection goes by the policy against models.reference ({needing}): name one")
        if self.selection.quotas is not None and self.input.columns.group is None:
            raise ValueError("selection.quotas go by the groups of a column: name it as input.columns.group")
        if self.selection.signals.reward_goals is not None and self.output_format == "columns":
            raise ValueError(
                "selection.signals.reward_goals states goals in prompts, and output_format columns has none"
            )
        return self

    @property
    def scored_models(self) -> dict[str, Model | None]:
        """The models by scorer name. If a reference is needed, a policy with an adapter has its base as that."""
        models = self.models
        if models.reference is None and self.selection.of_reference and models.policy.adapter is not None:
            return {**models.by_scorer, "reference": models.policy.model_copy(update={"adapter": None})}
        return models.by_scorer

"""The run file of `mapjob run`: frozen pydantic models that mirror its YAML key for key."""

import os
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from mapjob.config.input import Input, Section
from mapjob.config.selection import Selection


class Model(Section):
    path: str = Field(description="folder, or the name of a model on the hub")
    revision: str | None = Field(None, description="of a model on the hub: commit, tag or branch; null: the newest")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16",
        description="of the weights. A CPU computes float16 in float32, and bfloat16 too if it cannot multiply it",
    )
    adapter: str | None = Field(None, description="LoRA adapter on top of path: folder, or the name of one on the hub")
    reward_token: int | None = Field(
        None,
        ge=0,
        description="of a reward model that is a causal language model: its reward is the logit of this token after "
        "the answer (NVIDIA's Nemotron reward models: 0)",
    )
    trust_remote_code: bool = Field(
        False,
        description="run the code that comes with the model: with --trust-remote-code on the command line too, and for "
        "a model of the hub with the 40 digits of a commit as revision",
    )


ONE, SEVERAL = "one model", "several models"


def _how_many(value: Any) -> str:
    several = isinstance(value, dict) and value and all(isinstance(part, dict | Model) for part in value.values())
    return SEVERAL if several else ONE


class Models(Section):
    policy: Model = Field(description="the model that is to be trained: its log-probabilities are scored")
    reference: Model | None = Field(None, description="what the policy was trained from; null: it without its adapter")
    reward: Annotated[
        Annotated[Model, Tag(ONE)] | Annotated[dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Model], Tag(SEVERAL)],
        Discriminator(_how_many),
    ] = Field(description="a model, or several by name; of several the margin is their mean in standard deviations")

    @model_validator(mode="after")
    def _reward_token(self) -> "Models":
        for name in ("policy", "reference"):
            if (model := getattr(self, name)) is not None and model.reward_token is not None:
                raise ValueError(f"{name}.reward_token: only a reward model has one")
        return self

    @property
    def by_scorer(self) -> dict[str, Model | None]:
        """As scorers are called: several reward models are reward.<name> each."""
        rewards = {"reward": self.reward}
        if isinstance(self.reward, dict):
            rewards = {f"reward.{name}": model for name, model in self.reward.items()}
        return {"policy": self.policy, "reference": self.reference, **rewards}

    @property
    def with_own_code(self) -> list[str]:
        """The scorers whose models may run code of their own, as far as the run file goes."""
        return [name for name, model in self.by_scorer.items() if model is not None and model.trust_remote_code]


# The corpus, what is done with it, and the whole.

OutputFormat = Literal["trl", "openrlhf", "llama_factory", "columns"]


class Output(Section):
    path: str = Field(description="folder or fsspec URL of scores/ (reused by every later run) and runs/")


class Scoring(Section):
    max_length: int = Field(2048, ge=2, description="tokens of prompt and completion together, in each model's tokens")
    overlength: Literal["drop", "keep_start"] = Field("drop", description="longer pairs: dropped, or cut at their end")
    control_tokens: Literal["error", "sanitize", "keep"] = Field(
        "error",
        description="texts that hold a control token: their rows are dropped, or it is broken up, or read as one",
    )


class Pool(Section):
    """One scorer's actors; what is null is worked out from the cluster."""

    num_gpus: Annotated[float, Field(ge=0)] | None = Field(None, description="of each actor")
    min_size: Annotated[int, Field(ge=1)] | None = Field(None, description="actors, at least")
    max_size: Annotated[int, Field(ge=1)] | None = Field(None, description="actors, at most")


class Execution(Section):
    address: str | None = Field(None, description="null: a local Ray; auto, or host:port of a head: a cluster")
    schedule: Literal["together", "one_by_one"] = Field(
        "together", description="all models at once, or one after the other, if they do not fit side by side"
    )
    pools: dict[Annotated[str, Field(pattern=r"^(policy|reference|reward(\.[\w-]+)?)$")], Pool] = Field(
        {}, description="by scorer; reward: of every reward model, reward.<name>: of one"
    )
    rows_per_unit: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="the grain of work; auto: about a minute of one actor's work, 32 to 2,000 rows"
    )
    stall_after_s: float = Field(
        7200,
        gt=0,
        description="without a finished unit for so long, the run ends as resumable; after 1/24 of it on a cluster "
        "that has become smaller, it starts again on what is left",
    )
    tokens_per_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="tokens of one forward pass; auto: what is fastest and fits into the device's memory"
    )

    @property
    def is_cluster(self) -> bool:
        """Whether more nodes may join later. Inside `ray job submit` the cluster is in the environment."""
        return self.address is not None or "RAY_ADDRESS" in os.environ


AtMost = Annotated[float, Field(ge=0, le=1, strict=True)] | None  # strict: true is no number


class Checks(Section):
    """Limits of a run's measures: a run beyond one is committed, and not promoted (exit code 5). They decide nothing
    else, so a finished run that is run again with other limits is judged by them.
    """

    contradicted: AtMost = Field(None, description="at most: share of pairs whose label the reward model contradicts")
    dropped: AtMost = Field(
        None, description="at most: share of rows that rules drop (errors/ with a rule's reason), without `excluded_*`"
    )
    group_share: AtMost = Field(None, description="at most: the largest group's share of the selection")
    prompt_share: AtMost = Field(None, description="at most: share of the selection that has one and the same prompt")
    length_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="at most: mean tokens of the selection's chosen sides over those of the rejected sides"
    )
    reward_outliers: AtMost = Field(
        None,
        description="at most: share of the selection whose reward margin is more than three interquartile ranges "
        "beyond the quartiles of all ranked pairs",
    )
    overlap: AtMost = Field(None, description="at least: share of the promoted run's pairs that are selected again")


class Config(Section):
    """A whole run. Only `input.path`, `output.path` and two models are required."""

    name: Annotated[str, Field(max_length=60)] | None = Field(
        None, description="a name for people; a run that is finished keeps the one that it finished with"
    )
    input: Input = Field(description="which corpus is read, and how")
    output: Output = Field(description="where everything is written")
    models: Models = Field(description="what scores the pairs")
    scoring: Scoring = Field(Scoring(), description="how texts become tokens; what changes here is scored again")
    selection: Selection = Field(Selection(), description="by what pairs are ranked, and which of them are kept")
    output_format: OutputFormat = Field(
        "trl", description="the layout that the selection is written in: a trainer's, or columns: the corpus's own"
    )
    checks: Checks = Field(Checks(), description="limits that decide whether the run is promoted")
    execution: Execution = Field(Execution(), description="on which machines, and in which steps; changes no score")
    max_error_rate: float = Field(0.01, ge=0, le=1, description="share of broken rows that ends the run")

    @field_validator("name")
    @classmethod
    def _is_seen(cls, name: str | None) -> str | None:
        if name is not None and not name.strip():
            raise ValueError("a name that is blank tells nothing: give another, or leave it out")
        return name

    @model_validator(mode="after")
    def _all_that_is_needed(self) -> "Config":
        if self.selection.of_reference and not self.scored_models["reference"]:
            needing = ", ".join(self.selection.of_reference)
            raise ValueError(f"selection goes by the policy against models.reference ({needing}): name one")
        if self.selection.votes is not None and isinstance(self.models.reward, Model):
            raise ValueError("selection.votes are those of several reward models: give models.reward by name")
        if self.selection.quotas is not None and self.input.columns.group is None:
            raise ValueError("selection.quotas go by the groups of a column: name it as input.columns.group")
        if self.selection.exclude.groups and self.input.columns.group is None:
            raise ValueError("selection.exclude.groups are values of a column: name it as input.columns.group")
        if self.checks.group_share is not None and self.input.columns.group is None:
            raise ValueError("checks.group_share goes by the groups of a column: name it as input.columns.group")
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

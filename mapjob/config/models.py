"""The models of a run file."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

# What every part of the run file is: a frozen mapping in which an unknown key is an error.


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    explained_by: ClassVar[str] = "mapjob config schema"  # the command that lists the keys


class Model(Section):
    path: str = Field(description="folder, or the name of a model on the hub")
    revision: str | None = Field(None, description="of a model on the hub: commit, tag or branch; null: the newest")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "bfloat16",
        description="of the weights. A CPU computes float16 in float32, and bfloat16 too if it cannot multiply it",
    )
    adapter: str | None = Field(None, description="LoRA adapter on top of path: folder, or the name of one on the hub")
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
    policy: Model
    reference: Model | None = Field(None, description="what the policy was trained from; null: it without its adapter")
    reward: Annotated[
        Annotated[Model, Tag(ONE)] | Annotated[dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Model], Tag(SEVERAL)],
        Discriminator(_how_many),
    ] = Field(description="a model, or several by name; of several the margin is their mean in standard deviations")

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

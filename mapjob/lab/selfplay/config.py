"""The run files of `mapjob generate` and `mapjob selfplay`: prompts, an engine and its sampling, rewrites, training."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mapjob.config.load import parse_config, read_tree
from mapjob.config.run import Execution, Model, Models, Output, Scoring, Section
from mapjob.config.selection import Keep, Selection
from mapjob.lab.selfplay.known_world import fill_in
from mapjob.lab.training.config import Training
from mapjob.lab.world.items import ItemWorld

Rewrite = Literal["broaden", "deepen", "constrain", "concretise", "reason"]
REWRITES: tuple[Rewrite, ...] = ("broaden", "deepen", "constrain", "concretise", "reason")


class Prompts(Section):
    path: str | list[str] = Field(description="as input.path of `mapjob run`: folder, file, glob, list, org/name")
    split: str | list[str] | None = Field(None, description="as input.split: a name, a list, or all; null: train")
    column: str = Field("prompt", description="the column of strings or of messages")
    group: str | None = Field(None, description="a column that is passed on, for quotas and reports")
    plain_text: Literal["auto", "chat", "raw"] = Field("auto", description="how plain strings meet the model")


class Server(Section):
    """An OpenAI-compatible server. Its key, if it needs one, is OPENAI_API_KEY in the environment."""

    url: str = Field(description="up to its version: http://host:8000/v1")
    model: str = Field(description="the name it serves the model under")
    concurrency: int = Field(32, ge=1, description="concurrent requests per actor")
    timeout_s: float = Field(600, gt=0, description="of one request")


class Generation(Section):
    engine: Literal["transformers", "openai"] = "transformers"
    server: Server | None = Field(None, description="of the engine openai")
    num_responses: int = Field(5, ge=1, description="responses per prompt")
    temperature: float = Field(0.8, ge=0, allow_inf_nan=False, description="0: the most probable token, always")
    top_p: float = Field(0.95, gt=0, le=1)
    top_k: Annotated[int, Field(ge=1)] | None = None
    max_new_tokens: int = Field(1024, ge=1, description="longer responses are cut, and counted")
    seed: int = Field(0, ge=0)
    prompts_per_unit: int = Field(
        250, ge=1, description="prompts per unit of work; a killed run repeats its open units"
    )
    rows_per_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="responses written side by side; auto: 32 on a CPU, what fits on a GPU"
    )

    @model_validator(mode="after")
    def _server_for_openai(self) -> "Generation":
        if (self.engine == "openai") != (self.server is not None):
            raise ValueError("engine openai needs a server (url and model), and no other engine takes one")
        return self


class Evolution(Section):
    """Rewrites of prompts by the model itself, and which of them are kept."""

    rewrites: tuple[Rewrite, ...] = Field(REWRITES, min_length=1)
    length_factor: float = Field(
        5.0, gt=1, description="a rewrite has at most this many times more or fewer characters"
    )
    max_tokens: int = Field(1024, ge=1, description="of a rewrite")


class GenerateConfig(Section):
    explained_by = "mapjob config schema --command generate"

    prompts: Prompts
    output: Output
    policy: Model | None = Field(None, description="the model that answers; null with engine openai")
    generation: Generation = Generation()
    evolve: Evolution | None = Field(None, description="answer rewrites of the prompts instead of the prompts")
    execution: Execution = Execution()

    @model_validator(mode="after")
    def _a_model(self) -> "GenerateConfig":
        if (self.generation.engine == "transformers") != (self.policy is not None):
            raise ValueError("engine transformers needs a policy; engine openai names its model in generation.server")
        return self


class SelfPlayConfig(Section):
    explained_by = "mapjob config schema --command selfplay"

    prompts: Prompts
    output: Output
    models: Models
    judge: Model | None = Field(
        None,
        description="a reward model that neither labels nor selects: the loop stops when it finds the answers to "
        "held-out prompts (selection.held_out) worse",
    )
    world: ItemWorld | None = Field(
        None, description="a known world, built if it does not exist: gives prompts, models and judge"
    )
    generation: Generation = Generation()
    evolve: Evolution | None = Field(
        Evolution(), description="rewrite the prompts of the best pairs, and answer the rewrites too; null: no rewrites"
    )
    evolve_keep: Keep = Field(Keep(ratio=0.25), description="which pairs have their prompts rewritten, best first")
    scoring: Scoring = Scoring()
    selection: Selection = Field(
        Selection(alpha=2.5, keep=Keep(ratio=0.25)), description="which pairs of an iteration are trained on"
    )
    training: Training = Training()
    iterations: int = Field(1, ge=1)
    fresh_responses: bool = Field(
        True,
        description="false: every iteration ranks the responses of the first, so only the policy scores them again",
    )
    execution: Execution = Execution()
    max_error_rate: float = Field(0.01, ge=0, le=1, description="share of broken rows that stops a run")

    @model_validator(mode="after")
    def _possible(self) -> "SelfPlayConfig":
        if self.generation.engine == "openai" and self.iterations > 1:
            raise ValueError("a server serves one model: engine openai takes iterations: 1; serve the trained one then")
        if trusted := self.models.with_own_code:
            raise ValueError(
                f"{', '.join(trusted)}: only `mapjob run` lets a model run code of its own (trust_remote_code)"
            )
        if self.generation.num_responses < 2:
            raise ValueError("a pair takes two responses: generation.num_responses of 2 or more")
        if self.judge is not None:
            if self.judge in self.models.by_scorer.values():
                raise ValueError("judge: this model makes the labels, and cannot see what is wrong with them")
            if self.judge.trust_remote_code:
                raise ValueError("judge: only `mapjob run` lets a model run code of its own (trust_remote_code)")
            if not self.selection.held_out:
                raise ValueError("judge: it judges answers to held-out prompts: give selection.held_out, such as 0.1")
        return self


def load_selfplay(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> SelfPlayConfig:
    """Read a self-play file; a known world gives prompts, models and judge. Raises ConfigError with every fault."""
    tree = read_tree(path, overrides)
    if tree.get("world") is not None:
        tree = fill_in(tree, parse_config(tree["world"], f"{path}: world", ItemWorld))
    return parse_config(tree, str(path), SelfPlayConfig)

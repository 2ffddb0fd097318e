"""The run file: frozen pydantic models that mirror its YAML key for key, and the overrides of the command line."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from mapjob.config.section import Section
from mapjob.config.selection import WITH_ALPHA, Keep, Metric, Selection
from mapjob.errors import ConfigError

__all__ = [
    "WITH_ALPHA",
    "Columns",
    "Config",
    "Execution",
    "Input",
    "Keep",
    "Layout",
    "Metric",
    "Model",
    "Models",
    "Output",
    "OutputFormat",
    "Pool",
    "Scoring",
    "Selection",
    "fingerprint",
    "load_config",
    "parse_config",
    "read_tree",
]

S = TypeVar("S", bound=Section)
Layout = Literal["trl", "hh", "sharegpt", "openrlhf", "ultrafeedback", "candidates"]
OutputFormat = Literal["trl", "openrlhf", "llama_factory", "columns"]


class Columns(Section):
    """Names of the corpus's own columns, where they differ from the layout's."""

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
    unconditional: Literal["refuse", "content_names"] = Field(
        "refuse",
        description="what to do with a store that cannot put create-only; content_names: no name is ever put to twice "
        "but with the same content, since it holds a hash of it",
    )

    @property
    def content_names(self) -> bool:
        return self.unconditional == "content_names"


class Model(Section):
    path: str = Field(description="folder, or the name of a model on the hub")
    revision: str | None = Field(None, description="of a model on the hub: commit, tag or branch; null: the newest")
    dtype: Literal["float32", "bfloat16", "float16", "float8"] = Field(
        "bfloat16", description="float8: the layers' weights and inputs, in a bfloat16 model, where the device has it"
    )
    head_dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the logits; bfloat16 rounds them")
    compile: bool = Field(False, description="torch.compile the body: faster after a warm-up of a minute")
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
        description="without a finished unit for so long, the run ends as resumable; after a 24th of it on a cluster "
        "that has become smaller, it begins anew with what is left",
    )
    tokens_per_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="tokens of one forward pass; auto: what is fastest and fits into the device's memory"
    )


class Config(Section):
    """A whole run. `input.path`, `output.path` and two models are all that has to be said."""

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
        """The models by scorer name. Where a reference is needed, a policy with an adapter has its base as that."""
        models = self.models
        if models.reference is None and self.selection.of_reference and models.policy.adapter is not None:
            return {**models.by_scorer, "reference": models.policy.model_copy(update={"adapter": None})}
        return models.by_scorer


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = (), kind: type[S] = Config) -> S:
    """Read a run file and apply `a.b=value` overrides (values are YAML). Raises ConfigError with every fault found.

    kind: what it is a run file of; that of `mapjob run` unless said.
    """
    return parse_config(read_tree(path, overrides), str(path), kind)


def read_tree(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """A run file as a plain mapping, with overrides. Raises ConfigError where it is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the run file cannot be read: {error.strerror}", str(path), "give the path of a YAML file")
    except UnicodeDecodeError:
        raise ConfigError("the run file is not UTF-8 text", str(path), "save it as UTF-8")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the run file is not valid YAML: {error}", str(path), "mend the line named above")
    if not isinstance(tree, dict):
        raise ConfigError("the run file is not a mapping of keys", str(path), "start from one of configs/")
    for override in overrides:
        _apply(tree, override)
    return tree


def parse_config(tree: dict[str, Any], where: str = "config", kind: type[S] = Config) -> S:
    """Validate a plain mapping. Raises ConfigError that lists every fault with its key."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        faults = [f"{_key(e['loc']) or 'run file'}: {_plain(e)}" for e in error.errors()]
        do = f"`{kind.explained_by}` lists every key and its values"
        raise ConfigError("; ".join(faults), where, do) from None


def _key(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc if part not in (ONE, SEVERAL))


def _plain(fault: dict[str, Any]) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    return fault["msg"].removeprefix("Value error, ")


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"not an override: {override!r}", "--set", "write it as a.b=value")
    *parents, leaf = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ConfigError(f"{parent!r} holds a value, not keys", f"--set {override}", "check the dotted key")
    try:
        tree[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"the value is not valid YAML: {value!r}", f"--set {key}", "quote it") from None


def fingerprint(covers: dict[str, Any]) -> str:
    """Sixteen hex digits that change whenever anything in `covers` (plain JSON values) changes."""
    text = json.dumps(covers, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

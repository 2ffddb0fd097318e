"""The run file: frozen pydantic models that mirror its YAML key for key, and the overrides of the command line."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mapjob.errors import ConfigError

Layout = Literal["trl", "hh", "sharegpt", "openrlhf", "ultrafeedback", "candidates"]
Metric = Literal[
    "map",
    "map_signed",
    "map_unregularised",
    "explicit",
    "implicit_small",
    "implicit_large",
    "bees",
    "difficulty_gap",
    "beta_dpo_weight",
    "random",
]
WITH_ALPHA = ("map", "map_signed", "map_unregularised")
OF_THE_DPO_MARGIN = ("bees", "difficulty_gap")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Columns(_Section):
    """Names of the corpus's own columns, where they differ from the layout's."""

    id: str | None = Field(None, description="column to use as pair_id; null: a hash of the pair's text")
    group: str | None = Field(None, description="column that reports go by")
    prompt: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    responses: str | None = None


class Input(_Section):
    path: str | list[str] = Field(description="folder, file, glob, or a list of them; local or any fsspec URL")
    layout: Literal["auto"] | Layout = "auto"
    columns: Columns = Columns()
    plain_text: Literal["auto", "chat", "raw"] = Field("auto", description="how plain strings meet the models")


class Output(_Section):
    path: str
    unconditional: Literal["refuse", "content_names"] = Field(
        "refuse",
        description="what to do with a store that cannot put create-only; content_names: no name is ever put to twice "
        "but with the same content, since it holds a hash of it",
    )

    @property
    def content_names(self) -> bool:
        return self.unconditional == "content_names"


class Model(_Section):
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


class Models(_Section):
    policy: Model
    reference: Model | None = Field(None, description="needed by implicit: dpo; null: the policy without its adapter")
    reward: Model


class Scoring(_Section):
    max_length: int = Field(2048, ge=2, description="tokens of prompt and completion together, in each model's tokens")
    overlength: Literal["drop", "keep_start"] = "drop"
    control_tokens: Literal["error", "sanitize", "keep"] = "error"


class Keep(_Section):
    """How much of the ranking is kept: exactly one of the four."""

    ratio: float | None = Field(None, ge=0, le=1, description="int(ratio * N) of the N ranked pairs")
    count: int | None = Field(None, ge=0)
    threshold: float | None = Field(None, allow_inf_nan=False, description="pairs whose score is at least this")
    tokens: int | None = Field(None, ge=0, description="the best pairs whose completion tokens together fit")

    @model_validator(mode="after")
    def _one(self) -> "Keep":
        given = [name for name, value in self if value is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of ratio, count, threshold, tokens (given: {', '.join(given) or 'none'})"
            )
        return self


class Selection(_Section):
    metric: Metric = Field("map", description="`mapjob rank --list` explains each")
    implicit: Literal["simpo", "dpo"] = "simpo"
    scale: Literal["zscore", "raw", "calibrated"] = "zscore"
    alpha: float = Field(1.0, ge=0, allow_inf_nan=False)
    beta: float = Field(1.0, gt=0, allow_inf_nan=False, description="scales the implicit margin when scale is raw")
    seed: int = Field(0, ge=0, description="of the metric random")
    keep: Keep = Keep(ratio=0.4)
    on_disagreement: Literal["keep", "relabel", "drop"] = "keep"
    per_prompt: Annotated[int, Field(ge=1)] | None = Field(None, description="at most this many pairs of one prompt")
    quotas: None = Field(None, description="reserved: group -> share of the selection")
    pairing: Literal["best_worst"] = Field("best_worst", description="candidates only: which two responses pair up")


class Pool(_Section):
    """One scorer's actors; what is null is worked out from the cluster."""

    num_gpus: Annotated[float, Field(ge=0)] | None = None
    min_size: Annotated[int, Field(ge=1)] | None = None
    max_size: Annotated[int, Field(ge=1)] | None = None


class Execution(_Section):
    address: str | None = Field(None, description="null: a local Ray; auto or ray://...: a cluster")
    schedule: Literal["together", "one_by_one"] = "together"
    pools: dict[Literal["policy", "reference", "reward"], Pool] = {}
    rows_per_unit: int = Field(2000, ge=1, description="the grain of work; another value scores the corpus again")
    stall_after_s: float = Field(
        7200, gt=0, description="without a finished unit for so long, the run ends as resumable"
    )
    tokens_per_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="tokens of one forward pass; auto: what is fastest and fits into the device's memory"
    )


class Config(_Section):
    """A whole run. `input.path`, `output.path` and two models are all that has to be said."""

    input: Input
    output: Output
    models: Models
    scoring: Scoring = Scoring()
    selection: Selection = Selection()
    output_format: Literal["trl"] = "trl"
    execution: Execution = Execution()
    max_error_rate: float = Field(0.01, ge=0, le=1, description="share of broken rows that ends the run")

    @model_validator(mode="after")
    def _reference_where_needed(self) -> "Config":
        if self.selection.metric in OF_THE_DPO_MARGIN and self.selection.implicit != "dpo":
            raise ValueError(
                f"selection.metric {self.selection.metric} goes by the policy against its reference: set implicit: dpo"
            )
        if self.selection.implicit == "dpo" and not self.scored_models["reference"]:
            raise ValueError("selection.implicit is dpo, which compares the policy with models.reference: name one")
        return self

    @property
    def scored_models(self) -> dict[str, Model | None]:
        """The models by scorer name. Under implicit: dpo, a policy with an adapter has its base as the reference."""
        models = self.models
        reference = models.reference
        if reference is None and self.selection.implicit == "dpo" and models.policy.adapter is not None:
            reference = models.policy.model_copy(update={"adapter": None})
        return {"policy": models.policy, "reference": reference, "reward": models.reward}


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a run file and apply `a.b=value` overrides (values are YAML). Raises ConfigError with every fault found."""
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
    return parse_config(tree, str(path))


def parse_config(tree: dict[str, Any], where: str = "config") -> Config:
    """Validate a plain mapping. Raises ConfigError that lists every fault with its key."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc'])) or 'run file'}: {_plain(e)}" for e in error.errors()]
        raise ConfigError("; ".join(faults), where, "`mapjob config schema` lists every key and its values") from None


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

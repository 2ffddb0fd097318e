"""What one scorer is: its model, how text meets it, and the fingerprint under which its columns are kept."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from mapjob.config.load import fingerprint
from mapjob.config.run import Config, Scoring
from mapjob.corpus.plan import Corpus, Style
from mapjob.errors import ConfigError, ModelError
from mapjob.metrics.columns import COLLISION, UNCONDITIONAL
from mapjob.scoring.model_files import ModelFiles, model_files
from mapjob.scoring.reward_families import last_token, reward_family

SCHEMA_VERSION = 5
Kind = Literal["logps", "rewards", "collision_logps"]


@dataclass(frozen=True)
class EncodingSpec:
    """Everything that decides token ids. Scorers with equal keys share one encoding of a unit."""

    files: ModelFiles
    style: Style
    scoring: Scoring
    markers: tuple[str, ...]  # what sanitize breaks up: the special tokens of every model; else empty
    with_prompt: bool = True  # False: behind the token that begins a text, for PPL(y)
    template_date: str | None = None  # the day that the chat template sees; None if it does not ask
    last_token: int | None = None  # what every text ends with, if a reward model is read there

    @property
    def identity(self) -> dict[str, Any]:
        text = {"tokenizer": self.files.tokenizer_hash, "style": self.style, "markers": list(self.markers)}
        code = {"code": self.files.code} if self.files.code else {}  # of the model, and of its tokenizer with it
        prompt = {} if self.with_prompt else {"with_prompt": False}
        day = {"template_date": self.template_date} if self.template_date else {}
        last = {"last_token": self.last_token} if self.last_token is not None else {}
        return {**text, **code, **prompt, **day, **last, **self.scoring.model_dump()}

    @property
    def key(self) -> str:
        return fingerprint(self.identity)


@dataclass(frozen=True)
class ScorerSpec:
    """One scorer. `kind` decides its columns: logps (policy, reference), rewards (reward model), or collision_logps."""

    name: str
    kind: Kind
    files: ModelFiles
    encoding: EncodingSpec
    reading: dict[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What can change a number, and nothing else: no paths, no batch sizes, not the scorer's name."""
        adapter = {"adapter": self.files.adapter.weights_hash} if self.files.adapter else {}
        token = {"reward_token": self.files.reward_token} if self.files.reward_token is not None else {}
        return {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "weights": self.files.weights_hash,
            "dtype": self.files.dtype,
            "encoding": self.encoding.identity,
            "reading": self.reading,
            **adapter,
            **token,
        }

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.identity)

    @property
    def where(self) -> str:
        """The key of the run file that names the model, for errors."""
        return self.files.where(self.name)

    @property
    def adapter_name(self) -> str | None:
        """What its adapter is called in the model that is loaded; None for a scorer without one."""
        return self.name if self.files.adapter else None

    @property
    def base(self) -> ModelFiles:
        """What is loaded before any adapter: language models with equal bases can share one set of weights."""
        return replace(self.files, path=self.files.location, adapter=None)

    @property
    def description(self) -> dict[str, Any]:
        files = asdict(replace(self.files, known=()))
        return {**self.identity, "first_written_by": {**files, "scorer": self.name}}


def scorer_files(config: Config, code_allowed: bool = False) -> dict[str, ModelFiles]:
    """Files of every model of the run, by scorer name. Raises ModelError if one cannot be used."""
    models = {name: model for name, model in config.scored_models.items() if model is not None}
    files = {name: model_files(model, name, code_allowed) for name, model in models.items()}
    for name, model in files.items():
        _check_length(name, model, config.scoring.max_length)
    for name in filter(is_reward, files):
        reward_family(files[name], name)
    return files


def is_reward(name: str) -> bool:
    """Whether a scorer is a reward model: `reward`, or one of several, `reward.<name>`."""
    return name.partition(".")[0] == "reward"


def scorer_style(name: str, has_chat_template: bool, style: Style) -> Style:
    """The corpus's style; but a reward model was trained on its chat template, so it gets it for plain strings too."""
    return "chat" if is_reward(name) and has_chat_template else style


def _check_length(name: str, files: ModelFiles, max_length: int) -> None:
    limit = files.max_positions
    if limit and max_length > limit:
        raise ConfigError(
            f"scoring.max_length is {max_length}, but {name} was made for {limit} positions",
            files.where(name),
            f"set scoring.max_length to {limit} or less",
        )


def scorer_specs(config: Config, corpus: Corpus, files: dict[str, ModelFiles]) -> list[ScorerSpec]:
    """The scorers of a run, in the order in which they look at a unit.

    Raises ModelError when chat messages meet a model without a chat template, or tools one that takes none, and
    ConfigError when implicit: dpo compares a policy with itself.
    """
    markers = _markers(files) if config.scoring.control_tokens == "sanitize" else ()
    specs = []
    for name, model in files.items():
        style = scorer_style(name, model.has_chat_template, corpus.style)
        if style == "chat" and not model.has_chat_template:
            do = "give its tokenizer a chat_template, or, for plain strings, set input.plain_text: raw"
            raise ModelError(f"the corpus is read as chat, but the {name} has no chat template", model.where(name), do)
        if style == "chat" and "tools" in corpus.reading.template:
            _check_tools(name, model)
        day = config.input.template_date.isoformat() if style == "chat" and model.asks_for_date else None
        last = last_token(model) if is_reward(name) else None
        encoding = EncodingSpec(model, style, config.scoring, markers, template_date=day, last_token=last)
        specs.append(ScorerSpec(name, "rewards" if is_reward(name) else "logps", model, encoding, corpus.identity))
    policy, wanted = specs[0], config.selection.scored_columns
    if wanted & set(UNCONDITIONAL):
        alone = replace(policy.encoding, with_prompt=False)
        specs.insert(1, replace(policy, name="unconditional", encoding=alone))
    if wanted & set(COLLISION):
        specs.insert(1, replace(policy, name="collision", kind="collision_logps"))
    check_reference(config, {spec.name: spec.fingerprint for spec in specs})
    return specs


def check_reference(config: Config, fingerprints: Mapping[str, str]) -> None:
    """Raises ConfigError if the selection compares the policy with itself. fingerprints: by name of scorer."""
    if config.selection.of_reference and fingerprints["policy"] == fingerprints["reference"]:
        raise ConfigError(
            "policy and reference are the same model, so every DPO margin is 0 and says nothing about any pair",
            f"models.reference.path: {config.scored_models['reference'].path}",
            "take what needs no reference (implicit: simpo), or the reference that the policy was trained from",
        )


def _check_tools(name: str, model: ModelFiles) -> None:
    from mapjob.scoring.tokenizers import load_tokenizer, takes_tools

    if not takes_tools(load_tokenizer(model)):
        raise ModelError(
            f"the corpus gives tools to the chat template (column tools), and that of the {name} takes none",
            model.where(name),
            "give a model whose template takes tools, or leave them out: input.reading.ignore: [tools]",
        )


def _markers(files: dict[str, ModelFiles]) -> tuple[str, ...]:
    from mapjob.scoring.tokenizers import load_tokenizer, special_tokens

    return tuple(sorted({marker for model in files.values() for marker in special_tokens(load_tokenizer(model))}))

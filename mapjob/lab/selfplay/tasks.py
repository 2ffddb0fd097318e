"""Tasks on a unit of prompts: answer them, or rewrite them. No Ray here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mapjob.corpus.plan import Style, style_of
from mapjob.errors import ConfigError, ModelError, Reason, RowError
from mapjob.lab.selfplay.config import Evolution, GenerateConfig, Generation
from mapjob.lab.selfplay.evolve import DIRECTIONS, INSTRUCTION, Fault, instruction, read_rewrite
from mapjob.lab.selfplay.prompts import Prompt, first_prompt, prompt_table
from mapjob.lab.selfplay.requests import Engine, Request, Response
from mapjob.scoring.model_files import ModelFiles, model_files

SCHEMA_VERSION = 1
RESPONSE = pa.struct(
    [("text", pa.string()), ("num_tokens", pa.int32()), ("finished", pa.bool_()), ("logps", pa.float64())]
)
Refused = tuple[str, str, str]  # prompt_id, reason, detail


@dataclass(frozen=True)
class UnitResult:
    """What a unit of prompts gave: rows of the corpus, the prompts left out and why, and counts of the rest."""

    table: pa.Table
    refused: list[Refused]
    counts: Counter[str]


@dataclass(frozen=True)
class TaskSpec:
    """A task, an engine and how it samples. evolution None: to answer prompts, else to rewrite them."""

    generation: Generation
    files: ModelFiles | None  # of the model; None: the engine's server has it
    style: Style
    evolution: Evolution | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What can change a text, and nothing else."""
        sampling = self.generation.model_dump(mode="json", exclude={"server", "prompts_per_unit", "rows_per_batch"})
        model: dict[str, Any] = {"served": self.generation.server.model} if self.generation.server else {}
        if self.files is not None:
            model = {"weights": self.files.weights_hash, "tokenizer": self.files.tokenizer_hash}
            model |= {"dtype": self.files.dtype}
            model |= {"adapter": self.files.adapter.weights_hash} if self.files.adapter else {}
        covers = {"schema_version": SCHEMA_VERSION, "style": self.style, "sampling": sampling, "model": model}
        if self.evolution is not None:
            del sampling["num_responses"]
            covers |= {"evolution": self.evolution.model_dump(mode="json"), "wording": [INSTRUCTION, DIRECTIONS]}
        return covers

    def do(self, engine: Engine, prompts: Sequence[Prompt]) -> UnitResult:
        return respond(self, engine, prompts) if self.evolution is None else evolve(self, engine, prompts)


def respond(spec: TaskSpec, engine: Engine, prompts: Sequence[Prompt]) -> UnitResult:
    """A row of candidates per prompt; a prompt with an empty response is left out, since no pair may hold one."""
    answers = engine.answer([Request(prompt.id, prompt.text) for prompt in prompts], spec.generation.num_responses)
    answered, responses, refused, counts = [], [], [], Counter[str]()
    for prompt, answer in zip(prompts, answers):
        if isinstance(answer, RowError):
            refused.append((prompt.id, answer.reason.value, answer.detail))
            continue
        counts.update(_count(answer))
        if empty := sum(not response.text.strip() for response in answer):
            counts["empty_responses"] += empty
            refused.append((prompt.id, Reason.EMPTY_COMPLETION.value, f"{empty} of {len(answer)} responses are empty"))
            continue
        answered.append(prompt)
        responses.append([vars(response) for response in answer])
    table = prompt_table(answered, spec.style).append_column("responses", pa.array(responses, pa.list_(RESPONSE)))
    return UnitResult(table, refused, counts)


def evolve(spec: TaskSpec, engine: Engine, prompts: Sequence[Prompt]) -> UnitResult:
    """The rewrites of the prompts that can be prompts themselves."""
    assert spec.evolution is not None, "a task that rewrites"
    tasks = [(prompt, rewrite) for prompt in prompts for rewrite in spec.evolution.rewrites]
    requests = []
    for prompt, rewrite in tasks:
        text = instruction(prompt.last_turn, rewrite)
        whole = text if isinstance(prompt.text, str) else [{"role": "user", "content": text}]
        requests.append(Request(f"{prompt.id}:{rewrite}", whole))
    rewrites, refused, counts = [], [], Counter[str]()
    for (prompt, rewrite), answer in zip(tasks, engine.answer(requests, 1)):
        if isinstance(answer, RowError):
            refused.append((prompt.id, answer.reason.value, f"{rewrite}: {answer.detail}"))
            continue
        counts.update(_count(answer))
        new = read_rewrite(prompt.last_turn, answer[0], spec.evolution)
        if isinstance(new, Fault):
            refused.append((prompt.id, new.value, rewrite))
        else:
            rewrites.append(prompt.replace_last_turn(new, rewrite))
    return UnitResult(prompt_table(rewrites, spec.style), refused, counts)


def _count(responses: Sequence[Response]) -> dict[str, int]:
    return {
        "responses": len(responses),
        "tokens": sum(response.num_tokens for response in responses),
        "cut_at_max_new_tokens": sum(not response.finished for response in responses),
    }


def task_spec(config: GenerateConfig, evolution: Evolution | None = None) -> TaskSpec:
    """The task of a run file: answer its prompts, or with an evolution rewrite them.

    Raises MapjobError for a model that cannot do it.
    """
    files = _files(config)
    return TaskSpec(config.generation, files, _style(config, files), evolution)


def _files(config: GenerateConfig) -> ModelFiles | None:
    """Raises ConfigError for a model with code of its own, or with no room for a response."""
    if config.policy is None:
        return None
    if config.policy.trust_remote_code:
        do = "serve the model, and use generation.engine: openai"
        raise ConfigError("a model with code of its own cannot generate", f"policy.path: {config.policy.path}", do)
    files = model_files(config.policy, "policy")
    limit = files.max_positions
    if limit and config.generation.max_new_tokens >= limit:
        raise ConfigError(
            f"max_new_tokens is {config.generation.max_new_tokens}, and the policy was made for {limit} positions",
            "generation.max_new_tokens",
            f"set it below {limit}, with room for the prompts",
        )
    return files


def _style(config: GenerateConfig, files: ModelFiles | None) -> Style:
    """As the plan of a run decides it, so that a run reads the candidates as they were made."""
    has_template = files is None or files.has_chat_template
    has_messages = not isinstance(first_prompt(config.prompts), str | None)
    style, _ = style_of(has_messages, config.prompts.plain_text, has_template)
    if style == "chat" and not has_template:
        raise ModelError(
            "the prompts are read as chat, but the policy has no chat template",
            f"policy.path: {config.policy.path if config.policy else ''}",
            "give its tokenizer a chat_template, or, for plain strings, set prompts.plain_text: raw",
        )
    return style

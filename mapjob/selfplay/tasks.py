"""What is done to a unit of prompts: they are answered, or rewritten. No Ray here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mapjob.config import fingerprint
from mapjob.config.generation import Evolution, Generation
from mapjob.corpus.plan import Style
from mapjob.errors import Reason, RowError
from mapjob.scoring.model_files import ModelFiles
from mapjob.selfplay.evolve import DIRECTIONS, INSTRUCTION, Fault, instruction, rewritten
from mapjob.selfplay.prompts import Prompt, prompt_table
from mapjob.selfplay.requests import Engine, Request, Response

SCHEMA_VERSION = 1
RESPONSE = pa.struct(
    [("text", pa.string()), ("num_tokens", pa.int32()), ("finished", pa.bool_()), ("logps", pa.float64())]
)
Refused = tuple[str, str, str]  # prompt_id, reason, detail


@dataclass(frozen=True)
class Done:
    """What came of some prompts: rows of the corpus, what is left out and why, and counts of the rest."""

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
    def covers(self) -> dict[str, Any]:
        """What can change a text, and nothing else."""
        sampling = self.generation.model_dump(mode="json", exclude={"server", "prompts_per_unit", "rows_per_batch"})
        model: dict[str, Any] = {"served": self.generation.server.model} if self.generation.server else {}
        if self.files is not None:
            model = {"weights": self.files.weights_hash, "tokenizer": self.files.tokenizer_hash}
            model |= {"dtype": self.files.dtype}
            model |= {"adapter": self.files.adapter.weights_hash} if self.files.adapter else {}
        rewriting = {}
        if self.evolution is not None:
            del sampling["num_responses"]
            rewriting = {"evolution": self.evolution.model_dump(mode="json"), "wording": [INSTRUCTION, DIRECTIONS]}
        return {
            "schema_version": SCHEMA_VERSION,
            "style": self.style,
            "sampling": sampling,
            "model": model,
            **rewriting,
        }

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.covers)

    def do(self, engine: Engine, prompts: Sequence[Prompt]) -> Done:
        return respond(self, engine, prompts) if self.evolution is None else evolve(self, engine, prompts)


def respond(spec: TaskSpec, engine: Engine, prompts: Sequence[Prompt]) -> Done:
    """A row of candidates for each prompt; one with an empty response is left out, since no pair may hold that."""
    answers = engine.answer([Request(prompt.id, prompt.text) for prompt in prompts], spec.generation.num_responses)
    kept, responses, refused, counts = [], [], [], Counter[str]()
    for prompt, answer in zip(prompts, answers):
        if isinstance(answer, RowError):
            refused.append((prompt.id, answer.reason.value, answer.detail))
            continue
        counts.update(_counted(answer))
        if empty := sum(not response.text.strip() for response in answer):
            counts["empty_responses"] += empty
            refused.append((prompt.id, Reason.EMPTY_COMPLETION.value, f"{empty} of {len(answer)} responses are empty"))
            continue
        kept.append(prompt)
        responses.append([vars(response) for response in answer])
    table = prompt_table(kept, spec.style).append_column("responses", pa.array(responses, pa.list_(RESPONSE)))
    return Done(table, refused, counts)


def evolve(spec: TaskSpec, engine: Engine, prompts: Sequence[Prompt]) -> Done:
    """The rewrites of each prompt that are fit to be prompts themselves."""
    assert spec.evolution is not None, "a task that rewrites"
    asked = [(prompt, rewrite) for prompt in prompts for rewrite in spec.evolution.rewrites]
    requests = []
    for prompt, rewrite in asked:
        text = instruction(prompt.last_turn, rewrite)
        whole = text if isinstance(prompt.text, str) else [{"role": "user", "content": text}]
        requests.append(Request(f"{prompt.id}:{rewrite}", whole))
    kept, refused, counts = [], [], Counter[str]()
    for (prompt, rewrite), answer in zip(asked, engine.answer(requests, 1)):
        if isinstance(answer, RowError):
            refused.append((prompt.id, answer.reason.value, f"{rewrite}: {answer.detail}"))
            continue
        counts.update(_counted(answer))
        new = rewritten(prompt.last_turn, answer[0], spec.evolution)
        if isinstance(new, Fault):
            refused.append((prompt.id, new.value, rewrite))
        else:
            kept.append(prompt.rewritten(new, rewrite))
    return Done(prompt_table(kept, spec.style), refused, counts)


def _counted(responses: Sequence[Response]) -> dict[str, int]:
    return {
        "responses": len(responses),
        "tokens": sum(response.num_tokens for response in responses),
        "cut_at_max_new_tokens": sum(not response.finished for response in responses),
    }

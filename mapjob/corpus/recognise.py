"""Recognition: the reading of a corpus from its schema and the first rows of several files.

What names and values leave open is not guessed: the columns are named, with the YAML that says what they mean.
"""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import yaml

from mapjob.config import input as keys
from mapjob.corpus.cells import shape_of
from mapjob.corpus.head import ANSWERS, BETTER_WORSE, MOSTLY, TWO_SIDES, Head
from mapjob.corpus.reading import Reading
from mapjob.corpus.verdicts import propose_verdicts, verdicts
from mapjob.errors import ConfigError, InputError

RESPONSES = ("responses", "completions", "candidates", "answers", "outputs", "generations", "summaries", "samples")
SYSTEM = ("system", "system_prompt", "system_message")
PROMPT = ("prompt", "question", "instruction", "query", "messages", "conversations", "conversation", "dialogue")
PROMPT += ("input", "prompts", "questions", "instructions", "problem", "context", "info.post", "post")
TEMPLATE = ("tools", "chat_template_kwargs")  # what TRL gives to the chat template beside the messages


def recognise(head: Head, given: keys.Reading, where: str) -> Reading:
    """The reading of the corpus: what the run file gives of it, and the rest as names and values say.

    Raises InputError for a corpus without one right reading, ConfigError for a path that the corpus lacks.
    """
    for path in (*(given.prompt or ()), *(given.sides or ()), *filter(None, [given.responses]), *_verdict(given)):
        _check_path(path, head, where)
    sides, responses, is_ordered = given.sides, given.responses, True
    if sides is None and responses is None:
        sides, responses, is_ordered = _find_answers(head, where)
    used = {*(sides or ()), *filter(None, [responses])}
    prompt = given.prompt if given.prompt is not None else _find_prompt(head, used, given, where)
    template = tuple(name for name in TEMPLATE if name not in given.ignore and head.is_filled(name))
    reading = Reading(tuple(prompt), sides, responses, given.verdict, (), template, given.ignore)
    reading = replace(reading, json=tuple(path for path in reading.texts if path in head.json))
    if not is_ordered and given.verdict is None:
        raise _no_verdict(head, reading, where)
    if not reading.prompt and not _holds_prompt(head, reading):
        what = f"no column holds the prompt of {' and '.join(reading.sides or [str(reading.responses)])}"
        raise no_reading(what, head, where, "name the columns of the prompt: input.reading.prompt: [...]")
    return reading


def _verdict(given: keys.Reading) -> tuple[str, ...]:
    return given.verdict.paths if given.verdict else ()


def _check_path(path: str, head: Head, where: str) -> None:
    if path in head.schema.names:
        return
    root, *rest = path.split(".")
    kind = head.schema.field(root).type if root in head.schema.names else None
    for part in rest:
        kind = kind.field(part).type if kind is not None and pa.types.is_struct(kind) and _has(kind, part) else None
    if kind is None:
        what = f"the corpus has no column {path!r}, which input.reading names"
        raise ConfigError(what, where, f"its columns are: {', '.join(head.schema.names)}")


def _has(kind: pa.StructType, name: str) -> bool:
    return kind.get_field_index(name) >= 0


def no_reading(what: str, head: Head, where: str, do: str) -> InputError:
    return InputError(f"{what}; its columns: {', '.join(head.schema.names)}", where, do)


def _find_answers(head: Head, where: str) -> tuple[tuple[str, str] | None, str | None, bool]:
    """(sides, responses, whether the names say which side is the better one)."""
    names = [name for name in head.schema.names if head.is_text(name)]
    ordered = [(len(rest), one, two) for one, two, rest in head.partners(BETTER_WORSE, names) if rest <= ANSWERS]
    ordered = [item for item in ordered if item[0] or not {item[1].lower(), item[2].lower()} & {"j", "k"}]
    if ordered:
        _, one, two = min(ordered, key=lambda item: item[0])
        return (one, two), None, True
    for name in RESPONSES:
        if _holds_several(head, name):
            pairs = all(len(value) == 2 for value in head.values(name) if isinstance(value, list))
            return None, name, not (pairs and any(verdicts(head)))
    for one, two, rest in head.partners(TWO_SIDES, names):
        if rest and rest & ANSWERS and head.shape(one) == head.shape(two):
            return (one, two), None, False
    if {"prompt", "completion", "label"} <= set(head.schema.names):
        do = "give pairs: make prompt, chosen, rejected of answers to the same prompt"
        raise no_reading("unpaired data (prompt, completion, label) holds no pairs", head, where, do)
    if len(names) == 1 and head.shape(names[0]) == "dialogue":
        do = "give a corpus with two or more answers to each prompt"
        raise no_reading(f"{names[0]!r} holds one dialogue a row, and no pairs", head, where, do)
    if {"chosen", "rejected"} <= set(head.schema.names):
        return ("chosen", "rejected"), None, True  # of a type without text, which is refused by its file
    do = "name them: input.reading: {prompt: [...], sides: [chosen column, rejected column]}, or responses: column"
    raise no_reading("no columns are known by their names to hold answers", head, where, do)


def _holds_several(head: Head, name: str) -> bool:
    """A list of texts, of dialogues or of structs around a text each, or a struct of lists."""
    if name not in head.schema.names:
        return False
    if head.shape(name) in ("texts", "dialogue", "exchanges"):
        return True
    values = head.values(name)
    lists = [v for v in values if isinstance(v, list) and v and all(shape_of(item) == "struct" for item in v)]
    structs = [v for v in values if isinstance(v, dict) and v and any(isinstance(item, list) for item in v.values())]
    return bool(values) and len(lists) + len(structs) >= MOSTLY * len(values)


def _find_prompt(head: Head, used: set[str], given: keys.Reading, where: str) -> list[str]:
    """The columns of the prompt, in order: system, earlier turns, the question and what belongs to it."""
    free = [name for name in head.schema.names if name not in used and name not in given.ignore]
    by_name = {name.lower(): name for name in free}
    system = [by_name[name] for name in SYSTEM if name in by_name and _is_text_or_blank(head, by_name[name])]
    if len(system) > 1:
        do = f"name one: input.reading.prompt: [{system[0]}, ...], and the other in input.reading.ignore"
        raise no_reading(f"two columns hold system messages: {', '.join(system)}", head, where, do)
    candidates = [by_name.get(name, name) for name in PROMPT if name in by_name or ("." in name and head.has(name))]
    main = next((name for name in candidates if name not in used and head.is_text(name) and _asks(head, name)), None)
    if main is None and "prompt" in free:
        main = "prompt"
    prompt = [*system, *([main] if main else [])]
    if main and head.shape(main) == "text":
        if (earlier := by_name.get("history")) and head.shape(earlier) in ("exchanges", "dialogue"):
            prompt.insert(len(system), earlier)
        if main.lower() == "instruction" and (more := by_name.get("input")) and head.shape(more) in ("text", "nothing"):
            prompt.append(more)
    return prompt


def _is_text_or_blank(head: Head, name: str) -> bool:
    return head.is_text(name) or (head.shape(name) == "nothing" and "" in head.values(name))


def _asks(head: Head, name: str) -> bool:
    """Whether a column can be a prompt: no dialogue there ends with the assistant's turn."""
    if name.lower() == "prompt" or head.shape(name) != "dialogue":
        return True
    ends = [value[-1] for value in head.values(name) if isinstance(value, list) and value]
    return not any(str(turn.get("role", turn.get("from"))).lower() in ("assistant", "gpt") for turn in ends)


def _holds_prompt(head: Head, reading: Reading) -> bool:
    return any(head.shape(path) == "dialogue" for path in reading.texts)


def _no_verdict(head: Head, reading: Reading, where: str) -> InputError:
    answers = " and ".join(reading.sides or [str(reading.responses)])
    proposals = [proposal for proposal in propose_verdicts(head, reading) if proposal]
    if not proposals:
        do = "name what does in input.reading.verdict: {column: ..., first: [...], second: [...]}, sign or higher"
        return no_reading(f"nothing says which of {answers} is the better answer", head, where, do)
    shown = to_yaml(replace(reading, verdict=proposals[0]))
    others = "".join(f"\n  or: {_flow(p.model_dump(exclude_none=True, exclude_defaults=True))}" for p in proposals[1:])
    do = f"if this is what you mean, put it under input:\n{shown}{others}"
    return InputError(f"which of {answers} is the better answer has to be said", where, do)


def to_yaml(reading: Reading) -> str:
    """The reading as lines of a run file, to paste under `input:`."""
    verdict = reading.verdict and reading.verdict.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    parts = {
        "prompt": list(reading.prompt),
        "sides": reading.sides and list(reading.sides),
        "responses": reading.responses,
        "verdict": verdict,
        "ignore": list(reading.ignore),
    }
    lines = [f"    {name}: {_flow(value)}" for name, value in parts.items() if value or name == "prompt"]
    return "\n".join(["  reading:", *lines])


def _flow(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
        .removesuffix("\n")
        .removesuffix("\n...")
    )

"""Recognition: the reading of a corpus from its schema and the first rows of several files.

What names and values leave open is not guessed: the columns are named, with the YAML that says what they mean.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import yaml

from mapjob.config import input as keys
from mapjob.corpus.cells import shape_of
from mapjob.corpus.dialogues import is_system, tokens
from mapjob.corpus.head import ANSWERS, BETTER_WORSE, MOSTLY, TWO_SIDES, Head, may_hold_text
from mapjob.corpus.reading import Reading, pick
from mapjob.corpus.verdicts import propose_verdicts, verdicts
from mapjob.errors import ConfigError, InputError

RESPONSES = ("responses", "completions", "candidates", "answers", "outputs", "generations", "summaries", "samples")
SYSTEM_WORDS = {
    "system",
    "sys",
    "preamble",
    "prompt",
    "message",
    "msg",
    "instruction",
    "instructions",
    "text",
    "custom",
}
QUESTIONS = ("prompt", "question", "instruction", "query", "problem")
PROMPT = ("prompt", "question", "instruction", "query", "messages", "conversations", "conversation", "dialogue")
PROMPT += ("input", "prompts", "questions", "instructions", "problem", "context", "info.post", "post")
TEMPLATE = ("tools", "chat_template_kwargs")  # what TRL gives to the chat template beside the messages


def recognise(head: Head, given: keys.Reading, as_is: bool, where: str) -> Reading:
    """The reading of the corpus: what the run file gives of it, and the rest as names and values say.

    as_is: the run file says that plain strings are meant as they are (input.plain_text: chat or raw).

    Raises InputError for a corpus without one right reading, ConfigError for a path that the corpus lacks.
    """
    named = (*(given.prompt or ()), *(given.sides or ()), *filter(None, [given.responses]), *given.ignore)
    for path in (*named, *(given.verdict.paths if given.verdict else ())):
        _check_path(path, head, where)
    sides, responses, is_ordered = given.sides, given.responses, True
    if sides is None and responses is None:
        sides, responses, is_ordered = _find_answers(head, given.ignore, where)
    used = {*(sides or ()), *filter(None, [responses])}
    prompt = given.prompt if given.prompt is not None else _find_prompt(head, used, given, where)
    template = tuple(name for name in TEMPLATE if name not in given.ignore and head.is_filled(name))
    reading = Reading(tuple(prompt), sides, responses, given.verdict, (), template, given.ignore, as_is)
    reading = replace(reading, json=_json_columns(head, reading))
    if not is_ordered and given.verdict is None:
        raise _no_verdict(head, reading, where)
    if not reading.prompt and not _holds_prompt(head, reading):
        what = f"no column holds the prompt of {' and '.join(reading.sides or [str(reading.responses)])}"
        raise no_reading(what, head, where, "name the columns of the prompt: input.reading.prompt: [...]")
    return reading


def _json_columns(head: Head, reading: Reading) -> tuple[str, ...]:
    """Columns of texts that are JSON. A list of strings may be an answer: it is turns if all sides and a prompt are."""
    columns = [path for path in reading.texts if path in head.json]
    lists = {path for path in columns if head.shape(path) == "texts"} - {reading.responses}
    are_turns = reading.sides is not None and set(reading.sides) <= lists and bool(lists & set(reading.prompt))
    return tuple(path for path in columns if path not in lists or are_turns)


def _check_path(path: str, head: Head, where: str) -> None:
    if path in head.schema.names:
        return
    root, *rest = path.split(".")
    kind = head.schema.field(root).type if root in head.schema.names else None
    for part in rest:
        while kind is not None and (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            kind = kind.value_type
        kind = kind.field(part).type if kind is not None and pa.types.is_struct(kind) and _has(kind, part) else None
    if kind is None:
        what = f"the corpus has no column {path!r}, which input.reading names"
        raise ConfigError(what, where, f"its columns are: {', '.join(head.schema.names)}")


def _has(kind: pa.StructType, name: str) -> bool:
    return kind.get_field_index(name) >= 0


def no_reading(what: str, head: Head, where: str, do: str) -> InputError:
    return InputError(f"{what}; its columns: {', '.join(head.schema.names)}", where, do)


def _find_answers(head: Head, ignore: Sequence[str], where: str) -> tuple[tuple[str, str] | None, str | None, bool]:
    """(sides, responses, whether the names say which side is the better one)."""
    names = [name for name in head.schema.names if head.is_text(name) and name not in ignore]
    ordered = [(one, two) for one, two, rest in head.partners(BETTER_WORSE, names) if rest <= ANSWERS]
    ordered = [pair for pair in ordered if len(tokens(pair[0])) > 1 or "j" not in tokens(pair[0])]
    if ordered:  # of several, that with the longest texts: chosen may be the name of a model beside chosen_response
        return max(ordered, key=lambda pair: head.length(pair[0])), None, True
    pairs = head.partners(TWO_SIDES, names)
    alike = [(one, two) for one, two, rest in pairs if rest & ANSWERS and rest <= ANSWERS | {"model", "assistant"}]
    alike = [(one, two) for one, two in alike if head.shape(one) == head.shape(two)]
    lists = [name for name in RESPONSES if name not in ignore and _holds_several(head, name)]
    if alike and lists:
        do = f"name one: input.reading.sides: [{', '.join(alike[0])}], or input.reading.responses: {lists[0]}"
        raise no_reading(f"{' and '.join(alike[0])}, and {lists[0]}, may all hold the answers", head, where, do)
    if alike and (more := [name for name in names if name not in alike[0] and _goes_on(alike[0][0], name)]):
        do = f"name two: input.reading.sides: [{', '.join(alike[0])}]; or write all of them as one list: responses"
        raise no_reading(f"more than two columns hold answers: {', '.join([*alike[0], *more])}", head, where, do)
    if alike:
        return alike[0], None, False
    if lists:
        responses = max(lists, key=head.length)
        pairs = all(len(value) == 2 for value in head.values(responses) if isinstance(value, list))
        return None, responses, not (pairs and any(verdicts(head, ignore)))
    if {"prompt", "completion", "label"} <= set(head.schema.names):
        do = "give pairs: make prompt, chosen, rejected of answers to the same prompt"
        raise no_reading("unpaired data (prompt, completion, label) holds no pairs", head, where, do)
    if len(head.schema.names) == 1 and head.shape(names[0] if names else "") == "dialogue":
        do = "give a corpus with two or more answers to each prompt"
        raise no_reading(f"{names[0]!r} holds one dialogue a row, and no pairs", head, where, do)
    sides = [head.schema.field(name).type for name in ("chosen", "rejected") if name in head.schema.names]
    if len(sides) == 2 and not all(map(may_hold_text, sides)):
        return ("chosen", "rejected"), None, True  # of a type without text, which is refused by its file
    do = "name them: input.reading: {prompt: [...], sides: [chosen column, rejected column]}, or responses: column"
    raise no_reading("no columns are known by their names and values to hold answers", head, where, do)


def _goes_on(first: str, name: str) -> bool:
    """Whether a name is the first side's but for one number or letter: response_3 beside response_1."""
    pairs = list(zip(tokens(first), tokens(name)))
    other = [part for before, part in pairs if before != part]
    return len(tokens(first)) == len(tokens(name)) and len(other) == 1 and (other[0].isdecimal() or len(other[0]) == 1)


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
    system = [name for name in free if is_system(name) and _names_a_text(name) and _is_text_or_blank(head, name)]
    if len(system) > 1:
        do = f"name one: input.reading.prompt: [{system[0]}, ...], and the other in input.reading.ignore"
        raise no_reading(f"two columns hold system messages: {', '.join(system)}", head, where, do)
    candidates = [by_name.get(name, name) for name in PROMPT if name in by_name or ("." in name and head.has(name))]
    candidates = [name for name in candidates if name not in used and head.is_text(name) and _asks(head, name)]
    main = next(iter(candidates), None)
    others = [name for name in candidates[1:] if name.lower() in QUESTIONS and head.values(name) != head.values(main)]
    if main and main.lower() in QUESTIONS and others and not all(head.shape(path) == "dialogue" for path in used):
        do = f"name what is asked: input.reading.prompt: [{', '.join([*system, others[0]])}]"
        raise no_reading(f"{main} and {others[0]} may both hold the prompt", head, where, do)
    if main is None and "prompt" in free and not may_hold_text(head.schema.field("prompt").type):
        main = "prompt"  # of a type without text, which is refused by its file
    prompt = [*system, *([main] if main else [])]
    if main and head.shape(main) == "text":
        if (earlier := by_name.get("history")) and head.shape(earlier) in ("exchanges", "dialogue"):
            prompt.insert(len(system), earlier)
        if main.lower() == "instruction" and (more := by_name.get("input")) and head.shape(more) in ("text", "nothing"):
            prompt.append(more)
    return prompt


def _names_a_text(name: str) -> bool:
    return set(tokens(name)) <= SYSTEM_WORDS


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
    proposals = [v for v in propose_verdicts(head, reading, reading.ignore) if {0, 1} & set(_sides(head, v))]
    if not proposals:
        do = "name what does in input.reading.verdict: {column: ..., first: [...], second: [...]}, sign or higher"
        return no_reading(f"nothing says which of {answers} is the better answer", head, where, do)
    shown = to_yaml(replace(reading, verdict=proposals[0]))
    others = "".join(f"\n  or: {_flow(_values(verdict))} ({_counts(head, verdict)})" for verdict in proposals[1:])
    do = f"if this is what you mean ({_counts(head, proposals[0])}), put it under input:\n{shown}{others}"
    return InputError(f"which of {answers} is the better answer has to be said", where, do)


def _sides(head: Head, verdict: keys.Verdict) -> list[int | None]:
    return [verdict.side([pick(row, path) for path in verdict.paths]) for row in head.rows]


def _counts(head: Head, verdict: keys.Verdict) -> str:
    sides = _sides(head, verdict)
    first, second, ties = (sides.count(side) for side in (0, 1, None))
    return f"of {len(sides)} first rows {first} choose the first, {second} the second, {ties} are ties"


def _values(verdict: keys.Verdict) -> dict[str, Any]:
    return verdict.model_dump(mode="json", exclude_none=True, exclude_defaults=True)


def to_yaml(reading: Reading) -> str:
    """The reading as lines of a run file, to paste under `input:`."""
    verdict = reading.verdict and _values(reading.verdict)
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

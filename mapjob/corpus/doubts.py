"""Doubts about a reading: what it would read wrongly, or leave out of what a trainer reads. Each is an error that names
the column and the key that settles it."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pyarrow as pa

from mapjob.config.input import Columns, Verdict
from mapjob.corpus.cells import HH_OPENING, decode_json, shape_of
from mapjob.corpus.dialogues import is_system
from mapjob.corpus.head import BETTER_WORSE, Head
from mapjob.corpus.reading import Reading, Row, pick
from mapjob.corpus.recognise import SYSTEM, TEMPLATE
from mapjob.corpus.verdicts import score_pairs, verdicts
from mapjob.errors import ConfigError, InputError

# Columns that a trainer's template or collator reads by name (TRL, LLaMA-Factory, axolotl).
TRAINER_COLUMNS = (*SYSTEM, "context", "history", *TEMPLATE, "functions", "documents")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
PLACEHOLDER = re.compile(r"<(image|video|audio)>")
MARKERS = re.compile(
    r"<\|[a-z_]+\|>|\[/?INST\]|<(start|end)_of_turn>|</?s>"
    r"|(^|\n)\s*#{1,4} ?(Human|Assistant|Instruction|Response|User|Input)\b ?:?"
    r"|(^|\n)(Human|Assistant|USER|ASSISTANT|User|Bot|Q|A): |\n\n(Human|Assistant):",
)
SOME, MANY = 0.25, 0.5


def check_reading(head: Head, reading: Reading, is_said: bool, where: str) -> None:
    """Raises InputError for the first doubt. is_said: the run file says that plain strings are meant as they are
    (input.plain_text: chat or raw)."""
    doubts = chain(_media(head, reading), _unused(head, reading), _verdicts(head, reading))
    for what, do in chain(doubts, () if is_said else _texts(head, reading)):
        raise InputError(what, where, do)


Doubt = tuple[str, str]


def _media(head: Head, reading: Reading) -> Iterator[Doubt]:
    names = [name for name in head.schema.names if name.lower() in MEDIA and head.is_filled(name)]
    left = [name for name in names if name not in reading.ignore]
    if left:
        yield (
            f"the column {left[0]!r} holds images, videos or sound, which the models here do not see",
            f"score text alone by input.reading.ignore: [{', '.join(left)}], if the answers are about the text",
        )
    shown = sum(any(PLACEHOLDER.search(text) for text in _strings(row, reading)) for row in head.rows)
    if shown and not names:
        yield f"the texts of {shown} of {len(head.rows)} first rows hold places for images (<image>)", "give text pairs"


def _unused(head: Head, reading: Reading) -> Iterator[Doubt]:
    used = {path.partition(".")[0] for path in reading.columns} | set(reading.ignore)
    left = [name for name in head.schema.names if name.lower() in TRAINER_COLUMNS and name not in used]
    left = [name for name in left if head.is_filled(name)]
    if left:
        yield (
            f"a trainer reads the column {left[0]!r}, and the reading leaves it out",
            f"give it its place in input.reading.prompt: [{', '.join([*left, *reading.prompt])}], "
            f"or leave it out knowingly: input.reading.ignore: [{', '.join([*left, *reading.ignore])}]",
        )


def _verdicts(head: Head, reading: Reading) -> Iterator[Doubt]:
    if reading.verdict is not None:
        yield from _all_ties(head, reading.verdict)
        return
    for name in verdicts(head, (*reading.ignore, *reading.texts)):
        yield (
            f"the column {name!r} may say which answer is better, and the reading does not use it",
            f"say what it means: input.reading.verdict: {{column: {name}, first: [...], second: [...]}}, "
            f"or that it means nothing here: input.reading.ignore: [{', '.join([name, *reading.ignore])}]",
        )
    for one, two in score_pairs(head, BETTER_WORSE, reading.ignore):
        scores = [(pick(row, one), pick(row, two)) for row in head.rows]
        against = sum(x is not None and y is not None and x < y for x, y in scores)
        if against:
            yield (
                f"{one} is lower than {two} in {against} of {len(scores)} first rows: it contradicts the sides",
                f"let the scores decide: input.reading.verdict: {{higher: [{one}, {two}]}}, or the columns' names: "
                f"input.reading.ignore: [{', '.join([one, two, *reading.ignore])}]",
            )


def _all_ties(head: Head, verdict: Verdict) -> Iterator[Doubt]:
    values = [[pick(row, path) for path in verdict.paths] for row in head.rows]
    if values and all(verdict.side(row) is None for row in values):
        seen = ", ".join(dict.fromkeys(repr(value)[:40] for row in values for value in row))
        yield (
            f"all {len(values)} first rows are ties: {' and '.join(verdict.paths)} hold {seen[:200]}",
            "in input.reading.verdict, give the values as they are there, with their type (1 is no '1')",
        )


def _texts(head: Head, reading: Reading) -> Iterator[Doubt]:
    """Strings that hold more than a text: turns, JSON, or the prompt again."""
    if not head.rows:
        return
    as_they_are = "if these strings are to be scored as they are, say so: input.plain_text: chat (or raw)"
    for path in reading.texts:
        if path in reading.json:
            continue
        values = [value for value in head.values(path) if isinstance(value, str) and value]
        plain = [value for value in values if not value.startswith(HH_OPENING)]
        messages = [value for value in plain if shape_of(decode_json(value)) in ("dialogue", "message")]
        if messages:
            what = f"the strings of {path!r} are messages as JSON in {len(messages)} of {len(values)} first rows"
            yield f"{what}, not in all", "write all rows in one form"
        objects = [value for value in plain if _is_json(value)]
        if len(objects) >= MANY * max(1, len(values)) and objects:
            what = f"the strings of {path!r} hold JSON, not text, in {len(objects)} of {len(values)} first rows"
            yield what, f"write the text in a column of its own; {as_they_are}"
        marked = [value for value in plain if MARKERS.search(value)]
        if len(marked) >= SOME * max(1, len(values)) and marked:
            marker = MARKERS.search(marked[0]).group().strip()
            what = (
                f"the strings of {path!r} hold markers of turns ({marker}) in {len(marked)} of {len(values)} first rows"
            )
            yield what, f"write the dialogues as messages; {as_they_are}"
    again = sum(_begins_with_prompt(row, reading) for row in head.rows)
    if again >= MANY * len(head.rows):
        what = f"the answers begin with the prompt again in {again} of {len(head.rows)} first rows"
        yield what, f"take the prompt out of {' and '.join(reading.sides or [str(reading.responses)])}; {as_they_are}"


def _begins_with_prompt(row: Row, reading: Reading) -> bool:
    prompts = [pick(row, path) for path in reading.prompt if not is_system(path)]
    answers = [pick(row, path) for path in reading.sides or ()]
    texts = [*prompts, *answers]
    if len(prompts) != 1 or len(answers) != 2 or not all(isinstance(text, str) for text in texts):
        return False
    prompt = prompts[0].strip()
    return bool(prompt) and all(answer.strip().startswith(prompt) for answer in answers)


def _is_json(text: str) -> bool:
    if text.lstrip()[:1] not in ("{", "["):
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def _strings(row: Row, reading: Reading) -> Iterator[str]:
    """Every string of the row's texts, at any depth."""
    waiting: list[Any] = [pick(row, path) for path in reading.texts]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value


def check_columns(reading: Reading, columns: Columns, schema: pa.Schema, where: str) -> None:
    """Raises ConfigError if a file lacks a column that the run file or the reading needs, and InputError if one of the
    texts' columns is of a type that holds no text in any row."""
    needed = [
        path.partition(".")[0] for path in reading.columns if not is_system(path) and path not in reading.template
    ]
    for name in dict.fromkeys([*needed, *filter(None, (columns.id, columns.group))]):
        if name not in schema.names:
            what = f"the corpus has no column {name!r}, which input.reading or input.columns names"
            raise ConfigError(what, where, f"its columns are: {', '.join(schema.names)}")
    for path in reading.texts:
        field = schema.field(path) if path in schema.names else None
        if field is not None and not _may_hold_text(field.type):
            what = f"the column {path!r} is of the type {field.type}, which is neither text nor a list of messages"
            raise InputError(what, where, "write it as a string column, or name another one in input.reading")


def _may_hold_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_nested, pa.types.is_null
    return any(is_kind(kind) for is_kind in kinds)

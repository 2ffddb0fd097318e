"""Doubts about a reading: what it would read wrongly, or leave out of what a trainer reads. Each is an error that names
the column and the key that settles it."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from mapjob.config.input import Columns, Verdict, as_number
from mapjob.corpus.cells import decode_json, shape_of
from mapjob.corpus.dialogues import is_system, tokens
from mapjob.corpus.head import BETTER_WORSE, Head, may_hold_text
from mapjob.corpus.reading import Reading, Row, as_chat, pick
from mapjob.corpus.records import Record
from mapjob.corpus.suspicious import begins_with_prompt, find_data, find_marker
from mapjob.corpus.verdicts import SCORES, score_pairs, verdicts
from mapjob.errors import ConfigError, InputError, RowError

Doubt = tuple[str, str]  # what, and what to do
Rows = list[tuple[Row, Record]]  # first rows that are read, as chat

# Words in names of columns that a trainer's template or collator reads (TRL, LLaMA-Factory, axolotl).
EARLIER = {"history", "context"}
DIALOGUES = {"conversation", "conversations", "dialogue", "dialog", "messages"}
PARTS = {"input", "inputs", "passage", "choices", "options", "document", "article"}
GIVEN = {"tools", "functions", "documents", "kwargs"}
REASONING = {"reasoning", "thinking", "thought", "thoughts", "rationale", "cot"}
MEDIA = {"image", "images", "img", "video", "videos", "audio", "audios"}
PLACEHOLDER = re.compile(r"<\|?(image|video|audio)[_\d]*\|?>")
MARKED, HELD = 0.2, 0.25  # shares of the first rows from which markers, or JSON and the prompt, are no chance


def check_reading(head: Head, reading: Reading, records: Sequence[Record | RowError], where: str) -> None:
    """Raises InputError for the first doubt. records: of head.rows, as they are read."""
    good = [(row, as_chat(record)) for row, record in zip(head.rows, records) if isinstance(record, Record)]
    doubts = chain(_media(head, reading, good), _unused(head, reading, good), _verdicts(head, reading))
    for what, do in chain(doubts, () if reading.as_is else _texts(head, reading, good)):
        raise InputError(what, where, do)
    broken = [record for record in records if isinstance(record, RowError) and not record.reason.is_dropped]
    if records and len(broken) == len(records):
        what = f"none of the first {len(records)} rows can be read: {broken[0].reason.value} ({broken[0].detail})"
        raise InputError(what, where, "say in input.reading what the columns hold, or fix the rows")


def _media(head: Head, reading: Reading, rows: Rows) -> Iterator[Doubt]:
    names = [name for name in head.schema.names if MEDIA & set(tokens(name)) and head.is_filled(name)]
    left = [name for name in names if name not in reading.ignore and not _is_number(head.schema.field(name).type)]
    if left:
        yield (
            f"the column {left[0]!r} holds images, videos or sound, which the models here do not see",
            f"score text alone by input.reading.ignore: [{', '.join(left)}], if the answers are about the text",
        )
    shown = sum(any(map(PLACEHOLDER.search, strings)) for strings in (_strings_of(record) for _, record in rows))
    if shown and not names:
        yield f"the texts of {shown} of {len(rows)} first rows hold places for images (<image>)", "give text pairs"


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _unused(head: Head, reading: Reading, rows: Rows) -> Iterator[Doubt]:
    used = {path.partition(".")[0] for path in reading.columns} | {*reading.columns, *reading.ignore}
    left = [name for name in head.schema.names if name not in used and head.is_filled(name)]
    left = [name for name in left if _may_be_read(head, name) and not _is_told(name, rows)]
    if left:
        ignore = f"input.reading.ignore: [{', '.join([*left, *reading.ignore])}]"
        do = f"write it into the messages, or leave it out knowingly: {ignore}"
        if not GIVEN & set(tokens(left[0])) and head.is_text(left[0]):
            order = sorted((left[0], *reading.prompt), key=lambda name: not is_system(name))
            do = f"give it its place in input.reading.prompt: [{', '.join(order)}], or leave it out knowingly: {ignore}"
        yield f"a trainer may read the column {left[0]!r}, and the reading leaves it out", do
    free = [name for name in head.schema.names if name not in used]
    for one, two, rest in head.partners(BETTER_WORSE, free):
        if rest and rest <= REASONING:
            yield (
                f"the reading leaves out {one} and {two}",
                "write the reasoning into the messages (reasoning_content), or leave it out knowingly: "
                f"input.reading.ignore: [{', '.join([one, two, *reading.ignore])}]",
            )


def _may_be_read(head: Head, name: str) -> bool:
    words = set(tokens(name))
    if words & GIVEN:
        return True
    if _is_number(head.schema.field(name).type) or not (head.is_text(name) or head.shape(name) == "other"):
        return False
    is_earlier = bool(words & EARLIER) or (words & {"previous", "past", "earlier"} and words & {"turns", "messages"})
    is_dialogue = words <= DIALOGUES and head.shape(name) in ("dialogue", "exchanges")
    return bool(is_earlier or is_dialogue or is_system(name) or (words <= PARTS and head.is_text(name)))


def _is_told(name: str, rows: Rows) -> bool:
    """Whether every string of the column is in the messages of its row anyway."""
    for row, record in rows:
        known = {text.strip() for text in _strings_of(record)}
        if any(text.strip() not in known for text in _strings(row.get(name), roles=False)):
            return False
    return bool(rows)


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
    pairs = score_pairs(head, BETTER_WORSE, reading.ignore)
    if reading.sides is not None:
        pairs += [(f"{reading.sides[0]}.{key}", f"{reading.sides[1]}.{key}") for key in SCORES]
    for one, two in pairs:
        scores = [(as_number(pick(row, one)), as_number(pick(row, two))) for row in head.rows]
        against = sum(x < y for x, y in scores)
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
            f"all {len(values)} first rows are ties: the values of {' and '.join(verdict.paths)} are {seen[:200]}",
            "in input.reading.verdict, give the values as they are there, with their type: "
            "the number 1 is not the string '1'",
        )


def _texts(head: Head, reading: Reading, rows: Rows) -> Iterator[Doubt]:
    """Strings that hold more than a text: turns, data, or the prompt again."""
    as_they_are = "if these strings are to be scored as they are, say so: input.plain_text: chat (or raw)"
    for path in reading.texts:
        values = [value for value in head.values(path) if isinstance(value, str) and value]
        messages = [value for value in values if shape_of(decode_json(value)) in ("dialogue", "message")]
        if messages and path not in reading.json:
            what = f"the strings of {path!r} are messages as JSON in {len(messages)} of {len(values)} first rows"
            yield f"{what}, not in all", "write all rows in one form"
    if not rows:
        return
    answers = " and ".join(reading.sides or [str(reading.responses)])
    prompts = [[str(turn["content"]) for turn in record.prompt] for _, record in rows]
    sides = [[str(turn["content"]) for turn in side] for _, record in rows for side in record.completions]
    for name, texts in ((" and ".join(reading.prompt) or answers, prompts), (answers, sides)):
        for share, kind, find in ((MARKED, "markers of turns", _marker_in), (HELD, "data and not text", _data_in)):
            found = [what for what in map(find, texts) if what]
            if len(found) >= share * len(texts):
                what = f"{len(found)} of the first {len(texts)} strings of {name} hold {kind} ({found[0]})"
                yield (
                    what,
                    f"write {'the dialogues as messages' if find is _marker_in else 'the text alone'}; {as_they_are}",
                )
    again = sum(begins_with_prompt(record) for _, record in rows)
    if again >= HELD * len(rows):
        what = f"the answers begin with the prompt again in {again} of {len(rows)} first rows"
        yield what, f"take the prompt out of {answers}; {as_they_are}"


def _marker_in(turns: list[str]) -> str | None:
    return next(filter(None, map(find_marker, turns)), None)


def _data_in(turns: list[str]) -> str | None:
    """What kind of data all of the turns are; None if one is not."""
    kinds = [find_data(text) for text in turns]
    return kinds[0] if kinds and all(kinds) else None


def _strings_of(record: Record) -> list[str]:
    return [text for dialogue in (record.prompt, *record.completions) for text in _strings(dialogue, roles=False)]


def _strings(value: Any, roles: bool = True) -> Iterator[str]:
    """Every string in a value, at any depth; roles: those of messages too."""
    waiting: list[Any] = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield from _strings(decoded) if (decoded := decode_json(value)) is not None else [value]
        elif isinstance(value, dict):
            waiting += [item for key, item in value.items() if roles or key not in ("role", "from")]
        elif isinstance(value, list):
            waiting += value


def check_columns(reading: Reading, columns: Columns, schema: pa.Schema, where: str) -> None:
    """Raises ConfigError if a file lacks a column that the run file or the reading needs, and InputError if one of the
    texts' columns is of a type that holds no text in any row."""
    paths = [path for path in reading.columns if not is_system(path) and path not in reading.template]
    needed = [path if path in schema.names else path.partition(".")[0] for path in paths]
    for name in dict.fromkeys([*needed, *filter(None, (columns.id, columns.group))]):
        if name not in schema.names:
            what = f"the corpus has no column {name!r}, which input.reading or input.columns names"
            raise ConfigError(what, where, f"its columns are: {', '.join(schema.names)}")
    for path in reading.texts:
        field = schema.field(path) if path in schema.names else None
        if field is not None and not may_hold_text(field.type):
            what = f"the column {path!r} is of the type {field.type}, which is neither text nor a list of messages"
            raise InputError(what, where, "write it as a string column, or name another one in input.reading")

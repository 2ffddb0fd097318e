"""Prompts: read from Parquet without repeats, with their lineage; and as Arrow tables."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import pyarrow as pa

from mapjob.config.input import Input
from mapjob.corpus.cells import read_turns
from mapjob.corpus.files import CorpusFiles, find_files
from mapjob.corpus.plan import Style
from mapjob.corpus.reader import python_rows, read_rows
from mapjob.corpus.records import Record, Text, is_empty
from mapjob.errors import ConfigError, InputError, Reason, RowError
from mapjob.lab.selfplay.config import Prompts

ROWS = 2000  # read at a time
REPEATED = "repeated"  # rows whose prompt an earlier row has
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
LINEAGE = ("source_id", "rewrite", "generation")


@dataclass(frozen=True)
class Prompt:
    """text: messages under chat, a string under raw. id: a hash of it. A rewrite names the prompt it was made from,
    the kind of rewrite, and how many rewrites lie between it and a prompt that somebody wrote.
    """

    text: Text
    group: str | None = None
    source_id: str | None = None
    rewrite: str | None = None
    generation: int = 0

    @property
    def id(self) -> str:
        return Record(self.text, []).prompt_key.hex()

    @property
    def last_turn(self) -> str:
        """What was asked last: the part of a prompt that is rewritten."""
        return self.text if isinstance(self.text, str) else self.text[-1]["content"]

    def replace_last_turn(self, last_turn: str, rewrite: str) -> "Prompt":
        """The prompt that a rewrite of the last turn makes."""
        text: Text = last_turn
        if not isinstance(self.text, str):
            text = [*self.text[:-1], {**self.text[-1], "content": last_turn}]
        return replace(self, text=text, source_id=self.id, rewrite=rewrite, generation=self.generation + 1)


@dataclass
class PromptSet:
    """The prompts of a source, without repeats and in order; how many rows it has, and why rows are left out."""

    prompts: list[Prompt]
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # by reason
    notes: tuple[str, ...] = ()  # on the files: which splits are read, what was passed over


def count_text(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.items())


def read_prompts(source: Prompts, style: Style, limit: int | None = None) -> PromptSet:
    """Raises ConfigError for a missing column, InputError if no row holds a prompt. limit: read the first rows only."""
    found = find_files(Input(path=source.path, split=source.split), None)
    prompts, seen = PromptSet([], notes=found.notes), set()
    for row in islice(_rows(source, found), limit):
        prompts.rows += 1
        prompt = _prompt(row, source, style)
        if isinstance(prompt, RowError):
            prompts.left_out[prompt.reason.value] += 1
        elif prompt.id in seen:
            prompts.left_out[REPEATED] += 1
        else:
            seen.add(prompt.id)
            prompts.prompts.append(prompt)
    if not prompts.prompts:
        reasons = count_text(prompts.left_out) or "there are no rows"
        do = "check prompts.path and prompts.column"
        raise InputError(f"no row holds a prompt ({reasons})", f"prompts.path: {source.path}", do)
    return prompts


def first_prompt(source: Prompts) -> Any:
    """The value of the first row, to see what the column holds."""
    found = find_files(Input(path=source.path, split=source.split), None)
    return next((row[source.column] for row in _rows(source, found) if row and row[source.column] is not None), None)


def _rows(source: Prompts, found: CorpusFiles) -> Iterator[dict[str, Any] | None]:
    for file in found.files:
        for name in (source.column, source.group):
            if name is not None and name not in file.schema.names:
                key = "prompts.column" if name == source.column else "prompts.group"
                do = f"its columns are: {', '.join(file.schema.names)}"
                raise ConfigError(f"there is no column {name!r}, which {key} names", file.path, do)
        names = dict.fromkeys([source.column, source.group, *LINEAGE])
        columns = [name for name in names if name in file.schema.names]
        for start in range(0, file.num_rows, ROWS):
            yield from python_rows(read_rows(file.path, start, min(file.num_rows, start + ROWS), columns))


def _prompt(row: dict[str, Any] | None, source: Prompts, style: Style) -> Prompt | RowError:
    if row is None:
        return RowError(Reason.INVALID_UTF8)
    value = row[source.column]
    if value is None:
        return RowError(Reason.NULL_FIELD)
    if isinstance(value, str):
        if not value.strip():
            return RowError(Reason.NULL_FIELD, "the prompt has no text")
        value = value if style == "raw" else [{"role": "user", "content": value}]
    elif style == "raw":
        return RowError(Reason.BAD_MESSAGES, "messages where plain strings are continued")
    else:
        try:
            value = read_turns(value, "user", "prompt")
            _check_plain(value)
        except RowError as error:
            return error
        if not value or value[-1]["role"] != "user":
            return RowError(Reason.BAD_MESSAGES, "the prompt does not end in a user turn")
    group = row.get(source.group) if source.group else None
    lineage = {name: row[name] for name in LINEAGE if row.get(name) is not None}
    return Prompt(value, None if group is None else str(group), **lineage)


def _check_plain(dialogue: list[dict[str, Any]]) -> None:
    """Raises RowError for a message with more than a role and content: candidates would not have it."""
    further = {key for turn in dialogue for key, value in turn.items() if not is_empty(value)} - {"role", "content"}
    if further:
        raise RowError(Reason.BAD_MESSAGES, f"prompt: a message with the key {min(further)!r}")


def prompt_table(prompts: Sequence[Prompt], style: Style) -> pa.Table:
    """One row per prompt: prompt, prompt_id, group, source_id, rewrite, generation."""
    text = ("prompt", MESSAGES if style == "chat" else pa.string())
    names = ("prompt_id", "group", "source_id", "rewrite")
    schema = pa.schema([text, *((name, pa.string()) for name in names), ("generation", pa.int32())])
    rows = [{**vars(prompt), "prompt": prompt.text, "prompt_id": prompt.id} for prompt in prompts]
    return pa.Table.from_pylist(rows, schema)


def prompts_of(table: pa.Table) -> list[Prompt]:
    """The inverse of `prompt_table`."""
    rows = table.select(["prompt", "group", *LINEAGE]).to_pylist()
    return [Prompt(row.pop("prompt"), **row) for row in rows]

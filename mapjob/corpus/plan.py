"""The plan: which corpus, how it is read, and its units of work."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.config.input import Columns, Input
from mapjob.corpus.doubts import check_columns, check_reading
from mapjob.corpus.files import SourceFile, find_files
from mapjob.corpus.forms import file_identity
from mapjob.corpus.head import Head
from mapjob.corpus.message_fields import further_keys, with_keys_of
from mapjob.corpus.reader import as_record, python_rows, read_rows
from mapjob.corpus.reading import Reading
from mapjob.corpus.recognise import recognise, to_yaml
from mapjob.corpus.records import Record
from mapjob.errors import ConfigError, IncompleteError, InputError

HEAD_ROWS = 20
TURNS = ("dialogue", "message", "exchanges", "texts")  # shapes that are no plain strings
LOCAL_HEADS, REMOTE_HEADS = 32, 3  # files whose first rows are looked at
HEAD_BUFFER = 1 << 18  # bytes of a request for first rows: a page is seldom larger
NO_FIELDS = pa.schema([])

Style = Literal["chat", "raw"]


@dataclass(frozen=True)
class Unit:
    """A row range [start, stop) of one file: the unit of work, of failure and of memory.

    file: the Parquet that is read. identity: of it when it was planned; empty if its name says what it holds. name: of
    the file that it was, as people know it.
    """

    id: str
    file: str
    start: int
    stop: int
    identity: str = ""
    name: str = ""

    @property
    def num_rows(self) -> int:
        return self.stop - self.start

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.name or self.file}, rows {self.start} to {self.stop}"


@dataclass(frozen=True)
class Corpus:
    """How the files of a corpus are read. Plain values, so that it travels to workers and into fingerprints.

    message_keys: further keys of messages that are in use (such as reasoning_content), sorted. types: of message_keys
    and of the columns for the template, over all files; a trainer loads every value as its type has it, so it is
    rendered like that.
    """

    reading: Reading
    columns: Columns
    style: Style  # what a model sees: messages through its chat template, or plain strings
    message_keys: tuple[str, ...] = ()
    types: pa.Schema = NO_FIELDS

    @property
    def identity(self) -> dict[str, Any]:
        """What decides which text of a row is scored; part of every scorer's fingerprint."""
        more = {"message_keys": list(self.message_keys)}
        more |= {"types": [f"{field.name}: {field.type}" for field in self.types]}
        return {**self.reading.identity, **{name: value for name, value in more.items() if value}}

    @property
    def own_columns(self) -> list[str]:
        """The corpus's columns that scoring reads."""
        roots = (name for path in self.reading.columns for name in (path, path.partition(".")[0]))
        return list(dict.fromkeys([*roots, *filter(None, (self.columns.id, self.columns.group))]))

    @property
    def text_columns(self) -> list[str]:
        """The columns that hold prompt and completions alone; a selection has prompt/chosen/rejected instead."""
        return self.reading.texts


@dataclass(frozen=True)
class Plan:
    """What a run reads: the corpus, why its style (for people), and its units in file and row order.

    message_fields: the further keys of messages (corpus.message_keys) with their types over all files.
    notes: what is said of the files: which splits are read, what was converted, what was passed over. features: of the
    columns, as the library `datasets` has them (ClassLabel, Image).
    """

    corpus: Corpus
    why_style: str
    schema: pa.Schema
    units: tuple[Unit, ...]
    num_files: int
    message_fields: pa.Schema = NO_FIELDS
    notes: tuple[str, ...] = ()
    features: dict[str, Any] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return sum(unit.num_rows for unit in self.units)

    @property
    def first_rows(self) -> npt.NDArray[np.int64]:
        """Position in the corpus of each unit's first row, and at the end the number of rows. Shape (units + 1,)."""
        return np.cumsum([0] + [unit.num_rows for unit in self.units])

    def locate(self, position: int) -> tuple[str, int]:
        """(name of the file, row in it) of the row at a position in the corpus."""
        index = int(np.searchsorted(self.first_rows, position, side="right")) - 1
        unit = self.units[index]
        return unit.name, unit.start + position - int(self.first_rows[index])


def make_plan(
    source: Input,
    policy_has_template: bool,
    rows_per_unit: int,
    limit: int | None = None,
    output: str | None = None,
) -> Plan:
    """Read footers and the first rows; decide reading and style; cut the corpus into units in file and row order.

    `limit` keeps the first so many rows of the corpus. output: where files that are no Parquet are kept as such, once.
    Raises ConfigError and InputError as its parts do.
    """
    found = find_files(source, output)
    where = f"input.path: {source.path}"
    schema = _common_schema(found.files)
    tables = _read_head(found.files, schema)
    filled = frozenset().union(*(file.filled for file in found.files))
    rows = [row for table in tables for row in python_rows(table) if row is not None]
    head = Head(schema, [dict.fromkeys(schema.names) | row for row in rows], filled)
    reading = recognise(head, source.reading, source.plain_text != "auto", where)
    for file in found.files:
        check_columns(reading, source.columns, file.schema, file.name)
    read = [as_record(row, reading) for row in head.rows]
    check_reading(head, reading, read, where)
    units = tuple(_limit(_cut_all(found.files, rows_per_unit), limit))
    if not units:
        raise InputError("the corpus has no rows", where, "check that the files are the ones you meant")
    records = [record for record in read if isinstance(record, Record)]
    fields = with_keys_of(records, further_keys(schema, reading.texts, filled))
    has_messages = any(not isinstance(record.prompt, str) for record in records)
    if has_messages and source.plain_text == "raw" and not any(head.shape(path) in TURNS for path in reading.texts):
        what = f"input.plain_text: raw is for one prompt, and {', '.join(reading.prompt)} make turns of a chat"
        raise ConfigError(what, where, "remove input.plain_text, or leave columns out: input.reading.ignore")
    style, why_style = style_of(has_messages, source.plain_text, policy_has_template)
    types = pa.schema([*fields, *(schema.field(name) for name in reading.template)])
    corpus = Corpus(reading, source.columns, style, tuple(fields.names), types)
    num_files = len({unit.name for unit in units})
    return Plan(corpus, why_style, schema, units, num_files, fields, found.notes, found.features)


def describe_plan(plan: Plan) -> Iterator[str]:
    """How the corpus is read, and which of its columns are not, in a few lines."""
    reading = plan.corpus.reading
    yield f"corpus: {plan.num_rows:,} rows in {plan.num_files} files, {len(plan.units)} units"
    yield from plan.notes
    yield from to_yaml(reading).split("\n")
    yield f"read as: {plan.corpus.style}, {plan.why_style}"
    if reading.template:
        yield f"{' and '.join(reading.template)}: given to the chat template of each model"
    if unread := [name for name in plan.schema.names if name not in plan.corpus.own_columns]:
        yield f"copied, not read: {', '.join(unread)}"


def style_of(has_messages: bool, wanted: Literal["auto"] | Style, policy_has_template: bool) -> tuple[Style, str]:
    """(style, why) of texts that are messages or plain strings. wanted: what the run file says of plain strings."""
    if has_messages:
        return "chat", "the corpus holds messages"
    if wanted != "auto":
        return wanted, "plain strings, as the run file says"
    if policy_has_template:
        return "chat", "plain strings, and the policy has a chat template"
    return "raw", "plain strings, and the policy has no chat template"


def cut(file: SourceFile, rows_per_unit: int) -> Iterator[tuple[int, int]]:
    """Row ranges of one file: small row groups are joined up to `rows_per_unit`, larger ones are cut evenly."""
    start = stop = 0
    for rows in file.row_groups:
        if stop > start and stop - start + rows > rows_per_unit:
            yield start, stop
            start = stop
        stop += rows
        pieces = -(-(stop - start) // rows_per_unit)
        if pieces > 1:
            edges = [start + (stop - start) * i // pieces for i in range(pieces + 1)]
            yield from pairwise(edges)
            start = stop
    if stop > start:
        yield start, stop


def _cut_all(files: Sequence[SourceFile], rows_per_unit: int) -> Iterator[Unit]:
    copies: Counter[str] = Counter()
    for file in files:
        copies[file.identity] += file.is_converted
        for start, stop in cut(file, rows_per_unit):
            holds = f"{file.path}\0{file.identity}"
            if file.is_converted:  # by its content alone, but another file of the same has units of its own
                holds = file.identity + f"\0copy {copies[file.identity]}" * (copies[file.identity] > 1)
            unit_id = hashlib.sha256(f"{holds}\0{start}\0{stop}".encode()).hexdigest()[:20]
            identity = "" if file.is_converted else file.identity
            yield Unit(unit_id, file.path, start, stop, identity, file.name)


def read_unit(unit: Unit, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a unit. Raises IncompleteError if its file is no longer the one that was planned."""
    table = read_rows(unit.file, unit.start, unit.stop, columns)
    if unit.identity and file_identity(unit.file) != unit.identity:
        raise IncompleteError(
            "the file changed after the run had planned it",
            unit.where,
            "run the same command again: it plans the file as it is now",
        )
    return table


def _limit(units: Iterator[Unit], limit: int | None) -> Iterator[Unit]:
    left = limit
    for unit in units:
        if left is not None and left < unit.num_rows:
            if left > 0:
                shorter = hashlib.sha256(f"{unit.id}\0first {left}".encode()).hexdigest()[:20]
                yield Unit(**{**asdict(unit), "id": shorter, "stop": unit.start + left})
            return
        yield unit
        left = None if left is None else left - unit.num_rows


def _common_schema(files: Sequence[SourceFile]) -> pa.Schema:
    schema = files[0].schema.remove_metadata()
    for file in files[1:]:
        try:
            schema = pa.unify_schemas([schema, file.schema.remove_metadata()], promote_options="permissive")
        except pa.ArrowException as error:
            what = f"the files of the corpus differ in a column's type: {error}"
            do = f"give files of one kind, or run them separately; {files[0].name} is of another kind"
            raise InputError(what, file.name, do) from None
    return schema


def _read_head(files: Sequence[SourceFile], schema: pa.Schema) -> list[pa.Table]:
    """The first rows of some files, spread over the corpus; without bytes, which are no text and may be large."""
    files = [file for file in files if file.num_rows]
    most = min(len(files), LOCAL_HEADS if all("://" not in file.path for file in files) else REMOTE_HEADS)
    chosen = sorted({round(i * (len(files) - 1) / max(1, most - 1)) for i in range(most)})
    wanted = {field.name for field in schema if not _holds_bytes(field.type)}
    tables = []
    for file in (files[index] for index in chosen):
        names = [name for name in file.schema.names if name in wanted]
        tables.append(read_rows(file.path, 0, min(HEAD_ROWS, file.num_rows), names, HEAD_BUFFER))
    return tables


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_holds_bytes(kind.field(i).type) for i in range(kind.num_fields))

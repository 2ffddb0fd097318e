"""The plan: which corpus, how it is read, and its units of work."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.config.input import Columns, Input
from mapjob.config.load import fingerprint
from mapjob.corpus.doubts import check_columns, check_reading
from mapjob.corpus.files import find_files
from mapjob.corpus.head import Head
from mapjob.corpus.known import KnownFiles, KnownUnits
from mapjob.corpus.marks import mark_now
from mapjob.corpus.message_fields import further_keys, with_keys_of
from mapjob.corpus.reader import RowReader, as_record, python_rows
from mapjob.corpus.reading import Reading
from mapjob.corpus.recognise import recognise, to_yaml
from mapjob.corpus.records import Record, plain_text
from mapjob.corpus.units import SourceFile, Unit, cut
from mapjob.errors import ConfigError, IncompleteError, InputError

TURNS = ("dialogue", "message", "exchanges", "texts")  # shapes that are no plain strings
NO_FIELDS = pa.schema([])

Style = Literal["chat", "raw"]


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
    def key(self) -> str:
        """Names what ids of units depend on beside their rows."""
        columns = {"id": self.columns.id, "group": self.columns.group}
        return fingerprint({"reading": self.identity, "columns": columns})

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
    columns, as the library `datasets` has them (ClassLabel, Image). rows_per_unit: by which each file is cut, by path.
    first_row: position in the corpus of the first row, if these are not all of its units.
    """

    corpus: Corpus
    why_style: str
    schema: pa.Schema
    units: tuple[Unit, ...]
    num_files: int
    message_fields: pa.Schema = NO_FIELDS
    notes: tuple[str, ...] = ()
    features: dict[str, Any] = field(default_factory=dict)
    files: tuple[SourceFile, ...] = ()
    rows_per_unit: dict[str, int] = field(default_factory=dict)
    first_row: int = 0

    def pieces(self, num: int) -> "list[Plan]":
        """Plans of about as many rows each, at most `num`, of consecutive units."""
        at = np.arange(1, num) * self.num_rows // num + self.first_row
        edges = np.unique([0, *np.searchsorted(self.first_rows[:-1], at), len(self.units)]).tolist()
        starts = self.first_rows
        return [
            replace(self, units=self.units[a:b], files=(), rows_per_unit={}, first_row=int(starts[a]))
            for a, b in pairwise(edges)
        ]

    @property
    def unnamed(self) -> list[int]:
        """Indices of the units whose rows were not read yet."""
        return [index for index, unit in enumerate(self.units) if not unit.id]

    def with_ids(self, ids: Mapping[int, str]) -> "Plan":
        """The plan with these ids, by index of the unit; an empty one takes an id away."""
        return replace(self, units=tuple(replace(u, id=ids.get(i, u.id)) for i, u in enumerate(self.units)))

    def keep(self, output: str) -> None:
        """Write down what is known of its files and units now, so that another plan need not read them.

        Only of files with a unit that was read: reading it found the mark that the file had when it was listed, so
        that its footer, which was read in between, is no other file's.
        """
        read = {unit.file for unit in self.units if unit.id}
        KnownFiles(output).keep(file for file in self.files if file.path in read)
        KnownUnits(output, self.corpus.key).keep(self.units, self.rows_per_unit)

    @property
    def rows_per_unit_by_name(self) -> dict[str, int]:
        """By which files are cut, by name; those that are not named as ""."""
        by_name = {file.name: self.rows_per_unit[file.path] for file in self.files}
        return {"": self.largest_unit} | {name: n for name, n in by_name.items() if n != self.largest_unit}

    @property
    def largest_unit(self) -> int:
        """Rows that a unit has at most, as files were cut."""
        return max(self.rows_per_unit.values())

    @property
    def num_rows(self) -> int:
        return sum(unit.num_rows for unit in self.units)

    @property
    def first_rows(self) -> npt.NDArray[np.int64]:
        """Position in the corpus of each unit's first row, then that of the row after the last. Shape (units + 1,)."""
        return np.cumsum([self.first_row] + [unit.num_rows for unit in self.units])

    def locate(self, position: int) -> tuple[str, int]:
        """(name of the file, row in it) of the row at a position in the corpus."""
        index = int(np.searchsorted(self.first_rows, position, side="right")) - 1
        unit = self.units[index]
        return unit.name, unit.start + position - int(self.first_rows[index])


def make_plan(
    source: Input,
    policy_has_template: bool,
    rows_per_unit: int | Callable[[str, float], int],
    limit: int | None = None,
    output: str | None = None,
) -> Plan:
    """Read footers and the first rows; decide reading and style; cut the corpus into units in file and row order.

    rows_per_unit: at most; or a function of a file's name and the mean characters of a row, asked only for files that
    were not cut before. limit: keep the first so many rows of the corpus. output: where files that are no Parquet
    are kept as such, once, and what is known of files and units; a unit that is new has no id yet. Raises ConfigError
    and InputError as its parts do.
    """
    corpus_files = find_files(source, output)
    files = corpus_files.files
    where = f"input.path: {source.path}"
    schema = _common_schema(files)
    filled = frozenset().union(*(file.filled for file in files))
    rows = [row for table in corpus_files.heads for row in python_rows(table) if row is not None]
    head = Head(schema, [dict.fromkeys(schema.names) | row for row in rows], filled)
    reading = recognise(head, source.reading, source.plain_text != "auto", where)
    for file in files:
        check_columns(reading, source.columns, file.schema, file.name)
    read = [as_record(row, reading) for row in head.rows]
    check_reading(head, reading, read, where)
    if not any(file.num_rows for file in files) or limit == 0:
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
    known = KnownUnits(output, corpus.key)
    characters = cache(lambda: _mean_characters(records))

    def size(file: SourceFile) -> int:
        if not callable(rows_per_unit):
            return rows_per_unit
        return known.rows_per_unit(file) or rows_per_unit(file.name, characters())

    by_file = {file.path: size(file) for file in files}
    units = tuple(known.name(unit) for unit in _limit(_cut_all(files, by_file), limit))
    num_files = len({unit.name for unit in units})
    notes, features = corpus_files.notes, corpus_files.features
    return Plan(corpus, why_style, schema, units, num_files, fields, notes, features, files, by_file)


def describe_plan(plan: Plan) -> Iterator[str]:
    """How the corpus is read, and which of its columns are not, in a few lines."""
    reading = plan.corpus.reading
    files, units = f"{plan.num_files} file{'s' * (plan.num_files != 1)}", len(plan.units)
    yield f"corpus: {plan.num_rows:,} rows in {files}, {units} unit{'s' * (units != 1)}"
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


def _cut_all(files: Sequence[SourceFile], rows_per_unit: Mapping[str, int]) -> Iterator[Unit]:
    for file in files:
        for start, stop in cut(file, rows_per_unit[file.path]):
            yield Unit("", file.path, start, stop, file.identity, file.content is not None, file.name)


def read_unit(unit: Unit, reader: RowReader | None = None) -> pa.Table:
    """The rows of a unit. Raises IncompleteError if its file is no longer the one that was planned.

    reader: of the columns that are wanted, and the same for units that follow each other; by default of all.
    """
    return pa.concat_tables(read_parts(unit, reader or RowReader()))


def read_parts(unit: Unit, reader: RowReader) -> Iterator[pa.Table]:
    """As `read_unit`, in tables of not too many bytes; whether the file changed is known behind the last one."""
    yield from _read_unmarked(unit, reader)
    check_unchanged(unit)


def read_unmarked(unit: Unit, reader: RowReader) -> pa.Table:
    """As `read_unit`, for whoever compares the rows: whether the file changed is asked only if it cannot be read."""
    return pa.concat_tables(_read_unmarked(unit, reader))


def _read_unmarked(unit: Unit, reader: RowReader) -> Iterator[pa.Table]:
    try:
        yield from reader.read(unit.file, unit.start, unit.stop, unit.identity)
    except InputError:
        check_unchanged(unit)
        raise


def check_unchanged(unit: Unit) -> None:
    """Raises IncompleteError if the unit's file is no longer the one that was planned."""
    if not unit.is_converted and mark_now(unit.file) != unit.identity:
        raise error_of_change(unit)


def error_of_change(unit: Unit) -> IncompleteError:
    what = "the file changed after the run had planned it"
    return IncompleteError(what, unit.where, "run the same command again: it plans the file as it is now")


def error_of_unnoticed_change(unit: Unit) -> IncompleteError:
    """Of a file whose mark is what it was: a storage may keep times of whole seconds, or times that a copy sets."""
    what = "these rows are not those that were scored, though size and time of change of the file are as they were"
    do = "write the file again, so that its time of change is another; then run the same command again"
    return IncompleteError(what, unit.where, do)


def _mean_characters(records: Sequence[Record]) -> float:
    """Of a row: its prompt once, and every completion."""
    texts = [text for record in records for text in (record.prompt, *record.completions)]
    return sum(len(plain_text(text)) for text in texts) / max(1, len(records))


def _limit(units: Iterator[Unit], limit: int | None) -> Iterator[Unit]:
    left = limit
    for unit in units:
        if left is not None and left < unit.num_rows:
            if left > 0:
                yield replace(unit, stop=unit.start + left)
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

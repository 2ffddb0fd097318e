"""Rows that are written as whole Arrow columns are what they are if a record is read of each."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from mapjob.config.input import Input
from mapjob.config.selection import Keep, Selection
from mapjob.corpus.plan import make_plan, read_unit
from mapjob.corpus.reader import read_records
from mapjob.errors import ConfigError, IncompleteError, InputError, MapjobError, RowError
from mapjob.ranking.rank import rank_pairs
from mapjob.selection import publish
from mapjob.selection.load import load_scored
from mapjob.selection.rows import Rows, selected_rows
from mapjob.selection.scored import ScoredUnits
from tests.scored_units import scored_units

ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
FORMS = ("strings", "messages", "string and messages", "dialogues", "prompt and dialogues", "candidates")
PLAIN = st.text(st.sampled_from('ab\n"\\é漢🙂\0\x7f'), max_size=6).map(lambda text: f"{text}.")
ODD = st.sampled_from(["", " ", None, "\n\nHuman: a\n\nAssistant: b", '[{"role": "user", "content": "a"}]'])
TEXT = st.integers(0, 40).flatmap(lambda n: PLAIN if n else ODD)


@st.composite
def dialogues(draw: Any, role: str, has_names: bool, start: tuple[dict, ...] = ()) -> Any:
    """A list of messages; rarely of several turns, or with something of which a reading makes something else."""
    turns = [*start, {"role": role, "content": draw(TEXT)}]
    match draw(st.integers(0, 40)):
        case 0 if not start:
            turns = [{"role": "system", "content": draw(TEXT)}, *turns]
        case 1:
            turns = [*turns, {"role": "user", "content": "and?"}, {"role": role, "content": draw(TEXT)}]
        case 2:
            turns[-1]["role"] = role.title()
        case 3:
            return draw(st.sampled_from([None, [], [None]]))
    return [{**turn, "name": draw(st.sampled_from([None, "n"]))} for turn in turns] if has_names else turns


@st.composite
def corpora(draw: Any) -> tuple[str, list[dict]]:
    form, has_names, rows = draw(st.sampled_from(FORMS)), draw(st.integers(0, 5)) == 0, []
    for number in range(draw(st.integers(1, 8))):
        row: dict[str, Any] = {"number": number, "list": [number] * (number % 3), "rank": "theirs"}
        start: tuple[dict, ...] = ()
        if "dialogues" in form:
            start = tuple(turn for turn in draw(dialogues("user", False)) or () if turn)
        for name, role in ROLES.items():
            if form in ("strings", "candidates") or (name == "prompt" and form not in ("messages", "dialogues")):
                row[name] = start[-1]["content"] if start else draw(TEXT)
            elif name != "prompt" or not start:
                row[name] = draw(dialogues(role, has_names, start))
        if form == "candidates":
            row["responses"] = [row.pop("chosen"), row.pop("rejected"), draw(TEXT)]
        rows.append(row)
    return form, rows


def rank(folder: Path, table: pa.Table, style: str, swaps: list[bool]) -> tuple[ScoredUnits, Rows]:
    """All rows that are not refused; of those of `swaps` the sides are exchanged."""
    (folder / "corpus").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "corpus" / "part-0.parquet")
    plan = make_plan(Input(path=str(folder / "corpus"), plain_text=style), False, 3)
    read = [record for unit in plan.units for record in read_records(read_unit(unit), plan.corpus.reading)]
    reasons = {i: (error.reason.value, "") for i, error in enumerate(read) if isinstance(error, RowError)}
    margins = np.arange(1.0, 1 + len(read)) * np.where(swaps[: len(read)], -1, 1)
    units = scored_units(plan, margins, reasons=reasons, on_disagreement="relabel")
    selection = Selection(metric="explicit", scale="raw", keep=Keep(ratio=1.0), on_disagreement="relabel")
    ranking = rank_pairs(load_scored(units, selection).pairs, selection, units.pair_ids)
    return units, selected_rows(ranking, selection)


def tables(units: ScoredUnits, rows: Rows, output_format: Any = "trl") -> Iterator[pa.Table]:
    rows = rows.take(np.argsort(rows.position))
    for unit in units.read(np.arange(len(units.plan.units))):
        inside = (unit.first_row <= rows.position) & (rows.position < unit.first_row + unit.rows.num_rows)
        texts = publish.Texts(output_format)
        yield from publish.rows_of_unit(units.plan, unit, rows.take(np.flatnonzero(inside)), texts)


def written(*given: Any) -> list[pa.Table] | tuple[str, str]:
    try:
        return list(tables(*given))
    except MapjobError as error:
        return str(error), error.where


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=150)
@given(
    corpora(),
    st.sampled_from(["raw", "chat"]),
    st.sampled_from(["trl", "trl", "openrlhf", "llama_factory", "columns"]),
    st.lists(st.booleans(), min_size=8, max_size=8),
    st.booleans(),
)
def test_whole_columns_give_the_same_tables_as_records(tmp_path, corpus, style, output_format, swaps, is_large):
    form, rows = corpus
    table = pa.Table.from_pylist(rows)
    if is_large:
        kinds = [pa.large_string() if kind == pa.string() else kind for kind in table.schema.types]
        table = pa.Table.from_pylist(rows, pa.schema(zip(table.column_names, kinds)))
    try:
        units, selected = rank(tmp_path, table, style, swaps)
    except (ConfigError, InputError):
        assume(False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "guess_texts", lambda *_: None)
        expected = written(units, selected, output_format)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "read_records", lambda *_: pytest.fail("a record"))
        try:
            list(tables(units, selected, output_format))
            event(f"{form}, {output_format}: whole columns")
        except pytest.fail.Exception:
            event(f"{form}, {output_format}: records")
    got = written(units, selected, output_format)
    assert type(got) is type(expected)
    if isinstance(expected, tuple):
        assert got == expected
    else:
        assert [table.schema for table in got] == [table.schema for table in expected]
        assert got == expected


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


STRINGS = {name: f'{name} \n"é🙂' for name in ROLES}
MESSAGES = {name: [turn(role, STRINGS[name])] for name, role in ROLES.items()}
WHOLE = {side: [*MESSAGES["prompt"], *MESSAGES[side]] for side in ("chosen", "rejected")}
COMMON = {
    "strings": (STRINGS, "raw", ("trl", "openrlhf", "llama_factory", "columns")),
    "strings as chat": (STRINGS, "chat", ("trl", "columns")),
    "messages": (MESSAGES, "chat", ("trl", "columns")),
    "a system turn": ({**MESSAGES, "prompt": [turn("system", "s"), *MESSAGES["prompt"]]}, "chat", ("trl", "columns")),
    "several turns": ({**MESSAGES, "chosen": [*MESSAGES["chosen"], *WHOLE["chosen"]]}, "chat", ("trl", "columns")),
    "a string and messages": ({**MESSAGES, "prompt": STRINGS["prompt"]}, "chat", ("trl", "columns")),
    "whole dialogues": (WHOLE, "chat", ("trl", "columns")),
    "whole dialogues and their prompt": ({"prompt": STRINGS["prompt"], **WHOLE}, "chat", ("trl", "columns")),
}


def change(row: dict[str, Any], name: str, by: str) -> dict[str, Any]:
    """The row with other texts of one side, or of the prompt."""
    return json.loads(json.dumps(row).replace(f'"{name} ', f'"{name} {by}'))


@pytest.mark.parametrize("name", COMMON)
def test_no_record_is_read_of_rows_in_the_common_forms(tmp_path, monkeypatch, name):
    row, style, formats = COMMON[name]
    table = pa.Table.from_pylist([{**change(row, "chosen", str(number)), "number": number} for number in range(5)])
    units, rows = rank(tmp_path, table, style, [False, True] * 3)
    monkeypatch.setattr(publish, "read_records", lambda *_: pytest.fail("a record"))
    for output_format in formats:
        assert pa.concat_tables(tables(units, rows, output_format))["number"].to_pylist() == list(range(5))


@pytest.mark.parametrize("changed", ROLES)
@pytest.mark.parametrize("name", COMMON)
def test_a_text_that_is_not_what_was_scored_is_noticed(tmp_path, monkeypatch, name, changed):
    row, style, formats = COMMON[name]
    units, rows = rank(tmp_path, pa.Table.from_pylist([row, change(row, "chosen", "!")]), style, [False, True])
    table = pa.Table.from_pylist([row, change(change(row, "chosen", "!"), changed, "?")])
    monkeypatch.setattr(publish, "read_parts", lambda *_: iter([table]))
    for output_format in formats:
        with pytest.raises(IncompleteError, match="these rows are not those that were scored"):
            list(tables(units, rows, output_format))

"""JSON, CSV and Arrow files: every text as it stands, every row in its place, written once as Parquet."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from mapjob.config.input import Input
from mapjob.corpus.files import find_files
from mapjob.corpus.plan import make_plan
from mapjob.corpus.reader import python_rows, read_rows
from mapjob.corpus.row_types import to_table
from mapjob.corpus.text_forms import csv_rows, json_rows
from mapjob.corpus.units import SourceFile
from mapjob.errors import InputError
from mapjob.store.remote import filesystem
from tests.unit.test_plan import pairs, write

ROWS = [{"prompt": f"ask {i}", "chosen": f"good {i}", "rejected": f"bad\n{i} 😀"} for i in range(5)]


def put(path: Path, data: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: list[dict[str, Any]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def arrow(rows: list[dict[str, Any]], new: Any = pa.ipc.new_file) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return sink.getvalue()


def source(path: str | Path, output: Path | None = None) -> SourceFile:
    (file,) = find_files(Input(path=str(path)), None if output is None else str(output)).files
    return file


def rows_of(path: str | Path) -> list[dict[str, Any] | None]:
    file = source(path)
    return python_rows(read_rows(file.path, 0, file.num_rows))


FORMS = {
    "a.jsonl": lines(ROWS).encode(),
    "a.NDJSON": lines(ROWS).encode(),
    "a.jsonl.gz": gzip.compress(lines(ROWS).encode()),
    "lines.json": lines(ROWS).encode(),
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "bom.jsonl": b"\xef\xbb\xbf" + lines(ROWS).replace("\n", "\r\n\r\n").encode(),
    "a.csv": as_csv(ROWS).encode(),
    "bom.csv": b"\xef\xbb\xbf" + as_csv(ROWS).encode(),
    "a.csv.gz": gzip.compress(as_csv(ROWS).encode()),
    "a.tsv": as_csv(ROWS, "\t").encode(),
    "file.arrow": arrow(ROWS),
    "stream.arrow": arrow(ROWS, pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows_in_every_form(tmp_path, name):
    assert rows_of(put(tmp_path / name, FORMS[name])) == ROWS


# Texts stay texts

TEXTS = [
    "2024-01-01",
    "2024-01-01T00:00:00Z",
    "12:30",
    "007",
    "1e5",
    "NaN",
    "NA",
    "null",
    "None",
    "true",
    "",
    " a ",
    "1,5",
]


def test_no_text_becomes_a_date_a_number_or_null(tmp_path):
    rows = [{"prompt": text, "chosen": f"{text}!", "rejected": text} for text in TEXTS]
    for name, data in (("a.jsonl", lines(rows)), ("a.csv", as_csv(rows)), ("a.arrow", arrow(rows))):
        assert rows_of(put(tmp_path / name, data)) == rows


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


def normal(value: Any) -> Any:
    """As Arrow gives it back: a missing key is a null."""
    if isinstance(value, dict):
        return {key: inner for key, part in value.items() if (inner := normal(part)) is not None} or None
    return [normal(part) for part in value] if isinstance(value, list) else value


@given(st.lists(st.dictionaries(st.sampled_from(["x", "y"]), JSON, min_size=1), min_size=1, max_size=6))
def test_any_json_is_read_as_it_is_or_refused_by_column_and_row(rows):
    file = io.BytesIO(lines(rows).encode())
    try:
        table = to_table(json_rows(file, "a.jsonl"), "a.jsonl")
    except InputError as error:
        is_of_columns = len(rows) == 1 and error.what.endswith("not rows")
        assert is_of_columns or ("the column" in error.what and "a.jsonl, row" in error.where)  # noqa: PT017
        return
    assert [normal(row) for row in table.to_pylist()] == [normal(row) for row in rows]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_any_text_passes_through_a_csv(cells):
    rows = [{"x": one, "y": other} for one, other in cells]
    assert list(csv_rows(io.BytesIO(as_csv(rows).encode()), ",", "a.csv")) == rows


def test_a_column_of_a_csv_holds_numbers_if_all_of_it_is_written_so(tmp_path):
    columns = {
        "whole": (["1", "0", "", "-12"], pa.int64()),
        "share": (["0.5", "1", "", "-2.25"], pa.float64()),
        "small": (["1e-05", "0.25", "", "1e+22"], pa.float64()),
        "grand": (["1e5", "1", "2", "3"], pa.string()),
        "padded": (["01", "2", "3", "4"], pa.string()),
        "long": (["1234567890123456789", "1", "2", "3"], pa.string()),
        "rounded": (["0.50", "1.0", "2.0", "3.0"], pa.string()),
        "some": (["1", "two", "3", "4"], pa.string()),
    }
    rows = [{name: cells[i] for name, (cells, _) in columns.items()} for i in range(4)]
    file = source(put(tmp_path / "a.csv", as_csv(rows)))
    assert {field.name: field.type for field in file.schema} == {name: kind for name, (_, kind) in columns.items()}
    (first, *_, last) = rows_of(tmp_path / "a.csv")
    assert (first["whole"], first["share"], last["whole"], first["padded"]) == (1, 0.5, -12, "01")


# Rows and types


def test_a_key_that_comes_late_is_null_before(tmp_path):
    rows = [{"a": "x"}] * 1500 + [{"a": "y", "more": [{"k": 1}]}]
    got = rows_of(put(tmp_path / "a.jsonl", lines(rows)))
    assert (len(got), got[0], got[1500]) == (1501, {"a": "x", "more": None}, {"a": "y", "more": [{"k": 1}]})


def test_nulls_and_empty_lists_and_objects_take_the_type_that_comes_later(tmp_path):
    rows = [{"m": None, "t": [], "o": {}}, {"m": [{"role": "user"}], "t": ["x"], "o": {"k": 1.5}}, {"o": {"k": 2}}]
    assert rows_of(put(tmp_path / "a.jsonl", lines(rows))) == [
        {"m": None, "t": [], "o": {"k": None}},
        {"m": [{"role": "user"}], "t": ["x"], "o": {"k": 1.5}},
        {"m": None, "t": None, "o": {"k": 2.0}},
    ]
    assert rows_of(put(tmp_path / "b.jsonl", lines([{"a": "x", "o": {}}]))) == [{"a": "x", "o": None}]


@pytest.mark.parametrize(
    ("first", "then", "what"),
    [
        ("x", ["x"], "the column 'c' holds a list here and text in rows before"),
        ([{"text": "x"}], [{"text": ["x"]}], "the column 'c.text' holds a list here and text in rows before"),
        (1, "x", "the column 'c' holds text here and a number in rows before"),
        (True, 1, "the column 'c' holds a number here and true or false in rows before"),
        ("x", ["x", ["y"]], "several kinds in one list"),
        (1, 2**70, "more than 64 bits"),
    ],
)
@pytest.mark.parametrize("before", [1, 1700])
def test_a_column_of_two_kinds_is_refused_by_its_row(tmp_path, first, then, what, before):
    rows = [{"c": first}] * before + [{"c": None}, {"c": then}, {"c": first}]
    path = put(tmp_path / "a.jsonl", lines(rows))
    with pytest.raises(InputError) as caught:
        source(path)
    assert what in caught.value.what
    assert caught.value.where == f"{path}, row {before + 1}"


MALFORMED = {
    "cut.jsonl": (lines(ROWS) + '{"prompt": "x', "line 6"),
    "list.jsonl": ('{"a": 1}\n[1, 2]\n', "line 2"),
    "twice.jsonl": ('{"a": 1}\n{"a": 1, "a": 2}\n', "line 2"),
    "pretty.json": ('{\n  "data": []\n}', "line 1"),
    "cut.json": ('[{"a": 1},\n{"a": 2}', "line 2"),
    "comma.json": ('[{"a": 1},\n{"a": 2},\n]', "line 3"),
    "texts.json": ('["a", "b"]', "line 1"),
    "after.json": ('[{"a": 1}]\n{"a": 2}', "line 1"),
    "deep.jsonl": ("[" * 100_000, "line 1"),
    "cells.csv": ('a,b\n1,2\n"x\ny",2,3\n', "line 4"),
    "open.csv": ('a,b\n1,"2\n', "line 2"),
    "backslash.csv": ('a,b\n"say \\"hi\\" to",2\n', "line 2"),
}


def test_objects_with_keys_without_end_are_refused(tmp_path):
    rows = [{"a": "x", "by_id": {f"key {i}": i}} for i in range(7000)]
    with pytest.raises(InputError, match="'by_id' holds objects of more than 5,000 different keys"):
        source(put(tmp_path / "a.jsonl", lines(rows)))


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_refused_by_its_line(tmp_path, name):
    data, line = MALFORMED[name]
    path = put(tmp_path / name, data)
    with pytest.raises(InputError, match=r"malformed|cells in a row") as caught:
        source(path)
    assert caught.value.where == f"{path}, {line}"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "stream.arrow", "file.arrow"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_file_that_is_cut_off_is_refused(tmp_path, name, share):
    rows = [{**row, "number": i} for i, row in enumerate(ROWS * 100)]
    data = {
        "a.jsonl.gz": gzip.compress(lines(rows).encode()),
        "stream.arrow": arrow(rows, pa.ipc.new_stream),
        "file.arrow": arrow(rows),
    }[name]
    path = put(tmp_path / name, data[: int(share * len(data))])
    with pytest.raises(InputError) as caught:
        source(path)
    assert path in caught.value.where


def test_no_bytes_of_arrow_and_what_is_no_arrow(tmp_path):
    for data in (b"", b"ARROW1", b"FEA1" * 10, lines(ROWS).encode()):
        with pytest.raises(InputError, match="this file cannot be read"):
            source(put(tmp_path / "a.arrow", data))


def test_an_empty_file_among_others_is_told_and_one_alone_has_no_rows(tmp_path):
    put(tmp_path / "a.jsonl", lines(ROWS))
    put(tmp_path / "b.jsonl", "\n")
    made = find_files(Input(path=str(tmp_path)), None)
    assert [file.name for file in made.files] == ["a.jsonl"]
    assert "passed over: 1 file without rows (b.jsonl)" in made.notes
    for name, data in (("b.jsonl", ""), ("b.json", "[]"), ("b.csv", ""), ("c.csv", "prompt,chosen,rejected\n")):
        with pytest.raises(InputError, match="no rows"):
            make_plan(Input(path=put(tmp_path / "alone" / name, data)), True, 10)


def test_a_csv_of_another_separator_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"the header has no ',', but ';'"):
        source(put(tmp_path / "a.csv", "prompt;chosen;rejected\na;b;c\n"))


def test_the_same_column_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="two columns are called 'a'"):
        source(put(tmp_path / "a.csv", "a,b,a\n1,2,3\n"))


def test_text_that_is_not_utf8_is_refused_in_its_row_alone(tmp_path):
    surrogate = '{"prompt": "p", "chosen": "\\ud83d", "rejected": "r", "turns": [{"t": "\\udc00"}]}\n'
    foreign = b'{"prompt": "caf\xe9", "chosen": "c", "rejected": "r"}\n'
    data = (
        lines(ROWS).encode()
        + surrogate.encode()
        + foreign
        + b'{"prompt": "\\ud83d\\ude00", "chosen": "\xef\xb7\x90"}\n'
    )
    got = rows_of(put(tmp_path / "a.jsonl", data))
    assert [row if row is None else {key: value for key, value in row.items() if value} for row in got] == [
        *ROWS,
        None,
        None,
        {"prompt": "😀", "chosen": "\ufdd0"},
    ]
    assert rows_of(put(tmp_path / "a.csv", b"prompt,chosen\nok,fine\ncaf\xe9,x\n")) == [
        {"prompt": "ok", "chosen": "fine"},
        None,
    ]


def test_types_of_arrow_that_run_code_are_refused(tmp_path):
    ran = []

    class Trap(pa.ExtensionType):
        def __init__(self) -> None:
            super().__init__(pa.int64(), "tests.trap")

        def __arrow_ext_serialize__(self) -> bytes:
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> "Trap":
            ran.append(serialized)
            return cls()

    pa.register_extension_type(Trap())
    try:
        array = pa.ExtensionArray.from_storage(Trap(), pa.array([1]))
        table = pa.table({"x": pa.StructArray.from_arrays([array], ["inside"])})
        for new in (pa.ipc.new_file, pa.ipc.new_stream):
            sink = io.BytesIO()
            with new(sink, table.schema) as writer:
                writer.write_table(table)
            ran.clear()
            with pytest.raises(InputError, match=r"'x\.inside' is of the extension type 'tests\.trap'"):
                source(put(tmp_path / "a.arrow", sink.getvalue()))
            assert ran == []
    finally:
        pa.unregister_extension_type("tests.trap")


# Folders that `datasets` saves


def test_a_saved_data_set_and_a_saved_dict_of_splits(tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    Dataset.from_list(ROWS).save_to_disk(alone, num_shards=2)
    DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])}).save_to_disk(both)
    files = find_files(Input(path=str(alone)), None).files
    assert [row for file in files for row in read_rows(file.path, 0, file.num_rows).to_pylist()] == ROWS
    assert files[0].features["prompt"] == {"dtype": "string", "_type": "Value"}
    assert rows_of(both) == ROWS
    assert "split train: 1 file; left out: test (1 file)" in find_files(Input(path=str(both)), None).notes


def test_shards_of_an_older_save_are_not_read(tmp_path):
    Dataset.from_list(ROWS * 2).save_to_disk(tmp_path / "set", num_shards=3)
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "new", num_shards=1)
    for file in (tmp_path / "new").iterdir():
        file.rename(tmp_path / "set" / file.name)
    assert rows_of(tmp_path / "set") == ROWS
    notes = find_files(Input(path=str(tmp_path / "set")), None).notes
    assert any("3 .arrow files that state.json does not list" in note for note in notes)
    (tmp_path / "set" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(InputError, match="files that are not there: data-00000-of-00001"):
        source(tmp_path / "set")


# What stands beside each other


def test_two_forms_are_refused_and_parquet_comes_first(tmp_path):
    put(tmp_path / "a.jsonl", lines(ROWS))
    put(tmp_path / "b.csv", as_csv(ROWS))
    with pytest.raises(InputError, match=r"2 forms here: \.csv \(b\.csv\), \.jsonl \(a\.jsonl\)") as caught:
        source(tmp_path)
    assert f"{tmp_path}/**/*.csv" in caught.value.do
    assert source(tmp_path / "**" / "*.csv").name == "b.csv"
    write(tmp_path / "c.parquet", pairs(1))
    assert source(tmp_path).name == "c.parquet"


def test_the_form_is_that_of_the_split(tmp_path):
    put(tmp_path / "train.jsonl", lines(ROWS))
    write(tmp_path / "test.parquet", pairs(1))
    assert rows_of(tmp_path) == ROWS


# Once


def test_a_file_is_converted_once_and_named_by_its_content(tmp_path, monkeypatch):
    path, output = Path(put(tmp_path / "in" / "a.jsonl", lines(ROWS))), tmp_path / "out"
    first = source(path, output)
    assert Path(first.path) == output / "inputs" / f"{first.identity}.parquet"
    assert pq.read_table(first.path).to_pylist() == ROWS
    plan = make_plan(Input(path=str(path)), True, 2, output=str(output))
    assert {unit.name for unit in plan.units} == {"a.jsonl"}
    assert plan.locate(4) == ("a.jsonl", 4)

    reads = []
    monkeypatch.setattr("mapjob.corpus.forms.read_file", lambda *given: reads.append(given))
    assert source(path, output) == first
    assert reads == []
    monkeypatch.undo()
    # Elsewhere, and later: the same content.
    copy = Path(put(tmp_path / "other" / "b.jsonl", lines(ROWS)))
    assert source(copy, output).identity == first.identity
    path.write_text(lines(ROWS[:-1]))
    changed = source(path, output)
    assert changed.identity != first.identity
    assert changed.num_rows == len(ROWS) - 1
    # A converted file that is gone is made again.
    Path(changed.path).unlink()
    assert source(path, output) == changed


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": ["a", "b"], "chosen": ["c", "d"], "rejected": ["e", "f"]},
        {"prompt": {"0": "a", "1": "b"}, "chosen": {"0": "c", "1": "d"}},
        {"chosen": [[{"role": "user"}], [{"role": "user"}]], "rejected": [[{"role": "user"}], []]},
    ],
)
def test_a_file_of_columns_is_no_file_of_one_row(tmp_path, columns):
    with pytest.raises(InputError, match="not rows") as caught:
        source(put(tmp_path / "a.json", json.dumps(columns)))
    assert "lines=True" in caught.value.do
    one = {"chosen": [{"role": "user"}], "rejected": [{"role": "user"}]}
    assert rows_of(put(tmp_path / "b.json", json.dumps(one))) == [one]


def test_two_files_of_one_content_are_converted_once(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        put(tmp_path / "in" / name, lines(ROWS))
    plan = make_plan(Input(path=str(tmp_path / "in")), True, 3, output=str(tmp_path / "out"))
    assert (plan.num_files, plan.num_rows, len(plan.units)) == (2, 10, 4)
    assert plan.locate(7) == ("b.jsonl", 2)
    assert len(list((tmp_path / "out" / "inputs").iterdir())) == 1


def test_an_output_on_s3_keeps_converted_files(tmp_path, bucket):
    path = put(tmp_path / "a.csv", as_csv(ROWS))
    (file,) = find_files(Input(path=path), f"{bucket}/out").files
    assert file.path == f"{bucket}/out/inputs/{file.identity}.parquet"
    assert read_rows(file.path, 0, 5).to_pylist() == ROWS
    assert find_files(Input(path=path), f"{bucket}/out").notes == ()


def test_a_file_on_s3_is_read_in_few_requests_and_once(tmp_path, bucket):
    fs, root = filesystem(f"{bucket}/in")
    fs.pipe_file(f"{root}/train.jsonl.gz", gzip.compress(lines(ROWS * 2000).encode()))
    file = source(f"{bucket}/in", tmp_path / "out")
    assert (file.name, file.num_rows) == ("train.jsonl.gz", 10_000)
    calls, inside = [], fs._call_s3

    async def counted(method, *given, **options):
        calls.append(method)
        return await inside(method, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "_call_s3", counted)
        assert source(f"{bucket}/in", tmp_path / "out") == file
        assert "get_object" not in calls
        source(f"{bucket}/in", tmp_path / "other")
    assert calls.count("get_object") <= 2


# What the footer says


def test_leaves_with_values_and_features_are_known(tmp_path):
    rows = [{"chosen": [{"role": "user", "name": None, "list": {"element": "x"}}], "empty": None, "tags": ["a"]}]
    schema = pa.Table.from_pylist(rows).schema
    kinds = {"empty": pa.string(), "chosen": schema.field("chosen").type, "tags": pa.list_(pa.string())}
    table = pa.Table.from_pylist(rows, pa.schema(kinds)).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"empty": {"dtype": "string", "_type": "Value"}}}})}
    )
    file = source(write(tmp_path / "a.parquet", table))
    assert file.filled == {"chosen.role", "chosen.list.element", "tags"}
    assert file.features == {"empty": {"dtype": "string", "_type": "Value"}}
    for metadata in ({}, {"huggingface": "no json"}, {"huggingface": "[]"}):
        write(tmp_path / "a.parquet", table.replace_schema_metadata(metadata))
        assert source(tmp_path / "a.parquet").features == {}


def test_leaves_without_statistics_count_as_filled(tmp_path):
    table = pa.table({"a": pa.array([None, None], pa.string())})
    pq.write_table(table, tmp_path / "a.parquet", write_statistics=False)
    assert source(tmp_path / "a.parquet").filled == {"a"}

"""From a ranking to rows: selected/ in rank order with the user's own columns, errors/ by file and row."""

import io
import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mapjob.config.input import Input
from mapjob.config.selection import Keep, Selection
from mapjob.corpus.plan import Plan, make_plan
from mapjob.corpus.reader import read_records, read_rows
from mapjob.corpus.records import Record, control_pattern
from mapjob.errors import InputError, MapjobError, Reason
from mapjob.ranking.rank import Ranking, rank_pairs
from mapjob.selection import publish, spool
from mapjob.selection.files import list_written
from mapjob.selection.load import load_scored
from mapjob.selection.rows import selected_rows
from mapjob.selection.scored import ScoredUnits
from mapjob.store.run_folder import RunFolder
from mapjob.store.tables import row_bytes
from tests.readings import READINGS
from tests.scored_units import scored_units

OURS = [
    *("pair_id", "rank", "map_score", "chosen_reward", "rejected_reward", "chosen_logps", "rejected_logps"),
    *("chosen_num_tokens", "rejected_num_tokens", "reward_margin", "implicit_margin", "label_agrees"),
]


def rows_of(num: int, first: int = 0, **more: Any) -> list[dict]:
    numbers = range(first, first + num)
    return [{"prompt": f"p {i}", "chosen": f"c {i}", "rejected": f"r {i}", "number": i, **more} for i in numbers]


def write(folder: Path, *files: list[dict] | pa.Table) -> str:
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(files):
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows)
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=4)
    return str(folder)


def make(path: str, style: str = "raw", rows_per_unit: int = 3, **keys: Any) -> Plan:
    return make_plan(Input(path=path, plain_text=style, **keys), False, rows_per_unit)


Ranked = tuple[ScoredUnits, Ranking]


def rank(units: ScoredUnits, metric: str = "explicit", **keep: Any) -> Ranked:
    selection = Selection(metric=metric, scale="raw", keep=Keep(**keep or {"ratio": 1.0}))
    return units, rank_pairs(load_scored(units, selection).pairs, selection, units.pair_ids)


def published(
    tmp_path: Path, ranked: Ranked, metric: str = "map", control: re.Pattern[str] | None = None
) -> list[pa.Table]:
    """The tables of selected/, file by file."""
    run = RunFolder(str(tmp_path / "out"), "run")
    units, ranking = ranked
    selection = Selection(metric=metric)
    texts = publish.Texts(control=control)
    rows = selected_rows(ranking, selection)
    publish.publish_rows(units, rows, texts, run, "selected/train", list_written(run, "selected"))
    return [run.read_table(name) for name in run.tables("selected")]


# Order and files


@pytest.mark.parametrize("max_tables", [1000, 2])
@pytest.mark.parametrize(("rows_per_file", "num_files"), [(50, 1), (20, 1), (19, 2), (7, 3), (1, 20)])
def test_rank_order_across_files(tmp_path, monkeypatch, rows_per_file, num_files, max_tables):
    monkeypatch.setattr(spool, "ROWS_PER_FILE", rows_per_file)
    monkeypatch.setattr(spool, "MAX_TABLES", max_tables)
    rows = rows_of(30)
    plan = make(write(tmp_path / "corpus", rows[:11], rows[11:12], rows[12:]))
    ranked = rank(scored_units(plan), count=20)
    tables = published(tmp_path, ranked)
    names = sorted(file.name for file in (tmp_path / "out" / "runs" / "run" / "selected").iterdir())
    assert names == [f"train-{i:05}-of-{num_files:05}.parquet" for i in range(num_files)]
    assert all(table.num_rows <= rows_per_file for table in tables)
    selected = pa.concat_tables(tables).to_pylist()
    assert [row["rank"] for row in selected] == list(range(1, 21))
    expected = sorted(range(30), key=lambda i: -ranked[1].reward_margin[i])[:20]
    assert [row["number"] for row in selected] == expected


@pytest.mark.parametrize("rows_per_unit", [1, 3, 30])
def test_files_are_cut_by_bytes_too_however_the_corpus_is_cut(tmp_path, monkeypatch, rows_per_unit):
    monkeypatch.setattr(spool, "BYTES_PER_FILE", 5_000)
    monkeypatch.setattr(spool, "HELD_BYTES", 4_000)
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 12)
    rows = [row | {"chosen": "c" * (3_000 if row["number"] % 4 == 0 else 10)} for row in rows_of(29)]
    rows[13]["chosen"] = "c" * 9_000  # more than a file may have, so a file of its own
    plan = make(write(tmp_path / "corpus", rows), rows_per_unit=rows_per_unit)
    ranked = rank(scored_units(plan))
    tables = published(tmp_path, ranked)
    expected = sorted(range(29), key=lambda i: -ranked[1].reward_margin[i])
    assert [row["number"] for table in tables for row in table.to_pylist()] == expected
    sizes = np.concatenate([row_bytes(table) for table in tables]).tolist()
    lengths, filled = [0], 0
    for number, size in enumerate(sizes):
        if number and (number % 12 == 0 or filled + size > 5_000):
            lengths.append(0)
            filled = 0
        lengths[-1] += 1
        filled += size
    assert [table.num_rows for table in tables] == lengths
    assert len(lengths) > 5


@pytest.mark.parametrize("written", [{0, 1, 2}, {1, 3}, {0, 4}, {0, 1, 2, 3, 4}, set()], ids=str)
def test_files_that_a_killed_run_left_are_taken_over_and_their_rows_not_read(tmp_path, monkeypatch, written):
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 6)
    monkeypatch.setattr(spool, "BYTES_PER_FILE", 3_000)
    rows = [row | {"chosen": "c" * (2_000 if row["number"] % 5 == 0 else 10)} for row in rows_of(23)]
    ranked = rank(scored_units(make(write(tmp_path / "corpus", rows))))
    published(tmp_path, ranked)
    folder = tmp_path / "out" / "runs" / "run" / "selected"
    whole = {file.name: file.read_bytes() for file in sorted(folder.iterdir())}
    assert len(whole) == 5
    lengths = [pq.read_metadata(io.BytesIO(data)).num_rows for data in whole.values()]
    for number, name in enumerate(whole):
        if number not in written:
            (folder / name).unlink()
    read = []
    monkeypatch.setattr(publish, "rows_of_unit", lambda *a, f=publish.rows_of_unit: (read.append(len(a[2])), f(*a))[1])
    published(tmp_path, ranked)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
    assert sum(read) == sum(length for number, length in enumerate(lengths) if number not in written)


def test_a_file_that_holds_other_rows_is_no_part_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 5)
    units = scored_units(make(write(tmp_path / "corpus", rows_of(12))))
    published(tmp_path, rank(units))
    with pytest.raises(MapjobError, match="an unfinished run left"):
        published(tmp_path, rank(units, "implicit_small"))


def test_every_column_belongs_to_its_row(tmp_path):
    rows = rows_of(12)
    plan = make(write(tmp_path / "corpus", rows[:5], rows[5:]))
    (table,) = published(tmp_path, rank(scored_units(plan)))
    assert table.column_names == ["prompt", "chosen", "rejected", "number", *OURS]
    for row in table.to_pylist():
        i = row["number"]
        assert (row["prompt"], row["chosen"], row["rejected"]) == (f"p {i}", f"c {i}", f"r {i}")
        assert row["pair_id"] == f"id {i}"
        assert row["chosen_logps"] == -i - 1.5
        assert (row["chosen_num_tokens"], row["rejected_num_tokens"]) == (3, 4)
        assert row["reward_margin"] == row["chosen_reward"] - row["rejected_reward"] > 0
        assert row["implicit_margin"] == pytest.approx(row["chosen_logps"] / 3 - row["rejected_logps"] / 4)
        assert row["map_score"] == pytest.approx(abs(row["reward_margin"]) - abs(row["implicit_margin"]))
        assert row["label_agrees"] is True
    assert table.schema.field("chosen_num_tokens").type == pa.int64()


def test_a_metric_other_than_map_has_a_column_of_its_own(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(5)))
    (table,) = published(tmp_path, rank(scored_units(plan)), metric="explicit")
    assert table["explicit"].to_pylist() == table["reward_margin"].to_pylist()


def test_label_agrees_is_the_sign_of_the_margin(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(3)))
    (table,) = published(tmp_path, rank(scored_units(plan, np.array([2.0, -1.0, 0.0]))))
    assert dict(zip(table["number"].to_pylist(), table["label_agrees"].to_pylist())) == {0: True, 1: False, 2: False}


def test_relabelled_pairs_are_written_with_their_sides_exchanged(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(3)))
    units = scored_units(plan, np.array([2.0, -1.0, 0.5]), on_disagreement="relabel")
    (table,) = published(tmp_path, rank(units))
    rows = {row["number"]: row for row in table.to_pylist()}
    assert (rows[0]["chosen"], rows[0]["rejected"]) == ("c 0", "r 0")
    assert (rows[1]["chosen"], rows[1]["rejected"]) == ("r 1", "c 1")
    assert rows[1]["chosen_logps"] == -2.0
    assert rows[1]["reward_margin"] == 1.0


@pytest.mark.parametrize("style", ["raw", "chat"])
def test_an_empty_selection_has_one_empty_file_with_every_column(tmp_path, style):
    plan = make(write(tmp_path / "corpus", rows_of(5)), style)
    (full,) = published(tmp_path / "full", rank(scored_units(plan)))
    (empty,) = published(tmp_path, rank(scored_units(plan), count=0))
    assert empty.num_rows == 0
    assert empty.schema == full.schema


def test_publishing_again_writes_the_same_bytes(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(9)))
    published(tmp_path / "a", rank(scored_units(plan)))
    published(tmp_path / "b", rank(scored_units(plan)))
    published(tmp_path / "b", rank(scored_units(plan)))  # on top of what stands: adopted
    one, other = (next((tmp_path / x / "out").rglob("*.parquet")).read_bytes() for x in "ab")
    assert one == other


# Own columns


def test_an_own_column_whose_name_is_taken_is_renamed(tmp_path):
    path = write(tmp_path / "corpus", rows_of(4, rank="theirs", map_score=0.5, label_agrees=None, margin=1.0))
    plan = make(path)
    (table,) = published(tmp_path, rank(scored_units(plan)))
    own = ["number", "input_rank", "input_map_score", "input_label_agrees", "margin"]
    assert table.column_names == ["prompt", "chosen", "rejected", *own, *OURS]
    assert table["input_rank"].to_pylist() == ["theirs"] * 4
    assert table["rank"].to_pylist() == [1, 2, 3, 4]


def test_a_selection_of_a_selection_of_a_selection_loses_no_column(tmp_path):
    """rank of the second pass becomes input_rank, though input_rank of the first pass is there already."""
    plan = make(write(tmp_path / "corpus", [{**row, "rank": "first"} for row in rows_of(4)]))
    (once,) = published(tmp_path / "once", rank(scored_units(plan)))
    again = make(write(tmp_path / "again", once))
    (twice,) = published(tmp_path / "twice", rank(scored_units(again)))
    assert len(set(twice.column_names)) == len(twice.column_names)
    assert "first" in [value for name in twice.column_names for value in twice[name].to_pylist()]
    assert len(twice.column_names) == len(once.column_names) + len(OURS)


def test_own_columns_that_some_files_lack_or_hold_in_another_type(tmp_path):
    files = [rows_of(3, score=1), rows_of(3, 3, score=1.5), rows_of(3, 6, source="forum"), rows_of(3, 9, score=None)]
    plan = make(write(tmp_path / "corpus", *files), rows_per_unit=2)
    (table,) = published(tmp_path, rank(scored_units(plan)))
    assert table.schema.field("score").type == pa.float64()
    scores = table.sort_by([("pair_id", "ascending")])
    assert sorted(filter(None, scores["score"].to_pylist())) == [1.0] * 3 + [1.5] * 3
    assert table["source"].to_pylist().count("forum") == 3
    assert table["source"].null_count == 9


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["x", "y", "x", "z", "y", "x"]).dictionary_encode(),
        pa.array(
            [{"a": 1, "b": ["u"]}, None, {"a": None, "b": []}, {"a": 2, "b": None}, {"a": 3, "b": ["v", "w"]}, None]
        ),
        pa.array([[("k", 1)], [], None, [("l", 2)], [("m", None)], []], pa.map_(pa.string(), pa.int64())),
        pa.array([0, 1, None, 3, 4, 5], pa.timestamp("us", "UTC")),
        pa.array([b"\xff", b"", None, b"a", b"b", b"c"]),
        pa.array([[1, 2]] * 6, pa.list_(pa.int8(), 2)),
        pa.nulls(6),
        pa.array([True, False, None, True, False, None]),
        pa.array(["a" * 50, "", None, "🙂", "\0", "b"], pa.large_string()),
    ],
    ids=lambda column: str(column.type).split("<")[0],
)
def test_own_columns_of_any_type_come_through(tmp_path, monkeypatch, column):
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 4)
    table = pa.Table.from_pylist(rows_of(6)).append_column("own", column)
    plan = make(write(tmp_path / "corpus", table.slice(0, 2), table.slice(2)), rows_per_unit=2)
    selected = pa.concat_tables(published(tmp_path, rank(scored_units(plan))))
    read_back = dict(zip(selected["number"].to_pylist(), selected["own"].to_pylist()))
    assert [read_back[i] for i in range(6)] == column.to_pylist()
    assert selected.schema.field("own").type == column.type


def test_structs_that_differ_between_files_get_their_common_fields(tmp_path):
    files = [rows_of(2, meta={"a": 1}), rows_of(2, 2, meta={"b": "x", "a": 2}), rows_of(2, 4, meta=None)]
    plan = make(write(tmp_path / "corpus", *files))
    (table,) = published(tmp_path, rank(scored_units(plan)))
    values = [value for value in table["meta"].to_pylist() if value is not None]
    assert sorted(values, key=lambda value: value["a"]) == [{"a": 1, "b": None}] * 2 + [{"a": 2, "b": "x"}] * 2


def test_two_columns_of_one_name_are_refused_at_once(tmp_path):
    """Parquet allows them, no data set library does. Found out when publishing, it would cost the whole scoring."""
    table = pa.Table.from_pylist(rows_of(4)).append_column("number", pa.array([9, 8, 7, 6]))
    path = write(tmp_path / "corpus", table)
    with pytest.raises(InputError, match="number"):
        make(path)


# Layouts and styles

TURN = {"role": "user", "content": "p"}


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def test_strings_stay_strings_under_raw(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(2)), "raw")
    (table,) = published(tmp_path, rank(scored_units(plan)))
    assert {table.schema.field(name).type for name in ("prompt", "chosen", "rejected")} == {pa.string()}


def test_strings_become_messages_under_chat(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(2)), "chat")
    (table,) = published(tmp_path, rank(scored_units(plan)))
    row = next(row for row in table.to_pylist() if row["number"] == 1)
    assert row["prompt"] == [{"role": "user", "content": "p 1"}]
    assert (row["chosen"], row["rejected"]) == (said("c 1"), said("r 1"))


HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: p\n\nAssistant:"
CORPORA: dict[str, tuple[dict, str, Any, Any, Any]] = {
    "trl messages": (
        {"prompt": [TURN], "chosen": said("c"), "rejected": said("r")},
        "raw",
        [TURN],
        said("c"),
        said("r"),
    ),
    "openrlhf": ({"chosen": [TURN, *said("c")], "rejected": [TURN, *said("r")]}, "chat", [TURN], said("c"), said("r")),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "p"}],
            "chosen": {"from": "gpt", "value": "c"},
            "rejected": {"from": "gpt", "value": "r"},
        },
        "chat",
        [TURN],
        said("c"),
        said("r"),
    ),
    "hh raw": ({"chosen": f"{HH} c", "rejected": f"{HH} r"}, "raw", HH, " c", " r"),
    "hh chat": (
        {"chosen": f"{HH} c", "rejected": f"{HH} r"},
        "chat",
        [{"role": "user", "content": "hi"}, *said("hello"), TURN],
        said("c"),
        said("r"),
    ),
}


@pytest.mark.parametrize("name", CORPORA)
def test_each_form_is_written_as_trl_reads_it(tmp_path, name):
    row, style, prompt, chosen, rejected = CORPORA[name]
    plan = make(write(tmp_path / "corpus", [{"source": "s", **row}]), style)
    (table,) = published(tmp_path, rank(scored_units(plan)))
    (written,) = table.to_pylist()
    assert (written["prompt"], written["chosen"], written["rejected"]) == (prompt, chosen, rejected)
    assert table.column_names == ["prompt", "chosen", "rejected", "source", *OURS]


def test_a_prompt_column_beside_whole_dialogues_gives_way_to_their_prompt(tmp_path):
    row = {"prompt": "p", "chosen": [TURN, *said("c")], "rejected": [TURN, *said("r")]}
    plan = make(write(tmp_path / "corpus", [row]))
    (written,) = published(tmp_path, rank(scored_units(plan)))[0].to_pylist()
    assert written["prompt"] == [TURN]
    assert "input_prompt" not in written


def test_renamed_columns_are_replaced_by_the_trainers_names(tmp_path):
    row = {"question": "p", "good": "c", "bad": "r", "prompt": "another thing"}
    reading = {"prompt": ["question"], "sides": ["good", "bad"]}
    plan = make(write(tmp_path / "corpus", [row]), reading=reading)
    (table,) = published(tmp_path, rank(scored_units(plan)))
    (written,) = table.to_pylist()
    assert (written["prompt"], written["chosen"], written["rejected"]) == ("p", "c", "r")
    assert written["input_prompt"] == "another thing"
    assert not {"question", "good", "bad"} & set(table.column_names)


@pytest.mark.parametrize("style", ["raw", "chat"])
def test_candidates_are_written_as_the_pair_that_was_ranked(tmp_path, style):
    rows = [{"prompt": f"p {i}", "responses": [{"text": f"{i} {k}", "model": "m"} for k in range(4)]} for i in range(5)]
    plan = make(write(tmp_path / "corpus", rows), style)
    (table,) = published(tmp_path, rank(scored_units(plan, sides=(3, 1))))
    assert "responses" not in table.column_names
    for row in table.to_pylist():
        i = int(row["pair_id"].removeprefix("id "))
        texts = f"{i} 3", f"{i} 1"
        expected = texts if style == "raw" else tuple(map(said, texts))
        assert (row["chosen"], row["rejected"]) == expected


def test_published_rows_read_back_as_the_scored_records(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(6)), "chat")
    published(tmp_path, rank(scored_units(plan)))
    again = make(str(tmp_path / "out" / "runs" / "run" / "selected"), "auto")
    assert (again.corpus.reading, again.corpus.style) == (READINGS["trl"], "chat")
    table = read_rows(again.units[0].file, 0, 1)
    (record,) = read_records(table, again.corpus.reading)
    assert isinstance(record, Record)


# Control tokens


@pytest.mark.parametrize("style", ["raw", "chat"])
def test_control_tokens_are_broken_up_where_scoring_broke_them_up(tmp_path, style):
    row = {
        "prompt": "say <|end|>",
        "chosen": "<|end|><|user|>",
        "rejected": "no markers < | >",
        "number": 0,
        "note": "<|end|>",
    }
    plan = make(write(tmp_path / "corpus", [row]), style)
    control = control_pattern(["<|end", "<|end|>", "<|user|>"])
    (written,) = published(tmp_path, rank(scored_units(plan)), control=control)[0].to_pylist()
    texts = [
        written[name] if style == "raw" else written[name][0]["content"] for name in ("prompt", "chosen", "rejected")
    ]
    assert not any(control.search(text) for text in texts)
    assert [text.replace(" ", "") for text in texts] == ["say<|end|>", "<|end|><|user|>", "nomarkers<|>"]
    assert texts[2] == "no markers < | >"
    assert written["note"] == "<|end|>"


def test_no_markers_match_nothing():
    assert control_pattern([]).search("anything <|end|>") is None


# Errors and the account of rows


# Features of the library `datasets`


def featured(rows: list[dict], kinds: list[str]) -> pa.Table:
    """With a label, and an image in a column whose name the selection takes."""
    picture = io.BytesIO()
    Image.new("RGB", (2, 3), (255, 0, 0)).save(picture, "PNG")
    picture = {"bytes": picture.getvalue(), "path": None}
    rows = [{**row, "kind": row["number"] % 2, "rank": picture} for row in rows]
    values = {name: datasets.Value("string") for name in ("prompt", "chosen", "rejected")}
    more = {"number": datasets.Value("int64"), "kind": datasets.ClassLabel(names=kinds), "rank": datasets.Image()}
    return datasets.Dataset.from_list(rows, features=datasets.Features(values | more)).with_format("arrow")[:]


def test_the_selection_decodes_as_the_corpus_did(tmp_path):
    rows = rows_of(8)
    files = [featured(part, ["creative", "factual"]) for part in (rows[:4], rows[4:])]
    plan = make(write(tmp_path / "corpus", *files))
    published(tmp_path, rank(scored_units(plan)))
    folder = str(tmp_path / "out" / "runs" / "run" / "selected")
    loaded = datasets.load_dataset("parquet", data_dir=folder, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["kind"].names == ["creative", "factual"]
    assert loaded[0]["input_rank"].size == (2, 3)
    assert loaded[:]["kind"] == [number % 2 for number in loaded[:]["number"]]
    assert loaded.features["map_score"].dtype == "float64"


def test_features_that_differ_between_files_are_left_out_and_told(tmp_path):
    rows = rows_of(8)
    files = [featured(rows[:4], ["creative", "factual"]), featured(rows[4:], ["factual", "creative"])]
    plan = make(write(tmp_path / "corpus", *files))
    assert plan.notes == ("features that differ between files are left out of the selection: kind",)
    (table,) = published(tmp_path, rank(scored_units(plan)))
    assert set(json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]) == {"number", "input_rank"}


def errors_of(tmp_path: Path, units: ScoredUnits, refused: dict[Reason, list[int]]) -> list[pa.Table]:
    """The tables of errors/, file by file."""
    run = RunFolder(str(tmp_path / "out"), "run")
    publish.publish_errors(units, {reason: np.array(rows, np.int64) for reason, rows in refused.items()}, run)
    return [run.read_table(name) for name in run.tables("errors")]


def test_error_rows_name_file_and_row_in_corpus_order(tmp_path):
    rows = rows_of(14)
    plan = make(write(tmp_path / "corpus", rows[:9], rows[9:]))
    units = scored_units(plan, reasons={1: ("null_field", "prompt is null"), 12: ("overlength", "9000 tokens")})
    refused = load_scored(units, Selection()).refused
    assert {reason: rows.tolist() for reason, rows in refused.items()} == {
        Reason.NULL_FIELD: [1],
        Reason.OVERLENGTH: [12],
    }
    dropped = {Reason.DUPLICATE: [8, 13], Reason.DISAGREEMENT: [9]}
    (table,) = errors_of(tmp_path, units, refused | dropped)
    first, second = "part-0.parquet", "part-1.parquet"
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (None, first, 1, "null_field", "prompt is null"),
        ("id 8", first, 8, "duplicate", None),
        ("id 9", second, 0, "disagreement", None),
        ("id 12", second, 3, "overlength", "9000 tokens"),
        ("id 13", second, 4, "duplicate", None),
    ]
    for row in table.to_pylist():
        assert (row["file"], row["row"]) in {plan.locate(position) for position in (1, 8, 9, 12, 13)}
    assert table.column_names == ["pair_id", "file", "row", "reason", "detail"]


def test_no_errors_are_one_empty_file(tmp_path):
    units = scored_units(make(write(tmp_path / "corpus", rows_of(3))))
    (table,) = errors_of(tmp_path, units, {})
    assert table.num_rows == 0
    assert table.column_names == ["pair_id", "file", "row", "reason", "detail"]


@pytest.mark.parametrize(("num", "sizes"), [(9, [4, 4, 1]), (8, [4, 4]), (3, [3])])
def test_many_errors_fill_several_files_in_order(tmp_path, monkeypatch, num, sizes):
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 4)
    units = scored_units(make(write(tmp_path / "corpus", rows_of(num))))
    parts = errors_of(tmp_path, units, {Reason.DISAGREEMENT: [2], Reason.DUPLICATE: [i for i in range(num) if i != 2]})
    assert [part.num_rows for part in parts] == sizes
    rows = pa.concat_tables(parts)
    assert rows["row"].to_pylist() == list(range(num))
    assert rows["reason"].to_pylist() == ["disagreement" if i == 2 else "duplicate" for i in range(num)]


def test_a_row_that_cannot_be_read_any_more_ends_the_publishing(tmp_path):
    plan = make(write(tmp_path / "corpus", rows_of(3)))
    ranked = rank(scored_units(plan))
    write(tmp_path / "corpus", [{**row, "rejected": row["chosen"]} for row in rows_of(3)])
    with pytest.raises(MapjobError, match="changed after the run had planned it"):
        published(tmp_path, ranked)


@pytest.fixture
def ten_rows(tmp_path) -> Plan:
    return make(write(tmp_path / "corpus", rows_of(10)))


def test_every_row_once_is_complete(ten_rows):
    publish.check_complete(ten_rows, np.array([3, 1, 2, 9, 8]), [np.array([0, 4]), np.array([7, 6, 5])])
    publish.check_complete(ten_rows, np.arange(10), [])


@pytest.mark.parametrize(
    ("ranked", "refused", "says"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7, 9], [], "row 8"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8], [], "row 9"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [4], "row 4"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 8], [9], "row 8"),
        ([0, 1, 2, 3, 4], [5, 6, 7, 8, 8], "row 8"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [10], "row 10"),
    ],
)
def test_a_lost_a_doubled_and_a_foreign_row_are_caught(ten_rows, ranked, refused, says):
    with pytest.raises(MapjobError, match="not accounted for exactly once") as caught:
        publish.check_complete(ten_rows, np.array(ranked), [np.array(refused, np.int64)])
    assert says in caught.value.where

"""One corpus that holds every kind of row: what is dropped, what is broken, what passes through unharmed."""

import pyarrow as pa
import pytest

from mapjob.config.input import Columns
from mapjob.corpus.reader import read_records
from mapjob.errors import ConfigError, Reason, RowError
from mapjob.scoring.reader_families import identity_table
from tests.bad_inputs.conftest import Run, pairs
from tests.readings import READINGS

UNHARMED = {
    "NUL": "a\0b\0",
    "right to left": "\u202emirrored\u202c مرحبا שלום",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈",
    "markup": "<b>&amp;</b><script>alert(1)</script>{{ bos_token }}{% raw %}",
    "other models' markers": "</s>[INST]<|im_start|>user\n<|endoftext|>",
    "escapes": "\\ud83d \\x00 \\n",
    "terminal": "\x1b[31mred\x1b[0m\x07\x7f",
    "separators": "\u2028\u2029\x85\ufeff\ufffe\uffff",
    "combining": "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!͖̬̰̙̗̿̋ͥͥ̂ͣ̐́́͜͞",
    "white space": "  \n\t two  spaces \r\n",
    "outside of the plane": "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𠜎",
}


@pytest.mark.parametrize("style", ["chat", "raw"])
def test_hard_text_stands_in_the_selection_with_the_same_bytes(run: Run, style):
    rows = [{"prompt": f"p {text}", "chosen": f"{text} c", "rejected": f"{text}{text}"} for text in UNHARMED.values()]
    rows = [{**row, "note": row["chosen"]} for row in rows]
    outcome = run(pa.Table.from_pylist(rows), input={"plain_text": style})
    assert outcome.errors == []

    def text(value):
        return value[0]["content"] if isinstance(value, list) else value

    selected = [{name: text(row[name]) for name in rows[0]} for row in outcome.selected.to_pylist()]
    assert sorted(selected, key=str) == sorted(rows, key=str)


@pytest.mark.parametrize("blank", ["", " ", "\n\t"])
@pytest.mark.parametrize("style", ["chat", "raw"])
def test_an_empty_or_blank_prompt_is_ranked(run: Run, blank, style):
    rows = [*pairs(5).to_pylist(), {"prompt": blank, "chosen": "yes", "rejected": "no way"}]
    outcome = run(pa.Table.from_pylist(rows), input={"plain_text": style})
    assert (outcome.manifest["counts"]["ranked"], outcome.errors) == (6, [])


def with_bytes(table: pa.Table, column: str, row: int, raw: bytes) -> pa.Table:
    """The table with bytes in a string column that need not be text, as other writers let pass."""
    values = table[column].cast(pa.binary()).to_pylist()
    values[row] = raw
    binary = pa.array(values, pa.binary())
    array = pa.Array.from_buffers(pa.string(), len(values), binary.buffers())
    return table.set_column(table.column_names.index(column), column, array)


LONE_SURROGATE = "\ud83d".encode("utf-8", "surrogatepass")


def test_every_refused_row_has_its_reason_and_the_others_are_ranked(run: Run):
    rows = pairs(30).to_pylist()
    rows[3]["chosen"] = None
    rows[4]["prompt"] = None
    rows[5]["rejected"] = ""
    rows[6]["chosen"] = " \n"
    rows[7]["rejected"] = rows[7]["chosen"]
    rows[9] = dict(rows[8])
    rows[10]["chosen"] += "<|end|>"
    rows[11]["prompt"] += "<|assistant|>"
    rows[12]["chosen"] = "word " * 600
    rows[13]["prompt"] = "word " * 600
    table = pa.Table.from_pylist([row | {"id": f"id {i}", "kind": "k"} for i, row in enumerate(rows)])
    for row, column, raw in (
        (0, "prompt", b"caf\xe9"),
        (1, "chosen", LONE_SURROGATE),
        (14, "rejected", b"\xff\xfe"),
        (15, "id", b"\xc0\x80"),
        (16, "kind", b"\xf8"),
    ):
        table = with_bytes(table, column, row, raw)
    outcome = run(table, input={"columns": {"id": "id", "group": "kind"}})
    invalid, empty = "invalid_utf8", "empty_completion"
    assert outcome.reasons == {
        **{0: invalid, 1: invalid, 14: invalid, 15: invalid, 16: invalid},
        **{3: "null_field", 4: "null_field", 5: empty, 6: empty, 7: "identical_completions", 9: "duplicate"},
        **{10: "control_tokens", 11: "control_tokens", 12: "overlength", 13: "overlength"},
    }
    counts = outcome.manifest["counts"]
    assert counts["ranked"] + len(outcome.errors) == counts["rows"] == 30
    assert outcome.selected.num_rows == counts["ranked"]


@pytest.mark.parametrize("column", ["id", "kind"])
def test_an_id_or_group_that_is_no_text(column):
    table = pairs(3).append_column("id", pa.array(["a", "b", "c"])).append_column("kind", pa.array(["x"] * 3))
    columns = Columns(id="id", group="kind")
    table = with_bytes(table, column, 1, b"\xff")
    records = read_records(table, READINGS["trl"], columns)
    assert [isinstance(record, RowError) for record in records] == [False, True, False]
    identity = identity_table(table, records, columns)
    assert identity["reason"].to_pylist() == [None, Reason.INVALID_UTF8, None]
    assert identity[{"id": "pair_id", "kind": "group"}[column]][1].as_py() is None


def test_a_corpus_that_starts_with_bytes_that_are_no_text(run: Run):
    """The rows by which the reading is recognised."""
    table = pairs(30)
    for row in range(21):
        table = with_bytes(table, "prompt", row, b"\xff")
    outcome = run(table)
    assert outcome.reasons == dict.fromkeys(range(21), "invalid_utf8")
    assert outcome.selected.num_rows == 9


# How much is kept


@pytest.mark.parametrize(
    ("keep", "selected"),
    [
        ({"count": 0}, 0),
        ({"ratio": 0.0}, 0),
        ({"tokens": 0}, 0),
        ({"threshold": 1e9}, 0),
        ({"count": 1}, 1),
        ({"count": 10**9}, 12),
        ({"tokens": 10**15}, 12),
        ({"ratio": 1.0}, 12),
    ],
)
def test_keep_nothing_one_and_more_than_there_is(run: Run, keep, selected):
    outcome = run(pairs(12), selection={"keep": keep})
    assert outcome.selected.num_rows == outcome.manifest["counts"]["selected"] == selected
    assert outcome.selected.column_names[:3] == ["prompt", "chosen", "rejected"]
    assert outcome.manifest["counts"]["ranked"] == 12


def test_a_corpus_of_one_pair_has_no_spread(run: Run):
    with pytest.raises(ConfigError, match="nothing to rank by"):
        run(pairs(1))


def test_a_corpus_of_one_pair_by_raw_margins(run: Run):
    outcome = run(pairs(1), selection={"scale": "raw", "keep": {"count": 5}})
    assert outcome.selected["rank"].to_pylist() == [1]

"""A verdict turned round turns every pair round; ties never become pairs; how rows lie in files changes nothing."""

from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapjob.config.input import Input, Verdict
from mapjob.corpus.plan import make_plan, read_unit
from mapjob.corpus.reader import read_records
from mapjob.corpus.reading import Reading
from mapjob.corpus.records import Record
from mapjob.errors import InputError, Reason, RowError

winners = st.sampled_from(["a", "b", "tie", "tie (bothbad)", "", None])
numbers = st.sampled_from([-3, -1, 0, 1, 2]) | st.none()
rows = st.lists(st.fixed_dictionaries({"winner": winners, "strength": numbers, "x": numbers, "y": numbers}), min_size=1)
VERDICTS = {
    "values": (
        Verdict(column="winner", first=("a",), second=("b",)),
        Verdict(column="winner", first=("b",), second=("a",)),
        lambda row: {"a": 0, "b": 1}.get(row["winner"]),
    ),
    "sign": (Verdict(sign="strength"), None, lambda row: _less(row["strength"], 0)),
    "higher": (Verdict(higher=("x", "y")), Verdict(higher=("y", "x")), lambda row: _less(row["y"], row["x"])),
}
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("prompt", "one", "two", "winner")]
    + [(name, pa.int64()) for name in ("strength", "x", "y")]
)


def _less(first: int | None, second: int | None) -> int | None:
    """0 if the first is lower, 1 if it is higher, None for neither."""
    if first is None or second is None or first == second:
        return None
    return int(first > second)


def read(made: list[dict], verdict: Verdict) -> list[Record | RowError]:
    texts = [{"prompt": f"p {i}", "one": f"one {i}", "two": f"two {i}", **row} for i, row in enumerate(made)]
    return read_records(pa.Table.from_pylist(texts, SCHEMA), Reading(("prompt",), ("one", "two"), verdict=verdict))


@pytest.mark.parametrize("name", VERDICTS)
@given(made=rows)
def test_the_side_is_that_of_the_verdict_and_every_other_row_is_a_tie(name, made):
    verdict, _, expected = VERDICTS[name]
    for index, (row, record) in enumerate(zip(made, read(made, verdict))):
        side = expected(row)
        if side is None:
            assert (record.reason, record.reason.is_dropped) == (Reason.TIE, True)
            continue
        texts = [f"one {index}", f"two {index}"]
        assert record.completions == [texts[side], texts[1 - side]]
        assert [texts.index(text) for text in record.completions] == list(record.order or (0, 1))


@pytest.mark.parametrize("name", ["values", "higher"])
@given(made=rows)
def test_a_verdict_turned_round_turns_every_pair_round(name, made):
    verdict, turned, _ = VERDICTS[name]
    for one, other in zip(read(made, verdict), read(made, turned)):
        if isinstance(one, RowError):
            assert one.reason == other.reason == Reason.TIE
        else:
            assert one.completions == other.completions[::-1]


@given(made=rows)
def test_a_sign_turned_round_turns_every_pair_round(made):
    negated = [{**row, "strength": row["strength"] and -row["strength"]} for row in made]
    for one, other in zip(read(made, Verdict(sign="strength")), read(negated, Verdict(sign="strength"))):
        assert isinstance(one, RowError) == isinstance(other, RowError)
        assert isinstance(one, RowError) or one.completions == other.completions[::-1]


@pytest.mark.parametrize(
    ("first", "second", "sides"),
    [(1, 0, [0, 1, None, None, None, None]), (True, False, [None, None, 0, 1, None, None])],
)
def test_truth_values_and_numbers_are_not_the_same_verdict(first, second, sides):
    verdict = Verdict(column="c", first=(first,), second=(second,))
    assert [verdict.side([value]) for value in (1, 0, True, False, "1", None)] == sides


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=rows, data=st.data())
def test_splitting_and_joining_shards_changes_nothing(tmp_path_factory, made, data):
    texts = [{"prompt": f"p {i}", "one": f"one {i}", "two": f"two {i}", **row} for i, row in enumerate(made)]
    table = pa.Table.from_pylist(texts, SCHEMA)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(made)), max_size=3), "cuts"))
    reading = {"prompt": ["prompt"], "sides": ["one", "two"], "verdict": {"higher": ["x", "y"]}, "ignore": ["winner"]}
    seen = []
    for edges in ([0, len(made)], [0, *cuts, len(made)]):
        folder = tmp_path_factory.mktemp("shards")
        for index, (start, stop) in enumerate(pairwise(edges)):
            pq.write_table(table.slice(start, stop - start), folder / f"part-{index}.parquet")
        try:
            plan = make_plan(Input(path=str(folder), reading=reading), True, 3)
        except InputError as error:
            seen.append(str(error).split("\n")[0])  # all first rows are ties: refused, however they are cut
            continue
        read_back = [record for unit in plan.units for record in read_records(read_unit(unit), plan.corpus.reading)]
        seen.append([getattr(record, "reason", record) for record in read_back])
    assert seen[0] == seen[1]

"""The same pair again: as it was, the other way round, under another id, among candidates."""

import itertools
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjob.corpus.records import Record
from mapjob.ranking.gather import is_repeat
from tests.bad_inputs.conftest import Run, pairs

ROWS = pairs(12).to_pylist()
FLIPPED = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in ROWS]


@pytest.mark.parametrize("rule", ["keep", "relabel", "drop"])
def test_a_pair_that_also_stands_there_flipped(run: Run, rule):
    """Contradicting annotators are two rows; once the reward model says which side is better, they are one pair."""
    outcome = run(pa.Table.from_pylist(ROWS + FLIPPED), selection={"keep": {"ratio": 1.0}, "on_disagreement": rule})
    reasons = list(outcome.reasons.values())
    assert reasons == {"keep": [], "relabel": ["duplicate"] * 12, "drop": ["disagreement"] * 12}[rule]
    assert outcome.manifest["counts"]["by_reason"] == ({reasons[0]: 12} if reasons else {})
    texts = [tuple(str(row[name]) for name in ("prompt", "chosen", "rejected")) for row in outcome.selected.to_pylist()]
    assert len(set(texts)) == len(texts) == (24 if rule == "keep" else 12)
    if rule == "relabel":
        assert sorted(outcome.reasons) == list(range(12, 24)), "the first of the two stays"
        assert all(outcome.selected["label_agrees"].to_pylist())


def test_relabelled_repeats_in_other_units_and_shards(run: Run):
    rows = ROWS + FLIPPED + ROWS
    random.Random(0).shuffle(rows)
    shards = [pa.Table.from_pylist(rows[:20]), pa.Table.from_pylist(rows[20:])]
    selection = {"keep": {"ratio": 1.0}, "on_disagreement": "relabel"}
    outcome = run(*shards, selection=selection, execution={"rows_per_unit": 5})
    counts = outcome.manifest["counts"]
    assert (counts["ranked"], counts["by_reason"]) == (12, {"duplicate": 24})


def test_repeated_and_missing_ids(run: Run):
    """An id is the user's: rows that share one are ranked each, and told apart by where they stand."""
    table = pairs(6).append_column("id", pa.array(["a", "a", "a", None, "b", "b"]))
    outcome = run(table, input={"columns": {"id": "id"}})
    ids = outcome.selected["pair_id"].to_pylist()
    assert outcome.errors == []
    assert sorted(ids, key=len)[:5] == sorted(sorted(ids, key=len)[:5], key=ids.index)
    assert sorted(i for i in ids if len(i) == 1) == ["a", "a", "a", "b", "b"]
    assert len(next(i for i in ids if len(i) > 1)) == 32


def test_candidates_that_repeat_in_another_order_give_one_pair(run: Run):
    """Best against worst is the same pair, whatever the order, and whoever else stands among them."""
    answers = ["yes", "no", "perhaps not", "I would not know"]
    orders = list(itertools.permutations(answers))[:8]
    rows = [{"prompt": "p", "responses": list(order)} for order in orders]
    rows += [{"prompt": f"other {i}", "responses": answers} for i in range(3)]
    outcome = run(pa.Table.from_pylist(rows))
    assert outcome.reasons == dict.fromkeys(range(1, 8), "duplicate")
    assert outcome.selected.num_rows == 4


texts = st.sampled_from(["", "a", "b", "ab", "a\0", '"', "é", "e\u0301"])


@given(st.lists(st.tuples(texts, texts, texts), max_size=30))
def test_repeats_are_those_of_the_texts(triples):
    keys = [Record(prompt, [chosen, rejected]).completion_keys for prompt, chosen, rejected in triples]
    array = np.array(keys, np.uint64).reshape(-1, 2)
    ways = {
        False: [(prompt, chosen, rejected) for prompt, chosen, rejected in triples],
        True: [(prompt, *sorted((chosen, rejected))) for prompt, chosen, rejected in triples],
    }
    for either_way, told in ways.items():
        expected = [row in told[:i] for i, row in enumerate(told)]
        assert is_repeat(array, either_way).tolist() == expected

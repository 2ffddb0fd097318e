"""What people decide: rows left out by group, id and condition, and verdicts, which hold for texts and for good."""

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.config.selection import Selection
from mapjob.errors import ConfigError, MapjobError, Reason
from mapjob.job.prepare import prepare
from mapjob.job.run import rank_job
from mapjob.selection.decisions import FILE, load_decisions, read_verdicts
from mapjob.selection.load import load_scored
from mapjob.selection.scored import ScoredUnits
from mapjob.selection.where import check_where, connect
from mapjob.store.run_folder import open_run, path_of
from tests.selection.conftest import Tree, scores


def decide(tree: Tree, **selection: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]], dict[str, str]]:
    """(manifest, ranked rows, reasons of the others) by pair_id, of a ranking that keeps all."""
    config = parse_config({**tree, "selection": {"keep": {"ratio": 1.0}, **selection}})
    manifest = rank_job(config)
    folder = open_run(path_of(manifest)).folder
    errors = pa.concat_tables([folder.read_table(name) for name in folder.tables("errors")])
    return manifest, scores(manifest), dict(zip(errors["pair_id"].to_pylist(), errors["reason"].to_pylist()))


def answers(folder: Path, verdicts: dict[str, str], name: str = "verdicts.jsonl") -> str:
    rows = [{"pair_id": one, "verdict": verdict} for one, verdict in verdicts.items()]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / name)


def test_groups_and_ids_are_left_out_before_repeats_are_judged(tree, tmp_path, caplog):
    (tmp_path / "ids.txt").write_text("row1\nrow20\nnobody\n")
    manifest, rows, reasons = decide(tree, exclude={"groups": ["group 0", "grup 1"], "ids": f"{tmp_path}/ids.txt"})
    by_group = {f"row{i}": "excluded_group" for i in range(0, 60, 3)}
    assert reasons == {"row1": "excluded_id", "row20": "excluded_id"} | by_group
    assert "row50" in rows, "it repeats a row that is left out"
    assert manifest["counts"]["by_reason"] == {"excluded_group": 20, "excluded_id": 2}
    assert manifest["counts"]["excluded_ids"] == {"in_file": 3, "unmatched": 1}
    assert manifest["counts"]["rows"] == manifest["counts"]["ranked"] + manifest["counts"]["dropped"] == 60
    assert any(text.endswith("1 of 3 ids match no row") for text in manifest["warnings"])
    assert "1 of 3 ids match no row (nobody)" in caplog.text
    assert any("grup 1 (did you mean group 1?)" in text for text in manifest["warnings"])


def test_checks_do_not_count_what_people_left_out(tree, plain):
    manifest, _, _ = decide(tree, exclude={"groups": ["group 2"]}, on_disagreement="relabel")
    here = [row for row in plain.values() if row["group"] != "group 2"]
    assert manifest["flags"]["relabelled"] == sum(row["reward_margin"] < 0 for row in here)
    assert manifest["counts"]["by_reason"] == {"excluded_group": 20, "duplicate": 1}
    assert manifest["measures"]["dropped"] == 1 / 60


def mirrored(row: dict[str, Any]) -> dict[str, Any]:
    other = {"chosen": "rejected", "rejected": "chosen"}
    sides = {name: row[f"{other[name.partition('_')[0]]}_{name.partition('_')[2]}"] for name in row if "_" in name
             and name.partition("_")[0] in other}  # fmt: skip
    return sides | {name: -row[name] for name in ("reward_margin", "implicit_margin")}


@pytest.mark.parametrize("on_disagreement", ["keep", "drop", "relabel"])
def test_a_verdict_of_a_person_beats_the_reward_model(tree, plain, tmp_path, on_disagreement):
    against, for_it = (
        [one for one, row in plain.items() if (row["reward_margin"] < 0) == wrong] for wrong in (True, False)
    )
    against, for_it = ([one for one in ids if one not in ("row20", "row21", "row51")] for ids in (against, for_it))
    said = {against[0]: "swap", against[1]: "keep", against[2]: "drop"}
    said |= {for_it[0]: "swap", for_it[1]: "keep", for_it[2]: "drop", "nobody": "swap"}
    manifest, rows, reasons = decide(tree, verdicts=answers(tmp_path, said), on_disagreement=on_disagreement)
    for one in (against[0], for_it[0]):
        assert {name: rows[one][name] for name in mirrored(plain[one])} == mirrored(plain[one])
    for one in (against[1], for_it[1]):
        assert rows[one]["reward_margin"] == plain[one]["reward_margin"]
        assert rows[one]["chosen_logps"] == plain[one]["chosen_logps"]
    assert [reasons[one] for one in (against[2], for_it[2])] == ["excluded_verdict"] * 2
    assert manifest["counts"]["verdicts"] == {"swapped": 2, "dropped": 2, "kept": 2, "unmatched": 1}
    assert ("disagreement" in manifest["counts"]["by_reason"]) == (on_disagreement == "drop")
    selected = open_run(path_of(manifest)).folder
    texts = pa.concat_tables([selected.read_table(name) for name in selected.tables("selected")])
    texts = {row["pair_id"]: row for row in texts.to_pylist()}
    corpus = {row["id"]: row for row in pq.read_table(tree["input"]["path"]).to_pylist()}
    for one, sides in ((for_it[0], ("rejected", "chosen")), (against[1], ("chosen", "rejected"))):
        assert corpus[one][sides[0]] in str(texts[one]["chosen"])
        assert corpus[one][sides[1]] in str(texts[one]["rejected"])


@pytest.mark.parametrize("said", [{}, {"nobody": "swap"}])
def test_verdicts_that_match_no_pair_change_none(tree, plain, tmp_path, said):
    manifest, rows, _ = decide(tree, verdicts=answers(tmp_path, said))
    assert rows == plain
    assert manifest["counts"]["verdicts"] == {"swapped": 0, "dropped": 0, "kept": 0, "unmatched": len(said)}
    assert any("1 of 1 ids match no pair" in warning for warning in manifest["warnings"]) == bool(said)


def test_a_verdict_holds_for_its_texts_in_whatever_row(tree, plain, tmp_path):
    """Row 50, of the same texts as row 20, is dropped as a repeat; row 51 is row 21 with its sides exchanged."""
    said = {"row50": "swap", "row51": "keep"}
    _, rows, reasons = decide(tree, verdicts=answers(tmp_path, said))
    assert rows["row20"]["reward_margin"] == -plain["row20"]["reward_margin"]
    assert rows["row21"]["reward_margin"] == -plain["row21"]["reward_margin"] == plain["row51"]["reward_margin"]
    assert (reasons["row50"], reasons["row51"]) == ("duplicate", "duplicate")
    _, rows, reasons = decide(tree, verdicts=answers(tmp_path, {"row50": "drop", "row21": "drop"}))
    assert [reasons[f"row{i}"] for i in (20, 50, 21, 51)] == ["excluded_verdict"] * 4


def test_of_verdicts_that_contradict_each_other_on_the_same_texts_the_earlier_row_s_holds(
    tree, plain, tmp_path, caplog
):
    manifest, rows, _ = decide(tree, verdicts=answers(tmp_path, {"row51": "keep", "row21": "keep"}))
    assert rows["row21"]["reward_margin"] == plain["row21"]["reward_margin"]
    assert "(row51: keep; row21: keep)" in caplog.text
    assert "row51" not in str(manifest["warnings"]), "a manifest names no row"


def test_a_verdict_corrects_held_out_pairs_and_goals_too(tree, plain, tmp_path):
    def held(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
        folder = open_run(path_of(manifest)).folder
        return {row["pair_id"]: row for row in folder.read_table("held_out/test-00000-of-00001.parquet").to_pylist()}

    before = held(decide(tree, held_out=0.3)[0])
    one, other = list(before)[:2]
    after = held(decide(tree, held_out=0.3, verdicts=answers(tmp_path, {one: "swap", other: "drop"}))[0])
    assert after[one]["reward_margin"] == -before[one]["reward_margin"]
    assert after[one]["chosen"] == before[one]["rejected"]
    assert after.keys() == before.keys() - {other}
    goals = {"reward_goals": {}}
    config = parse_config(
        {
            **tree,
            "selection": {"signals": goals, "keep": {"ratio": 1.0}, "verdicts": answers(tmp_path, {"row3": "swap"})},
        }
    )
    folder = open_run(path_of(rank_job(config))).folder
    rows = [row for row in folder.read_table(folder.tables("selected")[0]).to_pylist() if row["pair_id"] == "row3"]
    by_swap = {row["goal_swapped"]: row["reward_margin"] for row in rows}
    assert by_swap == {False: -plain["row3"]["reward_margin"], True: plain["row3"]["reward_margin"]}


CONDITIONS = [
    ("meta.score > 30 and reward_margin > -1", lambda row, i: i > 30 and row["reward_margin"] > -1),
    ("meta.tag = 'x'", lambda row, i: i % 2 == 1),
    ("not (meta.tag = 'x')", lambda row, i: False),
    ("label_agrees and \"group\" <> 'group 1'", lambda row, i: row["reward_margin"] > 0 and i % 3 != 1),
    (
        "Chosen_Num_Tokens BETWEEN 5 AND 20 OR pair_id = 'row7'",
        lambda row, i: 5 <= row["chosen_num_tokens"] <= 20 or i == 7,
    ),
    ("len(prompt) % 2 = 0", None),
    ("abs(implicit_margin) < 0.5", lambda row, i: abs(row["implicit_margin"]) < 0.5),
    ("of_one_file IS NULL OR of_one_file = 4", lambda row, i: i >= 30 or i == 4),
    ("try_cast(words AS INT) > 3", lambda row, i: i < 59),
    ("len(list_filter([1, meta.score], lambda x: x > 20)) = 1", lambda row, i: i > 20),
    ("\"meta\".score IN (3, 4, 5) AND nullif(meta.tag, 'y') = 'x'", lambda row, i: i in (3, 5)),
]


def test_a_condition_leaves_out_what_it_is_not_true_for(tree, plain):
    job = prepare(parse_config(tree))
    corpus = pq.read_table(tree["input"]["path"]).to_pylist()
    for condition, expected in CONDITIONS:
        expected = expected or (lambda row, i: len(corpus[i]["prompt"]) % 2 == 0)
        selection = Selection(where=condition)
        pairs = load_scored(ScoredUnits(job.plan, job.families, job.store, selection), selection).pairs
        fits = {int(one[3:]) for one, row in plain.items() if expected(row, int(one[3:]))}
        assert set(pairs.position.tolist()) - {50} == fits, condition
        assert set(pairs.dropped[Reason.EXCLUDED_WHERE].tolist()) - {50} == set(range(60)) - fits - {50}, condition


REFUSED = [
    ("random() > 0.5", "random gives another value"),
    ("now() > make_timestamp(meta.score)", "now gives another value"),
    ("age(make_timestamp(meta.score)) > interval 1 day", "age gives another value"),
    ("ago(interval 1 day) < make_timestamp(meta.score)", "changes from run to run"),
    ("pg_sleep(9) is null and meta.score = 1", "sleep_ms gives another value"),
    ("meta.score > (SELECT 1)", "a subquery"),
    ("meta.score IN (SELECT 1)", "a subquery"),
    ("count(*) > 1", "over many rows"),
    ("avg(meta.score) > 1", "over many rows"),
    ("rank() OVER () > 1", "a window function"),
    ("true); SELECT (true", "2 statements"),
    ("true); DROP TABLE pairs; SELECT (true", "Only SELECT statements"),
    ("'now'::TIMESTAMP > make_timestamp(meta.score)", "invalid timestamp"),
    ("$$x$$ = prompt; ATTACH 'x.db'; SELECT ($$x$$ = prompt", "no SQL expression"),
    ("true) FROM pairs --", "no SQL expression"),
    ("true), (false", "more than one expression"),
    ("COLUMNS('.*') IS NULL", "a star"),
    ("meta.score > $1", "a parameter"),
    ("unnest([meta.score]) > 1", "no function of one row"),
    ("read_text('/etc/passwd') = prompt", "no function of one row"),
    ("meta.scor > 1", 'Candidate Entries: "score"'),
    ("metta.score > 1", "unknown column metta (did you mean meta?)"),
    ("rank < 10", "known only once all pairs are ranked"),
    ("map_score > 1", "known only once all pairs are ranked"),
    ("ref_chosen_logps < 0", "not scored by this run"),
    ("meta.score", "BIGINT, not true or false"),
    ("meta.score > 'x'", "Could not convert"),
    ("meta.tag > 3", "Cannot compare"),
    ("fo(meta.score)", "fo does not exist"),
    ("true", "names no column"),
    ("  ", "names no column"),
    ("meta.score >", "no SQL expression"),
    ("group = 'a'", '"group"'),
]


def test_what_is_no_condition_on_one_row_is_refused_before_a_model_is_loaded(tree):
    with pytest.raises(ConfigError, match="unknown column metta"):
        prepare(parse_config({**tree, "selection": {"where": "metta.score > 1"}}))
    job = prepare(parse_config(tree))
    for condition, what in REFUSED:
        with pytest.raises(ConfigError) as raised:
            check_where(Selection(where=condition), job.plan, job.families)
        assert what in str(raised.value), condition
        assert "selection.where" in raised.value.where


def test_a_condition_is_evaluated_in_utc_and_reaches_no_setting():
    connection = connect()
    assert connection.execute("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]
    for statement in ("SET TimeZone = 'Asia/Tokyo'", "SELECT * FROM read_text('/etc/hostname')", "INSTALL httpfs"):
        with pytest.raises(duckdb.Error):
            connection.execute(statement)


def test_a_value_that_a_condition_fails_on_is_named_with_its_file(tree):
    with pytest.raises(ConfigError, match="Could not convert string 'many'") as raised:
        decide(tree, where="words::INT > 3")
    assert "part-001.parquet" in raised.value.where
    assert "try_cast" in raised.value.do


def test_a_finished_run_is_ranked_again_with_the_decisions_that_it_was_made_with(tree, tmp_path):
    path = answers(tmp_path, {"row3": "swap", "row4": "drop"})
    manifest, rows, _ = decide(tree, verdicts=path, exclude={"ids": path})
    folder = open_run(path_of(manifest)).folder
    assert sorted(folder.read_table(FILE)["decision"].to_pylist()) == ["drop", "exclude", "exclude", "swap"]
    answers(tmp_path, {"row5": "drop"})
    assert scores(manifest) == rows, "from the folder alone"
    assert rank_job(path_of(manifest))["run_id"] == manifest["run_id"]
    Path(path).unlink()
    again = rank_job(path_of(manifest), overrides=["selection.alpha=2.5"])
    assert again["counts"]["by_reason"] == manifest["counts"]["by_reason"]
    with pytest.raises(MapjobError, match="there is no such file"):
        decide(tree, verdicts=path)


def test_the_content_of_the_files_decides_the_run_and_neither_form_nor_place(tree, tmp_path):
    said = {"row3": "swap", "row4": "drop"}
    first, _, _ = decide(tree, verdicts=answers(tmp_path, said))
    pq.write_table(
        pa.table({"why": [1, 2], "verdict": ["drop", "swap"], "pair_id": ["row4", "row3"]}), tmp_path / "v.parquet"
    )
    assert decide(tree, verdicts=f"{tmp_path}/v.parquet")[0]["run_id"] == first["run_id"]
    (tmp_path / "v.csv").write_text("pair_id;verdict\n'row3; Swap \n'row4;drop\n'row9;\n", encoding="utf-8-sig")
    assert decide(tree, verdicts=f"{tmp_path}/v.csv")[0]["run_id"] == first["run_id"]
    assert decide(tree, verdicts=answers(tmp_path, {"row3": "swap"}))[0]["run_id"] != first["run_id"]


@pytest.mark.parametrize(
    ("name", "text", "what", "where"),
    [
        ("v.jsonl", '{"pair_id": "a", "verdict": "yes"}', "'yes' is no verdict", "row 1"),
        ("v.csv", "pair_id,verdict\na,swap\nb,keep\na,keep\n", "the pair a has two verdicts, swap and keep", "row 1; "),
        ("v.csv", "pair_id,verdict\n,swap\n", "pair_id is empty", "row 1"),
        ("v.csv", "id,verdict\na,swap\n", "no column pair_id", "v.csv"),
        ("v.csv", "pair_id\na\n", "no column verdict", "v.csv"),
        ("v.txt", "a\n", "does not tell its form", "v.txt"),
        ("v.parquet", "a\n", "cannot be read", "v.parquet"),
    ],
)
def test_a_file_of_verdicts_that_cannot_be_followed_is_refused_by_row(tmp_path, name, text, what, where):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_verdicts(f"{tmp_path}/{name}")
    assert what in raised.value.what
    assert where in raised.value.where


def test_verdicts_that_are_given_again_are_counted(tmp_path, caplog):
    (tmp_path / "v.csv").write_text("pair_id,verdict\na,swap\nb,\na,swap\nc,keep\na,Swap\n")
    assert read_verdicts(f"{tmp_path}/v.csv") == {"a": "swap", "c": "keep"}
    assert "2 verdicts repeat an earlier one of the same pair (a)" in caplog.text


def test_without_decisions_nothing_is_read_for_them(tree):
    config = parse_config(tree)
    assert load_decisions(config.selection, None).identity == {}
    manifest = rank_job(config)
    assert FILE not in open_run(path_of(manifest)).folder.files()
    shutil.rmtree(path_of(manifest))

"""`mapjob review` and `mapjob verdicts`: what people are shown, and what becomes of their answers."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.load import parse_config
from mapjob.errors import ConfigError, MapjobError
from mapjob.job.review import find_for_review
from mapjob.job.run import rank_job
from mapjob.report.review import CELL, gather_answers, read_answers, write_review
from mapjob.selection.decisions import read_verdicts
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.selection.conftest import Tree, scores
from tests.without_ray import run

TOOLS = Path(__file__).with_name("review_tools.py")
ODD_IDS = [
    "=1+1",
    "+7",
    "-7",
    "@a",
    "007",
    "1e5",
    "MAR1",
    "TRUE",
    "'quoted",
    "''",
    "a,b;c",
    'a"b',
    "two\nlines",
    " é ",
    "😀",
]


def mapjob(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    if isinstance(done.exception, MapjobError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.splitlines()[-1])


def rank(tree: Tree, **selection: Any) -> dict[str, Any]:
    return rank_job(parse_config({**tree, "selection": {"keep": {"ratio": 0.5}, **selection}}))


def answer(path: Path, by_id: dict[str, str]) -> None:
    """As a person does in a spreadsheet or an editor."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = (json.dumps({**row, "verdict": by_id.get(row["pair_id"])}) + "\n" for row in rows)
        path.write_text("".join(lines))
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        names, *rows = csv.reader(file)
    verdict = names.index("verdict")
    for row in rows:
        row[verdict] = by_id.get(row[0].removeprefix("'"), "")
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, delimiter=";").writerows([names, *rows])  # as Excel does in much of Europe


@pytest.mark.parametrize(("to", "on_disagreement"), [("csv", "keep"), ("jsonl", "drop"), ("csv", "relabel")])
def test_what_people_answer_is_how_pairs_are_ranked(tree, plain, tmp_path, to, on_disagreement):
    """Also of pairs that were dropped or exchanged, since the reward model contradicts their label."""
    before = rank(tree, on_disagreement=on_disagreement)
    out = tmp_path / f"review.{to}"
    shown = mapjob("review", path_of(before), "--contradicted", "--rows", "9", "--to", to, "--out", str(out))
    ids = [row["pair_id"] for row in find_for_review(before, "contradicted", 9)]
    surest = sorted((row["reward_margin"], one) for one, row in plain.items())
    assert (shown["rows"], ids) == (9, [one for _, one in surest[:9]])
    answer(out, dict(zip(ids, ["swap", "keep", "drop"] * 2)))
    told = mapjob("verdicts", str(out), "--out", f"{tmp_path}/verdicts.parquet")
    assert [told[name] for name in ("swap", "drop", "keep", "without_answer")] == [2, 2, 2, 3]

    after = rank(tree, on_disagreement=on_disagreement, verdicts=f"{tmp_path}/verdicts.parquet")
    counts, rows = after["counts"], scores(after)
    assert counts["verdicts"] == {"swapped": 2, "dropped": 2, "kept": 2, "unmatched": 0}
    assert counts["by_reason"]["excluded_verdict"] == 2
    assert counts["rows"] == counts["ranked"] + counts["dropped"]
    for one, verdict in zip(ids, ["swap", "keep", "drop"] * 2):
        assert (one in rows) == (verdict != "drop")
        if verdict != "drop":
            sign = -1 if verdict == "swap" else 1
            assert rows[one]["reward_margin"] == sign * plain[one]["reward_margin"]
            assert rows[one]["chosen_reward"] == plain[one]["rejected_reward" if verdict == "swap" else "chosen_reward"]
    left = [row["pair_id"] for row in find_for_review(after, "contradicted", 100)]
    assert left[:3] == ids[6:]
    assert not set(left) & set(ids[:6]), "nobody is asked twice"


def test_what_is_shown_is_the_label_of_the_corpus_with_its_scores_and_texts(tree, plain):
    corpus = {row["id"]: row for row in pq.read_table(tree["input"]["path"]).to_pylist()}
    for row in find_for_review(rank(tree, on_disagreement="relabel"), "contradicted", 100):
        of_plain = plain[row["pair_id"]]
        for name in ("reward_margin", "implicit_margin", "chosen_reward", "rejected_reward", "group"):
            assert row[name] == of_plain[name]
        for name in ("prompt", "chosen", "rejected"):
            assert corpus[row["pair_id"]][name] in row[name]
        assert row["pair_id"] == f"row{row['row'] + 30 * (row['file'] == 'part-001.parquet')}"


def test_the_first_pairs_and_those_next_to_the_cut_come_in_rank_order(tree):
    manifest = rank(tree)
    ranks = {one: row["rank"] for one, row in scores(manifest).items()}
    last = manifest["counts"]["selected"]
    for kind, num, expected in (("top", 4, [1, 2, 3, 4]), ("near_cut", 6, range(last - 2, last + 4))):
        rows = find_for_review(manifest, kind, num)
        assert [row["rank"] for row in rows] == [*expected]
        assert [ranks[row["pair_id"]] for row in rows] == [*expected]


def test_verdicts_on_candidates_name_the_two_responses(tmp_path):
    rows = [{"id": f"r{i}", "prompt": f"q {i}", "responses": [f"{r['chosen']} {k}" for k in range(3)]}
            for i, r in enumerate(make_pairs(12))]  # fmt: skip
    corpus = write_corpus(tmp_path / "in", rows)
    tree = config_tree(corpus, tmp_path / "out", make_policy(tmp_path / "p"), make_reward(tmp_path / "r"))
    tree["input"]["columns"] = {"id": "id"}
    first = run(parse_config({**tree, "selection": {"keep": {"ratio": 1.0}}}))
    ids = [row["pair_id"] for row in find_for_review(first, "top", 3)]
    before, (one, sides) = scores(first), ids[0].split(":")
    assert set(sides.split("-")) < {"0", "1", "2"}
    (tmp_path / "v.csv").write_text(f"pair_id,verdict\n{ids[0]},swap\n{ids[1]},drop\n{ids[2]},keep\n{one},drop\n")
    for more in ({}, {"pairing": "ranked", "pairs_per_record": 2}):
        after = rank(tree, verdicts=f"{tmp_path}/v.csv", **more)
        rows_after = scores(after)
        name = ids[0] if more else one
        assert rows_after[name]["reward_margin"] == -before[one]["reward_margin"]
        assert (ids[1] if more else ids[1].split(":")[0]) not in rows_after
        assert after["counts"]["verdicts"] == {"swapped": 1, "dropped": 1, "kept": 1, "unmatched": 1}


def rows_for(ids: list[str]) -> list[dict[str, Any]]:
    texts = {"prompt": "=cmd|'/c calc'!A0", "chosen": "@SUM(1)\r\nx" + "y" * 40_000, "rejected": "-1\x00\x1b[0m"}
    return [{"pair_id": one, "rank": 1 + i, "map_score": -0.5, "group": None, **texts} for i, one in enumerate(ids)]


@pytest.mark.parametrize("to", ["csv", "jsonl"])
@pytest.mark.parametrize("out", ["v.csv", "v.jsonl", "v.parquet"])
def test_ids_come_back_to_the_letter_and_no_cell_runs_in_a_spreadsheet(tmp_path, to, out):
    path = tmp_path / f"review.{to}"
    write_review(rows_for(ODD_IDS), to, str(path))
    answer(path, dict.fromkeys(ODD_IDS, "keep"))
    answers, num_empty = gather_answers([str(path)], f"{tmp_path}/{out}")
    assert (set(answers), num_empty) == (set(ODD_IDS), 0)
    assert read_verdicts(f"{tmp_path}/{out}") == answers
    if to == "csv":
        with path.open(encoding="utf-8-sig", newline="") as file:
            cells = [cell for row in list(csv.reader(file, delimiter=";"))[1:] for cell in row]
        numbers = {"-0.5"}
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and cell not in numbers]
        assert max(map(len, cells)) < CELL + 40 < 32_767
        assert not [cell for cell in cells if "\x00" in cell or "\x1b" in cell]


def test_files_of_answers_are_never_written_over(tmp_path):
    path, other = f"{tmp_path}/review.csv", f"{tmp_path}/verdicts.csv"
    write_review(rows_for(["a"]), "csv", path)
    with pytest.raises(ConfigError, match="may hold answers of people"):
        write_review(rows_for(["b"]), "csv", path)
    answer(Path(path), {"a": "keep"})
    gather_answers([path], other)
    with pytest.raises(ConfigError, match="may hold answers of people"):
        gather_answers([path], other)
    Path(path).unlink()
    write_review(rows_for(["b"]), "csv", path)
    answer(Path(path), {"b": "drop"})
    assert gather_answers([other, path], other)[0] == {"a": "keep", "b": "drop"}, "it may grow"


@pytest.mark.parametrize(
    ("name", "content", "what", "where"),
    [
        ("a.csv", "pair_id,verdict\nx,keep\ny,better\n", "'better' is no verdict", "row 2"),
        ("a.json", [{"id": 7, "data": {"pair_id": "x"}, "annotations": [{"id": 8, "result": [
            {"from_name": "verdict", "value": {"choices": ["yes"]}}]}]}], "'yes' is no", "task 7, annotation 8"),
        ("a.json", [{"id": "x", "responses": {"verdict": [{"value": "no", "user_id": "u"}]}}], "'no'", "record x"),
        ("a.json", [{"id": 1, "annotations": [{}], "data": {}}], "after all", "a.json"),
        ("a.json", "{", "no JSON", "a.json"),
        ("a.txt", "x", "does not tell its form", "a.txt"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_refused_by_file_and_row(tmp_path, name, content, what, where):
    (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError) as raised:
        gather_answers([f"{tmp_path}/{name}"], f"{tmp_path}/out.csv")
    assert what in raised.value.what
    assert name in raised.value.where
    assert where in raised.value.where
    assert not (tmp_path / "out.csv").exists()


def test_two_people_who_disagree_are_refused_and_cancelled_or_unsubmitted_answers_do_not_count(tmp_path):
    def task(*answers: tuple[str, bool]) -> dict[str, Any]:
        result = [[{"from_name": "verdict", "value": {"choices": [one]}}] for one, _ in answers]
        annotations = [{"id": i, "was_cancelled": answers[i][1], "result": part} for i, part in enumerate(result)]
        return {"id": 1, "data": {"pair_id": "x"}, "annotations": annotations}

    (tmp_path / "a.json").write_text(json.dumps([task(("swap", False), ("keep", True))]))
    assert [one for *_, one in read_answers(f"{tmp_path}/a.json")] == ["swap"]
    (tmp_path / "a.json").write_text(json.dumps([task(("swap", False), ("keep", False))]))
    with pytest.raises(ConfigError, match=r"two verdicts(.|\n)*annotation 0; .*annotation 1"):
        gather_answers([f"{tmp_path}/a.json"], f"{tmp_path}/v.csv")
    drafts = [{"value": "keep", "user_id": "u", "status": "draft"}, {"value": "drop", "user_id": "v"}]
    (tmp_path / "records.json").write_text(json.dumps([{"id": "x", "responses": {"verdict": drafts}}]))
    assert [one for *_, one in read_answers(str(tmp_path))] == ["drop"]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the packages of Argilla and Label Studio."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = f"{folder}/bin/python"
    done = subprocess.run([python, "-m", "pip", "install", "-q", "argilla>=2.8", "label-studio-sdk>=2.1"], check=False)
    if done.returncode:
        pytest.skip("pip cannot install argilla and label-studio-sdk here")
    return python


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["argilla", "label-studio"])
def test_the_tools_own_packages_read_what_is_written_and_write_what_is_read(tools, tmp_path, tool):
    out = tmp_path / ("review" if tool == "argilla" else "review.json")
    write_review(rows_for(ODD_IDS), tool, str(out))
    told = {one: ["swap", "drop", "keep"][i % 3] for i, one in enumerate(ODD_IDS)}
    (tmp_path / "told.json").write_text(json.dumps(told))
    exports = subprocess.run(
        [tools, TOOLS, tool, out, tmp_path / "told.json", tmp_path / "exports"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert exports
    for number, path in enumerate(exports):
        assert gather_answers([path], f"{tmp_path}/{number}.csv")[0] == told, path

"""`mapjob validate` whole: what is trained on is what is selected, what is finished stays, and the table adds up."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.load import parse_config
from mapjob.job.run import rank_job
from mapjob.lab.validation.arms import Arm, Evaluation
from mapjob.lab.validation.config import parse_validation
from mapjob.lab.validation.held_out import read_gold, read_held_out
from mapjob.lab.validation.report import as_text
from mapjob.lab.validation.selections import Corpus, Selections
from mapjob.lab.validation.validate import validate
from mapjob.lab.world.corpus import tasks_of
from mapjob.lab.world.tasks import grade
from mapjob.ranking.compare import Choice
from mapjob.store.run_folder import open_run, path_of
from tests.validation.conftest import arms_in

SELECTIONS = [
    ("start", None),
    ("random", None),
    ("ceiling", None),
    ("full", None),
    ("map", 1.0),
    ("map", "calibrated"),
    ("map_signed", 1.0),
    ("bees", None),
    ("last of map", 1.0),
]


@pytest.fixture(scope="module")
def corpus(validation, result):
    return Corpus.of(validation.everything)


@pytest.fixture(scope="module")
def run(validation, result):
    return open_run(path_of(rank_job(validation.everything)))


def test_a_row_for_every_selection_with_intervals_around_its_means(result):
    rows = result["rows"]
    assert [(row["metric"], row.get("alpha")) for row in rows] == SELECTIONS
    assert [row["seeds"] for row in rows] == [0, 2, 1, 1, 1, 1, 1, 1, 1]
    num_ranked = rows[3]["pairs"]
    assert {row["pairs"] for row in rows if row.get("ratio") == 0.4} == {int(0.4 * num_ranked)}
    for row in rows:
        for name in ("right", "right_probability", "gold_accuracy", "label_accuracy", "reward_model_accuracy"):
            assert 0 <= row[name]["low"] <= row[name]["mean"] <= row[name]["high"] <= 1
    assert rows[0]["length_controlled_win_rate"]["mean"] == 0.5
    assert all(("over_start" in row) == (row["metric"] != "start") for row in rows)
    assert all(("over_random" in row) == (row.get("ratio") == 0.4 and row["metric"] != "random") for row in rows)


def test_means_are_those_of_the_arms_counted_by_hand(validation, result, run):
    held_out = read_held_out(run.folder, 0.5, False, "group", None)
    table = held_out.table.to_pylist()
    random = next(row for row in result["rows"] if row["metric"] == "random")
    files = [path for name, path in arms_in(result).items() if name.startswith("random")]
    arms, start = [json.loads(path.read_text()) for path in files], json.loads(arms_in(result)["start"].read_text())
    right = [m > 0 for arm in arms for m in arm["implicit_margin"]]
    better = [row["chosen_quality"] > row["rejected_quality"] for row in table] * 2
    assert random["label_accuracy"]["mean"] == pytest.approx(np.mean(right))
    assert random["gold_accuracy"]["mean"] == pytest.approx(np.mean(np.array(right) == better))
    assert random["gold_reward"]["mean"] == pytest.approx(np.mean([arm["gold"] for arm in arms]))
    over_start = np.mean([arm["right"] for arm in arms]) - np.mean(start["right"])
    assert random["over_start"]["right"]["mean"] == pytest.approx(over_start)
    map_row = next(row for row in result["rows"] if row["metric"] == "map")
    by_map, at_random = (
        json.loads(arms_in(result)[f"{name}-keep-0.4-steps-2-seed-0"].read_text())
        for name in ("map-alpha-1.0", "random")
    )
    wins = [(a > b) + (a == b) / 2 for a, b in zip(by_map["reward"], at_random["reward"], strict=True)]
    assert map_row["over_random"]["win_over_random"]["mean"] == pytest.approx(np.mean(wins) - 0.5)
    over = map_row["over_random"]["gold_reward"]["mean"]
    assert over == pytest.approx(map_row["gold_reward"]["mean"] - random["gold_reward"]["mean"])


@pytest.mark.parametrize(("metric", "alpha"), [("map", 1.0), ("map", "calibrated"), ("map_signed", 1.0)])
def test_what_is_trained_on_is_what_rank_selects(validation, tree, corpus, run, metric, alpha):
    selection = {"metric": metric, "held_out": 0.3}
    selection |= {"scale": "calibrated"} if alpha == "calibrated" else {"alpha": alpha}
    selected = rank_job(parse_config({**validation.run.model_dump(), "selection": selection}))
    expected = pq.read_table(f"{path_of(selected)}/selected")["pair_id"].to_pylist()
    rows, swapped = Selections(validation, corpus, {}).rows(Arm(Choice(metric, alpha, 0.4), None, 0))
    assert not swapped.any()
    assert pq.read_table(f"{run.folder.url}/selected")["pair_id"].take(rows).to_pylist() == expected


def test_random_subsets_differ_by_seed_alone(validation, corpus):
    at_random = Choice("random", None, 0.4)
    selections = Selections(validation, corpus, {})
    one, again, other = (selections.rows(Arm(at_random, None, seed))[0] for seed in (0, 0, 1))
    assert (one == again).all()
    assert 0 < len(np.intersect1d(one, other)) < len(one) == len(other)


def test_the_ceiling_is_every_pair_of_unequal_sides_with_the_right_label(validation, corpus, run):
    gold = read_gold(run.folder, validation.world.tasks())
    ceiling = Arm(Choice("explicit", None, 1.0), None, 0, "ceiling")
    rows, swapped = Selections(validation, corpus, {}, gold).rows(ceiling)
    published = pq.read_table(f"{run.folder.url}/selected").to_pylist()
    expected = {i: row["chosen_quality"] < row["rejected_quality"] for i, row in enumerate(published)}
    assert dict(zip(rows.tolist(), swapped.tolist())) == {
        i: wrong for i, wrong in expected.items() if published[i]["chosen_quality"] != published[i]["rejected_quality"]
    }
    assert 0 < swapped.sum() < len(rows)


def test_what_map_ranks_last_is_the_end_of_its_order(validation, corpus, run):
    selections, whole = Selections(validation, corpus, {}), Choice("map", 1.0, 1.0)
    order = selections.rows(Arm(whole, None, 0))[0]
    last = selections.rows(Arm(Choice("map", 1.0, 0.4), None, 0, "last"))[0]
    assert last.tolist() == order[-int(0.4 * len(order)) :].tolist()


def test_training_and_both_tests_share_no_prompt(run):
    tested, developed = (
        {str(r.prompt) for r in read_held_out(run.folder, 0.5, which, None, None).records} for which in (0, 1)
    )
    trained = {str(row["prompt"]) for row in pq.read_table(f"{run.folder.url}/selected").to_pylist()}
    assert tested
    assert developed
    assert not tested & developed
    assert not (tested | developed) & trained
    whole = read_held_out(run.folder, 0.0, False, None, None)
    assert {str(r.prompt) for r in whole.records} == tested | developed
    facts = read_held_out(run.folder, 0.0, False, "group", ("facts",))
    assert set(facts.table["group"].to_pylist()) == {"facts"}


def test_gold_is_the_grade_of_the_answers(validation, result, run):
    tasks = {task.prompt: task for task in tasks_of(400, 0)}
    for row in pq.read_table(f"{run.folder.url}/held_out").to_pylist():
        task = tasks[row["prompt"][0]["content"]]
        assert grade(task, row["chosen"][0]["content"]) == row["chosen_quality"]


def test_it_goes_on_where_it_was_stopped(tree, result, monkeypatch):
    """Another number of seeds has the arms of the first run; stopped after one of its own, it has that one too."""
    before = {name: path.stat().st_mtime_ns for name, path in arms_in(result).items()}
    more = parse_validation(
        {**tree, "random": 4, "metrics": {"map": [1]}, "bottom": False, "label_noise": None, "disturb": None}
    )
    trained = Evaluation.train
    calls = []

    def stopped(self, arm, *rows):
        calls.append(arm.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return trained(self, arm, *rows)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "train", stopped)
        with pytest.raises(KeyboardInterrupt):
            validate(more)
    assert calls == ["random-keep-0.4-steps-2-seed-2", "random-keep-0.4-steps-2-seed-3"]
    assert set(arms_in(result)) == {*before, calls[0]}
    second = validate(more)
    assert second["path"] != result["path"]
    after = {name: path.stat().st_mtime_ns for name, path in arms_in(result).items()}
    assert set(after) == {*before, *calls}
    assert {name: after[name] for name in before} == before
    rows = {row["metric"]: row for row in second["rows"]}
    assert rows["random"]["seeds"] == 4
    assert rows["map"]["gold_reward"] == next(r for r in result["rows"] if r["metric"] == "map")["gold_reward"]
    assert not list((arms_in(result)["start"].parents[3] / "models").glob("arm-*"))


def test_the_command_prints_the_table_and_json_rows(tree, result, tmp_path):
    file = tmp_path / "validate.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    done = CliRunner().invoke(app, ["validate", str(file), "--json"])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert rows == result["rows"]
    assert any(line.startswith("map_signed 1.0") for line in lines)
    stored = json.loads((tmp_path / result["path"] / "validation.json").read_text())
    assert stored["rows"] == rows
    assert "map_signed 1.0" in (tmp_path / result["path"] / "validation.md").read_text()


def test_a_recipe_with_another_margin_than_the_selections_is_named(result):
    recipe = result["config"]["recipe"] | {"objective": "dpo"}
    other = {**result, "config": result["config"] | {"recipe": recipe}}
    assert "trains dpo, whose own margin" in as_text(other)
    assert "whose own margin" not in as_text(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {"map": []}}, "metrics.map has an alpha: give one or more"),
        ({"metrics": {"explicit": [1]}}, "metrics.explicit has no alpha"),
        ({"metrics": {"random": []}}, "a key of its own"),
        ({"run": {"output": {"path": "x"}}}, "run.selection.held_out is 0"),
        ({"run": {"output": {"path": "x"}, "models": {}}}, "run has models, which the known world gives"),
        ({"run": {"output": {"path": "x"}, "selection": {"held_out": 0.1, "near_duplicates": 0.5}}}, "near_duplicates"),
        ({"ratio": 0.4}, "ratio: unknown key"),
    ],
)
def test_what_cannot_be_validated_is_named(tree, tmp_path, change, message):
    file = tmp_path / "validate.yaml"
    file.write_text(yaml.safe_dump({**tree, **change}))
    done = CliRunner().invoke(app, ["validate", str(file)])
    assert message in str(done.exception)

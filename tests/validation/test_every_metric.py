"""One command compares every metric of the table: those that the known world cannot have are named with the way in."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapjob.job.run import rank_job
from mapjob.lab.validation.arms import Arm, Evaluation
from mapjob.lab.validation.config import load_validation, parse_validation
from mapjob.lab.validation.held_out import read_clean, read_held_out
from mapjob.lab.validation.report import as_text
from mapjob.lab.validation.selections import Corpus, Selections
from mapjob.lab.validation.validate import validate
from mapjob.metrics.columns import EACH_MODEL
from mapjob.metrics.table import METRICS
from mapjob.ranking.compare import Choice
from mapjob.store.run_folder import open_run, path_of
from tests.without_ray import without_ray

ALL = Path(__file__).resolve().parents[2] / "configs" / "validate_all.yaml"
MEASURED: dict[str, Any] = {}  # by policy
OF_SEVERAL_MODELS = {name for name, entry in METRICS.items() if EACH_MODEL in entry.columns}


@pytest.fixture(scope="module")
def compared(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What configs/validate_all.yaml compares, in the tests' world."""
    wanted = load_validation(str(ALL))
    folder = tmp_path_factory.mktemp("all")
    changes = {"metrics": wanted.metrics, "middle": wanted.middle, "bottom": wanted.bottom, "full": wanted.full}
    changes |= {
        "development": 0.8,
        "max_new_tokens": 2,
        "random": 1,
        "seeds": 1,
        "label_noise": None,
        "disturb": None,
        "models_folder": str(folder / "models"),
    }
    recipe = {**tree["recipe"], "objective": "dpo", "max_steps": [1]}
    run = {**tree["run"], "output": {"path": str(folder / "out")}}
    return {**tree, **changes, "recipe": recipe, "run": run}


def measure_untrained(self: Evaluation, arm: Arm, rows: np.ndarray, swapped: np.ndarray) -> dict[str, Any]:
    """In place of a training, of which test_validate.py has enough: only probes are trained here."""
    policy = self.validation.everything.models.policy
    if policy.path not in MEASURED:
        MEASURED[policy.path] = self.measure(policy)
    cost = {"pairs": len(rows), "steps": 1, "seconds": 2.0, "cpu_seconds": 2.0}
    return {"arm": asdict(arm), "training": cost, **MEASURED[policy.path]}


@pytest.fixture(scope="module")
def everything(compared: dict[str, Any]) -> dict[str, Any]:
    with without_ray(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluation, "train", measure_untrained)
        return validate(parse_validation(compared))


def test_the_file_names_every_metric_of_the_table_and_takes_the_worlds_of_the_other_file():
    validation = load_validation(str(ALL))
    assert {*validation.metrics} == METRICS.keys() - {"random"}
    assert validation.world == load_validation(str(ALL.with_name("validate_world.yaml"))).world


def test_every_metric_has_a_row_or_a_reason_with_a_way_in(everything):
    rows = {row["metric"] for row in everything["rows"]}
    assert METRICS.keys() - rows == {*everything["refused"]} == OF_SEVERAL_MODELS
    assert {"ceiling", "full", "last of map", "mid of implicit_signed"} <= rows
    selections = [row for row in everything["rows"] if row.get("ratio") == 0.4 and row["metric"] != "random"]
    assert all("over_random" in row for row in selections)
    text = as_text(everything)
    assert "and there is one (models.reward): give it as a mapping of name -> model" in " ".join(text.split())
    num = sum(row["seeds"] for row in everything["rows"])
    assert f"All trainings: {num * 2 / 60:.1f} processor minutes." in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_middle_of_an_order_is_its_middle(everything, compared):
    validation = parse_validation(compared)
    selections = Selections(validation, Corpus.of(validation.everything), {})
    order = selections.rows(Arm(Choice("implicit_signed", None, 1.0), None, 0))[0].tolist()
    middle = selections.rows(Arm(Choice("implicit_signed", None, 0.4), None, 0, "middle"))[0].tolist()
    num = int(0.4 * len(order))
    assert middle == order[(len(order) - num) // 2 :][:num]


def test_the_probe_of_the_reducible_loss_is_trained_on_development_pairs_with_right_labels(everything, compared):
    validation = parse_validation(compared)
    run, tasks = open_run(path_of(rank_job(validation.everything))).folder, validation.world.tasks()
    rows, swapped = read_clean(run, validation.development, tasks)
    table = run.read_table(run.tables("held_out")[0]).to_pylist()
    tested = {str(record.prompt) for record in read_held_out(run, validation.development, False, None, None).records}
    assert len(rows) > 10
    for row, is_swapped in zip(rows.tolist(), swapped.tolist()):
        assert str(table[row]["prompt"]) not in tested
        better, worse = ("rejected", "chosen") if is_swapped else ("chosen", "rejected")
        assert table[row][f"{better}_quality"] > table[row][f"{worse}_quality"]
    assert 0 < swapped.sum() < len(rows)
    of_own_corpus, none = read_clean(run, validation.development, None)
    assert not none.any()
    assert all(table[row]["reward_margin"] > 0 for row in of_own_corpus)
    assert sorted(Path(compared["models_folder"]).glob("clean-probe-*"))


def test_without_a_clean_pair_the_reducible_loss_is_left_out(everything, compared, monkeypatch):
    monkeypatch.setattr("mapjob.lab.validation.validate.read_clean", lambda *_: (np.zeros(0, int), np.zeros(0, bool)))
    few = {**compared, "metrics": {"reducible_loss": []}, "middle": [], "bottom": False}
    assert "clean development pairs, and there is none" in validate(parse_validation(few))["refused"]["reducible_loss"]


def test_a_recipe_is_not_chosen_on_the_prompts_that_a_probe_was_trained_on(compared, tmp_path):
    few = {**compared, "metrics": {"reducible_loss": []}, "middle": [], "bottom": False, "full": False, "random": 0}
    result = validate(parse_validation(few), of_development=True)
    assert "leave --development away" in result["refused"]["reducible_loss"]

"""Candidates through a whole run: every pairing against brute force over the stored scores of each completion."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.errors import ConfigError
from mapjob.job.prepare import prepare
from mapjob.job.rank import find_pair
from mapjob.job.run import rank_job
from mapjob.ranking.pairing import best_worst
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.golden import plain_metrics as plain
from tests.without_ray import run

NUM_RESPONSES = (2, 3, 6, 13)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_policy(folder / "policy"), make_reward(folder / "reward")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    texts = [row["chosen"] for row in make_pairs(40 * 13)]
    rows = []
    for i in range(40):
        num = NUM_RESPONSES[i % 4]
        responses = [{"text": f"{texts[13 * i + k]} {k}", "model": "m"} for k in range(num)]
        rows.append({"prompt": f"question {i}", "responses": responses, "source": f"group {i % 2}"})
    rows[7]["responses"] = [rows[7]["responses"][0]] * 3  # all the same: refused
    return write_corpus(tmp_path_factory.mktemp("candidates") / "in", rows, row_group_size=7)


@pytest.fixture
def ran(models, corpus, tmp_path) -> Any:
    """(manifest, rows of the selection) of a run with this selection."""

    def ran(**selection: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        config = configured(models, corpus, tmp_path, **selection)
        manifest = run(config)
        return manifest, pq.read_table(f"{path_of(manifest)}/selected").to_pylist()

    return ran


def configured(models, corpus, tmp_path, **selection: Any) -> Config:
    tree = config_tree(corpus, tmp_path / "out", *models, execution={"rows_per_unit": 7})
    return parse_config({**tree, "selection": {"keep": {"ratio": 1.0}, **selection}})


def stored(config: Config) -> list[dict[str, Any]]:
    """Every record that was scored, with lists of its completions' values, out of the score store."""
    prepared = prepare(config)
    records = []
    for unit in prepared.plan.units:
        families = {name: prepared.store.read(print_, unit.id) for name, print_ in prepared.families.items()}
        for i in range(unit.num_rows):
            row = {"pair_id": families["records"]["pair_id"][i].as_py()}
            row["rewards"] = families["reward"]["rewards"][i].as_py()
            row["logps"] = families["policy"]["logps"][i].as_py()
            row["num_tokens"] = families["policy"]["num_tokens"][i].as_py()
            if "edit_distance" in families:
                row["distances"] = families["edit_distance"]["edit_distances"][i].as_py()
            if row["logps"] is not None:
                records.append(row)
    return records


def ordered_pairs(record: dict[str, Any]) -> list[tuple[int, int]]:
    rewards = record["rewards"]
    every = [(i, j) for i in range(len(rewards)) for j in range(len(rewards))]
    return [(i, j) for i, j in every if rewards[i] > rewards[j]]


def as_row(record: dict[str, Any], chosen: int, rejected: int) -> dict[str, float]:
    low, high, num = min(chosen, rejected), max(chosen, rejected), len(record["rewards"])
    row = {}
    for side, k in (("chosen", chosen), ("rejected", rejected)):
        row |= {f"{side}_reward": record["rewards"][k], f"{side}_logps": record["logps"][k]}
        row[f"{side}_num_tokens"] = record["num_tokens"][k]
    place = [(i, j) for i in range(num) for j in range(i + 1, num)].index((low, high))
    return {**row, "edit_distance": record.get("distances", [0] * num * num)[place]}


def by_record(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["rank"]):
        found.setdefault(row["pair_id"].split(":")[0], []).append(row)
    return found


@pytest.mark.parametrize("most", [1, 3, 200])
def test_dcrm_pairs_are_the_best_of_all_ordered_pairs(ran, models, corpus, tmp_path, most):
    chosen_by = {"metric": "dcrm", "pairing": "dcrm", "pairs_per_record": most}
    manifest, rows = ran(**chosen_by)
    records = stored(configured(models, corpus, tmp_path, **chosen_by))
    assert len(records) == 39
    selected = by_record(rows)
    for record in records:
        expected = sorted((plain.dcrm(as_row(record, *pair), 1.0) for pair in ordered_pairs(record)), reverse=True)
        ours = [row["dcrm"] for row in selected[record["pair_id"]]]
        assert ours == pytest.approx(expected[:most], rel=1e-12)
    counts = manifest["counts"]
    assert counts["ranked"] == len(rows) == sum(min(most, len(ordered_pairs(record))) for record in records)
    assert (counts["dropped"], counts["broken"], counts["rows"]) == (1, 0, 40)
    if most > 1:
        assert counts["ranked_rows"] == 39
    assert len({row["pair_id"] for row in rows}) == len(rows)


def test_a_pairing_labels_its_pairs_so_that_none_is_relabelled(ran, tmp_path):
    """Also if pairs are left out whose chosen response comes behind the rejected one."""
    rows = ran()[1]
    (tmp_path / "ids.txt").write_text("\n".join(row["pair_id"] for row in rows[::2]))
    manifest, left = ran(on_disagreement="relabel", exclude={"ids": f"{tmp_path}/ids.txt"})
    assert len(left) == len(rows) // 2
    assert manifest["flags"]["relabelled"] == manifest["measures"]["contradicted"] == 0


def test_map_pairs_are_the_best_by_the_scale_of_the_best_worst_pairs(ran, models, corpus, tmp_path):
    _, rows = ran(pairing="map", pairs_per_record=2, alpha=2.5)
    records = stored(configured(models, corpus, tmp_path))
    margins = {"h": [], "d": []}
    for record in records:
        best, worst = (
            int(x[0]) for x in best_worst(np.array(record["rewards"]), np.array([0, len(record["rewards"])]))
        )
        row = as_row(record, best, worst)
        margins["h"].append(abs(plain.h(row)))
        margins["d"].append(abs(plain.d(row)))
    s_r, s_i = (1 / plain.deviation(margins[name]) for name in "hd")
    selected = by_record(rows)
    for record in records:
        score = {
            pair: s_r * abs(plain.h(as_row(record, *pair))) - 2.5 * s_i * abs(plain.d(as_row(record, *pair)))
            for pair in ordered_pairs(record)
        }
        best = sorted(score, key=score.get, reverse=True)[:2]
        ids = {f"{record['pair_id']}:{chosen}-{rejected}" for chosen, rejected in best}
        assert {row["pair_id"] for row in selected[record["pair_id"]]} == ids


def test_ranked_pairs_are_the_best_against_the_others_widest_gap_first(ran, models, corpus, tmp_path):
    _, rows = ran(metric="explicit", pairing="ranked", pairs_per_record=3)
    for record in stored(configured(models, corpus, tmp_path)):
        best = max(record["rewards"])
        gaps = sorted((best - reward for reward in record["rewards"] if reward < best), reverse=True)[:3]
        ours = [row["reward_margin"] for row in by_record(rows)[record["pair_id"]]]
        assert ours == pytest.approx(gaps, rel=1e-12)


def test_texts_and_columns_belong_to_the_pair(ran, corpus):
    _, rows = ran(pairing="ranked", pairs_per_record=4)
    table = pa.concat_tables(pq.read_table(file) for file in sorted(corpus.iterdir()))
    responses = dict(zip(table["prompt"].to_pylist(), table["responses"].to_pylist()))
    for row in rows:
        chosen, rejected = map(int, row["pair_id"].split(":")[1].split("-"))
        texts = responses[row["prompt"][0]["content"]]
        assert row["chosen"][0]["content"] == texts[chosen]["text"]
        assert row["rejected"][0]["content"] == texts[rejected]["text"]
        assert row["label_agrees"]


def test_another_pairing_scores_nothing_again(models, corpus, tmp_path, ran):
    first, _ = ran()
    again = rank_job(configured(models, corpus, tmp_path, pairing="map", pairs_per_record=5))
    assert set(again["fingerprints"].values()) == set(first["fingerprints"].values())
    assert again["counts"]["ranked"] > first["counts"]["ranked"]


def test_a_cap_counts_the_pairs_of_a_prompt(ran):
    _, rows = ran(pairing="ranked", pairs_per_record=12, per_prompt=2)
    assert max(Counter(row["prompt"][0]["content"] for row in rows).values()) == 2


def test_any_cut_into_units_gives_the_same_selection(models, corpus, tmp_path):
    rows = []
    for size in (1, 1000):
        config = configured(models, corpus, tmp_path, pairing="map", pairs_per_record=3, metrics=["dcrm"])
        execution = config.execution.model_copy(update={"rows_per_unit": size})
        manifest = run(config.model_copy(update={"execution": execution}))
        rows.append(pq.read_table(f"{path_of(manifest)}/selected").to_pylist())
    assert rows[0] == rows[1]


def test_a_pair_is_found_by_its_id_and_by_its_rank(ran):
    manifest, rows = ran(pairing="ranked", pairs_per_record=12)
    for row in (rows[0], rows[-1]):
        assert find_pair(manifest, row["pair_id"]) == row
        assert find_pair(manifest, str(row["rank"])) == row
    assert find_pair(manifest, rows[0]["pair_id"].split(":")[0] + ":12-11") is None


@pytest.mark.parametrize("selection", [{"pairing": "dcrm"}, {"pairing": "ranked", "pairs_per_record": 2}])
def test_pairs_are_not_paired_again(models, tmp_path, selection):
    corpus = write_corpus(tmp_path / "in", make_pairs(10))
    with pytest.raises(ConfigError, match="has pairs already"):
        prepare(configured(models, corpus, tmp_path, **selection))


def test_thirteen_responses_cost_one_prompt_and_thirteen_completions(models, corpus, tmp_path, ran):
    """Whatever the pairing: the tokens that went through the policy are those of each sequence once."""
    manifest, _ = ran(pairing="dcrm", pairs_per_record=78, metrics=["dcrm"])
    records = stored(configured(models, corpus, tmp_path))
    completion_tokens = sum(sum(record["num_tokens"]) for record in records)
    tokens = manifest["tokens"] if "tokens" in manifest else manifest["spent"]["tokens"]
    prompts = tokens["policy"] - completion_tokens
    assert 0 < prompts < 39 * 30, "each prompt once"

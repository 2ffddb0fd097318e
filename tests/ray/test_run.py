"""The whole job on a local Ray: counts, resume, schedules; kinds of corpora, for which Ray is nothing, without it."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from ray.data import DataContext

from mapjob.config.load import parse_config
from mapjob.errors import ConfigError, IncompleteError, InputError, ModelError
from mapjob.job.run import rank_job, run_job
from mapjob.pipeline.on_ray import OnRay
from mapjob.store.run_folder import open_run, path_of
from tests.fakes import make_policy, make_tokenizer
from tests.ray.conftest import NUM_ROWS, REASONS, World
from tests.selection.test_pieces import read_run
from tests.without_ray import run as run_in_process

SMALL_UNITS = {"execution": {"rows_per_unit": 40}}


def selected(manifest: dict) -> pa.Table:
    run = open_run(path_of(manifest))
    return pa.concat_tables([run.folder.read_table(name) for name in run.folder.tables("selected")])


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A run in slices of three units, and its events beside it."""
    output = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mapjob.job.prepare.UNITS_PER_PASS", 3)
        return output, run_job(world.config(output, **SMALL_UNITS), events=str(output.parent / "events.jsonl"))


def column_files(output: Path) -> dict[str, int]:
    return {str(f.relative_to(output)): f.stat().st_mtime_ns for f in (output / "scores").rglob("*.parquet")}


def test_every_row_is_ranked_or_refused_with_its_reason(finished: tuple[Path, dict]) -> None:
    _, manifest = finished
    counts = manifest["counts"]
    assert counts["by_reason"] == REASONS
    assert counts["rows"] == NUM_ROWS == counts["ranked"] + sum(REASONS.values())
    assert counts["broken"] == 1
    assert counts["selected"] == int(0.4 * counts["ranked"])
    run = open_run(path_of(manifest))
    errors = pa.concat_tables([run.folder.read_table(name) for name in run.folder.tables("errors")]).to_pylist()
    assert {(e["reason"], Path(e["file"]).name, e["row"]) for e in errors} == {
        ("duplicate", "part-000.parquet", 10),
        ("duplicate", "part-001.parquet", 20),
        ("identical_completions", "part-000.parquet", 20),
        ("null_field", "part-000.parquet", 31),
        ("control_tokens", "part-000.parquet", 42),
        ("overlength", "part-000.parquet", 53),
    }


def test_ranked_by_ray_tasks_it_is_the_same(world, finished, monkeypatch) -> None:
    output, _ = finished
    tree = world.config(output, **SMALL_UNITS).model_dump() | {"max_error_rate": 0.02}
    selection = {"metric": "map_signed", "metrics": ["explicit"], "per_prompt": 1, "held_out": 0.1}
    whole = read_run(tree, selection)
    monkeypatch.setattr("mapjob.job.rank.count_pieces", lambda job: 4)
    assert read_run(tree, selection) == whole
    with pytest.raises(ConfigError, match="ensemble_worst compares several reward models, and there is one"):
        rank_job(parse_config(tree | {"selection": {"metric": "ensemble_worst"}}))


def test_a_task_that_kills_its_process_leaves_the_ranking_to_the_next_command() -> None:
    with pytest.raises(IncompleteError, match="the cluster failed"):
        OnRay().run(os._exit, [[9, 9]])
    with pytest.raises(ZeroDivisionError):
        OnRay().run(divmod, [[1, 2]], 0)


def test_other_graphs_of_the_process_are_left_alone(finished: tuple[Path, dict]) -> None:
    ours, own = DataContext.get_current(), DataContext()
    assert ours.target_max_block_size == own.target_max_block_size > 1
    assert ours.raise_original_map_exception == own.raise_original_map_exception


def test_selection_is_in_rank_order_with_the_users_columns(finished: tuple[Path, dict]) -> None:
    table = selected(finished[1])
    assert table["rank"].to_pylist() == list(range(1, table.num_rows + 1))
    assert (np.diff(table["map_score"].to_numpy()) <= 0).all()
    assert table.column_names[:4] == ["prompt", "chosen", "rejected", "source"]
    margin = table["chosen_reward"].to_numpy() - table["rejected_reward"].to_numpy()
    np.testing.assert_array_equal(table["reward_margin"].to_numpy(), margin)


def test_load_dataset_gives_the_selection(finished: tuple[Path, dict], tmp_path: Path) -> None:
    loaded = load_dataset(path_of(finished[1]), split="train", cache_dir=str(tmp_path))
    assert loaded["pair_id"] == selected(finished[1])["pair_id"].to_pylist()
    assert loaded[0]["prompt"][0]["role"] == "user"
    assert loaded[0]["chosen"][0]["role"] == "assistant"


def test_a_finished_run_scores_nothing(world: World, finished: tuple[Path, dict]) -> None:
    output, manifest = finished
    before = column_files(output)
    again = run_job(world.config(output, **SMALL_UNITS))
    assert again["spent"]["scored_rows"] == 0
    assert again | {"spent": manifest["spent"]} == manifest
    assert column_files(output) == before


def test_another_alpha_needs_no_model_and_leaves_latest(world: World, finished: tuple[Path, dict]) -> None:
    output, manifest = finished
    before = column_files(output)
    other = rank_job(world.config(output, selection={"alpha": 2.5}, **SMALL_UNITS))
    assert other["run_id"] != manifest["run_id"]
    assert column_files(output) == before
    assert json.loads((output / "latest.json").read_text())["run_id"] == manifest["run_id"]


def test_only_what_is_missing_is_scored_again(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path, **SMALL_UNITS)
    first = selected(run_in_process(config))
    before = column_files(tmp_path)
    lost = [name for i, name in enumerate(sorted(before)) if i % 3 == 0]
    for name in lost:
        (tmp_path / name).unlink()
    for file in (tmp_path / "runs").rglob("manifest.json"):
        file.unlink()
    assert selected(run_in_process(config)).equals(first)
    after = column_files(tmp_path)
    assert set(after) == set(before)
    assert {name for name in before if after[name] != before[name]} == set(lost)


@pytest.mark.slow  # tests/golden/test_batch_mates.py has it to the last bit, without Ray
def test_numbers_do_not_depend_on_actors_batches_units_or_schedule(
    world: World, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    pools = {name: {"min_size": 2, "max_size": 2} for name in ("policy", "reward")}
    execution = {"rows_per_unit": 1000, "schedule": "one_by_one", "tokens_per_batch": 300, "pools": pools}
    other = selected(run_job(world.config(tmp_path, execution=execution)))
    table = selected(finished[1])
    assert other["pair_id"].to_pylist() == table["pair_id"].to_pylist()
    for name in ("chosen_logps", "rejected_logps", "chosen_reward", "rejected_reward"):
        assert np.abs(other[name].to_numpy() - table[name].to_numpy()).max() <= 1e-4


def test_many_units_are_scored_in_slices_with_one_progress(
    world: World, finished: tuple[Path, dict], tmp_path: Path
) -> None:
    output, manifest = finished
    assert selected(manifest).equals(selected(run_in_process(world.config(tmp_path, **SMALL_UNITS))))
    log = [json.loads(line) for line in (output.parent / "events.jsonl").read_text().splitlines()]
    (scoring,) = (event for event in log if event["event"] == "pass")
    assert scoring["units"] == sum(event["event"] == "unit" for event in log) > 3


def test_dpo_scores_a_reference_and_nothing_else_again(world: World, finished: tuple[Path, dict]) -> None:
    output, _ = finished
    before = column_files(output)
    models = {"reference": {"path": str(world.reference), "dtype": "float32"}}
    manifest = run_in_process(world.config(output, models=models, selection={"implicit": "dpo"}, **SMALL_UNITS))
    after = column_files(output)
    assert all(after[name] == before[name] for name in before)
    assert {name.split("/")[1] for name in set(after) - set(before)} == {manifest["fingerprints"]["reference"]}
    row = selected(manifest).to_pylist()[0]
    gap = (row["chosen_logps"] - row["ref_chosen_logps"]) - (row["rejected_logps"] - row["ref_rejected_logps"])
    assert row["implicit_margin"] == pytest.approx(gap, abs=1e-12)


def test_policy_as_its_own_reference_is_refused(world: World, tmp_path: Path) -> None:
    models = {"reference": {"path": str(world.policy), "dtype": "float32"}}
    with pytest.raises(ConfigError, match="same model"):
        run_job(world.config(tmp_path, models=models, selection={"implicit": "dpo"}))


def test_rank_without_scores_says_what_is_missing(world: World, tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match="3 of 3 units of policy"):
        rank_job(world.config(tmp_path))


def test_too_many_broken_rows_end_the_run_without_a_manifest(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="null_field") as caught:
        run_in_process(world.config(tmp_path, max_error_rate=0.001))
    assert "part-000.parquet, row 31" in str(caught.value)
    assert caught.value.exit_code == 3
    assert not list(tmp_path.rglob("manifest.json"))
    columns = [pq.read_schema(file).names for file in tmp_path.glob("scores/*/*.parquet")]
    assert columns
    assert not any("logps" in names or "rewards" in names for names in columns), "no model was asked for it"


def test_a_model_that_cannot_be_used_ends_the_run_from_its_worker(world: World, tmp_path: Path) -> None:
    """The head's weights are missing from the file, which only the worker that loads them can see."""
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "reward"
    broken.mkdir()
    for file in world.reward.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = load_file(broken / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"made up at random: score.weight"):
        run_job(world.config(tmp_path / "out", models={"reward": {"path": str(broken), "dtype": "float32"}}))


def test_plain_strings_without_a_template_are_scored_and_written_as_strings(world: World, tmp_path: Path) -> None:
    policy = make_policy(tmp_path / "raw", "gpt2", make_tokenizer(chat=False))
    config = world.config(tmp_path / "out", models={"policy": {"path": str(policy), "dtype": "float32"}})
    manifest = run_in_process(config, limit=30)
    assert manifest["corpus"]["style"] == "raw"
    assert selected(manifest).schema.field("prompt").type == pa.string()


def test_candidates_pair_best_against_worst(world: World, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"prompt {i}", "responses": [{"text": f"answer {i} {'word ' * j}"} for j in range(2 + i % 4)]}
        for i in range(12)
    ]
    folder = tmp_path / "candidates"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "part.parquet")
    config = world.config(tmp_path / "out", input={"path": str(folder)}, selection={"keep": {"ratio": 1.0}})
    manifest = run_in_process(config)
    assert manifest["corpus"]["reading"]["responses"] == "responses"
    assert manifest["counts"]["ranked"] == 12
    assert (selected(manifest)["reward_margin"].to_numpy() > 0).all()

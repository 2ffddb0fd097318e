"""execution.rows_per_unit: auto: about a minute of one actor's work, within 32 and 2,000 rows."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mapjob as api
from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.job import unit_size
from mapjob.job.prepare import prepare
from mapjob.job.unit_size import SIZES, keep_pace, measure_pace, size_units
from mapjob.pipeline.progress import Total
from mapjob.pipeline.stages import Cost, Receipt
from mapjob.scoring.costs import token_cost
from mapjob.scoring.spec import scorer_files
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("sizes")
    corpus = write_corpus(folder / "corpus", make_pairs(100))
    models = make_policy(folder / "policy"), make_reward(folder / "reward")
    tree = config_tree(corpus, folder / "out", *models)
    tree["execution"].pop("rows_per_unit", None)
    return parse_config(tree)


def rows_of(size: int | Callable[[str, float], int], characters: float) -> int:
    assert callable(size)
    return size("a.parquet", characters)


def with_speed(monkeypatch: pytest.MonkeyPatch, flop_per_s: float) -> None:
    monkeypatch.setattr(unit_size, "_flop_per_s", lambda *_: flop_per_s)


@pytest.mark.parametrize("rows_in_a_minute", [1, 31, 32, 100, 499, 500, 1999, 2000, 10**9])
def test_the_largest_size_that_a_minute_has_room_for(
    config: Config, monkeypatch: pytest.MonkeyPatch, rows_in_a_minute: int
) -> None:
    files = scorer_files(config, False).values()
    flop_of_a_row = 2.0 * max(map(token_cost, files)) * 1000 / 4
    with_speed(monkeypatch, flop_of_a_row * (rows_in_a_minute + 0.5) / 60)
    expected = max([size for size in SIZES if size <= rows_in_a_minute], default=SIZES[0])
    assert rows_of(size_units(config, files), 1000) == expected


def test_what_a_run_took_per_row_sizes_the_units_of_new_files(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = config.model_copy(update={"output": config.output.model_copy(update={"path": str(tmp_path / "out")})})
    with_speed(monkeypatch, 1.0)
    specs = prepare(config).scorers
    files = [spec.files for spec in specs]
    assert rows_of(size_units(config, files), 1000) == SIZES[0]
    total = Total()
    for name, seconds in (("policy", 1.0), ("reward", 60.0 * 100 / 600)):
        cost = Cost(1, seconds, 0.0, 0.0, "")
        total.add(Receipt("unit", 100, {name: {}}, {name: cost}, {name: 100}))
    keep_pace(config.output.path, measure_pace(specs, total))
    assert rows_of(size_units(config, files), 1000) == 500
    keep_pace(config.output.path, measure_pace(specs, total))
    assert len(list((tmp_path / "out" / "plans").glob("pace*"))) == 1


def test_a_number_in_the_run_file_is_taken_as_it_is(config: Config) -> None:
    execution = config.execution.model_copy(update={"rows_per_unit": 77})
    assert size_units(config.model_copy(update={"execution": execution}), []) == 77


def test_files_that_were_cut_keep_their_units_on_a_machine_of_another_speed(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_speed(monkeypatch, 1.0)
    first = run(config)
    assert first["corpus"]["rows_per_unit"] == {"": 32}
    assert first["corpus"]["num_units"] == len(first["units"]) > 3
    with_speed(monkeypatch, 1e18)
    assert [unit.id for unit in prepare(config).plan.units] == first["units"]
    for file in (Path(config.output.path) / "plans").glob("pace*"):
        file.unlink()
    rows = pa.Table.from_pylist(make_pairs(200)[100:])
    pq.write_table(rows, Path(str(config.input.path)) / "more.parquet")
    plan = prepare(config).plan
    assert sorted(plan.rows_per_unit.values())[-1] == 2000
    assert len(plan.unnamed) == 1
    # Without what is known of files, they are cut otherwise, and their rows are still not scored again.
    for file in (Path(config.output.path) / "plans").iterdir():
        file.unlink()
    second = run(config)
    assert second["spent"]["scored_rows"] == 100


def test_a_run_whose_files_are_cut_by_several_sizes_is_ranked_again_without_what_is_known(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", make_pairs(100))
    config = config.model_copy(
        update={
            "input": config.input.model_copy(update={"path": str(corpus)}),
            "output": config.output.model_copy(update={"path": str(tmp_path / "out")}),
        }
    )
    with_speed(monkeypatch, 1.0)
    run(config)
    for file in (tmp_path / "out" / "plans").glob("pace*"):
        file.unlink()
    pq.write_table(pa.Table.from_pylist(make_pairs(200)[100:]), corpus / "part-9.parquet")
    with_speed(monkeypatch, 1e18)
    second = run(config)
    assert set(second["corpus"]["rows_per_unit"].values()) == {32, 2000}
    for file in (tmp_path / "out" / "plans").iterdir():
        file.unlink()
    assert len(api.load_scores(str(tmp_path / "out"))) == second["counts"]["ranked"]

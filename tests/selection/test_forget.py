"""`mapjob forget`: nothing of a row is left below the output, and nothing else is scored again."""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from mapjob.cli.app import app
from mapjob.config.load import parse_config
from mapjob.errors import ConfigError, IncompleteError
from mapjob.job import forget as module
from mapjob.job.forget import find_leaving, forget
from mapjob.job.rank import sweep_job
from mapjob.job.run import load_scores, rank_job
from mapjob.ranking.compare import choices
from mapjob.store import packs, score_store
from mapjob.store.remote import filesystem
from mapjob.store.run_folder import open_run, path_of
from mapjob.store.storage import SCRATCH
from tests.crash.interrupted import Calls, killed
from tests.fakes import config_tree, make_pairs, make_policy, make_reward
from tests.storage.test_requests_of_a_night import count_requests
from tests.without_ray import run

ROWS, FILES = 40, 4
IDENTICAL = 13


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return make_policy(folder / "policy"), make_reward(folder / "reward")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (packs, score_store):
        monkeypatch.setattr(each, "FEWEST_UNITS", 2)
    monkeypatch.setattr(packs, "UNITS_PER_PACK", 3)


def write(corpus: Path, form: str, rows: list[dict[str, Any]]) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        part = rows[number::FILES]
        if form == "parquet":
            pq.write_table(pa.Table.from_pylist(part), corpus / f"part-{number}.parquet", row_group_size=5)
        else:
            (corpus / f"part-{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))


def make_rows() -> list[dict[str, Any]]:
    rows = [{**row, "name": f"row-number-{i:04}-"} for i, row in enumerate(make_pairs(ROWS, seed=5))]
    for row in rows:
        for side in ("prompt", "chosen", "rejected"):
            row[side] += f" {side} of {row['name']}"
    rows[IDENTICAL]["rejected"] = rows[IDENTICAL]["chosen"]
    return rows


def prepared(folder: Path, models: tuple[Path, Path], form: str) -> dict[str, Any]:
    """Three runs, one by verdicts on its rows, and a sweep over a corpus: the run file."""
    write(folder / "corpus", form, make_rows())
    more = {"input": {"columns": {"id": "name"}}, "execution": {"rows_per_unit": 5}, "max_error_rate": 0.1}
    tree = config_tree(folder / "corpus", folder / "out", *models, selection={"held_out": 0.3}, **more)
    run(parse_config(tree))
    rank_job(parse_config({**tree, "selection": {"keep": {"ratio": 1.0}, "metric": "map_signed"}}))
    verdicts = "".join(json.dumps({"pair_id": row["name"], "verdict": "keep"}) + "\n" for row in make_rows())
    (folder / "verdicts.jsonl").write_text(verdicts)
    rank_job(parse_config({**tree, "selection": {"verdicts": f"{folder}/verdicts.jsonl"}}))
    sweep_job(parse_config(tree), choices(("map", "random"), [1.0], [0.5]))
    return tree


def leaving_ids(folder: Path, tree: dict[str, Any]) -> list[str]:
    """The first and the last of a selection, one that is held out, one that is broken, one that is not selected."""
    out = folder / "out"
    first = open_run(str(out)).folder
    selected, held_out = (
        pa.concat_tables([first.read_table(n, ["pair_id"]) for n in first.tables(of)])["pair_id"].to_pylist()
        for of in ("selected", "held_out")
    )
    other = next(row["name"] for row in make_rows() if row["name"] not in {*selected, *held_out})
    return [selected[0], selected[-1], held_out[0], other, make_rows()[IDENTICAL]["name"]]


def scores_of(folder: Path, ids: list[str]) -> list[float]:
    """Every number that the store or a ranking has of these rows, but counts."""
    store, numbers = folder / "out" / "scores", set()
    of_unit: dict[str, list[int]] = {}
    for file in store.glob("*/*.parquet"):
        table = pq.read_table(file)
        if "pair_id" in table.column_names:
            of_unit[file.stem] = np.flatnonzero(pc.is_in(table["pair_id"], pa.array(ids))).tolist()
    for file in store.glob("*/*.parquet"):
        numbers |= set(floats(pq.read_table(file).take(pa.array(of_unit[file.stem], pa.int64()))))
    for name in (folder / "out" / "runs").iterdir():
        table = load_scores(str(name))
        numbers |= set(floats(table.filter(pc.is_in(table["pair_id"], pa.array(ids)))))
    return sorted(number for number in numbers if number != round(number, 1))


def floats(table: pa.Table) -> Iterator[float]:
    for column in table.columns:
        while pa.types.is_list(column.type):
            column = pc.list_flatten(column)
        if pa.types.is_floating(column.type):
            yield from column.drop_null().to_pylist()


def texts(table: pa.Table) -> Iterator[str]:
    yield json.dumps(table.to_pylist(), default=lambda value: value.hex() if isinstance(value, bytes) else str(value))


def numbers_in(value: Any) -> Iterator[float]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from numbers_in(item)
    elif isinstance(value, float):
        yield value


def find_traces(out: Path, words: list[str], numbers: list[float]) -> list[str]:
    """Where any of the words or numbers is, in the bytes of a file, decoded, or in the statistics of a footer."""
    traces, wanted = [], set(numbers)
    for file in sorted(path for path in out.rglob("*") if path.is_file()):
        data, name = file.read_bytes(), str(file.relative_to(out))
        text, found = data.decode("utf-8", "replace"), set[float]()
        if file.suffix == ".parquet":
            parquet = pq.ParquetFile(file)
            table, footer = parquet.read(), parquet.metadata
            text += "".join(texts(table))
            found |= set(floats(table))
            for group in range(footer.num_row_groups):
                for column in range(footer.num_columns):
                    statistics = footer.row_group(group).column(column).statistics
                    if statistics is not None and statistics.has_min_max:
                        text += f"{statistics.min} {statistics.max}"
                        found |= {v for v in (statistics.min, statistics.max) if isinstance(v, float)}
        elif file.suffix == ".json":
            found |= set(numbers_in(json.loads(data)))
        traces += [f"{name}: {word}" for word in words if word in text]
        traces += [f"{name}: {number}" for number in sorted(wanted & found)]
        traces += [f"{name}: {number}" for number in numbers if file.suffix != ".parquet" and f"{number:.6g}" in text]
    return traces


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_nothing_of_a_row_is_left_and_nothing_else_is_scored_again(tmp_path, models, form):
    tree = prepared(tmp_path, models, form)
    out, ids = tmp_path / "out", leaving_ids(tmp_path, tree)
    numbers, before = scores_of(tmp_path, ids), load_scores(str(out))
    rows = [row for row in make_rows() if row["name"] in ids]
    hashes = [part for row in rows for part in keys_of(tmp_path, row["name"])]
    words = [row["name"] for row in rows] + hashes
    assert len(numbers) > 20
    assert len(find_traces(out, words, numbers)) > 50
    (tmp_path / "ids.txt").write_text("\n".join([*ids, "no such id"]))
    done = CliRunner().invoke(app, ["forget", str(out), "--ids", f"{tmp_path}/ids.txt"], input="n\n")
    assert "1 of 6 ids are of no row" in done.stdout
    assert "2 of selected" in done.stdout
    assert len(find_traces(out, words, numbers)) > 50, "nothing happens without a yes"
    done = CliRunner().invoke(app, ["forget", str(out), "--ids", f"{tmp_path}/ids.txt", "--yes", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 5
    assert find_traces(out, words, numbers) == []

    config = parse_config(tree)
    marked = open_run(str(out))
    assert marked.manifest["forgotten"]["rows"] == 5
    with pytest.raises(ConfigError, match="5 rows of this run were forgotten"):
        load_scores(str(out))
    again = run(config)  # the corpus still has the rows
    assert again["run_id"] != marked.folder.run_id
    assert again["spent"]["scored_rows"] == 0
    assert again["counts"]["by_reason"]["forgotten"] == 5
    assert "forgotten" not in again
    after = load_scores(path_of(again))
    assert set(after["pair_id"].to_pylist()) == set(before["pair_id"].to_pylist()) - set(ids)
    assert find_traces(out / "scores", words, numbers) == find_traces(out / "runs", words, numbers) == []
    write(tmp_path / "corpus", form, [row for row in make_rows() if row["name"] not in ids])
    third = run(config)
    assert third["spent"]["scored_rows"] == 0
    assert "forgotten" not in third["counts"]["by_reason"]
    assert load_scores(path_of(third)).select(["pair_id", "map_score"]) == after.select(["pair_id", "map_score"])
    assert find_traces(out / "scores", words, numbers) == []


def test_a_new_policy_does_not_bring_a_row_back(tmp_path, models):
    tree, ids = prepared(tmp_path, models, "parquet"), ["row-number-0003-"]
    keys = keys_of(tmp_path, *ids)
    forget(find_leaving(tree["output"]["path"], ids))
    other = {**tree["models"]["policy"], "path": str(make_policy(tmp_path / "other", seed=9))}
    again = run(parse_config({**tree, "models": {**tree["models"], "policy": other}}))
    assert again["spent"]["scored_rows"] > 0
    assert again["counts"]["by_reason"]["forgotten"] == 1
    assert find_traces(tmp_path / "out", [*ids, *keys], []) == []


def test_a_source_leaves_with_all_its_rows_and_no_others(tmp_path, models):
    tree = prepared(tmp_path, models, "jsonl")
    gone = make_rows()[1::FILES]  # with the row whose sides are identical
    words, numbers = [row["name"] for row in gone], scores_of(tmp_path, [row["name"] for row in gone])
    before = set(load_scores(tree["output"]["path"])["pair_id"].to_pylist())
    with pytest.raises(ConfigError, match="no file of the corpus is known by this name"):
        find_leaving(tree["output"]["path"], source="part-9.jsonl")
    forget(find_leaving(tree["output"]["path"], source="part-1.jsonl"))
    assert find_traces(tmp_path / "out", words, numbers) == []
    (tmp_path / "corpus" / "part-1.jsonl").unlink()
    again = run(parse_config(tree))
    assert again["spent"]["scored_rows"] == 0
    assert set(load_scores(path_of(again))["pair_id"].to_pylist()) == before - set(words)


def test_rows_of_several_pairs_leave_by_their_own_id_and_by_that_of_a_pair(tmp_path, models):
    rows = [
        {"prompt": f"ask {i}", "responses": [f"{i} says {word}" for word in "abc"], "name": f"n-{i}-n"}
        for i in range(9)
    ]
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus" / "part.parquet")
    more = {
        "input": {"columns": {"id": "name"}},
        "selection": {"pairs_per_record": 2, "pairing": "ranked", "keep": {"ratio": 1.0}},
    }
    tree = config_tree(tmp_path / "corpus", tmp_path / "out", *models, **more)
    run(parse_config(tree))
    forget(find_leaving(tree["output"]["path"], ["n-3-n", "n-5-n:0-2"]))
    assert find_traces(tmp_path / "out", ["n-3-n", "n-5-n"], []) == []
    assert len(find_traces(tmp_path / "out", ["n-4-n"], [])) == 2


def test_killed_at_any_call_the_same_command_ends_in_the_same_state(tmp_path, models):
    tree = prepared(tmp_path, models, "jsonl")
    ids = leaving_ids(tmp_path, tree)

    def copy(name: str) -> str:
        return str(shutil.copytree(tmp_path / "out", tmp_path / name))

    calls, first = Calls(), copy("first")
    with calls.counted():
        forget(find_leaving(first, ids))
    expected = state(first)
    for number, at in enumerate(sorted(random.sample(range(1, len(calls.names) + 1), 12))):
        output = copy(f"out-{number}")
        with Calls().counted():  # whatever the parent had opened
            killed(lambda output=output: forget(find_leaving(output, ids)), at)
        forget(find_leaving(output, ids))
        assert state(output) == expected, f"killed at call {at}, {calls.names[at - 1]}"
        shutil.rmtree(output)


def state(output: str) -> dict[str, Any]:
    """All files, but for the empty one that a kill after the last link leaves in the scratch folder."""
    files = {str(file.relative_to(output)): file for file in Path(output).rglob("*") if file.is_file()}
    files = {name: file for name, file in files.items() if file.stat().st_size or not name.startswith(f"{SCRATCH}/")}
    salted = {
        name: json.loads(file.read_text())["units"]
        for name, file in files.items()
        if name.startswith("forgotten/") and name.endswith(".json")
    }
    return {name: file.read_bytes() for name, file in files.items()} | salted


def test_another_forget_waits_for_one_that_has_not_ended_and_for_a_run(tmp_path, models, monkeypatch):
    tree = prepared(tmp_path, models, "parquet")
    output = tree["output"]["path"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_take_from_run", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forget(find_leaving(output, ["row-number-0003-"]))
    with pytest.raises(ConfigError, match="an earlier `mapjob forget` has not ended"):
        find_leaving(output, ["row-number-0004-"])
    forget(find_leaving(output, ["row-number-0003-"]))
    leaving = find_leaving(output, ["row-number-0003-"])
    assert not leaving.rows
    assert not leaving.runs
    monkeypatch.setattr(module, "SKEW_S", 0.0)
    unit = next((tmp_path / "out" / "scores").glob("*/*.parquet"))
    unit.with_name("new.parquet").write_bytes(unit.read_bytes())
    with pytest.raises(IncompleteError, match="a run may be going on here"):
        find_leaving(output, ["row-number-0004-"])


def test_rows_leave_an_output_on_s3(tmp_path, models, bucket):
    write(tmp_path / "corpus", "jsonl", make_rows())
    more = {"input": {"columns": {"id": "name"}}, "execution": {"rows_per_unit": 5}, "max_error_rate": 0.1}
    tree = config_tree(tmp_path / "corpus", tmp_path / "out", *models, **more)
    tree["output"]["path"] = f"{bucket}/out"
    run(parse_config(tree))
    with count_requests() as requests:
        forget(find_leaving(tree["output"]["path"], ["row-number-0003-"]))
    twice = {key: number for (method, key), number in requests.items() if method == "get_object" and number > 2}
    assert not twice
    fs, root = filesystem(tree["output"]["path"])
    fs.get(root, str(tmp_path / "copy"), recursive=True)
    assert find_traces(tmp_path / "copy", ["row-number-0003-"], []) == []
    assert len(find_traces(tmp_path / "copy", ["row-number-0004-"], [])) > 2
    assert run(parse_config(tree))["spent"]["scored_rows"] == 0


def keys_of(folder: Path, name: str) -> list[str]:
    """The row key and the prompt key of a row, in hex."""
    for file in (folder / "out" / "scores").glob("*/*.parquet"):
        table = pq.read_table(file)
        if "pair_id" in table.column_names:
            for row in table.filter(pc.equal(table["pair_id"], name)).select(["row_key", "prompt_key"]).to_pylist():
                return [key.hex() for key in row.values() if key is not None]
    raise AssertionError(name)

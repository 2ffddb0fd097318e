"""plan, run, rank, show and config on a small corpus: `run` on a Ray of its own, the others in this process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mapjob.store import run_folder
from mapjob.store.storage import Storage
from tests.cli.conftest import Mapjob
from tests.fakes import make_pairs, write_corpus

RunFile = Callable[..., Path]


def last_json(result) -> dict:
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_plan_run_rank_show(mapjob: Mapjob, here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    path = run_file(execution={"rows_per_unit": 20}, input={"columns": {"group": "source"}})

    planned = last_json(here("plan", path, "--json"))
    assert planned["rows"] == 60
    assert planned["run_id"] is None, "it depends on what the rows say"
    assert planned["units_to_do"] == {"records": 4, "policy": 4, "reward": 4}
    assert not (tmp_path / "out").exists(), "plan touches nothing"

    ran = mapjob("run", path, "--json")
    result = last_json(ran)
    assert result["run_id"] == last_json(here("plan", path, "--json"))["run_id"]
    assert result["counts"]["selected"] == 24
    assert "sides: [chosen, rejected]" in ran.stderr
    assert "4/4 units, 60/60 pairs" in ran.stderr
    assert "Warning" not in ran.stderr

    again = last_json(here("run", path, "--json"))
    assert again["run_path"] == result["run_path"]
    assert (result["scored_rows"], again["scored_rows"]) == (60, 0), "what this call did"
    assert last_json(here("plan", path, "--json"))["units_to_do"] == {"records": 0, "policy": 0, "reward": 0}

    ranked = last_json(
        here("rank", path, "--set", "selection.alpha=2.5", "--set", "selection.keep={count: 7}", "--json")
    )
    assert ranked["counts"]["selected"] == 7
    assert ranked["run_path"] != result["run_path"]

    shown = here("show", result["run_path"], "1")
    assert shown.returncode == 0
    for part in ("rank 1 of 60", "--- prompt", "--- chosen", "--- rejected", "reward margin", "map_score"):
        assert part in shown.stdout
    pair_id = shown.stdout.split("pair_id ")[1].split()[0]
    assert "rank 60 of 60 (not selected)" in here("show", tmp_path / "out", "60").stdout
    assert here("show", tmp_path / "out", "61").returncode == 2
    assert here("show", result["run_path"], pair_id).stdout == shown.stdout


def test_commands_read_a_manifest_once_and_its_units_only_if_they_need_them(
    here: Mapjob, run_file: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a corpus of 10^9 pairs the list of units has 14 MB."""
    monkeypatch.setattr(run_folder, "MOST_UNITS", 1)
    out, corpus = tmp_path / "out", write_corpus(tmp_path / "corpus", make_pairs(60))
    old, new = (
        last_json(here("run", run_file(input={"path": str(corpus)}, selection={"alpha": a}), "--json"))["run_path"]
        for a in (1.0, 2.5)
    )
    read, reads = Storage.read, []
    monkeypatch.setattr(Storage, "read", lambda self, name: reads.append(self.path(name)) or read(self, name))
    commands = {
        ("status", out): [old, new],
        ("clean", out): [old, new],
        ("diff", old, new): [old, new],
        ("show", old, "1"): [old],
        ("show", out, "60"): [new],  # not selected, so ranked again from the score store
    }
    for command, runs in commands.items():
        reads.clear()
        assert here(*command).returncode == 0
        assert sorted(name for name in reads if name.endswith("manifest.json")) == sorted(
            f"{run}/manifest.json" for run in runs
        )
        units = sorted(name for name in reads if name.endswith("units.parquet"))
        assert units == (sorted(f"{run}/units.parquet" for run in runs) if command[0] == "clean" else [])

    write_corpus(corpus, make_pairs(30))
    reads.clear()
    assert "units are no longer in the corpus" in here("status", out).stdout
    assert [name for name in reads if name.endswith("units.parquet")] == [f"{new}/units.parquet"]


def test_lines_for_people_fit_into_80_columns(here: Mapjob, run_file: RunFile) -> None:
    """But for paths."""
    old, new = (last_json(here("run", run_file(selection={"alpha": a}), "--json"))["run_path"] for a in (1.0, 2.5))
    for command in (["plan", run_file()], ["read", run_file()], ["diff", old, new]):
        done = here(*command)
        assert done.returncode == 0
        assert not [line for line in done.stdout.splitlines() if len(line) > 80 and " " in line.strip()]


def test_config_check_prints_what_it_reads_back(here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    printed = here("config", "check", run_file())
    assert printed.returncode == 0
    copy = tmp_path / "copy.yaml"
    copy.write_text(printed.stdout)
    assert here("config", "check", copy).stdout == printed.stdout
    assert yaml.safe_load(printed.stdout)["selection"]["metric"] == "map"


def test_config_schema_names_every_key(here: Mapjob) -> None:
    schema = json.loads(here("config", "schema").stdout)
    assert {"input", "output", "models", "scoring", "selection", "execution"} <= set(schema["properties"])


def test_every_metric_is_explained(here: Mapjob) -> None:
    listed = here("rank", "--list")
    assert listed.returncode == 0
    for name in ("map", "bees", "difficulty_gap", "random"):
        assert f"\n{name}\n    " in f"\n{listed.stdout}"

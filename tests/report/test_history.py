"""`mapjob history` and `mapjob status`: a planted drift is seen, runs are told apart, nights stay cheap."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nights import simulate
from mapjob.report.history import Night, has_moved, history_page, history_text, reach, series, show_ends
from mapjob.report.status import WIDTH, age, describe, status_lines
from mapjob.store.run_folder import RunFolder
from tests.cli.conftest import Mapjob, here  # noqa: F401
from tests.report.parsed import Parsed

NIGHTS = 6


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """(output, manifest and cost of every night): a source grows, and the last two have another reward model."""
    folder = tmp_path_factory.mktemp("nights")
    return folder / "out", list(simulate(folder, NIGHTS, 20))


def test_history_shows_what_drifts_and_hides_experiments(here: Mapjob, nights, tmp_path: Path) -> None:  # noqa: F811
    output, made = nights
    assert here("rank", output, "--set", "selection.alpha=3", "--note", "an experiment").returncode == 0
    done = here("history", output, "--html", tmp_path / "history.html", "--json")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 100
    shown = json.loads(lines[-1])["nights"]
    assert [night["run_id"] for night in shown] == [night["manifest"]["run_id"] for night in made]
    assert [night["promoted"] for night in shown] == [False] * (NIGHTS - 1) + [True]
    moved = {line[:22].strip() for line in lines if line.endswith("moved")}
    assert {"contradicted", "group web", "group forum"} <= moved
    assert not {"rows", "dropped", "chosen tokens", "rejected tokens"} & moved
    assert shown[-1]["values"]["overlap"] == made[-1]["manifest"]["measures"]["overlap"] > 0.9
    assert shown[0]["values"]["overlap"] is None
    assert len(json.loads(here("history", output, "--all", "--json").stdout.splitlines()[-1])["nights"]) == NIGHTS + 1
    assert len(json.loads(here("history", output, "--last", "2", "--json").stdout.splitlines()[-1])["nights"]) == 2

    page = (tmp_path / "history.html").read_text()
    assert "<script" not in page
    assert page.count("<figure>") == len(series([Night(**night) for night in shown]))
    Parsed(page)


def test_a_night_asks_for_no_more_than_the_one_before(nights) -> None:
    """Beyond the scores of the corpus, which it ranks: of earlier runs only the promoted one's ids are read."""
    _, made = nights
    requests = [night["other_requests"] for night in made[1:]]
    assert max(requests) - min(requests) <= 2, requests  # a snapshot of `plans/` more, or a pack


def test_status_tells_runs_apart_within_80_columns(here: Mapjob, nights) -> None:  # noqa: F811
    output, made = nights
    RunFolder(str(output), "random-0123456789abcdef").put_text("README.md", "# killed before its manifest")
    here("rank", output, "--set", "selection.alpha=2.5", "--set", "selection.per_prompt=1", "--name", "a try")
    done = here("status", output, "--json")
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    for part in ("alpha 2.5", "per_prompt 1", "keep ratio 0.4", "trl", "policy policy", "a try", "contradicted"):
        assert part in text
    assert len([line for line in lines if line.endswith("promoted")]) == 1
    assert re.search(r"random-0123456789abcdef  unfinished, begun \d+ s ago", text)
    result = json.loads(last)
    assert [run["run_id"] for run in result["runs"] if run["promoted"]] == [made[-1]["manifest"]["run_id"]]
    (tried,) = [run for run in result["runs"] if run["name"] == "a try"]
    assert (tried["alpha"], tried["selection"]) == (2.5, {"per_prompt": 1})
    assert result["unfinished"][0]["run_id"] == "random-0123456789abcdef"


def manifest_of(nights, **more: Any) -> dict[str, Any]:
    return {**nights[1][0]["manifest"], **more}


def test_long_and_hostile_names_stay_text_within_their_line(nights) -> None:
    name, note = "x" * 60, "<script>alert(1)</script>\n\x1b[2J" * 9
    groups = {"<img src=x>": 0.7, "wörd\u202e" * 20: 0.3}
    measures = {**nights[1][0]["manifest"]["measures"], "groups": groups}
    failed = [{"check": "overlap", "value": 0.1, "limit": 0.5, "why": "overlap is 10%, at least 50%"}]
    hostile = manifest_of(
        nights, name=name, note=note, measures=measures, checks=failed, run_id=f"{'m' * 30}-{'0' * 16}"
    )
    lines = list(status_lines(describe(hostile, None)))
    assert all(len(line) <= WIDTH and line.isprintable() for line in lines)
    assert any("check failed: overlap is 10%" in line for line in lines)
    page = history_page([Night.of(hostile, None)], "out")
    assert "<img" not in page
    assert "<script" not in page
    assert "overlap is 10%" in page
    assert all(len(line) <= 100 for line in history_text([Night.of(hostile, None)]).splitlines())
    year = history_text([Night.of(hostile, None)] * 365).splitlines()
    assert max(map(len, year)) <= 100
    assert len(year) > 365


def test_a_run_of_an_older_version_has_no_measures(nights) -> None:
    old = manifest_of(nights)
    for key in ("measures", "checks", "name", "note", "for_use"):
        del old[key]
    night = Night.of(old, None)
    counts = old["counts"]
    assert night.values["contradicted"] == counts["label_disagreements"] / counts["ranked"]
    assert night.values["overlap"] is None
    assert "–" in history_text([night, night])
    assert next(status_lines(describe(old, old["run_id"]))).endswith("promoted")


def test_a_run_that_went_by_no_groups_has_no_share_of_them(nights) -> None:
    grouped = manifest_of(nights)
    plain = {**grouped, "measures": {**grouped["measures"], "groups": {}}}
    lines = series([Night.of(plain, None), Night.of(grouped, None)])
    shares = {name: values for name, values in lines.items() if name.startswith("group ")}
    assert shares
    assert all(values[0] is None and values[1] is not None for values in shares.values())
    assert not any(has_moved(name, values) for name, values in shares.items())


def test_a_line_names_the_first_and_the_last_measured_value() -> None:
    assert show_ends("overlap", [None, 0.9, 0.8, None]) == "90.0% → 80.0%"
    assert show_ends("overlap", [None, None]) == "– → –"


@pytest.mark.parametrize(
    ("name", "values", "moved"),
    [
        ("contradicted", [0.1, 0.15, 0.19], False),
        ("contradicted", [0.1, 0.15, 0.21], True),
        ("overlap", [None, 0.9, None], False),
        ("overlap", [None, None], False),
        ("chosen tokens", [100.0, 119.0], False),
        ("chosen tokens", [100.0, 121.0], True),
        ("cut-off", [0.0, 0.0], False),
        ("rows", [10, 1_000], False),
    ],
)
def test_what_has_moved(name: str, values: list[float | None], moved: bool) -> None:
    assert has_moved(name, values) == moved
    low, high = reach(name, values)
    assert low < high


def test_an_age_is_in_the_largest_unit_that_is_there_twice() -> None:
    now = datetime(2026, 11, 29, tzinfo=UTC)
    told = {
        5: "5 s",
        119: "119 s",
        120: "2 min",
        7_199: "119 min",
        7_200: "2 h",
        172_799: "47 h",
        172_800: "2 d",
        -9: "0 s",
    }
    assert {seconds: age(now - timedelta(seconds=seconds), now) for seconds in told} == {
        seconds: f"{words} ago" for seconds, words in told.items()
    }

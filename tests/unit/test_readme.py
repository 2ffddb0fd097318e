"""The README as a new user types it: its run file and its commands, in their order, in an empty folder, in process.

The models and the corpus that it names are made on the spot. What it shows of the demo's output is what is printed.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import mapjob
from mapjob.cli.app import app
from mapjob.config.load import load_config, parse_config
from mapjob.job.prepare import prepare
from mapjob.job.rank import pick_rows, rank_scored
from mapjob.lab.world.corpus import FLIPPED
from mapjob.lab.world.demo import flips_line, print_extremes
from tests.fakes import make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import without_ray

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
NOT_HERE = {
    "make demo": "sets up an environment and trains models; the demo itself: tests/unit/test_world.py, and CI",
    "make test": "these tests",
    "mapjob doctor": "starts Ray: tests/cli/test_doctor.py",
    "mapjob browse": "serves until Ctrl-C: tests/selection/test_browse.py",
    "mapjob push": "needs a hub: tests/selection/test_api_and_push.py",
    "mapjob generate": "has a run file of its own: tests/selfplay/test_generate.py",
    "mapjob train": "trains a model: tests/training/test_command.py",
    "mapjob submit": "needs a cluster: tests/cluster/test_submit.py",
    "pip install": "needs the package index; CI installs with these pins",
}
# A line that each command prints, as a pattern; of all of them together every command above or here must be named.
PRINTED = {
    "mapjob init": r"run file: run.yaml",
    "mapjob read": r"sides: \[chosen, rejected\]",
    "mapjob plan": r"sample: 40 of 40 rows",
    "mapjob run": r"(?m)^selected +16$",
    "mapjob rank": r"(?m)^selected +16$",
    "mapjob sweep": r"(?m)^all ranked +40 ",
    "mapjob report": r"report: /.*/report\.html",
    "mapjob show": r"rank 1 of 40 \(selected\)",
    "mapjob config check": r"(?m)^selection:",
    "mapjob review": r"(?m)^\d+ pairs to look at: review-map-[0-9a-f]{16}\.csv$",
    "mapjob status": r"map-[0-9a-f]{16}",
    "mapjob history": r"page: history.html",
    "mapjob promote": r"promoted: map-[0-9a-f]{16} ",
    "mapjob diff": r"\d",
    "mapjob clean": r"no unreferenced file is older than 30 days",
    "mapjob forget": r"nothing to forget",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    """Every command of the README's bash blocks, in order, without what stands behind its #."""
    lines = "".join(blocks("bash")).splitlines()
    return [line.partition(" #")[0].strip() for line in lines if line.strip()]


def name_of(command: str) -> str:
    return next(name for name in {**NOT_HERE, **PRINTED} if command.startswith(name))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder but for what the README takes for granted: a corpus, models of these names."""
    folder = tmp_path_factory.mktemp("new user")
    rows = [{**row, FLIPPED: number % 10 == 0} for number, row in enumerate(make_pairs(40))]
    write_corpus(folder / "data" / "pairs", rows)
    make_policy(folder / "org" / "policy", max_position_embeddings=2048)
    make_reward(folder / "org" / "reward-model", max_position_embeddings=2048)
    (folder / "leaving.txt").write_text("the id of no row\n")
    with chdir(folder), without_ray():
        yield folder


@pytest.fixture(scope="module")
def printed(here: Path) -> dict[str, str]:
    """What each command printed, after it ended well."""
    told = {}
    for command in commands():
        if (name := name_of(command)) in NOT_HERE:
            continue
        newest = next((here / "output" / "nightly" / "runs").glob("map-*"), None)
        arguments = shlex.split(command.replace("<run id>", newest.name if newest else ""))[1:]
        done = CliRunner().invoke(app, arguments, input="n\n")
        assert done.exit_code == 0, f"{command}\n{done.output}\n{done.exception}"
        told[name] = told.get(name, "") + done.output
    return told


@pytest.mark.parametrize("name", PRINTED)
def test_a_command_prints_what_it_is_there_for(printed: dict[str, str], name: str):
    assert re.search(PRINTED[name], printed[name]), printed[name]


def test_init_writes_the_run_file_that_the_readme_shows(printed: dict[str, str]):
    shown, written = parse_config(yaml.safe_load(blocks("yaml")[0])), load_config("run.yaml")
    assert (shown.output, shown.models, shown.selection) == (written.output, written.models, written.selection)


def test_every_command_is_run_or_named():
    assert {name_of(command) for command in commands()} == {*NOT_HERE, *PRINTED}


def test_the_lines_that_the_readme_shows_are_printed(
    printed: dict[str, str], here: Path, capsys: pytest.CaptureFixture
):
    """Of the demo: its table's columns, the line of flipped labels and the counts; only the numbers differ."""
    prepared = prepare(load_config("run.yaml"))
    scored, ranking = rank_scored(prepared)
    print_extremes(pick_rows(prepared, scored, ranking, ranking.order[:6]), "map")
    table = set(re.findall(r"\w+", capsys.readouterr().out))
    header, *_ = shown = [line for line in blocks("text")[0].splitlines() if line]
    assert set(header.split()) | set(shown[1].split()) <= table
    counts = {kind_of(line) for line in printed["mapjob run"].splitlines()}
    assert {kind_of(line) for line in shown[-5:]} <= counts
    flipped = next(line for line in shown if line.startswith("flipped labels"))
    assert kind_of(flips_line(prepared.plan, ranking)).startswith(kind_of(flipped.partition(" …")[0]))


def kind_of(line: str) -> str:
    """The line with its numbers replaced, and its spaces made one."""
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*%?", "N", line)).strip()


def test_python_says_the_same(printed: dict[str, str], here: Path):
    """The calls that the README names: a finished run is returned as it stands; every ranked pair is a row."""
    assert 'mapjob.run("run.yaml")' in README
    assert 'mapjob.load_scores("output/nightly")' in README
    assert mapjob.run("run.yaml")["counts"]["selected"] == 16
    assert len(mapjob.load_scores("output/nightly")) == 40


def test_the_run_folder_holds_what_the_readme_lists(printed: dict[str, str], here: Path):
    listed = [line[:40].strip() for line in blocks("text")[1].splitlines() if line.startswith("  ")]
    made = [str(file.relative_to(here / "output" / "nightly")) for file in (here / "output" / "nightly").rglob("*.*")]
    for pattern in listed:
        if_asked = ("runs/<run id>/held_out", "runs/<run id>/decisions.parquet")
        if not pattern.startswith((*if_asked, "scores/<fingerprint>/packs", "runs/<run id>/units.parquet")):
            wanted = re.sub(r"<[^>]+>", "[^/]+", pattern.replace(".", r"\.").replace("*", ".*"))
            assert any(re.fullmatch(wanted, file) for file in made), pattern

"""Markup, scripts, terminal codes and paths in the data: unharmed where they are data, inert where they are shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from mapjob.config.load import parse_config
from mapjob.escaping import for_terminal, markdown_code, one_line
from mapjob.job.run import rank_job
from mapjob.report.card import card
from mapjob.store.run_folder import open_run, path_of
from tests.fakes import config_tree, make_pairs
from tests.without_ray import score_all

EVIL = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](http://tracker.example/x.png)",
    "---\nlicense: evil\n---",
    "a | b | c",
    "`` `code` ``",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "\x9b31m, \u202etxt.exe, \u2028next",
    "first\nerror: you have been hacked\r\n  to do: run rm -rf /",
    "../../evil",
    "{{ 7 * 7 }} ${HOME} $(id) %s",
    "\\[31m] [bold]rich[/bold]",
]
SHARDS = [
    "..%2f..%2fevil.parquet",
    "line\nbreak.parquet",
    "\x1b[31m<script>|`$(id)`.parquet",
    "a b=7; DROP ..%2fevil.parquet",
]
UNSEEN = [chr(code) for code in (*range(9), *range(11, 32), *range(127, 160), 0x202E, 0x2028)]


@pytest.fixture(scope="module")
def tree(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Every evil string as prompt, chosen, rejected, id, group and another column; shards under evil names."""
    folder = tmp_path_factory.mktemp("markup")
    rows = make_pairs(len(EVIL))
    for row, evil in zip(rows, EVIL):
        row |= {
            "prompt": evil,
            "chosen": f"{evil} c",
            "rejected": f"{evil} r",
            "own id": evil,
            "topic": evil,
            "more": evil,
        }
    rows.append({**make_pairs(1)[0], "chosen": None, "own id": EVIL[6], "topic": EVIL[0], "more": ""})
    (folder / "corpus").mkdir()
    for number, name in enumerate(SHARDS):
        pq.write_table(pa.Table.from_pylist(rows[number :: len(SHARDS)]), folder / "corpus" / name)
    # A name that starts with a dot is read only where the run file names the file.
    tree = config_tree(folder / "corpus", folder / "out", models["policy"], models["reward"], max_error_rate=0.5)
    tree["input"]["path"] = [str(folder / "corpus"), str(folder / "corpus" / SHARDS[0])]
    tree["input"]["plain_text"] = "chat"  # the answers repeat the prompt
    tree["input"]["columns"] = {"id": "own id", "group": "topic"}
    tree["selection"] = {"keep": {"ratio": 1.0}}
    return tree


@pytest.fixture(scope="module")
def runs(tree: dict) -> list[dict]:
    """Two finished runs: all pairs, and the best three."""
    config = parse_config(tree)
    score_all(config)
    return [rank_job(config), rank_job(parse_config(tree | {"selection": {"keep": {"count": 3}}}))]


def test_selected_holds_the_data_unharmed(runs: list[dict]) -> None:
    run = open_run(path_of(runs[0]))
    rows = [row for name in run.folder.tables("selected") for row in run.folder.read_table(name).to_pylist()]
    assert sorted(row["pair_id"] for row in rows) == sorted(EVIL)
    for row in rows:
        evil = row["pair_id"]
        assert [row["own id"], row["topic"], row["more"], row["prompt"][0]["content"]] == [evil] * 4
        assert [row[side][0]["content"] for side in ("chosen", "rejected")] == [f"{evil} c", f"{evil} r"]


def test_names_of_shards_are_no_paths_of_ours(tree: dict, runs: list[dict]) -> None:
    out = Path(tree["output"]["path"])
    names = [part for file in out.rglob("*") for part in file.relative_to(out).parts]
    assert not [name for name in names if "evil" in name or "break" in name or "<" in name or "DROP" in name]
    beside = {path.name for path in out.parent.iterdir()}
    assert beside == {"corpus", "out"}
    run = open_run(path_of(runs[0]))
    (error,) = [row for name in run.folder.tables("errors") for row in run.folder.read_table(name).to_pylist()]
    assert Path(error["file"]).name in SHARDS, "the column keeps the name as it is"


def test_a_terminal_gets_no_control_character(program: Callable, tree: dict, runs: list[dict], tmp_path: Path) -> None:
    old, new = map(path_of, runs)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    commands = [["show", "--", old, evil] for evil in EVIL]
    commands += [["show", new, rank] for rank in (1, 12)]
    commands += [["diff", old, new, "--json"], ["status", tree["output"]["path"]], ["plan", path, "--json"]]
    for command in commands:
        code, stdout, stderr = program(*command)
        assert code == 0, stderr
        assert not [character for character in UNSEEN if character in stdout + stderr], command


def test_an_error_stays_within_its_lines(program: Callable, tree: dict, tmp_path: Path) -> None:
    """The first broken row stands in a file whose name would add a line, or colour the screen."""
    for name in SHARDS:
        folder = tmp_path / str(SHARDS.index(name))
        folder.mkdir()
        (folder / name).write_bytes(b"no Parquet")
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(tree | {"input": {"path": str(folder / name)}}))
        code, _, stderr = program("plan", path)
        assert code == 3
        assert len(stderr.splitlines()) == 3
        assert not [character for character in UNSEEN if character in stderr]


@pytest.mark.parametrize("name", ["x::memory:.parquet", "y::http:"])
def test_a_name_cannot_lead_to_another_storage(program: Callable, tree: dict, tmp_path: Path, name: str) -> None:
    corpus = tmp_path / "corpus" / name
    file = corpus if name.endswith(".parquet") else corpus / "host" / "pairs.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(make_pairs(3)), file)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree | {"input": {"path": str(tmp_path / "corpus")}}))
    code, _, stderr = program("plan", path)
    assert code == 2
    assert "chains several storages" in stderr


@pytest.mark.parametrize("evil", EVIL)
def test_the_card_shows_a_path_as_code(runs: list[dict], evil: str) -> None:
    changed = json.loads(json.dumps(runs[0]))
    changed["config"]["models"]["policy"]["path"] = evil
    plain, front = card(runs[0]), yaml.safe_load(card(runs[0]).split("---\n")[1])
    assert yaml.safe_load(card(changed).split("---\n")[1]) == front
    tokens = [structure(MarkdownIt("gfm-like", {"linkify": False}).parse(text)) for text in (plain, card(changed))]
    assert tokens[0] == tokens[1]


def structure(tokens: list) -> list[str]:
    """The kinds of everything in a document, without the texts."""
    return [kind for token in tokens for kind in (token.type, *(child.type for child in token.children or ()))]


@given(st.text(min_size=1, alphabet=st.one_of(st.sampled_from("|`\\<>[]()*_ \n\r\t\x1b\x9b\u202e-"), st.characters())))
def test_any_value_is_one_cell_of_code(value: str) -> None:
    table = f"| a | b |\n| --- | --- |\n| {markdown_code(value)} | end |\n"
    inline = [token for token in MarkdownIt("gfm-like", {"linkify": False}).parse(table) if token.type == "inline"]
    cell, end = inline[2:]
    assert [child.type for child in cell.children] == ["code_inline"]
    assert end.content == "end"
    assert "\n" not in one_line(value)
    assert not [character for character in UNSEEN if character in for_terminal(value)]
    for_terminal(value).encode()

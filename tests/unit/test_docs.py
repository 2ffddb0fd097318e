"""The documents name what there is: every reason with its kind, every file they point to, every command."""

import re
from pathlib import Path

import pytest

from mapjob.cli.app import app
from mapjob.errors import Reason

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands} | {"config"}


def test_every_reason_is_explained():
    rows = re.findall(r"^\| `(\w+)` \| (dropped|broken) \| (.+?) \|", (ROOT / "docs" / "reasons.md").read_text(), re.M)
    assert {name: kind for name, kind, _ in rows} == {r.value: "dropped" if r.is_dropped else "broken" for r in Reason}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document):
    named = set(re.findall(r"(?:^|`)mapjob ([a-z]+)\b", document.read_text(), re.M))
    assert named <= COMMANDS


def test_every_command_is_in_the_readme_or_its_documents():
    text = "".join(document.read_text() for document in DOCUMENTS)
    assert {name for name in COMMANDS if f"mapjob {name}" not in text and f"make {name}" not in text} == set()


def test_the_map_of_contributing_has_one_line_per_file():
    tree = re.search(r"^```text\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)[1]
    mapped, folders = [], {}
    for line in tree.splitlines():
        name, about = line.split(maxsplit=1) if " " in line.strip() else (line.strip(), "")
        depth = (len(line) - len(line.lstrip())) // 2
        if name.endswith("/"):
            folders = {**{d: folder for d, folder in folders.items() if d < depth}, depth: name}
        elif name.endswith(".py"):
            mapped.append("".join(folders[d] for d in range(depth)) + name)
            assert about, f"what is {name}?"
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "mapjob").rglob("*.py")}
    inits = {file for file in files if file.endswith("/__init__.py") and file != "mapjob/__init__.py"}
    assert mapped == list(dict.fromkeys(mapped))
    assert set(mapped) == files - inits

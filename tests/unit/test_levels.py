"""The import rule of the house: rooms import downwards only, and the lower ones need no torch, transformers or ray."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mapjob

HOUSE = Path(mapjob.__file__).parent

LEVELS = {
    "escaping": 0.0,
    "say": 0.0,
    "arrays": 0.0,
    "errors": 0.0,
    "config": 0.1,
    "metrics": 0.1,
    "ranking": 0.1,
    "corpus": 1,
    "store": 1,
    "scoring": 2,
    "pipeline": 3,
    "selfplay": 3,
    "training": 3,
    "report": 4,
    "world": 4,
    "validation": 4,
    "cli": 4,
    "job": 4,
    "lab": 4,
    "selection": 1,
    "__main__": 5,
}
HEAVY = ("torch", "transformers", "ray")


def module_name(file: Path) -> str:
    return ".".join(["mapjob", *file.relative_to(HOUSE).with_suffix("").parts]).removesuffix(".__init__")


FILES = {module_name(file): file for file in sorted(HOUSE.rglob("*.py"))}
LIGHT = [name for name in FILES if name.count(".") and LEVELS[name.split(".")[1]] <= 1]


def imported_rooms(source: str) -> set[str]:
    """Rooms that a source imports anywhere in it, also inside functions and for types only."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("mapjob.")} & LEVELS.keys()


def test_the_check_sees_every_form_of_import():
    source = "import mapjob.store.tables\nfrom mapjob import job\ndef f():\n    from mapjob.cli.app import main\n"
    assert imported_rooms(source) == {"store", "job", "cli"}
    assert imported_rooms("import mapjob\nfrom mapjob import __version__\nimport torch\n") == set()


def test_every_room_has_a_level():
    assert {name.split(".")[1] for name in FILES if name.count(".")} <= LEVELS.keys()


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_only(name):
    rooms = imported_rooms(FILES[name].read_text(encoding="utf-8"))
    if name == "mapjob":
        assert rooms == set()
    else:
        level = LEVELS[name.split(".")[1]]
        assert {room for room in rooms if LEVELS[room] > level} == set()


def test_ranking_and_storage_load_no_model_library():
    """In a fresh interpreter, module by module, so that the first one at fault is named."""
    assert {"mapjob.config", "mapjob.ranking.rank", "mapjob.selection.publish", "mapjob.corpus.plan"} <= set(LIGHT)
    program = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    assert not loaded, f"{{name}} imports {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

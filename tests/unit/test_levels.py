"""One ordered list of rooms: imports go down it only, no files import each other in a circle, and the lower rooms need
no torch, no transformers and no ray."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mapjob

HOUSE = Path(mapjob.__file__).parent
LIGHT_ROOMS = (
    "escaping",
    "errors",
    "interrupts",
    "arrays",
    "collective",
    "store",
    "metrics",
    "config",
    "corpus",
    "ranking",
    "selection",
)
ROOMS = (*LIGHT_ROOMS, "scoring", "pipeline", "report", "job", "lab", "cli", "__main__")  # from the ground up
HEAVY = ("torch", "transformers", "ray")


def name_of(file: Path, house: Path = HOUSE) -> str:
    return ".".join(["mapjob", *file.relative_to(house).with_suffix("").parts]).removesuffix(".__init__")


def read_imports(source: str, modules: set[str]) -> set[str]:
    """Files of this package, and heavy packages, that a source imports anywhere: inside functions and for types too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & modules) or {str(node.module)}
    return {name for name in names if name in modules or name.split(".")[0] in HEAVY}


def find_faults(house: Path) -> list[str]:
    """Each upward import, each circle and each heavy import below the line, as a sentence."""
    files = {name_of(file, house): file for file in sorted(house.rglob("*.py"))}
    imports = {name: read_imports(file.read_text(encoding="utf-8"), set(files)) for name, file in files.items()}
    faults = []
    for name, imported in imports.items():
        room = room_of(name)
        if room not in ROOMS and name != "mapjob":
            faults.append(f"{name} is in no room of the list")
            continue
        floor = ROOMS.index(room) if name != "mapjob" else -1
        for other in sorted(imported):
            if other.split(".")[0] in HEAVY:
                if floor < len(LIGHT_ROOMS):
                    faults.append(f"{name} imports {other}")
            elif other != "mapjob" and room_of(other) in ROOMS[floor + 1 :]:
                faults.append(f"{name} imports {other}, which stands above it")
    try:
        inside = {name: {other for other in imported if other in files} for name, imported in imports.items()}
        TopologicalSorter(inside).prepare()
    except CycleError as error:
        faults.append(f"circle: {' -> '.join(error.args[1])}")
    return faults


def room_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_imports_go_down_the_list_without_circles():
    assert find_faults(HOUSE) == []


@pytest.mark.parametrize(
    ("file", "planted", "fault"),
    [
        ("store/low.py", "from mapjob.metrics.map import map_score\n", "mapjob.store.low imports mapjob.metrics.map, "),
        ("job/low.py", "def f():\n    from mapjob.lab import world\n", "mapjob.job.low imports mapjob.lab, "),
        ("__init__.py", "from mapjob.errors import MapjobError\n", "mapjob imports mapjob.errors, "),
        ("corpus/low.py", "def f():\n    import torch.nn\n", "mapjob.corpus.low imports torch.nn"),
        ("attic/high.py", "", "mapjob.attic.high is in no room of the list"),
    ],
)
def test_a_planted_upward_import_is_caught(file, planted, fault, tmp_path):
    plant(
        tmp_path, {"store/__init__.py": "", "metrics/map.py": "", "errors.py": "", "lab/__init__.py": "", file: planted}
    )
    (found,) = find_faults(tmp_path)
    assert found.startswith(fault)


def test_a_planted_circle_is_caught(tmp_path):
    sources = {
        "a": "import mapjob.store.b\n",
        "b": "from mapjob.store import c\n",
        "c": "from mapjob.store.a import x\n",
    }
    plant(tmp_path, {"store/__init__.py": "", **{f"store/{name}.py": source for name, source in sources.items()}})
    (found,) = find_faults(tmp_path)
    assert found.startswith("circle: ")
    assert {"mapjob.store.a", "mapjob.store.b", "mapjob.store.c"} <= set(found.replace(",", "").split())


def plant(house: Path, sources: dict[str, str]) -> None:
    for file, source in sources.items():
        (house / file).parent.mkdir(exist_ok=True)
        (house / file).write_text(source, encoding="utf-8")


def test_the_lower_rooms_load_no_model_library():
    """In a fresh interpreter, module by module, so that the first one at fault is named."""
    names = [name_of(file) for file in sorted(HOUSE.rglob("*.py")) if room_of(name_of(file)) in LIGHT_ROOMS]
    assert {"mapjob.config", "mapjob.ranking.rank", "mapjob.selection.publish", "mapjob.corpus.plan"} <= set(names)
    program = f"""
import importlib, sys
for name in {names!r}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    assert not loaded, f"{{name}} imports {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

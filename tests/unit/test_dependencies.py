"""What mapjob imports is declared in pyproject.toml; what few need is an extra, and a message names it."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mapjob
from mapjob.__main__ import NEEDED

HOUSE = Path(mapjob.__file__).parent
PROJECT = tomllib.loads((HOUSE.parent / "pyproject.toml").read_text())["project"]
# Files that may import what an extra installs.
EXTRAS = {
    "train": ("lab/training/*.py", "lab/validation/statistics.py"),
    "dedup": ("ranking/near_duplicates.py",),
    "where": ("selection/where.py",),
}
PACKAGES = {"yaml": "pyyaml"}  # where a package is not called as its module
SLOW = {"torch", "transformers", "ray", "huggingface_hub"}
OPTIONAL = ("botocore", "datasets", "datasketch", "duckdb", "s3fs", "scipy", "trl")


def names_of(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].replace("_", "-") for requirement in requirements}


def imports_of(file: Path) -> set[str]:
    """Packages of others that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"mapjob"}
    return {PACKAGES.get(name, name).replace("_", "-") for name in modules}


def find_undeclared(house: Path) -> dict[str, set[str]]:
    declared = names_of(PROJECT["dependencies"])
    faults = {}
    for file in sorted(house.rglob("*.py")):
        name = file.relative_to(house).as_posix()
        extras = [extra for extra, patterns in EXTRAS.items() if any(map(Path(name).match, patterns))]
        allowed = declared.union(*(names_of(PROJECT["optional-dependencies"][extra]) for extra in extras))
        if missing := imports_of(file) - allowed:
            faults[name] = missing
    return faults


def test_every_import_is_declared(tmp_path):
    assert find_undeclared(HOUSE) == {}
    (tmp_path / "planted.py").write_text("def f():\n    import trl, numpy.typing, requests\n")
    assert find_undeclared(tmp_path) == {"planted.py": {"trl", "requests"}}


USES = {
    "s3": "from mapjob.store.remote import filesystem; filesystem('s3://bucket/corpus')",
    "train": "from mapjob.cli.train import train; train('run', 'simpo')",
    "where": "from mapjob.selection.where import check_where; from mapjob.config.run import Selection; "
    "check_where(Selection(where='a > 1'), None, {})",
    "dedup": "from mapjob.job.prepare import check_selection as check; from mapjob.config.run import *; "
    "from types import SimpleNamespace as N; "
    "check(N(selection=Selection(near_duplicates=0.8)), N(corpus=N(reading=N(gives_candidates=False))))",
}


@pytest.mark.parametrize("extra", USES)
def test_what_few_need_is_an_extra_that_the_message_names(extra):
    code = f"import sys; sys.modules.update(dict.fromkeys({OPTIONAL})); import mapjob.cli.app\n"
    code += f"assert not {SLOW} & set(sys.modules), 'the command line starts without them'\n{USES[extra]}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.rstrip().endswith(f"to do: pip install 'mapjob[{extra}]'"), done.stderr
    assert "ConfigError" in done.stderr


def test_a_python_that_lacks_what_is_declared_says_what():
    """As on a cluster whose `python` is not the one that Ray was started by."""
    assert {PACKAGES.get(name, name).replace("_", "-") for name in NEEDED} == names_of(PROJECT["dependencies"])
    command = [sys.executable, "-S", "-m", "mapjob", "run", "run.yaml"]  # without site-packages
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOUSE.parent, env={})
    assert done.returncode == 2
    what, where, do = done.stderr.splitlines()
    assert what.startswith("error: this Python lacks accelerate, ")
    assert where.startswith(f"  where: {sys.executable} on ")
    assert "before `ray start`" in do

"""Models by their name on the hub, from a machine's cache and without a network."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Mapjob
from tests.fakes import make_open_rlhf

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(hub: Path, name: str, folder: Path) -> None:
    """Put a model folder where the hub's client keeps what it has fetched."""
    repository = hub / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


def test_models_of_the_hub(
    mapjob: Mapjob, run_file: Callable[..., Path], files: dict[str, Path], tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    cached(hub, "org/policy", files["policy"])
    cached(hub, "org/reward", make_open_rlhf(tmp_path / "reward", "value_head"))  # known by its weights
    environment = {**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    models = {role: {"path": f"org/{role}", "dtype": "float32"} for role in ("policy", "reward")}
    result = mapjob(
        "run", run_file(models=models), "--limit", "10", "--json", env=environment, program="tests.without_ray"
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["counts"]["ranked"] == 10
    descriptions = [json.loads(f.read_text()) for f in (tmp_path / "out").rglob("scorer.json")]
    assert {d["weights"] for d in descriptions if "weights" in d} == {f"org/{role}@{COMMIT}" for role in models}

    gone = mapjob("plan", run_file(models={"policy": {"path": "org/policy", "revision": "v2"}}), env=environment)
    assert gone.returncode == 2
    assert "revision v2" in gone.stderr

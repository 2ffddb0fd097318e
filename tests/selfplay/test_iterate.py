"""The loop of self-play on tiny models: what an iteration does, what the next one starts from, and any interruption."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import logging

from mapjob.config.load import parse_config
from mapjob.errors import ConfigError
from mapjob.lab.selfplay.config import SelfPlayConfig
from mapjob.lab.selfplay.iterate import play
from mapjob.store.storage import SCRATCH
from tests.crash.standing import COST
from tests.selfplay.in_process import without_ray
from tests.without_ray import run

KILLS = 3


@pytest.fixture
def tree(models: dict[str, Path], prompts: Path, tmp_path: Path) -> dict[str, Any]:
    logging.disable_progress_bar()
    return {
        "prompts": {"path": str(prompts), "group": "source"},
        "output": {"path": str(tmp_path / "out")},
        "models": {name: {"path": str(path), "dtype": "float32"} for name, path in models.items()},
        "generation": {"num_responses": 3, "temperature": 1.0, "max_new_tokens": 40, "prompts_per_unit": 6},
        "evolve": {"rewrites": ["broaden", "deepen"], "length_factor": 30},
        "evolve_keep": {"ratio": 0.75},
        "scoring": {"max_length": 512, "control_tokens": "sanitize"},
        "selection": {"keep": {"ratio": 0.8}},
        "training": {"batch_size": 4, "accumulate": 1, "learning_rate": 1e-3, "max_steps": 2},
        "execution": {"rows_per_unit": 6},
    }


def played(tree: dict[str, Any], **sections: Any) -> dict[str, Any]:
    changed = {n: {**tree.get(n, {}), **s} if isinstance(s, dict) else s for n, s in sections.items()}
    with without_ray():
        return play(parse_config({**tree, **changed}, "test", SelfPlayConfig), run)


def standing(output: Path) -> dict[str, bytes]:
    """Every file below an output, but for what is known of files by their time, and what reports say of time."""
    files = {str(f.relative_to(output)): f.read_bytes() for f in output.rglob("*") if f.is_file()}
    files = {name: data for name, data in files.items() if not name.startswith((SCRATCH, "plans"))}
    for name, data in files.items():
        if name.endswith(("manifest.json", "generation.json", "report.json")):
            manifest = json.loads(data)
            manifest.pop("finished_at", None)
            del manifest["spent"]
            files[name] = json.dumps(manifest).encode()
        elif name.endswith("report.html"):
            files[name] = COST.sub("", data.decode()).encode()
    return files


def test_two_iterations(tree, tmp_path):
    result = played(tree, iterations=2)
    first, second = result["iterations"]
    assert second["policy"] == first["trained"]
    assert result["policy"] == second["trained"]
    assert first["rewrites"]["kept"] > 0, "or nothing here tests them"
    assert first["candidates"] != second["candidates"]
    assert second["run_id"] != first["run_id"]
    for each in (first, second):
        manifest = json.loads((tmp_path / "out" / "runs" / each["run_id"] / "manifest.json").read_text())
        assert manifest["counts"]["ranked"] == each["pairs"]
        assert manifest["config"]["models"]["policy"]["path"] == each["policy"]
        assert manifest["config"]["input"]["path"] == each["candidates"]
        assert each["training"]["steps"] == 2
    assert json.loads((Path(result["path"]) / "selfplay.json").read_text())["iterations"] == result["iterations"]
    before = standing(tmp_path / "out")
    assert played(tree, iterations=2) == result
    assert standing(tmp_path / "out") == before


def test_responses_that_stay_are_scored_again_by_the_policy_alone(tree, tmp_path):
    result = played(tree, iterations=2, fresh_responses=False, evolve=None)
    first, second = result["iterations"]
    assert first["candidates"] == second["candidates"]
    assert first["mean_reward"] == second["mean_reward"]
    runs = [tmp_path / "out" / "runs" / each["run_id"] / "manifest.json" for each in (first, second)]
    before, after = (json.loads(path.read_text())["fingerprints"] for path in runs)
    assert [name for name in before if before[name] != after[name]] == ["policy"]


def test_dpo_has_the_policy_that_it_starts_from_as_reference(tree, tmp_path):
    (only,) = played(tree, evolve=None, training={"objective": "dpo"})["iterations"]
    manifest = json.loads((tmp_path / "out" / "runs" / only["run_id"] / "manifest.json").read_text())
    assert manifest["fingerprints"]["reference"] == manifest["fingerprints"]["policy"]
    assert only["training"]["first_loss"] == pytest.approx(0.6931, abs=1e-3)


def test_a_loop_that_cannot_be(tree):
    for wrong, what in [
        ({"generation": {"num_responses": 1}}, "a pair takes two responses"),
        ({"iterations": 0}, "iterations"),
        ({"training": {"objective": "ppo"}}, "objective"),
        ({"models": {"reward": {"path": "own", "trust_remote_code": True}}}, "reward: only `mapjob run` lets a model"),
    ]:
        with pytest.raises(ConfigError, match=what):
            played(tree, **wrong)
    with pytest.raises(ConfigError, match="not on a disk"):
        played(tree, output={"path": "memory://out"})


def test_killed_at_random_moments_it_ends_in_the_same_files(tree, tmp_path, capsys):
    """What is generated, against a loop from the start; what follows, against one that finds it generated: runs know
    files on a disk by their time of change, which is another one in every loop from the start."""
    out = tmp_path / "out"
    played(tree)
    from_the_start, total = generated(out), num_files(out)
    out.rename(tmp_path / "undisturbed")
    seed = int(os.environ.get("MAPJOB_SEED", "0")) or random.SystemRandom().randrange(2**31)
    moments, left = sorted(random.Random(seed).sample(range(1, total), KILLS)), []
    for moment in moments:
        child = os.fork()
        if child == 0:
            try:
                played(tree)
            finally:
                os._exit(0)
        while num_files(out) < moment and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left.append(num_files(out))
    played(tree)
    found = standing(out)
    with capsys.disabled():
        print(f"\nseed {seed}: {left} of {total} files stood when it was killed")
    assert generated(out) == from_the_start, f"seed {seed}"
    out.rename(tmp_path / "disturbed")
    out.mkdir()
    for kind in ("candidates", "prompts"):
        (tmp_path / "disturbed" / kind).rename(out / kind)  # a copy would be other files
    played(tree)
    expected = standing(out)
    assert found.keys() == expected.keys(), f"seed {seed}"
    assert [name for name in expected if found[name] != expected[name]] == [], f"seed {seed}"


def num_files(output: Path) -> int:
    """What is visible of an output."""
    return sum(len(files) for folder, _, files in os.walk(output) if SCRATCH not in Path(folder).parts)


def generated(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in standing(output).items() if name.endswith(".parquet") and name[0] in "cp"}

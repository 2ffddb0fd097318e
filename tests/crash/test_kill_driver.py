"""SIGKILL of the driver at random moments, then the same command: the files of an undisturbed run without Ray."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mapjob.config.load import load_config
from mapjob.store.storage import SCRATCH
from tests.crash.standing import COST
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

KILLS = 3


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    rows = make_pairs(120)
    rows[50]["rejected"] = rows[50]["chosen"]
    corpus = write_corpus(folder / "corpus", rows, num_files=3)
    policy, reward = make_policy(folder / "policy"), make_reward(folder / "reward")
    tree = config_tree(corpus, folder / "unused", policy, reward, execution={"rows_per_unit": 10})
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def start(run_file: Path, output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "mapjob", "run", str(run_file), "--set", f"output.path={output}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(run_file: Path, output: Path) -> None:
    process = start(run_file, output)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def num_files(output: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(output))


def published(output: Path) -> dict[str, bytes]:
    """Every file of the output but for times in manifest and report, and plans/, which knows files by their time; a
    killed writer leaves its own in .writing/.
    """
    aside = (output / SCRATCH, output / "plans")
    finished = [f for f in output.rglob("*") if f.is_file() and f.parent not in aside]
    files = {str(f.relative_to(output)): f.read_bytes() for f in finished}
    for name in [name for name in files if name.endswith(("manifest.json", "report.json"))]:
        manifest = json.loads(files[name])
        manifest.pop("finished_at", None)
        del manifest["spent"], manifest["config"]["output"]
        files[name] = json.dumps(manifest).encode()
    for name in [name for name in files if name.endswith("report.html")]:
        files[name] = COST.sub("", files[name].decode()).encode()
    return files


@pytest.mark.slow  # test_random_walk.py kills drivers too, and test_every_call.py at each storage call
def test_killed_runs_end_in_the_same_files(run_file: Path, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    run(load_config(run_file, [f"output.path={undisturbed}"]))
    total = num_files(undisturbed)
    seed = int(os.environ.get("MAPJOB_SEED", "0")) or random.SystemRandom().randrange(2**31)
    moments = sorted(random.Random(seed).sample(range(1, total), KILLS))
    print(f"seed {seed}: killing at {moments} of {total} files")

    disturbed = tmp_path / "disturbed"
    for moment in moments:
        process = start(run_file, disturbed)
        while num_files(disturbed) < moment and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # The workers of a killed driver may still finish a unit: what they commit is whole and counts.
    finish(run_file, disturbed)

    assert published(disturbed).keys() == published(undisturbed).keys(), f"seed {seed}"
    for name, data in published(undisturbed).items():
        assert published(disturbed)[name] == data, f"{name} differs (seed {seed})"

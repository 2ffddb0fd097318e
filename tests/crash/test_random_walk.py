"""A cluster of four nodes on which processes, nodes and the driver are killed by a seeded schedule: nothing is lost.

`MAPJOB_SCHEDULES=20 pytest -s tests/crash/test_random_walk.py` walks twenty schedules, `MAPJOB_SEED` one by its seed.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import ray
import yaml
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from mapjob.config.load import load_config
from tests.crash.test_kill_driver import num_files, published
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

pytestmark = pytest.mark.ray
SEED = int(os.environ.get("MAPJOB_SEED", "0"))
SEEDS = [SEED] if SEED else range(1, 1 + int(os.environ.get("MAPJOB_SCHEDULES", "1")))
NUM_NODES, FAULTS_A_WALK, MOST_RUNS = 3, 5, 8
NODE = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
FAULTS = {"actor": 4, "worker": 2, "node": 2, "driver": 2}  # weights


@dataclass
class Walk:
    """One run of the command, again and again until it is through, while faults happen by schedule."""

    cluster: Cluster
    run_file: Path
    output: Path
    dice: random.Random
    exits: list[int] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def start(self) -> subprocess.Popen:
        address = f"execution.address={self.cluster.address}"
        command = [sys.executable, "-m", "mapjob", "run", str(self.run_file)]
        command += ["--set", f"output.path={self.output}", "--set", address]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self, moments: list[int], fault: str | None = None) -> None:
        """Run until exit code 0; a fault as soon as so many files stand. Any other exit but 4 fails the test."""
        moments = list(moments)
        for _ in range(MOST_RUNS):
            with self.start() as driver:
                try:
                    while driver.poll() is None:
                        if moments and num_files(self.output) >= moments[0]:
                            moments.pop(0)
                            self.strike(driver, fault or self.dice.choices(list(FAULTS), list(FAULTS.values()))[0])
                        time.sleep(0.02)
                    _, stderr = driver.communicate()
                finally:
                    driver.kill()
            self.exits.append(driver.returncode)
            assert driver.returncode in (0, 4, -signal.SIGKILL), stderr
            if driver.returncode == 0:
                return
        raise AssertionError(f"not through after {MOST_RUNS} runs: exit codes {self.exits}")

    def strike(self, driver: subprocess.Popen, fault: str) -> None:
        self.faults[fault] += 1
        if fault == "driver":
            driver.kill()
        elif fault in ("node", "node for good"):
            self.cluster.remove_node(self.dice.choice(list(self.cluster.worker_nodes)), allow_graceful=False)
            if fault == "node":
                self.cluster.add_node(**NODE)
        else:
            processes = self.workers("ray::MapWorker" if fault == "actor" else "ray::")
            if processes:
                self.dice.choice(processes).kill()

    def workers(self, title: str) -> list[psutil.Process]:
        raylets = [node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid for node in self.cluster.worker_nodes]
        found = []
        for process in (child for pid in raylets for child in psutil.Process(pid).children()):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended in the meantime
                own = " ".join(process.cmdline()).strip()  # Ray pads it
                if own.startswith(title) and not own.endswith("Agent"):  # a node dies with its agents
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without work of its own and three nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(NUM_NODES):
        cluster.add_node(**NODE)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("walk")
    rows = make_pairs(120)
    rows[50]["rejected"] = rows[50]["chosen"]
    corpus = write_corpus(folder / "corpus", rows, num_files=3)
    tree = config_tree(
        corpus,
        folder / "unused",
        make_policy(folder / "policy"),
        make_reward(folder / "reward"),
        execution={"rows_per_unit": 5, "stall_after_s": 120},
    )
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, run_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in this process, without Ray."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    run(load_config(run_file, [f"output.path={output}", f"execution.address={cluster.address}"]))
    return output


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.slow  # test_every_call.py kills and breaks at each storage call
def test_nothing_is_lost_and_nothing_doubled(
    cluster: Cluster, run_file: Path, undisturbed: Path, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    walk = Walk(cluster, run_file, tmp_path / "out", dice)
    walk.finish(sorted(dice.choices(range(num_files(undisturbed)), k=FAULTS_A_WALK)))
    print(f"seed {seed}: {dict(walk.faults)}, exit codes {walk.exits}")
    assert_same(undisturbed, tmp_path / "out")


@pytest.mark.slow  # tests/crash/test_a_stall.py has the decision without a cluster
def test_a_node_that_never_comes_back(cluster: Cluster, run_file: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Its actors keep their units; the run begins those anew, on what is left, and needs no second command."""
    walk = Walk(cluster, run_file, tmp_path / "out", random.Random(SEED))
    walk.finish([5], "node for good")
    cluster.add_node(**NODE)
    assert walk.exits == [0]
    assert_same(undisturbed, tmp_path / "out")


def assert_same(undisturbed: Path, output: Path) -> None:
    expected, found = published(undisturbed), published(output)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []

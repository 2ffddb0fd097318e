"""A corpus ranked and published on a Ray cluster that loses a node: the same bytes as in one process."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from mapjob import collective
from mapjob.config.load import parse_config
from mapjob.job import rank
from mapjob.pipeline.on_ray import OnRay
from mapjob.selection import spool
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.selection.test_pieces import read_run
from tests.without_ray import score_all

SELECTION = {"held_out": 0.1, "per_prompt": 3, "keep": {"ratio": 0.8}}
NUM_PIECES = 6


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("lost")
    models = make_policy(folder / "policy"), make_reward(folder / "reward")
    tree = config_tree(write_corpus(folder / "in", make_pairs(150)), folder / "out", *models)
    tree |= {"execution": {"rows_per_unit": 10}, "selection": SELECTION}
    score_all(parse_config(tree))
    return tree


def divide_finely() -> None:
    """As large corpora are: the work of every step among all pieces, the rows of a selection among many files."""
    collective.LEAST_BYTES, spool.ROWS_PER_FILE = 1, 9


@pytest.fixture
def cluster(monkeypatch) -> Iterator[Cluster]:
    """A head that does no work, and three nodes."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # What tasks return lies on the nodes, however small it is, and is lost with them.
    cluster = Cluster(True, head_node_args={"num_cpus": 0, "_system_config": {"max_direct_call_object_size": 100}})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    hook = {"worker_process_setup_hook": divide_finely}
    ray.init(cluster.address, runtime_env=hook, log_to_driver=False, logging_level="ERROR")
    cluster.workers = nodes
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow  # Ray takes half a minute to believe that a node is gone
@pytest.mark.parametrize("when", ["after the ranking", "while texts are written"])
def test_a_lost_node_changes_no_byte(tree, cluster, monkeypatch, when):
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 9)
    whole = read_run(tree, SELECTION)
    lost = threading.Event()

    def lose() -> None:
        cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
        lost.set()

    def lose_as_files_appear() -> None:
        runs = Path(tree["output"]["path"]) / "runs"
        while not [*runs.glob("*/selected/*")]:
            time.sleep(0.01)
        lose()

    class Losing(OnRay):
        def run(self, program: Any, columns: Any, *shared: Any) -> list[Any]:
            handles = super().run(program, columns, *shared)
            if program.__name__ == "_rank" and when == "after the ranking":
                ray.wait(handles, num_returns=len(handles), fetch_local=False)
                lose()
            elif program.__name__ == "_rank":
                threading.Thread(target=lose_as_files_appear, daemon=True).start()
            return handles

    monkeypatch.setattr(rank, "count_pieces", lambda job: NUM_PIECES)
    monkeypatch.setattr("mapjob.pipeline.on_ray.OnRay", Losing)
    pieces = read_run(tree, SELECTION)
    assert lost.wait(60)
    assert pieces == whole
    assert sum(name.startswith("selected") for name in whole) > 10

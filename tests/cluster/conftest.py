"""One cluster for the tests of a file, and a run file whose run takes some seconds."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from ray.job_submission import JobSubmissionClient

from tests.cli.conftest import mapjob  # noqa: F401
from tests.cluster.nodes import RunningCluster, running_cluster
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus

NUM_ROWS, ROWS_PER_UNIT = 360, 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    # The sockets below the folder leave few characters for its name.
    with (
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp", ignore_cleanup_errors=True) as ray_folder,
        running_cluster(Path(ray_folder), tmp_path_factory.mktemp("home")) as running,
    ):
        yield running


@pytest.fixture
def client(cluster: RunningCluster) -> JobSubmissionClient:
    """Of one who knows the token."""
    headers = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    return JobSubmissionClient(cluster.dashboard, headers=headers)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        "corpus": write_corpus(folder / "corpus", make_pairs(NUM_ROWS), num_files=3),
        "policy": make_policy(folder / "policy"),
        "reward": make_reward(folder / "reward"),
    }


@pytest.fixture
def run_file(files: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """`run_file(section={...})` writes a run file for `files`, its output below the test's own folder."""

    def write(**sections: object) -> Path:
        sections = {"execution": {"rows_per_unit": ROWS_PER_UNIT}, **sections}
        tree = config_tree(files["corpus"], tmp_path / "out", files["policy"], files["reward"], **sections)
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write

"""A cluster that asks for a token: `mapjob run` works with it, and says so where it lacks it or has a wrong one."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.cluster.nodes import end, free_ports, start_node, wait_until_up
from tests.fakes import config_tree, make_pairs, write_corpus

pytestmark = [pytest.mark.ray, pytest.mark.slow]  # tests/cluster/test_submit.py has a token in each run
TOKEN = secrets.token_hex(32)


def without_token(home: Path) -> dict[str, str]:
    """An environment, and a home, in which Ray finds no token of anybody's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"HOME": str(home), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


@pytest.fixture
def address(ray_folder: Path, tmp_path: Path) -> Iterator[str]:
    (port,) = free_ports(1)
    options = ["--head", "--port", str(port), "--num-cpus", "2", "--include-dashboard=false"]
    environment = without_token(tmp_path) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    head = start_node(environment, *options, "--temp-dir", str(ray_folder))
    try:
        wait_until_up(head)
        yield f"127.0.0.1:{port}"
    finally:
        end([head])


def test_token_of_a_cluster(
    mapjob: Mapjob, address: str, models: dict[str, Path], ray_folder: Path, tmp_path: Path
) -> None:
    corpus = write_corpus(tmp_path / "corpus", make_pairs(12))
    tree = config_tree(corpus, tmp_path / "out", models["policy"], models["reward"])
    tree["execution"]["address"] = address
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(tree))
    nobody = without_token(tmp_path)
    modes = {
        "none": nobody,
        "mode alone": nobody | {"RAY_AUTH_MODE": "token"},
        "wrong": nobody | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
    }
    for name, environment in modes.items():
        refused = mapjob("run", path, env=environment | {"RAY_gcs_server_port_wait_time_s": "2"})  # Ray tries 20 times
        assert refused.returncode == 2, name
        assert "asks for a token" in refused.stderr, name
        assert "RAY_AUTH_TOKEN" in refused.stderr
        assert address in refused.stderr
        assert "Traceback" not in refused.stderr
    (tmp_path / "token").write_text(TOKEN)
    kept = nobody | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    ran = mapjob("run", path, "--json", env=kept)
    assert last_json(ran)["counts"]["ranked"] == 12
    kept_by_ray = [file for file in ray_folder.glob("session_*/logs/**/*") if file.is_file()]
    assert kept_by_ray
    shown = [file.read_bytes() for file in [*kept_by_ray, *(tmp_path / "out").rglob("*")] if file.is_file()]
    assert not [text for text in [ran.stdout.encode(), ran.stderr.encode(), *shown] if TOKEN.encode() in text]

"""The key of a server that generates reaches the server, and nothing that is printed, kept or logged."""

import os
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.fakes import make_pairs, write_corpus
from tests.security.test_secrets import found_in, kept_by_ray
from tests.selfplay.openai_server import OpenAIServer

pytestmark = [pytest.mark.ray, pytest.mark.slow]
KEY = "planted0secret"


def test_the_key_goes_to_the_server_alone(
    mapjob: Mapjob, models: dict[str, Path], ray_folder: Path, tmp_path: Path
) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**kept, "OPENAI_API_KEY": KEY, "RAY_TMPDIR": str(ray_folder), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    with OpenAIServer(models["policy"], KEY).running() as server:
        of_server = {"url": server.url, "model": "tiny", "concurrency": 2}
        tree = {
            "prompts": {"path": str(write_corpus(tmp_path / "corpus", make_pairs(6)))},
            "output": {"path": str(tmp_path / "out")},
            "generation": {"engine": "openai", "server": of_server, "num_responses": 2, "max_new_tokens": 12},
        }
        (tmp_path / "generate.yaml").write_text(yaml.safe_dump(tree))
        ran = mapjob("generate", tmp_path / "generate.yaml", "-v", "--json", env=environment)
        assert last_json(ran)["counts"]["responses"] == 12
        server.key = "another"
        other = ("--set", "generation.seed=1")
        refused = mapjob("generate", tmp_path / "generate.yaml", *other, "-v", env=environment)
    assert refused.returncode == 2
    assert "rejects the key" in refused.stderr
    shown = {"ran": ran.stdout + ran.stderr, "refused": refused.stdout + refused.stderr}
    shown = {name: text.encode() for name, text in shown.items()}
    written = {str(file): file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert found_in(shown | written | kept_by_ray(ray_folder), KEY) == []

"""Generation on a local Ray gives the files that it gives in this process, by a model as by a server."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mapjob.config.load import parse_config
from mapjob.errors import ModelError
from mapjob.lab.selfplay.config import GenerateConfig
from mapjob.lab.selfplay.generate import generate
from tests.fakes import make_policy
from tests.ray.conftest import World
from tests.selfplay.in_process import without_ray
from tests.selfplay.openai_server import OpenAIServer
from tests.selfplay.test_generate import files


def config(world: World, output: Path, policy: dict[str, Any] | None, **generation: Any) -> GenerateConfig:
    generation = {"num_responses": 2, "temperature": 1.0, "max_new_tokens": 10, "prompts_per_unit": 40, **generation}
    tree = {"prompts": {"path": str(world.corpus)}, "output": {"path": str(output)}, "policy": policy}
    pools = {"pools": {"policy": {"min_size": 2, "max_size": 2}}}
    return parse_config({**tree, "generation": generation, "execution": pools}, "test", GenerateConfig)


def test_two_actors_write_the_files_of_one_process(world: World, tmp_path: Path) -> None:
    policy = {"path": str(world.policy), "dtype": "float32"}
    on_ray = generate(config(world, tmp_path / "ray", policy))
    assert (on_ray["units"], on_ray["spent"]["units"]) == (6, 6)
    threads = torch.get_num_threads()
    with without_ray():
        here = generate(config(world, tmp_path / "here", policy))
    torch.set_num_threads(threads)
    assert files(Path(on_ray["path"])) == files(Path(here["path"]))


@pytest.mark.slow
def test_a_server(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with OpenAIServer(world.policy).running() as server:
        of_server = {"url": server.url, "model": "tiny", "concurrency": 4}
        made = generate(config(world, tmp_path, None, engine="openai", server=of_server, prompts_per_unit=20), limit=40)
        assert len(server.asked) == made["counts"]["responses"] == 2 * made["prompts"]["prompts"]


@pytest.mark.slow
def test_what_a_worker_refuses_reaches_the_caller(world: World, tmp_path: Path) -> None:
    policy = {"path": str(make_policy(tmp_path / "mamba", "mamba")), "dtype": "float32"}
    with pytest.raises(ModelError, match="responses side by side differ"):
        generate(config(world, tmp_path / "out", policy))

"""The engine `openai` against `transformers serve`, a server that others wrote."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from mapjob.lab.selfplay.config import Generation, Server
from mapjob.lab.selfplay.local import LocalEngine
from mapjob.lab.selfplay.requests import Request
from mapjob.lab.selfplay.server import ServerEngine
from mapjob.scoring.model_files import ModelFiles
from tests.selfplay.conftest import Generate
from tests.selfplay.test_generate import rows

ASKED = [Request(f"prompt {i}", [{"role": "user", "content": f"Count to {i}."}]) for i in range(4)]


@pytest.fixture(scope="module")
def url(models: dict[str, Path]) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(models["policy"])]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    server = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while True:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/health").raise_for_status()
            break
        except httpx2.HTTPError:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.2)
    yield f"http://127.0.0.1:{port}/v1"
    server.kill()
    server.wait()


@pytest.mark.parametrize("prompt", ["chat", "raw"])
def test_greedy_texts_are_those_of_the_engine_here(url: str, models: dict[str, Path], policy: ModelFiles, prompt: str):
    asked = ASKED if prompt == "chat" else [Request("plain", "Once upon a time")]
    here = LocalEngine(policy, Generation(temperature=0, max_new_tokens=12), prompt).answer(asked, 1)
    server = Server(url=url, model=str(models["policy"]), concurrency=2)
    greedy = Generation(engine="openai", server=server, temperature=0, max_new_tokens=12)
    there = ServerEngine(greedy).answer(asked, 1)
    assert [own[0].text for own in there] == [own[0].text for own in here]
    assert {own[0].num_tokens for own in there} == {12}


def test_a_whole_corpus(generated: Generate, url: str, models: dict[str, Path]):
    server = {"url": url, "model": str(models["policy"]), "concurrency": 2}
    manifest = generated(policy=None, generation={"engine": "openai", "server": server})
    assert manifest["prompts"]["prompts"] == 12
    assert len(rows(manifest)) == manifest["counts"]["rows"] > 6

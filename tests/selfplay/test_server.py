"""The engine `openai` against a real server on this machine."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mapjob.store.remote as remote
from mapjob.errors import ConfigError, IncompleteError, Reason, RowError
from mapjob.lab.selfplay.config import Generation, Server
from mapjob.lab.selfplay.local import LocalEngine
from mapjob.lab.selfplay.requests import Request, Response
from mapjob.lab.selfplay.server import ServerEngine
from tests.selfplay.conftest import Generate
from tests.selfplay.openai_server import OpenAIServer
from tests.selfplay.test_generate import files, rows

KEY = "planted0secret"
ASKED = [Request(f"prompt {i}", [{"role": "user", "content": f"Count to {i}."}]) for i in range(4)]


@pytest.fixture(scope="module")
def running(models: dict[str, Path]) -> Iterator[OpenAIServer]:
    with OpenAIServer(models["policy"], KEY).running() as server:
        yield server


@pytest.fixture
def server(running: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> OpenAIServer:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    running.faults.clear()
    running.asked.clear()
    return running


@pytest.fixture
def engine(server: OpenAIServer) -> Callable[..., ServerEngine]:
    def made(path: str = "", **options: object) -> ServerEngine:
        of_server = Server(url=server.url + path, model="tiny", concurrency=4)
        return ServerEngine(Generation(engine="openai", server=of_server, **{"max_new_tokens": 20, **options}))

    return made


def test_greedy_texts_are_those_of_the_engine_here(engine, policy):
    here = LocalEngine(policy, Generation(temperature=0, max_new_tokens=20), "chat").answer(ASKED, 2)
    there = engine(temperature=0).answer(ASKED, 2)
    assert [[(r.text, r.num_tokens, r.finished) for r in own] for own in there] == [
        [(r.text, r.num_tokens, r.finished) for r in own] for own in here
    ]


def test_a_rerun_gives_the_same_and_every_sample_another(engine, server):
    first = engine().answer(ASKED, 3)
    assert engine().answer(ASKED[::-1], 3)[::-1] == first
    assert len({response.text for own in first for response in own}) > 8
    assert engine(seed=1).answer(ASKED, 3) != first
    seeds = {body["seed"] for body in server.asked}
    assert len(seeds) == 24
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in server.asked} == {(0.8, 0.95, 20)}


def test_plain_text_goes_to_completions(engine):
    ((answer,),) = engine().answer([Request("plain", "Once upon a time")], 1)
    assert isinstance(answer, Response)


def test_bad_moments_are_waited_out(engine, server):
    expected = engine().answer(ASKED, 1)
    server.faults += [429, 503, 500]
    assert engine().answer(ASKED, 1) == expected


def test_a_server_that_stays_busy(engine, server):
    server.faults += [503] * 100
    with pytest.raises(IncompleteError, match="did not answer in 6 attempts") as failed:
        engine().answer(ASKED[:1], 1)
    assert failed.value.exit_code == 4


def test_a_prompt_that_the_server_refuses_is_a_row(engine, server):
    server.faults += [400]
    refused, answered = [*engine().answer(ASKED[:1], 1), *engine().answer(ASKED[:1], 1)]
    assert isinstance(refused, RowError)
    assert refused.reason == Reason.TEMPLATE_ERROR
    assert not isinstance(answered, RowError)


@pytest.mark.parametrize("secret", ["", "wrong0secret"])
def test_a_key_that_is_refused(engine, monkeypatch, secret):
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    with pytest.raises(ConfigError, match="rejects the key") as refused:
        engine().answer(ASKED[:1], 1)
    assert "OPENAI_API_KEY" in refused.value.do
    assert not secret or secret not in str(refused.value)


def test_what_is_no_such_server(engine, server):
    with pytest.raises(ConfigError, match="HTTP 404"):
        engine("/elsewhere").answer(ASKED[:1], 1)
    for url in (f"http://user:{KEY}@127.0.0.1/v1", "ftp://127.0.0.1/v1", "http://here:port/v1", "http://"):
        with pytest.raises(ConfigError) as refused:
            ServerEngine(Generation(engine="openai", server=Server(url=url, model="tiny")))
        assert KEY not in str(refused.value)


def test_a_whole_corpus(generated: Generate, server, tmp_path, capsys):
    by_server = {"engine": "openai", "server": {"url": server.url, "model": "tiny", "concurrency": 4}}
    manifest = generated(policy=None, generation=by_server)
    again = generated(policy=None, generation=by_server, output={"path": str(tmp_path / "again")})
    assert files(Path(manifest["path"])) == files(Path(again["path"]))
    made = rows(manifest)
    assert len(made) == manifest["counts"]["rows"] > 6
    assert all(response["logps"] is None for row in made for response in row["responses"])
    other = {**by_server, "server": {**by_server["server"], "model": "other"}}
    assert generated(policy=None, generation=other)["name"] != manifest["name"]
    shown = "".join(capsys.readouterr()) + json.dumps(manifest)
    assert KEY not in shown
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]

"""Secrets of the environment and texts of the corpus are in nothing that a run prints, keeps or logs, failed or not."""

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
import yaml

from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.fakes import config_tree, make_pairs, make_policy, make_tokenizer, write_corpus
from tests.storage.fault_proxy import FaultProxy

SECRET = "planted0secret"
TEXT = "zyzzyva"  # in every prompt of the corpus, and nowhere else
REFUSED = 3  # rows, of 12


@pytest.fixture
def environment(bucket: str, tmp_path: Path, ray_folder: Path) -> dict[str, str]:
    """A secret in every place where credentials are kept. The server takes any."""
    (tmp_path / ".aws").mkdir()
    profile = f"[default]\naws_access_key_id = {SECRET}1\naws_secret_access_key = {SECRET}2\n"
    (tmp_path / ".aws" / "credentials").write_text(profile)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
    planted = {name: f"{SECRET}/{name}" for name in names}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return (
        kept
        | planted
        | {
            "HOME": str(tmp_path),
            "RAY_TMPDIR": str(ray_folder),
            "HF_HUB_OFFLINE": "1",
            "NO_COLOR": "1",
        }
    )


@pytest.fixture
def run_file(bucket: str, models: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """Input and output on s3://; a row each of control tokens, of an unknown role, and that the template refuses."""
    tokenizer = make_tokenizer()
    refuse = "{% for m in messages %}{% if 'refuse' in m.content %}{{ raise_exception('no: ' + m.content) }}{% endif %}"
    tokenizer.chat_template = refuse + "{% endfor %}" + tokenizer.chat_template
    policy = make_policy(tmp_path / "policy", tokenizer=tokenizer)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{TEXT} {row['prompt']}"}],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in make_pairs(12)
    ]
    rows[2]["chosen"][0]["content"] += f" <|end|> {TEXT}"
    rows[5]["prompt"][0]["role"] = TEXT
    rows[8]["rejected"][0]["content"] = f"refuse {TEXT}"
    shards = write_corpus(tmp_path / "shards", rows, num_files=1)
    fsspec.filesystem("s3").put(str(shards), f"{bucket}/corpus/", recursive=True)

    def write(**sections: object) -> Path:
        tree = config_tree(Path("unused"), Path("unused"), policy, models["reward"], max_error_rate=0.5)
        tree |= {"input": {"path": f"{bucket}/corpus"}, "output": {"path": f"{bucket}/out"}}
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(tree | sections))
        return path

    return write


def kept_by_ray(folder: Path) -> dict[str, bytes]:
    files = [file for file in folder.glob("**/session_*/logs/**/*") if file.is_file()]
    assert files, "the run had a Ray of its own"
    return {str(file): file.read_bytes() for file in files}


def found_in(texts: dict[str, bytes], *wanted: str) -> list[str]:
    return [f"{text} in {name}" for name, data in texts.items() for text in wanted if text.encode() in data]


def test_a_run_keeps_secrets_and_texts_to_itself(
    mapjob: Mapjob, run_file: Callable[..., Path], bucket: str, environment: dict[str, str], ray_folder: Path
) -> None:
    ran = mapjob("run", run_file(), "-v", "--json", env=environment)
    counts = last_json(ran)["counts"]
    assert counts["by_reason"] == {"control_tokens": 1, "bad_messages": 1, "template_error": 1}
    fs = fsspec.filesystem("s3")
    written = {name: fs.cat_file(name) for name in fs.find(f"{bucket}/out")}
    assert {"manifest.json", "README.md", "latest.json", "scorer.json"} <= {name.rsplit("/")[-1] for name in written}
    shown = {"stdout": ran.stdout.encode(), "stderr": ran.stderr.encode(), **kept_by_ray(ray_folder)}
    assert found_in(shown | written, SECRET) == []
    # Parquet packs its columns, so a search in its bytes proves nothing.
    tables = {name: fs.open(name) for name in written if name.endswith(".parquet")}
    read = {name: str(pq.read_table(file).to_pylist()).encode() for name, file in tables.items()}
    assert found_in(read, SECRET) == []
    others = {name: text for name, text in read.items() if "/selected/" not in name and "/plans/files." not in name}
    assert found_in(shown | others, TEXT) == []
    details = [
        row["detail"] for name, file in tables.items() if "/errors/" in name for row in pq.read_table(file).to_pylist()
    ]
    assert len(details) == REFUSED
    assert "holds '<|end|>'" in details


@pytest.mark.slow
def test_a_run_that_fails_in_its_workers(
    mapjob: Mapjob,
    run_file: Callable[..., Path],
    s3_endpoint: str,
    environment: dict[str, str],
    ray_folder: Path,
) -> None:
    """The credentials are those of ~/.aws/credentials, and the store forbids to write scores."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        del environment[name]
    with NoScores(s3_endpoint).running() as proxy:
        ran = mapjob("run", run_file(), "-v", env=environment | {"AWS_ENDPOINT_URL": proxy.endpoint})
    assert ran.returncode == 2
    assert "not allowed: this object could not be written" in ran.stderr
    shown = {"stdout": ran.stdout.encode(), "stderr": ran.stderr.encode(), **kept_by_ray(ray_folder)}
    assert found_in(shown, SECRET, TEXT) == []


class NoScores(FaultProxy):
    def answer(self, request) -> None:
        if request.command == "PUT" and "/scores/" in request.path and request.path.endswith(".parquet"):
            self.faults.append("403")
        super().answer(request)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"input": {"path": "s3://there-is-no-such-bucket/corpus"}}, "there-is-no-such-bucket"),
        ({"output": {"path": f"s3://AKIA{SECRET}:with/slashes+{SECRET}@bucket/out"}}, "holds a password"),
        ({"input": {"path": f"https://user:{SECRET}@host/pairs.parquet"}}, "holds a password"),
        ({"input": {"path": f"https://host/pairs.parquet?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}"}}, "key"),
        ({"models": {"policy": {"path": f"https://user:{SECRET}@hub/a"}, "reward": {"path": "b"}}}, "no model"),
        ({"input": {"path": f"https://user:{SECRET}@host/x", "oops": 1}}, "unknown key"),
    ],
)
def test_refusals_repeat_no_secret(program: Callable, run_file: Callable[..., Path], changed: dict, says: str) -> None:
    code, stdout, stderr = program("run", run_file(**changed), "-v")
    assert code in (2, 3)
    assert says in stderr
    assert SECRET not in stdout + stderr
    assert SECRET not in "".join(program("config", "check", run_file(**changed))[1:])


def test_a_run_file_that_is_no_yaml_is_quoted_without_its_secret(program: Callable, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"input: {{path: 'https://user:{SECRET}@host/x\noutput: [\n")
    code, stdout, stderr = program("run", path, "-v")
    assert code == 2
    assert SECRET not in stdout + stderr


def test_an_endpoint_that_holds_a_password(
    mapjob: Mapjob, run_file: Callable[..., Path], s3_endpoint: str, environment: dict[str, str]
) -> None:
    """In the environment, in front of a server that answers and of one that does not."""
    host = s3_endpoint.removeprefix("http://")
    for address in (host, "127.0.0.1:9"):
        endpoint = f"http://user:{SECRET}@{address}"
        ran = mapjob("run", run_file(), "-v", env=environment | {"AWS_ENDPOINT_URL": endpoint})
        assert ran.returncode == 2, ran.stderr
        assert SECRET not in ran.stdout + ran.stderr

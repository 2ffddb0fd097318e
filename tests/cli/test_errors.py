"""Every cause that a user can meet before a model is loaded: one message with what, where and what to do; exit code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.cli.conftest import Mapjob
from tests.fakes import make_policy, make_reward, make_tokenizer, write_corpus

RunFile = Callable[..., Path]


def refused(result, exit_code: int, *parts: str) -> None:
    assert result.returncode == exit_code, result.stderr
    assert "Traceback" not in result.stderr
    error = result.stderr[result.stderr.index("error:") :]
    assert "\n  where: " in error
    assert "\n  to do: " in error
    for part in parts:
        assert part in error, error


def test_missing_run_file(here: Mapjob) -> None:
    refused(here("run", "nowhere.yaml"), 2, "nowhere.yaml")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"selection": {"alpah": 1}}, ("selection.alpah", "unknown key")),
        ({"selection": {"keep": {"ratio": 0.4, "count": 5}}}, ("selection.keep", "exactly one")),
        ({"selection": {"implicit": "dpo"}}, ("models.reference",)),
        ({"selection": {"metric": "mpa"}}, ("selection.metric",)),
        ({"selection": {"metric": "bees"}}, ("models.reference (bees)", "name one")),
    ],
)
def test_faults_of_the_run_file(here: Mapjob, run_file: RunFile, change: dict, parts: tuple[str, ...]) -> None:
    refused(here("config", "check", run_file(**change)), 2, *parts)


def test_override_without_a_value(here: Mapjob, run_file: RunFile) -> None:
    refused(here("plan", run_file(), "--set", "selection.alpha"), 2, "a.b=value")


def test_missing_corpus(here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    refused(here("run", run_file(input={"path": str(tmp_path / "none")})), 2, str(tmp_path / "none"))


def test_folder_without_parquet(here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(here("run", run_file(input={"path": str(tmp_path / "empty")})), 2, "no file here holds rows")


@pytest.mark.parametrize("content", [b"", b"PAR1 this is no file here holds rows"])
def test_unreadable_parquet(here: Mapjob, run_file: RunFile, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "shard.parquet").write_bytes(content)
    refused(here("run", run_file(input={"path": str(tmp_path / "bad")})), 3, "shard.parquet")


def test_column_that_is_not_there(here: Mapjob, run_file: RunFile) -> None:
    refused(here("run", run_file(input={"columns": {"group": "topic"}})), 2, "'topic'", "prompt, chosen, rejected")


def test_no_reading_fits(here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), tmp_path / "qa.parquet")
    refused(here("run", run_file(input={"path": str(tmp_path / "qa.parquet")})), 3, "question, answer", "input.reading")


def test_missing_model(here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    gone = {"models": {"policy": {"path": str(tmp_path / "gone")}}}
    refused(here("run", run_file(**gone)), 2, "models.policy.path", "gone")


def test_model_of_the_hub_without_a_network(mapjob: Mapjob, run_file: RunFile) -> None:
    refused(mapjob("run", run_file(models={"policy": {"path": "nobody/nothing"}})), 2, "nobody/nothing")


def test_pickled_weights(here: Mapjob, run_file: RunFile, files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(files["policy"], folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({}, folder / "pytorch_model.bin")
    refused(here("run", run_file(models={"policy": {"path": str(folder)}})), 2, "pickle", "save_pretrained")


def test_model_that_needs_its_own_code(here: Mapjob, run_file: RunFile, files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "custom"
    shutil.copytree(files["policy"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "our_own", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    refused(here("run", run_file(models={"policy": {"path": str(folder)}})), 2, "trust_remote_code")


def test_chat_messages_without_a_template(here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    policy = make_policy(tmp_path / "plain", tokenizer=make_tokenizer(chat=False))
    change = {"models": {"policy": {"path": str(policy)}}, "input": {"plain_text": "chat"}}
    refused(here("run", run_file(**change)), 2, "no chat template", "plain_text: raw")


def test_policy_in_place_of_the_reward_model(here: Mapjob, run_file: RunFile, files: dict[str, Path]) -> None:
    refused(here("run", run_file(models={"reward": {"path": str(files["policy"])}})), 2, "one label")


def test_reward_model_with_two_labels(here: Mapjob, run_file: RunFile, tmp_path: Path) -> None:
    folder = make_reward(tmp_path / "two", num_labels=3)
    refused(here("run", run_file(models={"reward": {"path": str(folder)}})), 2, "one label, this one has 3")


def test_max_length_over_the_models_positions(here: Mapjob, run_file: RunFile) -> None:
    refused(here("run", run_file(scoring={"max_length": 5000})), 2, "1024", "scoring.max_length")


def test_no_cluster_at_the_address(mapjob: Mapjob, run_file: RunFile) -> None:
    refused(mapjob("run", run_file(execution={"address": "127.0.0.1:1"})), 2, "execution.address")


def test_rank_before_run(here: Mapjob, run_file: RunFile) -> None:
    refused(here("rank", run_file()), 4, "2 of 2 units of policy", "mapjob run")


def test_show_where_there_is_no_run(here: Mapjob, tmp_path: Path) -> None:
    refused(here("show", tmp_path, "1"), 2, "manifest.json")


def test_verbose_adds_the_traceback(mapjob: Mapjob) -> None:
    result = mapjob("run", "nowhere.yaml", "-v")
    assert result.returncode == 2
    assert "Traceback" in result.stderr


def test_usage(here: Mapjob) -> None:
    assert here("run").returncode == 2
    assert here("frobnicate").returncode == 2
    help_text = here("run", "--help")
    assert help_text.returncode == 0
    assert "Example" in help_text.stdout


def test_too_many_broken_rows_end_a_plan_before_a_model_is_loaded(
    here: Mapjob, run_file: RunFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"p {i}", "chosen": "yes", "rejected": None if i in (3, 7) else "no"} for i in range(40)]
    write_corpus(tmp_path / "rows", rows)
    path = run_file(input={"path": str(tmp_path / "rows")})
    monkeypatch.setattr("mapjob.job.forecast.make_scorer", lambda *_: pytest.fail("a model is loaded"))
    refused(here("plan", path), 3, "5.00% of the 40 rows", "2 null_field", "row 3", "rejected is null", "mapjob read")
    allowed = here("plan", path, "--set", "max_error_rate=0.05", "--no-measure")
    assert allowed.returncode == 0, allowed.stderr

"""The loop of self-play on tiny models: what an iteration does, what the next one starts from, and any interruption."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pyarrow.parquet import read_table
from transformers.utils import logging

from mapjob.cli.selfplay import describe_play
from mapjob.config.load import parse_config
from mapjob.errors import ConfigError
from mapjob.lab.selfplay.config import SelfPlayConfig
from mapjob.lab.selfplay.iterate import play
from mapjob.lab.selfplay.measures import HeldOutPrompts
from mapjob.store.storage import SCRATCH
from tests.crash.standing import COST
from tests.selfplay.in_process import without_ray
from tests.without_ray import run

KILLS = 3


@pytest.fixture
def tree(models: dict[str, Path], judge: Path, prompts: Path, tmp_path: Path) -> dict[str, Any]:
    logging.disable_progress_bar()
    return {
        "prompts": {"path": str(prompts), "group": "source"},
        "output": {"path": str(tmp_path / "out")},
        "models": {name: {"path": str(path), "dtype": "float32"} for name, path in models.items()},
        "judge": {"path": str(judge), "dtype": "float32"},
        "generation": {"num_responses": 3, "temperature": 1.0, "max_new_tokens": 40, "prompts_per_unit": 6},
        "evolve": {"rewrites": ["broaden", "deepen"], "length_factor": 30},
        "evolve_keep": {"ratio": 0.75},
        "scoring": {"max_length": 512, "control_tokens": "sanitize"},
        "selection": {"keep": {"ratio": 0.8}, "held_out": 0.3},
        "training": {"batch_size": 4, "accumulate": 1, "learning_rate": 1e-3, "max_steps": 2},
        "execution": {"rows_per_unit": 6},
    }


def played(tree: dict[str, Any], **sections: Any) -> dict[str, Any]:
    changed = {n: {**tree.get(n, {}), **s} if isinstance(s, dict) else s for n, s in sections.items()}
    with without_ray():
        return play(parse_config({**tree, **changed}, "test", SelfPlayConfig), run)


def standing(output: Path) -> dict[str, bytes]:
    """Every file below an output, but for what is known of files by their time, and what reports say of time."""
    files = {str(f.relative_to(output)): f.read_bytes() for f in output.rglob("*") if f.is_file()}
    files = {name: data for name, data in files.items() if not name.startswith((SCRATCH, "plans"))}
    for name, data in files.items():
        if name.endswith(("manifest.json", "generation.json", "report.json")):
            manifest = json.loads(data)
            manifest.pop("finished_at", None)
            del manifest["spent"]
            files[name] = json.dumps(manifest).encode()
        elif name.endswith("report.html"):
            files[name] = COST.sub("", data.decode()).encode()
    return files


def test_two_iterations(tree, tmp_path):
    result = played(tree, iterations=2)
    first, second = result["iterations"]
    assert second["policy"] == first["trained"]
    assert result["policy"] == [tree["models"]["policy"]["path"], first["trained"], second["trained"]][result["best"]]
    assert first["rewrites"]["kept"] > 0, "or nothing here tests them"
    assert first["candidates"] != second["candidates"]
    assert second["run_id"] != first["run_id"]
    for each in (first, second):
        manifest = json.loads((tmp_path / "out" / "runs" / each["run_id"] / "manifest.json").read_text())
        assert manifest["counts"]["ranked"] == each["pairs"]
        assert manifest["config"]["models"]["policy"]["path"] == each["policy"]
        assert manifest["config"]["input"]["path"] == each["candidates"]
        assert each["training"]["steps"] == 2
    assert json.loads((Path(result["path"]) / "selfplay.json").read_text())["iterations"] == result["iterations"]
    before = standing(tmp_path / "out")
    assert played(tree, iterations=2) == result
    assert standing(tmp_path / "out") == before


def test_responses_that_stay_are_scored_again_by_the_policy_alone(tree, tmp_path):
    result = played(tree, iterations=2, fresh_responses=False, evolve=None)
    first, second = result["iterations"]
    assert first["candidates"] == second["candidates"]
    assert first["mean_reward"] == second["mean_reward"]
    runs = [tmp_path / "out" / "runs" / each["run_id"] / "manifest.json" for each in (first, second)]
    before, after = (json.loads(path.read_text())["fingerprints"] for path in runs)
    assert [name for name in before if before[name] != after[name]] == ["policy"]


def test_dpo_has_the_policy_that_it_starts_from_as_reference(tree, tmp_path):
    (only,) = played(tree, evolve=None, training={"objective": "dpo"})["iterations"]
    manifest = json.loads((tmp_path / "out" / "runs" / only["run_id"] / "manifest.json").read_text())
    assert manifest["fingerprints"]["reference"] == manifest["fingerprints"]["policy"]
    assert only["training"]["first_loss"] == pytest.approx(0.6931, abs=1e-3)


def test_every_iteration_draws_anew_and_leaves_the_held_out_prompts_alone(tree, tmp_path):
    result = played(tree, iterations=2)
    measured = [json.loads(path.read_text()) for path in (tmp_path / "out" / "measures").iterdir()]
    assert len(measured) == 3, "the first policy and two trained ones"
    (held_out,) = {tuple(of["prompts"]) for of in measured}
    assert 0 < len(held_out) == result["held_out"] < 12
    for number, row in enumerate(result["iterations"]):
        files = [file for path in row["candidates"] for file in Path(path).glob("*.parquet")]
        answered = {prompt_id for file in files for prompt_id in read_table(file)["prompt_id"].to_pylist()}
        assert not answered & set(held_out)
        assert row["prompts"] == 12 - len(held_out)
        generation = json.loads((Path(row["candidates"][0]) / "generation.json").read_text())
        assert generation["config"]["generation"]["seed"] == number
        manifest = json.loads((tmp_path / "out" / "runs" / row["run_id"] / "manifest.json").read_text())
        assert manifest["config"]["selection"]["seed"] == number
        assert manifest["counts"]["held_out"] == 0


@pytest.mark.parametrize(("worth", "best"), [([1.0, 2.0, 1.5, 3.0], 1), ([1.0, 0.5], 0), ([1.0, 1.0, 1.1, 1.2], 3)])
def test_the_loop_stops_when_the_judge_finds_answers_worse_and_names_the_best_policy(tree, monkeypatch, worth, best):
    left = iter(worth)

    def judged(*_: Any) -> dict[str, Any]:
        mean = next(left)
        return {"prompts": [], "unanswered": 0, "by_prompt": {"judge": [mean - 1, mean, mean + 1]}}

    monkeypatch.setattr(HeldOutPrompts, "measure", judged)
    result = played(tree, iterations=3, evolve=None)
    policies = [tree["models"]["policy"]["path"], *(row["trained"] for row in result["iterations"])]
    falls = best < 3
    assert len(policies) == (best + 2 if falls else 4), "it stops with the iteration that is worse"
    assert (result["best"], result["policy"]) == (best, policies[best])
    assert (result["stopped"] is not None) == falls
    if falls:
        since = f"after iteration {best}" if best else "before the first iteration"
        assert f"fell by 0.500 (95 % interval 0.500 to 0.500) from what it was {since}" in result["stopped"]
        assert f"stopped after iteration {best + 1} of 3" in "\n".join(describe_play(result))


def test_without_a_judge_or_held_out_prompts_the_output_says_so(tree):
    result = played(tree, iterations=1, evolve=None, judge=None, selection={"held_out": 0})
    text = "\n".join(describe_play(result))
    assert "nothing is held out" in text
    assert "nobody judges" in text
    assert result["best"] == 1
    assert result["policy"] == result["iterations"][0]["trained"]


def test_a_loop_that_cannot_be(tree):
    for wrong, what in [
        ({"generation": {"num_responses": 1}}, "a pair takes two responses"),
        ({"iterations": 0}, "iterations"),
        ({"training": {"objective": "ppo"}}, "objective"),
        ({"judge": tree["models"]["reward"]}, "makes the labels"),
        ({"judge": {"path": "own", "trust_remote_code": True}}, "judge: only `mapjob run` lets a model"),
        ({"selection": {"held_out": 0}}, "judges answers to held-out prompts"),
        ({"models": {"reward": {"path": "own", "trust_remote_code": True}}}, "reward: only `mapjob run` lets a model"),
    ]:
        with pytest.raises(ConfigError, match=what):
            played(tree, **wrong)
    with pytest.raises(ConfigError, match="0 of 12 prompts are held out"):
        played(tree, selection={"held_out": 0.001})
    with pytest.raises(ConfigError, match="not on a disk"):
        played(tree, output={"path": "memory://out"})


def test_killed_at_random_moments_it_ends_in_the_same_files(tree, tmp_path, capsys):
    """What is generated, against a loop from the start; what follows, against one that finds it generated: runs know
    files on a disk by their time of change, which is another one in every loop from the start."""
    out = tmp_path / "out"
    played(tree)
    from_the_start, total = generated(out), num_files(out)
    out.rename(tmp_path / "undisturbed")
    seed = int(os.environ.get("MAPJOB_SEED", "0")) or random.SystemRandom().randrange(2**31)
    moments, left = sorted(random.Random(seed).sample(range(1, total), KILLS)), []
    for moment in moments:
        child = os.fork()
        if child == 0:
            try:
                played(tree)
            finally:
                os._exit(0)
        while num_files(out) < moment and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        left.append(num_files(out))
    played(tree)
    found = standing(out)
    with capsys.disabled():
        print(f"\nseed {seed}: {left} of {total} files stood when it was killed")
    assert generated(out) == from_the_start, f"seed {seed}"
    out.rename(tmp_path / "disturbed")
    out.mkdir()
    for kind in ("candidates", "prompts"):
        (tmp_path / "disturbed" / kind).rename(out / kind)  # a copy would be other files
    played(tree)
    expected = standing(out)
    assert found.keys() == expected.keys(), f"seed {seed}"
    assert [name for name in expected if found[name] != expected[name]] == [], f"seed {seed}"


def num_files(output: Path) -> int:
    """What is visible of an output."""
    return sum(len(files) for folder, _, files in os.walk(output) if SCRATCH not in Path(folder).parts)


def generated(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in standing(output).items() if name.endswith(".parquet") and name[0] in "cp"}

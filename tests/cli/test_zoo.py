"""Preference data in the forms that people have: every case is read right, or refused by name; none is read wrongly."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import Mapjob

PLAIN = [
    "argilla_ultrafeedback",
    "axolotl_chat_template",
    "capybara_dpo",
    "content_parts",
    "csv",
    "dahoas_full_hh",
    "dictionary_large",
    "first_row_odd",
    "hf_features",
    "hh_rlhf",
    "intel_orca_dpo_pairs",
    "jsonl",
    "jsonl_file",
    "key_order_differs",
    "messages_as_json",
    "null_keys",
    "old_sequence_candidates",
    "openbmb_ultrafeedback",
    "orpo_dpo_mix_40k",
    "raw_prompt_with_system_messages",
    "reasoning_content",
    "rlhflow_preference_700k",
    "sharegpt_system_tools",
    "skywork_80k",
    "stack_exchange_paired",
    "struct_of_lists",
    "system_beside_dialogues",
    "tools_column",
    "trl_hh_helpful_base",
    "trl_ultrafeedback_binarized",
    "truthy_dpo",
    "tulu3_8b_preference",
    "whole_dialogues_from_value",
]  # no key is needed

# Case -> (keys of input that it needs, words of the refusal without them, or None).
CASES: dict[str, tuple[dict[str, Any], str | None]] = {
    **dict.fromkeys(
        PLAIN,
        ({}, None),
    ),
    "ultrafeedback_binarized": ({"split": "train_prefs"}, "train_prefs"),
    "arena_55k": ({"reading": {"verdict": {"higher": ["winner_model_a", "winner_model_b"]}}}, "better answer"),
    "chatbot_arena_conversations": (
        {"reading": {"verdict": {"column": "winner", "first": ["model_a"], "second": ["model_b"]}}},
        "better answer",
    ),
    "helpsteer3": ({"reading": {"verdict": {"sign": "overall_preference"}}}, "better answer"),
    "pku_saferlhf": (
        {"reading": {"verdict": {"column": "better_response_id", "first": [0], "second": [1]}}},
        "better answer",
    ),
    "summarize_from_feedback": (
        {"reading": {"verdict": {"column": "choice", "first": [0], "second": [1]}}},
        "better answer",
    ),
}
REFUSED = {
    "array2d_column": "'embedding'",
    "kto": "unpaired data",
    "llamafactory_rlhf_v": "'images'",
    "openbmb_rlaif_v": "'image'",
    "mixed_string_and_messages": "differ in a column's type",
    "prompt_inside_completions": "begin with the prompt again",
    "several_configs": "several data sets",
}
OWN_OUTCOMES = {"details", "tool_calls"}  # each row its own; below


@pytest.fixture
def read(here: Mapjob, shared: Path, tmp_path: Path):
    def call(case: str, **keys: Any) -> tuple[int, list[dict[str, Any]], str]:
        path = tmp_path / "run.yaml"
        corpus = shared / "zoo" / case / "corpus"
        path.write_text(yaml.safe_dump({"input": {"path": str(corpus), **keys}, "output": {"path": str(tmp_path)}}))
        ran = here("read", path, "--json")
        rows = [json.loads(line) for line in ran.stdout.splitlines()] if ran.returncode == 0 else []
        return ran.returncode, rows, ran.stderr

    return call


def texts_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """What expected.json holds of a row: null for one without a usable pair."""
    texts = {name: value for name, value in row.items() if name not in ("file", "row")}
    return None if "reason" in texts else texts


def test_every_case_of_the_zoo_is_here(shared: Path) -> None:
    cases = {folder.name for folder in (shared / "zoo").iterdir() if folder.is_dir()}
    assert cases == CASES.keys() | REFUSED.keys() | OWN_OUTCOMES
    assert len(cases) == 48


@pytest.mark.parametrize("case", CASES)
def test_a_case_with_one_right_reading_is_read_so(read, shared: Path, case: str) -> None:
    keys, refusal = CASES[case]
    if refusal is not None:
        code, _, stderr = read(case)
        assert code == 3
        assert refusal in stderr
    code, rows, stderr = read(case, **keys)
    assert code == 0, stderr
    expected = json.loads((shared / "zoo" / case / "expected.json").read_text())
    assert [texts_of(row) for row in rows] == expected
    assert {row["reason"] for row in rows if "reason" in row} <= {"tie"}
    assert {"file", "row"} <= rows[0].keys()


@pytest.mark.parametrize("case", REFUSED)
def test_a_case_without_one_right_reading_is_refused_by_name(read, case: str) -> None:
    code, _, stderr = read(case)
    assert code == 3
    assert REFUSED[case] in stderr
    assert "to do:" in stderr


@pytest.mark.parametrize("case", [case for case, (_, refusal) in CASES.items() if refusal == "better answer"])
def test_the_yaml_that_a_refusal_prints_is_the_right_reading(read, shared: Path, case: str) -> None:
    _, _, stderr = read(case)
    printed = stderr.partition("put it under input:\n")[2].partition("\n  or:")[0]
    keys = yaml.safe_load("input:\n" + printed)["input"]
    code, rows, _ = read(case, **keys)
    assert code == 0
    assert [texts_of(row) for row in rows] == json.loads((shared / "zoo" / case / "expected.json").read_text())


def test_odd_rows_have_their_own_outcomes(read) -> None:
    code, rows, _ = read("details")
    assert code == 0
    assert rows[0]["prompt"][0]["content"].endswith(" ")
    assert rows[3]["prompt"][0] == {"role": "system", "content": ""}
    reasons = {row["row"]: row["reason"] for row in rows if "reason" in row}
    assert reasons == {
        1: "bad_messages",
        2: "identical_completions",
        4: "bad_messages",
        6: "null_field",
        7: "empty_completion",
        9: "bad_messages",
        11: "bad_messages",
    }


def test_tool_calls_are_read_with_their_tool_turns(read) -> None:
    code, rows, stderr = read("tool_calls")
    assert code == 0, stderr
    call, answer, said = rows[0]["chosen"]
    assert (call["content"], call["tool_calls"][0]["function"]["name"]) == (None, "look_up")
    assert (answer["role"], answer["name"], said["role"]) == ("tool", "look_up", "assistant")

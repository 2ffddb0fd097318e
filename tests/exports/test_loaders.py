"""Exports read by the rules that their loaders document, and by the loaders themselves where they are installed."""

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from tests.exports.conftest import CORPORA, Exported, Row, pairs_of, rows_of

# OpenRLHF: without a prompt_key, the prompt is chosen without its last message, and is cut off both rendered sides


@pytest.mark.parametrize("style", CORPORA)
def test_openrlhf_by_its_loaders_rules(exported: Exported, models: tuple[Path, Path], style: str) -> None:
    template = AutoTokenizer.from_pretrained(models[0]).apply_chat_template
    for row, (prompt, chosen, rejected) in zip(rows_of(exported(style, "openrlhf")), pairs_of(exported(style, "trl"))):
        if style == "raw":
            assert (row["prompt"], row["chosen"], row["rejected"]) == (prompt, chosen, rejected)
            continue
        opening = template(row["chosen"][:-1], tokenize=False, add_generation_prompt=True)
        assert opening == template(prompt, tokenize=False, add_generation_prompt=True)
        for name, completion in (("chosen", chosen), ("rejected", rejected)):
            whole = template(row[name], tokenize=False)
            assert whole == template(prompt + completion, tokenize=False)
            assert whole[len(opening) :] == completion[0]["content"] + "<|end|>\n"


# LLaMA-Factory: dataset_info.json beside the data says which column is what


@pytest.mark.parametrize("style", CORPORA)
def test_llama_factory_by_its_loaders_rules(exported: Exported, style: str) -> None:
    folder = exported(style, "llama_factory")
    info = json.loads((folder / "dataset_info.json").read_text())["selected"]
    files = list((folder / info["file_name"]).iterdir())
    assert {file.suffix for file in files} == {".parquet"}, "all files of the folder are of one kind"
    assert info["ranking"] is True
    convert = {"alpaca": as_alpaca, "sharegpt": as_sharegpt}[info["formatting"]]
    read = [convert(row, info["columns"]) for row in pq.read_table(files).to_pylist()]
    if style == "raw":
        assert read == pairs_of(exported(style, "trl"))
    else:
        expected = [(p, c[0]["content"], r[0]["content"]) for p, c, r in pairs_of(exported(style, "trl"))]
        assert read == expected


def as_alpaca(row: Row, columns: dict[str, str]) -> tuple:
    """The prompt column is the user's turn; chosen and rejected are strings."""
    chosen, rejected = row[columns["chosen"]], row[columns["rejected"]]
    assert isinstance(chosen, str)
    assert isinstance(rejected, str)
    return row[columns["prompt"]], chosen, rejected


def as_sharegpt(row: Row, columns: dict[str, str]) -> tuple:
    """A system turn may come first; then human and gpt in turns, an odd number; chosen and rejected one turn of gpt."""
    turns = row[columns["messages"]]
    messages = [{"role": "system", "content": turns[0]["value"]}] if turns[0]["from"] == "system" else []
    turns = turns[len(messages) :]
    assert len(turns) % 2 == 1
    for i, turn in enumerate(turns):
        assert turn["from"] == ("human", "gpt")[i % 2]
        messages.append({"role": ("user", "assistant")[i % 2], "content": turn["value"]})
    sides = [row[columns[name]] for name in ("chosen", "rejected")]
    assert all(isinstance(side, dict) and side["from"] == "gpt" for side in sides)
    return messages, *(side["value"] for side in sides)


# The loaders themselves


@pytest.mark.parametrize("style", CORPORA)
def test_openrlhf_itself_reads_what_was_scored(exported: Exported, models: tuple[Path, Path], style: str) -> None:
    openrlhf = pytest.importorskip("openrlhf.datasets")
    settings = {"chosen_key": "chosen", "rejected_key": "rejected", "prompt_key": None if style == "chat" else "prompt"}
    data = SimpleNamespace(**settings, apply_chat_template=style == "chat", tokenizer_chat_template=None)
    strategy = SimpleNamespace(print=print, is_rank_0=lambda: False, args=SimpleNamespace(use_ms=False, data=data))
    tokenizer = AutoTokenizer.from_pretrained(models[0])
    rows = openrlhf.utils.blending_datasets(str(exported(style, "openrlhf")), None, strategy)
    read = openrlhf.RewardDataset(rows, tokenizer, 1024, strategy, is_dpo=True, num_processors=1)
    pairs = pairs_of(exported(style, "trl"))
    assert len(read) == len(pairs)
    for (chosen_ids, _, rejected_ids, _, num_prompt_tokens), (prompt, *sides) in zip(read, pairs):
        for ids, completion in zip((chosen_ids[0], rejected_ids[0]), sides):
            if style == "raw":
                assert tokenizer.decode(ids) == (prompt + completion).rstrip("\n") + " <|end|>"
                continue
            expected = tokenizer.apply_chat_template(prompt + completion, tokenize=False).rstrip("\n")
            assert tokenizer.decode(ids) == expected
            assert expected.endswith(tokenizer.decode(ids[num_prompt_tokens:]))
            assert tokenizer.decode(ids[num_prompt_tokens:]) == completion[0]["content"] + "<|end|>"


@pytest.mark.parametrize("style", CORPORA)
def test_llama_factory_itself_reads_what_was_scored(
    exported: Exported, models: tuple[Path, Path], style: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")  # it asks for an older trl
    factory = pytest.importorskip("llamafactory.data")
    arguments = pytest.importorskip("llamafactory.hparams")
    folder, tokenizer = exported(style, "llama_factory"), AutoTokenizer.from_pretrained(models[0])
    data = arguments.DataArguments(
        dataset_dir=str(folder), dataset="selected", template=None if style == "chat" else "empty", cutoff_len=1024
    )
    model = SimpleNamespace(cache_dir=str(tmp_path), hf_hub_token=None)
    training = SimpleNamespace(
        seed=0, should_log=False, local_process_index=0, predict_with_generate=False, main_process_first=nullcontext_of
    )
    template = factory.get_template_and_fix_tokenizer(tokenizer, data)
    read = factory.get_dataset(template, model, data, training, stage="rm", tokenizer=tokenizer)["train_dataset"]
    pairs = pairs_of(exported(style, "trl"))
    assert len(read) == len(pairs)
    for row, (prompt, *sides) in zip(read, pairs):
        for side, completion in zip(("chosen", "rejected"), sides):
            ids, labels = row[f"{side}_input_ids"], [label for label in row[f"{side}_labels"] if label != -100]
            if style == "raw":
                assert tokenizer.decode(ids, skip_special_tokens=True) == prompt + completion
                assert tokenizer.decode(labels) == completion
            else:
                assert tokenizer.decode(ids) == tokenizer.apply_chat_template(prompt + completion, tokenize=False)
                assert tokenizer.decode(labels) == completion[0]["content"] + "<|end|>\n"


def nullcontext_of(**_: Any) -> AbstractContextManager[None]:
    return nullcontext()

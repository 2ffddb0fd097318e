"""What mapjob publishes against what TRL's DPO trainer computes on it: the reference log-probabilities of each pair.

A whole run scores real pairs with two models and publishes them; TRL is handed the published prompt, chosen and
rejected, tokenises them by itself, and precomputes its log-probabilities. They must be the published columns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from mapjob.config.load import parse_config
from mapjob.job.run import rank_job
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_policy, make_reward, write_corpus
from tests.golden.conftest import evenly
from tests.without_ray import score_all

pytestmark = pytest.mark.trl

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Published:
    """A finished run: its selected pairs, and the folder and published columns of its two language models."""

    table: pa.Table
    models: dict[str, Path]
    max_length: int

    def columns(self, model: str) -> np.ndarray:
        prefix = "ref_" if model == "reference" else ""
        return np.stack([self.table[f"{prefix}{side}_logps"].to_numpy() for side in ("chosen", "rejected")], 1)


def publish(folder: Path, shared: Path, rows: list[dict[str, Any]], plain_text: str, **scoring: Any) -> Published:
    """Score with a tiny Gemma 2 as the policy and the small trained reference, keep every pair, and publish."""
    policy = make_policy(folder / "policy", "gemma2")
    reference = shared / "models" / "small" / "reference"
    tree = config_tree(write_corpus(folder / "corpus", rows), folder / "out", policy, make_reward(folder / "reward"))
    tree["models"]["reference"] = {"path": str(reference), "dtype": "float32"}
    tree["input"]["plain_text"] = plain_text
    tree["scoring"] = {"max_length": 1024, **scoring}
    tree["selection"] = {"keep": {"ratio": 1.0}}
    config = parse_config(tree)
    score_all(config)
    files = sorted(Path(path_of(rank_job(config))).glob("selected/*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    return Published(table, {"policy": policy, "reference": reference}, config.scoring.max_length)


@pytest.fixture(scope="module")
def alpaca_as_messages(tmp_path_factory, shared, short_pairs) -> Published:
    return publish(tmp_path_factory.mktemp("alpaca"), shared, evenly(short_pairs, 60), "chat")


@pytest.fixture(scope="module")
def alpaca_as_strings(tmp_path_factory, shared, short_pairs) -> Published:
    return publish(tmp_path_factory.mktemp("raw"), shared, evenly(short_pairs, 100), "raw")


@pytest.fixture(scope="module")
def sharegpt(tmp_path_factory, shared) -> Published:
    """Multi-turn dialogues; long ones lose their end to max_length, by the same rule on both sides."""
    rows = pq.read_table(shared / "data" / "sharegpt_dpo_demo").to_pylist()
    rows = [row for row in rows if sum(len(turn["value"]) for turn in row["conversations"]) < 600]
    rows = sorted(rows, key=lambda row: -len(row["conversations"]))[:60]
    return publish(tmp_path_factory.mktemp("sharegpt"), shared, rows, "auto", max_length=640, overlength="keep_start")


CORPORA = ["alpaca_as_messages", "alpaca_as_strings", "sharegpt"]


@pytest.mark.parametrize("model", ["policy", "reference"])
@pytest.mark.parametrize("corpus", CORPORA)
def test_trl_computes_the_published_sums(request, tmp_path, corpus, model):
    published: Published = request.getfixturevalue(corpus)
    ours, trls = published.columns(model), by_trl(published, model, tmp_path)
    print(f"{corpus}, {model}: {len(ours)} pairs, largest deviation {np.abs(ours - trls).max():.2e}")
    np.testing.assert_allclose(ours, trls, rtol=0, atol=TOLERANCE)


def test_enough_real_pairs(alpaca_as_messages, alpaca_as_strings, sharegpt):
    assert len(alpaca_as_strings.table) == 100
    assert len(alpaca_as_messages.table) + len(sharegpt.table) >= 100
    assert pa.types.is_string(alpaca_as_strings.table.schema.field("prompt").type)
    assert sum(len(prompt) > 1 for prompt in sharegpt.table["prompt"].to_pylist()) >= 40
    for conversational in (alpaca_as_messages, sharegpt):
        assert pa.types.is_list(conversational.table.schema.field("prompt").type)


def by_trl(published: Published, model: str, folder: Path) -> np.ndarray:
    """Log-probability sums (N, 2) of chosen and rejected as TRL's trainer precomputes them."""
    path = published.models[model]
    arguments = DPOConfig(
        output_dir=str(folder),
        precompute_ref_log_probs=True,
        per_device_train_batch_size=8,
        max_length=published.max_length,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        args=arguments,
        processing_class=AutoTokenizer.from_pretrained(path),
        train_dataset=Dataset.from_list(published.table.select(["prompt", "chosen", "rejected"]).to_pylist()),
    )
    table = trainer.train_dataset
    return np.stack([np.array(table["ref_chosen_logps"]), np.array(table["ref_rejected_logps"])], 1)

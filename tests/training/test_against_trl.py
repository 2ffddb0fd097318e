"""DPO from stored log-probabilities against TRL's own precomputation; TRL's other trainers on the same selection."""

import logging
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, Trainer
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer

from mapjob.lab.training.losses import COLUMNS, dpo
from mapjob.lab.training.trainer import SelectionTrainer
from mapjob.store.run_folder import FinishedRun

QUIET = {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False, "activation_checkpointing": False}
QUIET |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1}


def selection(run: FinishedRun, folder: Path) -> datasets.Dataset:
    """As any user loads a run folder."""
    return datasets.load_dataset(run.folder.url, split="train", cache_dir=str(folder / "cache"))


def model(path: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def losses(trainer: Trainer) -> np.ndarray:
    trainer.train()
    return np.array([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])


@pytest.mark.parametrize("style", ["chat", "raw", "cut"])
def test_the_loss_curve_is_that_of_trls_own_precomputation(request, tree, tmp_path, style):
    run: FinishedRun = request.getfixturevalue(style)
    paths = {name: tree["models"][name]["path"] for name in ("policy", "reference")}
    max_length = run.manifest["config"]["scoring"]["max_length"]
    rows = selection(run, tmp_path)

    def arguments(name: str) -> DPOConfig:
        return DPOConfig(
            output_dir=str(tmp_path / name),
            precompute_ref_log_probs=True,
            per_device_train_batch_size=4,
            max_steps=20,
            learning_rate=1e-3,
            max_length=max_length,
            **QUIET,
        )

    given: dict[str, Any] = {"processing_class": AutoTokenizer.from_pretrained(paths["policy"])}
    pairs = rows.select_columns(["prompt", "chosen", "rejected"])
    with_reference = DPOTrainer(
        model(paths["policy"]), model(paths["reference"]), arguments("trl"), train_dataset=pairs, **given
    )
    stored = SelectionTrainer(
        dpo,
        COLUMNS["dpo"],
        args=arguments("ours"),
        model=model(paths["policy"]),
        train_dataset=rows,
        **given,
    )
    assert stored.ref_model is None
    assert len(stored.train_dataset) == len(with_reference.train_dataset) == len(rows)
    theirs, ours = losses(with_reference), losses(stored)
    print(f"{style}: {len(ours)} steps, largest deviation {np.abs(ours - theirs).max():.1e}")
    assert len(ours) == 20
    assert stored._may_join, "prompts were computed once"
    assert np.ptp(ours) > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


def reward_trainer(run: FinishedRun, tree: dict[str, Any], folder: Path) -> RewardTrainer:
    path = tree["models"]["reward"]["path"]
    return RewardTrainer(
        AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32),
        RewardConfig(output_dir=str(folder / "reward"), max_length=512, max_steps=3, **QUIET),
        train_dataset=selection(run, folder),
        processing_class=AutoTokenizer.from_pretrained(path),
    )


def simpo_trainer(run: FinishedRun, tree: dict[str, Any], folder: Path) -> CPOTrainer:
    """Its collator makes tensors of every column called *_logps, and its loss fails on those."""
    path = tree["models"]["policy"]["path"]
    arguments = {"loss_type": "simpo", "cpo_alpha": 0.0, "max_length": 512, "remove_unused_columns": False}
    return CPOTrainer(
        model(path),
        CPOConfig(output_dir=str(folder / "cpo"), max_steps=3, **arguments, **QUIET),
        train_dataset=selection(run, folder).select_columns(["prompt", "chosen", "rejected"]),
        processing_class=AutoTokenizer.from_pretrained(path),
    )


@pytest.mark.parametrize("style", ["chat", "raw"])
@pytest.mark.parametrize("trainer_of", [reward_trainer, simpo_trainer])
def test_trls_other_trainers_read_a_selection(request, tree, tmp_path, caplog, recwarn, monkeypatch, trainer_of, style):
    """No row lost, no warning, and no column that is taken for something else (a `margin` would be subtracted)."""
    run: FinishedRun = request.getfixturevalue(style)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level(logging.WARNING, "trl"), caplog.at_level(logging.WARNING, "transformers"):
        trainer = trainer_of(run, tree, tmp_path)
        rows = trainer.train_dataset
        values = losses(trainer)
    assert len(rows) == run.manifest["counts"]["selected"]
    assert np.isfinite(values).all()
    assert "margin" not in rows.column_names
    assert [record.message for record in caplog.records] == []
    assert [str(each.message) for each in recwarn] == []

"""A training on a run's selection, from its files to a folder that the next run can score with."""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig

from mapjob.config import Model, parse_config
from mapjob.errors import ConfigError, MapjobError
from mapjob.lab.training.config import Objective, Training
from mapjob.lab.training.losses import COLUMNS, LOSSES, Batch, all_parameters, check_run
from mapjob.lab.training.model import load_trainable, trainable_files
from mapjob.lab.training.trainer import SelectionTrainer
from mapjob.scoring.tokenizers import load_tokenizer
from mapjob.store.run_folder import FinishedRun, RunFolder

log = logging.getLogger(__name__)

# How to train, as the arguments of TRL's trainer.


def arguments(how: Training, folder: str, max_length: int) -> DPOConfig:
    """Quiet ones: no reports, no bars, no checkpoints. max_length: tokens of prompt and completion."""
    on_gpu = torch.cuda.is_available()
    rate = how.learning_rate
    return DPOConfig(
        output_dir=folder,
        num_train_epochs=how.epochs,
        max_steps=how.max_steps or -1,
        per_device_train_batch_size=how.batch_size,
        gradient_accumulation_steps=how.accumulate,
        learning_rate=(1e-5 if how.lora else 1e-6) if rate is None else rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_length=max_length,
        beta=how.parameters.get("beta", 0.1),  # of TRL's own loss
        seed=how.seed,
        precompute_ref_log_probs=True,
        bf16=on_gpu,
        activation_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show the losses before in the place of NaN
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


PAIR = ("prompt", "chosen", "rejected", "chosen_num_tokens", "rejected_num_tokens")


def train(
    run: FinishedRun,
    how: Training,
    output: Path,
    model: Model | None = None,
    rows: npt.NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Train the run's policy, or another model, on its selection; `output` becomes the folder of the trained model.

    Weights are trained in float32, on a GPU with activations in bfloat16; an adapter (the policy's own, or that of
    how.lora) is merged. `output` appears when all is done, or not at all. rows: those of the selection to train on,
    0 the best; None: all. Returns plain values: what was trained on, steps, losses. Raises ConfigError for what cannot
    be trained, MapjobError when the loss is no longer finite.
    """
    manifest = run.manifest
    objective, parameters = how.objective, all_parameters(how.objective, how.parameters)
    check_run(manifest, objective, run.folder.url)
    _check_here(output)
    config, style = parse_config(manifest["config"], run.folder.url), manifest["corpus"]["style"]
    max_length = how.max_length or config.scoring.max_length
    files = trainable_files(model or config.models.policy, style, max_length)
    tokenizer = load_tokenizer(files)
    if COLUMNS[objective] and files.tokenizer_hash != manifest["models"]["reference"]["tokenizer"]:
        log.warning("the tokenizer's files differ from the reference's, whose log-probabilities are taken as they are")
    loss = _loss(objective, parameters)
    progress = _Progress()
    # TRL's warnings quote texts of the corpus; what they warn of is counted here, or in the manifest.
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # of what peft still calls
    disable_progress_bars()
    start = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:
        trainer = SelectionTrainer(
            loss,
            COLUMNS[objective],
            args=arguments(how, f"{folder}/trainer", max_length),
            model=load_trainable(files),
            train_dataset=_selection(run.folder, COLUMNS[objective], rows),
            processing_class=deepcopy(tokenizer),  # TRL gives it a pad token, which the saved one need not have
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if how.lora else None,
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        for reason, number in trainer.dropped.items():
            if number:
                log.warning(f"{number:,} pairs are dropped: {reason}")
        log.info(f"{objective} on {len(trainer.train_dataset):,} pairs, from {files.path}")
        trainer.train()
        trained = trainer.model.merge_and_unload() if how.lora else trainer.model
        trained.save_pretrained(Path(folder) / "model")
        tokenizer.save_pretrained(Path(folder) / "model")
        os.rename(Path(folder) / "model", output)
    return {
        "output": str(output),
        "run_id": manifest["run_id"],
        "model": files.path,
        "objective": objective,
        "parameters": parameters,
        "pairs": len(trainer.train_dataset),
        "dropped": dict(trainer.dropped),
        "steps": trainer.state.global_step,
        "first_loss": progress.losses[0],
        "last_loss": progress.losses[-1],
        "seconds": round(time.monotonic() - start, 3),
    }


def check_one_gpu() -> None:
    """Raises ConfigError where several are visible."""
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"training takes one GPU, and {torch.cuda.device_count()} are visible",
            "CUDA_VISIBLE_DEVICES",
            "set CUDA_VISIBLE_DEVICES=0; for several GPUs, give the run folder to TRL itself",
        )


def _check_here(output: Path) -> None:
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError("there is something here already", str(output), "give a new folder as --output")
    check_one_gpu()


def _loss(objective: Objective, parameters: dict[str, Any]) -> Callable[[Batch], torch.Tensor] | None:
    """None: TRL's own. Raises ConfigError for parameters that the objective refuses."""
    if objective not in LOSSES:
        return None
    loss = partial(LOSSES[objective], **parameters)
    try:
        loss(Batch(*[torch.ones(1)] * len(fields(Batch))))
    except ValueError as error:
        raise ConfigError(str(error), f"the parameters of {objective}", "take the defaults, or others") from None
    return loss


def _selection(run: RunFolder, columns: tuple[str, ...], rows: npt.NDArray[np.int64] | None) -> Dataset:
    """The columns that are trained on and no others: TRL would take some of a user's own for its own."""
    names = [*PAIR, *columns]
    table = pa.concat_tables([run.read_table(name, names) for name in run.tables("selected")])
    return Dataset(table if rows is None else table.take(pa.array(rows)))


class _Progress(TrainerCallback):
    """The loss of every step, and a line for each tenth of them."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        step, loss = state.global_step, logs["loss"]
        if not math.isfinite(loss):
            do = "lower --learning-rate; nothing was saved"
            raise MapjobError(f"the loss is {loss}", f"step {step} of {state.max_steps}", do)
        self.losses.append(loss)
        if step == state.max_steps or step % math.ceil(state.max_steps / 10) == 0:
            log.info(f"step {step:,} of {state.max_steps:,}, loss {loss:.4f}")

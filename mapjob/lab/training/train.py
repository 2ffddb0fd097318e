"""A training on a run's selection, from its files to a folder that the next run can score with."""

import logging
import math
import os
import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback
from trl import DPOConfig

from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.corpus.plan import Style
from mapjob.errors import ConfigError, MapjobError, ModelError
from mapjob.lab.training.config import Objective, Training
from mapjob.lab.training.losses import COLUMNS, LOSSES, Batch, all_parameters, check_run
from mapjob.lab.training.trainer import SelectionTrainer
from mapjob.ranking.pairs import other_side
from mapjob.scoring.model_files import ModelFiles, model_files
from mapjob.scoring.models import load_model
from mapjob.scoring.tokenizers import load_tokenizer, takes_tools
from mapjob.store.run_folder import FinishedRun, RunFolder

log = logging.getLogger(__name__)


def arguments(recipe: Training, folder: str, max_length: int) -> DPOConfig:
    """The recipe as TRL's arguments: no reports, bars and checkpoints. max_length: tokens of prompt and completion."""
    on_gpu = torch.cuda.is_available()
    rate = recipe.learning_rate
    return DPOConfig(
        output_dir=folder,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        learning_rate=(1e-5 if recipe.lora else 1e-6) if rate is None else rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        max_length=max_length,
        seed=recipe.seed,
        precompute_ref_log_probs=True,
        bf16=on_gpu,
        activation_checkpointing=on_gpu,
        dataloader_pin_memory=on_gpu,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show earlier losses in place of NaN
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


PAIR = ("prompt", "chosen", "rejected", "chosen_num_tokens", "rejected_num_tokens")


def train(
    run: FinishedRun,
    recipe: Training,
    output: Path,
    model: Model | None = None,
    rows: npt.NDArray[np.int64] | None = None,
    swapped: npt.NDArray[np.bool_] | None = None,
    part: Literal["selected", "held_out"] = "selected",
) -> dict[str, Any]:
    """Train the run's policy, or another model, on its selection; `output` becomes the folder of the trained model.

    Weights are trained in float32, on a GPU with activations in bfloat16; an adapter (of the policy, or of
    recipe.lora) is merged. `output` appears once it is complete, or not at all. part: of the run folder. rows: of this
    part, 0 is its first; None: all. swapped: of these rows, those whose sides are exchanged. Returns plain values:
    pairs, steps, losses. Raises ConfigError for what cannot be trained, MapjobError if the loss is not finite.
    """
    manifest = run.manifest
    objective, parameters = recipe.objective, all_parameters(recipe.objective, recipe.parameters)
    check_run(manifest, objective, run.folder.url)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise ConfigError("this folder is not empty", str(output), "give a new folder as --output")
    check_one_gpu()
    config, corpus = parse_config(manifest["config"], run.folder.url), manifest["corpus"]
    given = tuple(corpus["reading"].get("template", ()))
    max_length = recipe.max_length or config.scoring.max_length
    files = trainable_files(model or config.models.policy, corpus["style"], max_length, given)
    tokenizer = load_tokenizer(files)
    if COLUMNS[objective] and files.tokenizer_hash != manifest["models"]["reference"]["encoding"]["tokenizer"]:
        log.warning("the tokenizer's files differ from the reference's, whose log-probabilities are taken as they are")
    loss = _loss(objective, parameters)
    progress = _Progress()
    # TRL's warnings quote texts of the corpus; the counts are here, or in the manifest.
    logging.getLogger("trl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # peft calls old functions
    disable_progress_bars()
    start = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as folder:
        trainer = SelectionTrainer(
            loss,
            COLUMNS[objective],
            args=arguments(recipe, f"{folder}/trainer", max_length),
            model=load_trainable(files),
            train_dataset=_read_pairs(run.folder, part, (*given, *COLUMNS[objective]), rows, swapped),
            processing_class=deepcopy(tokenizer),  # TRL adds a pad token, which is not saved
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if recipe.lora else None,
            callbacks=[progress],
        )
        trainer.remove_callback(PrinterCallback)
        for reason, number in trainer.dropped.items():
            if number:
                log.warning(f"{number:,} pairs are dropped: {reason}")
        log.info(f"{objective} on {len(trainer.train_dataset):,} pairs, from {files.path}")
        trainer.train()
        trained = trainer.model.merge_and_unload() if recipe.lora else trainer.model
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


def trainable_files(model: Model, style: Style, max_length: int, given: tuple[str, ...] = ()) -> ModelFiles:
    """The model's files. given: the columns that are given to its chat template.

    Raises ConfigError for a model with code of its own, ModelError for one that cannot take such pairs.
    """
    if model.trust_remote_code:
        do = "give the run folder to TRL itself"
        raise ConfigError("`mapjob train` runs no code that comes with a model", model.path, do)
    files = model_files(model, "policy")
    if style == "chat" and not files.has_chat_template:
        do = "give its tokenizer a chat_template"
        raise ModelError("the selection holds messages, and the model has no chat template", files.path, do)
    if style == "chat" and "tools" in given and not takes_tools(load_tokenizer(files)):
        do = "give a model whose template takes tools"
        raise ModelError("the selection has tools, and the model's chat template takes none", files.path, do)
    if style == "raw" and load_tokenizer(files).eos_token is None:
        raise ModelError("the tokenizer has no EOS token to end plain text", files.path, "set its eos_token")
    limit = files.max_positions
    if limit and max_length > limit:
        do = f"give --max-length {limit} or less: longer pairs are dropped and counted"
        raise ConfigError(f"max_length is {max_length}, and the model was made for {limit} positions", files.path, do)
    return files


def load_trainable(files: ModelFiles) -> PreTrainedModel:
    """The model on the CPU in float32, its adapter merged, all weights trainable."""
    model = load_model(replace(files, dtype="float32", adapter=None), "logps", "policy", torch.device("cpu"))
    if files.adapter is not None:
        model = PeftModel.from_pretrained(model, files.adapter.folder).merge_and_unload()
    return model.requires_grad_(True)


def check_one_gpu() -> None:
    """Raises ConfigError if several GPUs are visible."""
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            f"training takes one GPU, and {torch.cuda.device_count()} are visible",
            "CUDA_VISIBLE_DEVICES",
            "set CUDA_VISIBLE_DEVICES=0; for several GPUs, give the run folder to TRL itself",
        )


def _loss(objective: Objective, parameters: dict[str, Any]) -> Callable[[Batch], torch.Tensor]:
    """Raises ConfigError for parameters that the objective rejects."""
    loss = partial(LOSSES[objective], **parameters)
    try:
        loss(Batch(*[torch.ones(1)] * len(fields(Batch))))
    except ValueError as error:
        raise ConfigError(str(error), f"the parameters of {objective}", "take the defaults, or others") from None
    return loss


def _read_pairs(
    run: RunFolder,
    part: str,
    columns: tuple[str, ...],
    rows: npt.NDArray[np.int64] | None,
    swapped: npt.NDArray[np.bool_] | None,
) -> Dataset:
    """The columns for training and no others: TRL would use some columns of a user as its own."""
    names = [*PAIR, *columns]
    table = pa.concat_tables([run.read_table(name, names) for name in run.tables(part)])
    table = table if rows is None else table.take(pa.array(rows))
    return Dataset(table if swapped is None or not swapped.any() else _swap(table, swapped))


def _swap(table: pa.Table, where: npt.NDArray[np.bool_]) -> pa.Table:
    """The same pairs with the two sides exchanged if the mask is True."""
    stays, taken = np.arange(len(table)), {}
    for name in table.column_names:
        other = other_side(name) if "_" in name else {"chosen": "rejected", "rejected": "chosen"}.get(name, name)
        both = pa.chunked_array([*table[name].chunks, *table[other].chunks])
        taken[name] = both.take(pa.array(np.where(where, stays + len(table), stays)))
    if "reward_margin" in taken:
        taken["reward_margin"] = pc.multiply(taken["reward_margin"], pa.array(np.where(where, -1.0, 1.0)))
    return pa.table(taken)


class _Progress(TrainerCallback):
    """Keeps the loss of every step, and logs ten of them."""

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

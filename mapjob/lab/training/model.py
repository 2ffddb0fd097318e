"""The model that is trained: the run's policy or another one, checked against the selection, in float32."""

from dataclasses import replace

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from mapjob.config import Model
from mapjob.corpus.plan import Style
from mapjob.errors import ConfigError, ModelError
from mapjob.scoring.model_files import ModelFiles, model_files
from mapjob.scoring.models import load_model
from mapjob.scoring.tokenizers import load_tokenizer


def trainable_files(model: Model, style: Style, max_length: int) -> ModelFiles:
    """The model's files. Raises ConfigError for one with code of its own, or that cannot take pairs of this kind."""
    if model.trust_remote_code:
        do = "give the run folder to TRL itself"
        raise ConfigError("`mapjob train` runs no code that comes with a model", model.path, do)
    files = model_files(model, "policy")
    if style == "chat" and not files.has_chat_template:
        do = "give its tokenizer a chat_template"
        raise ModelError("the selection holds messages, and the model has no chat template", files.path, do)
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

"""Models on a device: loaded without remote code or pickles, refused when a weight is made up."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from mapjob.errors import ModelError
from mapjob.scoring.model_files import ADAPTED
from mapjob.scoring.spec import ScorerSpec


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(spec: ScorerSpec, device: torch.device) -> PreTrainedModel:
    """The scorer's model in eval mode on the device. Raises ModelError for weights that are missing or made up."""
    where = f"models.{spec.name}.path: {spec.files.path}"
    check_architecture(spec)
    transformers_logging.disable_progress_bar()
    try:
        model, info = _auto_class(spec).from_pretrained(
            spec.files.folder(weights=True),
            dtype=getattr(torch, spec.files.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"the model cannot be loaded: {_first_line(error)}", where, "check the folder") from error
    if info["missing_keys"]:
        raise ModelError(
            f"weights are missing and would be made up at random: {', '.join(sorted(info['missing_keys'])[:4])}",
            where,
            "give a reward model (sequence classification)"
            if spec.kind == "rewards"
            else "give a causal language model with all its weights",
        )
    return model.to(device).eval().requires_grad_(False)


def check_architecture(spec: ScorerSpec) -> Any:
    """The model's config. Raises ModelError when transformers cannot make this model by its own code."""
    where = f"models.{spec.name}.path: {spec.files.path}"
    try:
        config = AutoConfig.from_pretrained(spec.files.folder(), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            what = "the model needs code of its own (trust_remote_code), which is not run"
            raise ModelError(what, where, "use a model whose architecture is part of transformers") from None
        raise ModelError(f"config.json is not usable: {_first_line(error)}", where, "check the folder") from None
    if type(config) not in _auto_class(spec)._model_mapping:
        needed = "causal language model" if spec.kind == "logps" else "sequence classification model"
        raise ModelError(f"a {config.model_type} model is no {needed}", where, "give a model of that kind")
    return config


def _auto_class(spec: ScorerSpec) -> Any:
    if spec.kind == "logps":
        return AutoModelForCausalLM
    # A head of its own comes from scoring/rewards.py, so only the body under it is needed.
    return AutoModel if spec.files.architecture in ADAPTED else AutoModelForSequenceClassification


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

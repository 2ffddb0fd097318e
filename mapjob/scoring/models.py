"""Models on a device: loaded without remote code or pickles, refused when a weight is made up, probed before use."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mapjob.errors import ModelError
from mapjob.scoring.spec import ScorerSpec


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(spec: ScorerSpec, device: torch.device) -> PreTrainedModel:
    """The scorer's model in eval mode on the device. Raises ModelError for weights that are missing or made up."""
    where = f"models.{spec.name}.path: {spec.files.path}"
    check_architecture(spec)
    kind = AutoModelForCausalLM if spec.kind == "logps" else AutoModelForSequenceClassification
    transformers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
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
    return model.to(device).eval()


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
    kind = AutoModelForCausalLM if spec.kind == "logps" else AutoModelForSequenceClassification
    if type(config) not in kind._model_mapping:
        needed = "causal language model" if spec.kind == "logps" else "sequence classification model"
        raise ModelError(f"a {config.model_type} model is no {needed}", where, "give a model of that kind")
    return config


def backbone(model: PreTrainedModel) -> torch.nn.Module:
    """The body under the head: token ids in, last hidden states out."""
    return getattr(model, model.base_model_prefix)


def hidden_states(model: PreTrainedModel, ids_BL: torch.Tensor) -> torch.Tensor:
    """Last hidden states (B, L, H) of right-padded token ids.

    No attention mask: in a causal model a token never sees the padding behind it, so the mask could only cost time.
    """
    return backbone(model)(input_ids=ids_BL, use_cache=False).last_hidden_state


@torch.inference_mode()
def probe_padding(model: PreTrainedModel, spec: ScorerSpec) -> None:
    """Raises ModelError unless tokens behind a text leave its hidden states alone, which right-padding relies on."""
    device, vocabulary = model.device, backbone(model).get_input_embeddings().num_embeddings
    ids_1L = (torch.arange(1, 9, device=device) * 7 % vocabulary)[None]
    padded_1L = torch.nn.functional.pad(ids_1L, (0, 5))
    alone, padded = hidden_states(model, ids_1L)[0], hidden_states(model, padded_1L)[0, :8]
    drift = (alone.float() - padded.float()).abs().max().item()
    tolerance = 1e-3 if spec.files.dtype == "float32" else 5e-2
    if not drift <= tolerance * max(1.0, alone.float().abs().max().item()):
        raise ModelError(
            f"later tokens change what the model makes of earlier ones (by {drift:.3g}): it is not causal",
            f"models.{spec.name}.path: {spec.files.path}",
            "give a decoder-only model",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]

"""Models on devices: loaded without pickles, refused when a weight is made up, with their adapters.

Code that comes with a model is run only where the run file and the command line both allow it.
"""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from mapjob.errors import ModelError
from mapjob.escaping import first_line
from mapjob.scoring.architecture import auto_class, check_architecture
from mapjob.scoring.spec import ScorerSpec
from mapjob.scoring.tokenizers import check_vocabulary

DAMAGED = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)  # what files that do not fit raise


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arithmetic(name: str, device: torch.device) -> str:
    """The dtype that a model of that dtype is computed in.

    float32 for float16 on any CPU, and for bfloat16 on one without products of it: torch makes these out of float32
    ones there, several times slower than float32 itself, and rounds what lies between.
    """
    if device.type == "cpu" and (name == "float16" or (name == "bfloat16" and not multiplies_bfloat16())):
        return "float32"
    return name


def multiplies_bfloat16() -> bool:
    """Whether this machine's processor does: AVX512_BF16 or AMX; on Arm as oneDNN says."""
    if platform.machine() in ("x86_64", "AMD64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def load_model(specs: Sequence[ScorerSpec], device: torch.device, spread: bool = False) -> PreTrainedModel:
    """The model that scorers with one base share, in eval mode; `wearing` puts a scorer's adapter on.

    Its weights have the values of the run file's dtype; `arithmetic` says what they are stored and multiplied in.
    spread: over all the GPUs that are there, layer by layer. Raises ModelError for weights that are missing or made up.
    """
    spec = specs[0]
    where = f"models.{spec.name}.path: {spec.files.path}"
    check_architecture(spec)
    if spec.files.code_allowed:
        check_vocabulary(spec.name, spec.files)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns of padding without a mask, which is what we mean to do
    try:
        model, info = auto_class(spec).from_pretrained(
            spec.files.folder(weights=True),
            dtype=getattr(torch, spec.files.dtype),
            use_safetensors=True,
            trust_remote_code=spec.files.runs_own_code(),
            output_loading_info=True,
            device_map="auto" if spread else None,
        )
    except (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        ImportError,
        AttributeError,
        SafetensorError,
    ) as error:
        raise ModelError(f"the model cannot be loaded: {first_line(error)}", where, "check the folder") from error
    if info["missing_keys"]:
        raise ModelError(
            f"weights are missing and would be made up at random: {', '.join(sorted(info['missing_keys'])[:4])}",
            where,
            "give a reward model (sequence classification)"
            if spec.kind == "rewards"
            else "give a causal language model with all its weights",
        )
    places = set(map(str, getattr(model, "hf_device_map", {}).values()))
    if device.type == "cuda" and places & {"cpu", "disk"}:
        raise ModelError("the model does not fit on the GPUs of one actor", where, "raise execution.pools.*.num_gpus")
    for each in specs:
        model = _with_adapter(model, each)
    model = (model if spread else model.to(device)).eval().requires_grad_(False)
    if arithmetic(spec.files.dtype, device) == "float32":
        model = model.float()
    return model


def body_of(model: PreTrainedModel) -> torch.nn.Module:
    """The network under the head: token ids in, last hidden states out."""
    return getattr(model, model.base_model_prefix, model)


def _with_adapter(model: PreTrainedModel, spec: ScorerSpec) -> PreTrainedModel:
    adapter = spec.files.adapter
    if adapter is None:
        return model
    from peft import PeftModel  # slow to import, and few runs need it

    try:
        if spec.kind == "rewards":
            # A reward adapter brings its own head; it has no other scorer to share the base with.
            return PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
        model.load_adapter(str(adapter.folder), adapter_name=spec.name)
    except DAMAGED as error:
        where = f"models.{spec.name}.adapter: {adapter.location}"
        raise ModelError(f"the adapter does not fit the model: {first_line(error)}", where, "check both") from error
    return model


@contextmanager
def wearing(model: PreTrainedModel, spec: ScorerSpec) -> Iterator[None]:
    """Inside, the scorer's adapter is on, or every adapter off for a scorer without one."""
    if getattr(model, "_hf_peft_config_loaded", False):
        if spec.files.adapter is None:
            model.disable_adapters()
        else:
            model.enable_adapters()
            model.set_adapter(spec.name)
    yield

"""Models on devices: loaded without pickles, refused when a weight is made up, with their adapters.

Code that comes with a model is run only if the run file and the command line both allow it.
"""

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from mapjob.errors import ModelError
from mapjob.escaping import first_line
from mapjob.scoring.architecture import auto_class, check_architecture
from mapjob.scoring.model_files import AdapterFiles, ModelFiles
from mapjob.scoring.spec import Kind
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


def load_model(
    files: ModelFiles,
    kind: Kind,
    name: str,
    device: torch.device,
    adapters: Mapping[str, AdapterFiles] | None = None,
    spread: bool = False,
) -> PreTrainedModel:
    """The model in eval mode; `adapter_active` turns an adapter on.

    Its weights have the values of the run file's dtype; `arithmetic` says what they are stored and multiplied in.
    name: what the run file calls it, for errors. adapters: of all the scorers that share it, by name; None: its own,
    under its name. spread: over all GPUs, layer by layer. Raises ModelError for weights that are missing or made up,
    and IncompleteError for others than were planned.
    """
    if adapters is None:
        adapters = {name: files.adapter} if files.adapter else {}
    where = files.where(name)
    check_architecture(files, kind, name)
    if files.code_allowed:
        check_vocabulary(name, files)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # it warns of padding without a mask, which is what we mean to do
    try:
        model, info = auto_class(files, kind).from_pretrained(
            files.folder(weights=True),
            dtype=getattr(torch, files.dtype),
            use_safetensors=True,
            trust_remote_code=files.runs_own_code(),
            output_loading_info=True,
            device_map="auto" if spread else None,
        )
    except (*DAMAGED, TypeError, ImportError, AttributeError) as error:
        files.check_unchanged(name)
        raise ModelError(f"the model cannot be loaded: {first_line(error)}", where, "check the folder") from error
    if info["missing_keys"]:
        raise ModelError(
            f"weights are missing and would be made up at random: {', '.join(sorted(info['missing_keys'])[:4])}",
            where,
            "give a reward model (sequence classification)"
            if kind == "rewards"
            else "give a causal language model with all its weights",
        )
    devices = set(map(str, getattr(model, "hf_device_map", {}).values()))
    if device.type == "cuda" and devices & {"cpu", "disk"}:
        raise ModelError("the model does not fit on the GPUs of one actor", where, "raise execution.pools.*.num_gpus")
    for adapter_name, adapter in adapters.items():
        model = _with_adapter(model, adapter, kind, adapter_name)
        adapter.check_unchanged(adapter_name)
    files.check_unchanged(name)
    model = (model if spread else model.to(device)).eval().requires_grad_(False)
    if arithmetic(files.dtype, device) == "float32":
        model = model.float()
    return model


def network_of(model: PreTrainedModel) -> torch.nn.Module:
    """The network under the head: token ids in, last hidden states out."""
    return getattr(model, model.base_model_prefix, model)


def _with_adapter(model: PreTrainedModel, adapter: AdapterFiles, kind: Kind, name: str) -> PreTrainedModel:
    from peft import PeftModel  # slow to import, and few runs need it

    try:
        if kind == "rewards":
            # A reward adapter brings its own head; it has no other scorer to share the base with.
            return PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
        model.load_adapter(str(adapter.folder), adapter_name=name)
    except DAMAGED as error:
        where = f"models.{name}.adapter: {adapter.location}"
        raise ModelError(f"the adapter does not fit the model: {first_line(error)}", where, "check both") from error
    return model


@contextmanager
def adapter_active(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Inside, the adapter of that name is on; None: every adapter is off."""
    if getattr(model, "_hf_peft_config_loaded", False):
        if name is None:
            model.disable_adapters()
        else:
            model.enable_adapters()
            model.set_adapter(name)
    yield

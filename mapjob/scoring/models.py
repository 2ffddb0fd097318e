"""Models on devices: loaded without pickles, refused when a weight is made up, with their adapters.

Code that comes with a model is run only if the run file and the command line both allow it.
"""

import platform
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from mapjob.errors import MapjobError, ModelError
from mapjob.escaping import first_line
from mapjob.scoring.architecture import auto_class, check_architecture
from mapjob.scoring.model_files import ADAPTER, AdapterFiles, ModelFiles
from mapjob.scoring.spec import Kind
from mapjob.scoring.tokenizers import check_vocabulary

MERGE = "merge the adapter into its base (merge_and_unload), save that, and give it as path"


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
    # What config.json leaves open, the shape of the head has said.
    loader = auto_class(files, kind, name)
    is_open = loader is AutoModelForSequenceClassification and files.num_labels == 1 != files.configured_labels
    # Straight to the GPU: a copy of the weights in the machine's own memory may not fit there.
    map_to = "auto" if spread else {"": device} if device.type == "cuda" else None
    with as_model_error(
        "the model cannot be loaded", files, where, "check the folder", lambda: files.check_unchanged(name)
    ):
        model, info = loader.from_pretrained(
            files.folder(weights=True),
            dtype=getattr(torch, files.dtype),
            use_safetensors=True,
            trust_remote_code=files.runs_own_code(),
            output_loading_info=True,
            device_map=map_to,
            **({"num_labels": 1} if is_open else {}),
        )
        if files.code_allowed:
            _fill_buffers(model)
    brought = {weight for adapter in adapters.values() for weight in adapter.whole_weights}
    if missing := sorted(name for name in info["missing_keys"] if name not in brought):
        raise ModelError(
            f"weights are missing and would be made up at random: {', '.join(missing[:4])}",
            where,
            "give a reward model (sequence classification)"
            if kind == "rewards"
            else "give a causal language model with all its weights",
        )
    devices = set(map(str, getattr(model, "hf_device_map", {}).values()))
    if device.type == "cuda" and devices & {"cpu", "disk"}:
        raise ModelError("the model does not fit on the GPUs of one actor", where, "raise execution.pools.*.num_gpus")
    for adapter_name, adapter in adapters.items():
        model = _with_adapter(model, files, adapter, kind, adapter_name)
        adapter.check_unchanged(adapter_name)
    files.check_unchanged(name)
    model = (model if spread else model.to(device)).eval().requires_grad_(False)
    if arithmetic(files.dtype, device) == "float32":
        model = model.float()
    return model


@torch.no_grad()
def _fill_buffers(model: PreTrainedModel) -> None:
    """Give buffers that are not among the weights (rotary angles) the values that the model's class computes for them.

    transformers makes a model without values first, and then fills those buffers of its own classes only: in a class
    that came with the model they hold whatever was in memory.
    """
    from accelerate import init_empty_weights  # slow to import, and few runs need it

    with init_empty_weights(include_buffers=False):
        computed = type(model)(deepcopy(model.config))
    buffers, saved = dict(model.named_buffers()), computed.state_dict().keys()
    for name, buffer in computed.named_buffers():
        if name not in saved:
            buffers[name].copy_(buffer)


def network_of(model: PreTrainedModel) -> torch.nn.Module:
    """The network under the head: token ids in, last hidden states out."""
    for name in (model.base_model_prefix, "model"):  # Llama 4's language model is called otherwise than it says
        if name and hasattr(model, name):
            return getattr(model, name)
    return model


@contextmanager
def as_model_error(
    what: str, files: ModelFiles, where: str, do: str, look: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside, whatever a model's classes raise is a ModelError that names its architecture: other code than ours, of
    which any exception may come, and which would raise it again if the same command ran again.

    look: called first, to raise what is the true cause. A device that is lost is no fault of the model.
    """
    try:
        yield
    except (MapjobError, torch.AcceleratorError):
        raise
    except Exception as error:
        look()
        said = first_line(error) or type(error).__name__
        raise ModelError(f"{what} ({files.architecture}): {said}", where, do) from error


def _with_adapter(
    model: PreTrainedModel, files: ModelFiles, adapter: AdapterFiles, kind: Kind, name: str
) -> PreTrainedModel:
    """The model with the adapter, every tensor of which is in it. A reward adapter is merged: nobody shares its base.

    Raises ModelError for an adapter that this leaves out in part.
    """
    from peft import PeftModel, set_peft_model_state_dict  # slow to import, and few runs need it

    where, unchanged = f"models.{name}.adapter: {adapter.location}", lambda: adapter.check_unchanged(name)
    with as_model_error("the adapter does not fit the model", files, where, "check both", unchanged):
        saved = load_file(adapter.folder / ADAPTER[1])
        tensors = {key.removeprefix("base_model.model."): tensor for key, tensor in saved.items()}
        if kind == "rewards":
            model = PeftModel.from_pretrained(model, adapter.folder).merge_and_unload()
            wanted, loaded = adapter.whole_weights, dict(model.named_parameters(remove_duplicate=False))
        else:
            model.load_adapter(str(adapter.folder), adapter_name=name)
            # Once more by peft itself: transformers' own loading leaves out DoRA's magnitudes.
            set_peft_model_state_dict(model, dict(tensors), adapter_name=name)
            if name in getattr(model.get_output_embeddings(), "lora_magnitude_vector", ()):
                raise ModelError("the adapter changes the output embedding by DoRA, which is not applied", where, MERGE)
            wanted = tensors.keys()
            loaded = {_saved_name(key, name): weight for key, weight in model.named_parameters(remove_duplicate=False)}
    for key in sorted(wanted):
        tensor = tensors[key]
        if key not in loaded or not torch.equal(loaded[key].cpu(), tensor.to(loaded[key].dtype)):
            raise ModelError(
                f"the adapter changes {key} in a way that peft does not apply to this model",
                where,
                MERGE,
            )
    return model


def _saved_name(parameter: str, adapter: str) -> str:
    """The name under which peft saves a parameter of an adapter."""
    name = re.sub(rf"\.(modules_to_save\.)?{re.escape(adapter)}(?=\.|$)", "", parameter)
    return name.removesuffix(".weight") if "lora_magnitude_vector" in name else name


@contextmanager
def adapter_active(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Inside, the adapter of that name is on; None: every adapter is off."""
    if getattr(model, "_hf_peft_config_loaded", False):
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        # transformers' own switch leaves whole weights, and those of single tokens, as they were.
        for module in model.modules():
            if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
                module.enable_adapters(name is not None)
                if name is not None:
                    module.set_adapter(name, inference_mode=True)
    yield


def forward_with_float32_head(
    model: PreTrainedModel, head: torch.nn.Module, ids_1L: torch.Tensor, **more: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(logits of the model's own forward pass, last hidden states (1, L, H) of its network).

    What the head makes of the states, and all that comes after it, is computed in float32. more: for the forward pass.
    """
    exact = deepcopy(head)
    if hasattr(exact, "_hf_hook"):  # of a model that is spread over devices
        from accelerate.hooks import remove_hook_from_module

        remove_hook_from_module(exact, recurse=True)
    exact = exact.to("cpu", torch.float32)
    states: list[torch.Tensor] = []
    hooks = [
        network_of(model).register_forward_hook(lambda _, __, output: states.append(output.last_hidden_state)),
        head.register_forward_hook(lambda _, given, output: exact(given[0].cpu().float()).to(output.device)),
    ]
    try:
        logits = model(input_ids=ids_1L, use_cache=False, **more).logits.float()
        if not states:  # it calls a part of its network, and not the whole (OPT)
            network_of(model)(input_ids=ids_1L, use_cache=False)
        return logits, states[0]
    finally:
        for hook in hooks:
            hook.remove()

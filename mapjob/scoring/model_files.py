"""A model's files before any of them is loaded: found, refused when unsafe, and fingerprinted. No torch here."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mapjob.config import Model
from mapjob.errors import ModelError

WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")
TOKENIZER += ("vocab*", "merges.txt", "spiece.model", "*.tiktoken")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class ModelFiles:
    """A model of the run file as files: `folder` is local; the two hashes change whenever its numbers could."""

    path: str
    revision: str | None
    dtype: str
    folder: str
    weights_hash: str
    tokenizer_hash: str

    @property
    def config(self) -> dict[str, Any]:
        """config.json, with the language model's part of a multimodal one on top."""
        tree = json.loads((Path(self.folder) / "config.json").read_text(encoding="utf-8"))
        return {**tree, **tree.get("text_config", {})}

    @property
    def has_chat_template(self) -> bool:
        folder = Path(self.folder)
        if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
            return True
        settings = folder / "tokenizer_config.json"
        return settings.exists() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))


def model_files(model: Model, role: str) -> ModelFiles:
    """Find a model. Raises ModelError when it is missing, holds only pickled weights, or needs code of its own."""
    where = f"models.{role}.path: {model.path}"
    folder = _local_folder(model, where)
    if not (folder / "config.json").is_file():
        raise ModelError("no model here: config.json is missing", where, "give a folder written by save_pretrained")
    if not any(folder.glob("*.safetensors")):
        if any(file for pattern in PICKLED for file in folder.glob(pattern)):
            raise ModelError(
                "the weights are pickled, and loading a pickle can run code",
                where,
                "save the model again with save_pretrained, which writes safetensors",
            )
        raise ModelError("no weights here: no .safetensors file", where, "give a folder written by save_pretrained")
    hashes = _content_hash(str(folder), WEIGHTS), _content_hash(str(folder), TOKENIZER)
    return ModelFiles(model.path, model.revision, model.dtype, str(folder), *hashes)


def _local_folder(model: Model, where: str) -> Path:
    folder = Path(model.path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_absolute() or model.path.startswith(".") or model.path.count("/") != 1:
        raise ModelError("there is no model at this path", where, "check the path of the folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=[*WEIGHTS, *TOKENIZER]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"the model is neither a folder here nor to be had from the hub: {str(error).strip().splitlines()[0]}",
            where,
            "check the name, the revision, the network and the access rights (HF_TOKEN)",
        ) from None


@lru_cache(maxsize=16)
def _content_hash(folder: str, patterns: tuple[str, ...]) -> str:
    """A hash of names and contents: a copied folder is the same model, a changed byte is another one."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in Path(folder).glob(pattern) if file.is_file()}):
        with file.open("rb") as handle:
            digest.update(f"{file.name}\0".encode() + hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()

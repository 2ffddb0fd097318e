"""A model's files before any of them is loaded: find them, refuse unsafe ones, fingerprint them. No torch here."""

import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mapjob.config.run import Model
from mapjob.errors import IncompleteError, ModelError
from mapjob.escaping import first_line
from mapjob.scoring.contents import Known, content_hash, known_digests, remember
from mapjob.scoring.own_code import classes_of, code_hash, make_importable
from mapjob.store.scratch import explain_unwritable

WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json")
TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "chat_template*")
TOKENIZER += ("additional_chat_templates/*", "vocab*", "merges.txt", "spiece.model", "*.tiktoken")
TEMPLATES = ("chat_template*", "additional_chat_templates/*", "tokenizer_config.json")
DESCRIPTION = ("config.json", *TOKENIZER)
CODE = ("*.py", "*.json", "*.txt", "*.model")  # what a model's own code is made of, and may read
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class AdapterFiles:
    """A LoRA adapter as files: its folder, or its name on the hub with the commit."""

    location: str
    commit: str | None
    weights_hash: str

    @property
    def folder(self) -> Path:
        return Path(self.location) if self.commit is None else _snapshot(self.location, self.commit, ADAPTER)

    def shapes(self) -> dict[str, list[int]]:
        """Of every weight, by the name that peft saves it under."""
        return _shapes([self.folder / ADAPTER[1]])

    @property
    def replaces_weights(self) -> bool:
        """Whether it brings weights in place of the base's, and not matrices beside them alone."""
        folder = Path(self.location) if self.commit is None else _snapshot(self.location, self.commit, ADAPTER[:1])
        settings = json.loads((folder / ADAPTER[0]).read_text(encoding="utf-8"))
        return bool(settings.get("modules_to_save") or settings.get("trainable_token_indices"))

    @property
    def whole_weights(self) -> set[str]:
        """Names of the model's weights that the adapter brings whole, such as a reward head."""
        parts = ("lora_", "base_layer", "token_adapter")
        names = (name.removeprefix("base_model.model.") for name in self.shapes())
        return {name for name in names if not any(part in name for part in parts)}

    def check_unchanged(self, name: str) -> None:
        """Raises IncompleteError if the folder no longer holds what the run had planned."""
        if self.commit is None and _pattern_hash(self.folder, ADAPTER) != self.weights_hash:
            raise _changed("the adapter", f"models.{name}.adapter: {self.location}")


@dataclass(frozen=True)
class ModelFiles:
    """A model of the run file as files, on this machine or on the hub; the hashes change whenever its numbers could.

    path is what the run file says; location the absolute folder, or the name on the hub, there with its commit.
    known: what has been read of the files, so that no other process on the same disk has to read them for their hashes.
    """

    path: str
    location: str
    commit: str | None
    dtype: str
    weights_hash: str
    tokenizer_hash: str
    adapter: AdapterFiles | None = None
    code: str | None = None  # pins its own code, if the run file allows that to run: a hash, or the commit
    code_allowed: bool = False  # the command line allows it too
    reward_token: int | None = None  # the token whose logit is the reward, as the run file says
    known: Known = field(default=(), compare=False, repr=False)

    def folder(self, weights: bool = False) -> Path:
        """Where config and tokenizer are on this machine. What is on the hub is fetched, the weights when asked for."""
        if self.commit is None:
            return Path(self.location)
        wanted = (*(WEIGHTS if weights else ()), *DESCRIPTION, *(CODE if self.code else ()))
        return _snapshot(self.location, self.commit, wanted)

    def check_unchanged(self, name: str) -> None:
        """Raises IncompleteError if the folder no longer holds the weights that the run had planned.

        name: what the run file calls the model. Cheap while stat says that no file was touched, so that it is asked
        after every unit.
        """
        remember(self.known)
        if self.commit is None and _pattern_hash(Path(self.location), WEIGHTS) != self.weights_hash:
            raise _changed("the weights of the model", self.where(name))
        if self.adapter is not None:
            self.adapter.check_unchanged(name)

    def check_tokenizer_unchanged(self) -> None:
        """Raises IncompleteError if the folder no longer holds the tokenizer that the run had planned."""
        if self.commit is None and _pattern_hash(Path(self.location), TOKENIZER) != self.tokenizer_hash:
            raise _changed("the tokenizer", self.path)

    def runs_own_code(self) -> bool:
        """Whether transformers may run the code that comes with the model; it is ready to be imported then.

        Raises IncompleteError when the code is no longer what was planned, and ModelError if it cannot be imported.
        """
        if not self.code_allowed:
            return False
        folder = self.folder()
        if self.commit is None and code_hash(folder) != self.code:
            raise _changed("the model's own code", self.path)
        make_importable(folder, self.path)
        return True

    def where(self, name: str) -> str:
        """The key of the run file that names the model, for errors. name: what the run file calls it."""
        return f"models.{name}.path: {self.path}"

    @property
    def config(self) -> dict[str, Any]:
        """config.json, with the language model's part of a multimodal one on top."""
        tree = json.loads((self.folder() / "config.json").read_text(encoding="utf-8"))
        return {**tree, **tree.get("text_config", {})}

    def shapes(self) -> dict[str, list[int]]:
        """Of every weight, by name."""
        if self.commit is None:
            return _shapes(Path(self.location).glob("*.safetensors"))
        return _hub_shapes(self.location, self.commit)

    @property
    def num_labels(self) -> int | None:
        """How many numbers a reward model returns: as the rows of its adapter's head or its own say, or config.json.

        None if nothing says it.
        """
        weights = {**(self.shapes() if self.commit is None else {}), **(self.adapter.shapes() if self.adapter else {})}
        heads = [sizes for name, sizes in weights.items() if name.endswith("score.weight")]
        return heads[-1][0] if heads else self.configured_labels

    @property
    def configured_labels(self) -> int | None:
        """How many labels config.json speaks of."""
        labels, config = self.config.get("id2label"), self.config
        return len(labels) if labels is not None else config.get("num_labels")

    @property
    def architecture(self) -> str | None:
        return (self.config.get("architectures") or [None])[0]

    @property
    def max_positions(self) -> int | None:
        """The longest sequence that the model was made for; None if its configuration does not say."""
        return self.config.get("max_position_embeddings") or self.config.get("n_positions")

    @property
    def asks_for_date(self) -> bool:
        """Whether a chat template of it reads what day it is."""
        files = {file for pattern in TEMPLATES for file in self.folder().glob(pattern)}
        return any(b"strftime_now" in file.read_bytes() for file in files)

    @property
    def has_chat_template(self) -> bool:
        folder = self.folder()
        if (folder / "chat_template.jinja").exists() or (folder / "chat_template.json").exists():
            return True
        settings = folder / "tokenizer_config.json"
        return settings.exists() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))


def model_files(model: Model, role: str, code_allowed: bool = False) -> ModelFiles:
    """Find a model; of one on the hub, config and tokenizer are fetched and the weights are not.

    code_allowed: the command line lets models run code of their own, if the run file does. Raises ModelError when
    the model is missing, holds only pickled weights, or has code that nothing pins.
    """
    where = f"models.{role}.path: {model.path}"
    adapter = _adapter_files(model, role)
    trusted = model.trust_remote_code
    folder = Path(model.path).expanduser().resolve()
    if folder.is_dir():
        _check_weights(folder, where)
        hashes = _pattern_hash(folder, WEIGHTS), _pattern_hash(folder, TOKENIZER)
        location, commit, code = str(folder), None, code_hash(folder) if trusted else None
        known = known_digests((*_matching(folder, WEIGHTS), *_matching(folder, TOKENIZER)))
    else:
        _check_hub_name(model.path, where)
        if trusted and not re.fullmatch(r"[0-9a-f]{40}", model.revision or ""):
            raise ModelError(
                "trust_remote_code without a commit: a branch or a tag may hold other code tomorrow",
                f"models.{role}.revision: {model.revision or 'null'}",
                "set revision to the 40 digits of the commit whose code you have read",
            )
        folder = _snapshot(model.path, model.revision, (*DESCRIPTION, *CODE) if trusted else DESCRIPTION)
        commit = folder.name  # the hub's cache names a snapshot by its commit
        hashes = f"{model.path}@{commit}", _pattern_hash(folder, TOKENIZER)
        location, code, known = model.path, commit if trusted else None, ()
    if trusted:
        classes_of(folder, where)
    allowed = trusted and code_allowed
    return ModelFiles(
        model.path, location, commit, model.dtype, *hashes, adapter, code, allowed, model.reward_token, known
    )


def _adapter_files(model: Model, role: str) -> AdapterFiles | None:
    if model.adapter is None:
        return None
    where = f"models.{role}.adapter: {model.adapter}"
    folder = Path(model.adapter).expanduser().resolve()
    if folder.is_dir():
        if missing := [name for name in ADAPTER if not (folder / name).is_file()]:
            raise ModelError(f"no LoRA adapter here: {missing[0]} is missing", where, "give a folder saved by peft")
        return AdapterFiles(str(folder), None, _pattern_hash(folder, ADAPTER))
    _check_hub_name(model.adapter, where)
    commit = _snapshot(model.adapter, None, ADAPTER[:1]).name
    return AdapterFiles(model.adapter, commit, f"{model.adapter}@{commit}")


def _check_hub_name(path: str, where: str) -> None:
    if path.startswith(("/", ".", "~")) or path.count("/") > 1:
        raise ModelError("there is no model at this path", where, "check the path of the folder")


def _check_weights(folder: Path, where: str) -> None:
    if not (folder / "config.json").is_file():
        raise ModelError("no model here: config.json is missing", where, "give a folder written by save_pretrained")
    if any(folder.glob("*.safetensors")):
        return
    if any(file for pattern in PICKLED for file in folder.glob(pattern)):
        do = "save the model again with save_pretrained, which writes safetensors"
        raise ModelError("the weights are pickled, and loading a pickle can run code", where, do)
    raise ModelError("no weights here: no .safetensors file", where, "give a folder written by save_pretrained")


def _snapshot(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The files of a model of the hub in this machine's cache, fetched if they are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and (unwritable := explain_unwritable(error)):
            raise unwritable from None
        raise ModelError(
            f"neither a folder here nor to be had from the hub: {first_line(error)}",
            f"model {name}, revision {revision or 'newest'}",
            "check the name, the revision, the network and the access rights (HF_TOKEN)",
        ) from None


def _shapes(files: Iterable[Path]) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for path in sorted(files):
        try:
            with path.open("rb") as file:
                (size,) = struct.unpack("<Q", file.read(8))
                header: dict[str, Any] = json.loads(file.read(size))
        except (struct.error, ValueError, OverflowError, MemoryError):
            raise ModelError("the weights are damaged", str(path), "copy or fetch the file again") from None
        shapes |= {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
    return shapes


@lru_cache(maxsize=16)
def _hub_shapes(name: str, commit: str) -> dict[str, list[int]]:
    """As the hub says them, from the headers alone; of a hub that cannot be reached, as files in the cache say."""
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        metadata = get_safetensors_metadata(name, revision=commit).files_metadata
    except (NotASafetensorsRepoError, SafetensorsParsingError) as error:
        do = "give a model whose weights are safetensors files"
        raise ModelError(f"no weights that can be read: {first_line(error)}", f"model {name}", do) from None
    except OSError:
        return _shapes(_snapshot(name, commit, WEIGHTS).glob("*.safetensors"))
    return {name: info.shape for file in metadata.values() for name, info in file.tensors.items()}


def _pattern_hash(folder: Path, patterns: tuple[str, ...]) -> str:
    try:
        return content_hash(folder, _matching(folder, patterns))
    except FileNotFoundError:
        raise _changed("the folder of a model", str(folder)) from None


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    return (file for pattern in patterns for file in folder.glob(pattern) if file.is_file())


def _changed(what: str, where: str) -> IncompleteError:
    """No number is kept under a name that was made of something else."""
    do = "run the same command again: it scores with what the folder holds now"
    return IncompleteError(f"{what} changed after the run had planned it", where, do)

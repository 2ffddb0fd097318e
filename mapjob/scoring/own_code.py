"""Code that comes with a model (trust_remote_code): pinned, kept to the model's folder, ready to import."""

import json
import re
from pathlib import Path
from typing import Any

from mapjob.errors import ModelError
from mapjob.escaping import first_line
from mapjob.scoring.contents import content_hash

NAMED_IN = ("config.json", "tokenizer_config.json")
# `module.Class` of a .py file beside config.json: no other repository (`org/name--module.Class`), no other folder.
_BESIDE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")


def code_hash(folder: Path) -> str:
    """Of every file that the code could be, import or read, but the weights, which have a hash of their own."""
    inside = [(file, file.relative_to(folder).parts) for file in folder.rglob("*") if file.is_file()]
    return content_hash(
        folder,
        (
            file
            for file, parts in inside
            if file.suffix != ".safetensors" and not any(part.startswith((".", "__pycache__")) for part in parts)
        ),
    )


def classes_of(folder: Path, where: str) -> dict[str, list[str]]:
    """Auto class -> the `module.Class`es that config.json and tokenizer_config.json name for it.

    Raises ModelError for code that lies elsewhere than in the folder: no hash of the folder and no commit pins it.
    """
    classes: dict[str, list[str]] = {}
    for name in NAMED_IN:
        for auto_class, references in _auto_map(folder / name).items():
            for reference in filter(None, references if isinstance(references, list) else [references]):
                if not isinstance(reference, str) or not _BESIDE.fullmatch(reference):
                    do = "copy that code beside config.json, and name it there as module.Class"
                    raise ModelError(f"{name} names code outside of the model's own folder: {reference}", where, do)
                classes.setdefault(auto_class, []).append(reference)
    return classes


def _auto_map(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    auto_map = json.loads(file.read_text(encoding="utf-8")).get("auto_map") or {}
    return auto_map if isinstance(auto_map, dict) else {"AutoTokenizer": auto_map}  # tokenizers once wrote a list


def needs_code(what: str, where: str) -> ModelError:
    return ModelError(
        f"{what} needs code of its own (trust_remote_code), which is not run",
        where,
        "use a model that is part of transformers; or read its code, then allow it in the run file "
        "(models.<name>.trust_remote_code: true) and on the command line (--trust-remote-code)",
    )


def make_importable(folder: Path, where: str) -> None:
    """Copy the code to where transformers imports it from, as it would itself, but one process at a time.

    The workers of a machine start together, and would read each other's half-written copies.
    """
    from filelock import FileLock
    from transformers.dynamic_module_utils import get_cached_module_file, init_hf_modules
    from transformers.utils import HF_MODULES_CACHE

    modules = {reference.split(".")[0] for named in classes_of(folder, where).values() for reference in named}
    init_hf_modules()
    with FileLock(Path(HF_MODULES_CACHE) / "mapjob.lock"):
        for module in sorted(modules):
            try:
                get_cached_module_file(folder, f"{module}.py")
            except (OSError, ImportError) as error:
                what = f"the model's own code cannot be imported: {first_line(error)}"
                raise ModelError(what, where, "install what it needs, on every machine of the cluster") from None

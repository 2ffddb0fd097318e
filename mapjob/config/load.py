"""Read run files: YAML, the overrides of the command line, and every fault by its key."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from mapjob.config.run import ONE, SEVERAL, Config, Section
from mapjob.errors import ConfigError, suggest

S = TypeVar("S", bound=Section)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = (), kind: type[S] = Config) -> S:
    """Read a run file and apply `a.b=value` overrides (values are YAML). Raises ConfigError with every fault.

    kind: whose run file it is; that of `mapjob run` by default.
    """
    return parse_config(read_tree(path, overrides), str(path), kind)


def read_tree(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> dict[str, Any]:
    """A run file as a plain mapping, with overrides. Raises ConfigError if it is none."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"the run file cannot be read: {error.strerror}", str(path), "give the path of a YAML file")
    except UnicodeDecodeError:
        raise ConfigError("the run file is not UTF-8 text", str(path), "save it as UTF-8")
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the run file is not valid YAML: {error}", str(path), "fix the line named above")
    if not isinstance(tree, dict):
        raise ConfigError("the run file is not a mapping of keys", str(path), "start from one of configs/")
    apply_overrides(tree, overrides)
    return tree


def apply_overrides(tree: dict[str, Any], overrides: Iterable[str]) -> None:
    """Put `a.b=value` overrides (values are YAML) into a plain mapping. Raises ConfigError for one that is none."""
    for override in overrides:
        _apply(tree, override)


def parse_config(tree: dict[str, Any], where: str = "config", kind: type[S] = Config) -> S:
    """Validate a plain mapping. Raises ConfigError that lists every fault with its key."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        faults = []
        for fault in error.errors():
            key = ".".join(str(part) for part in fault["loc"] if part not in (ONE, SEVERAL))
            unknown = fault["type"] == "extra_forbidden"
            what = (
                f"unknown key{_did_you_mean(kind, fault['loc'])}"
                if unknown
                else fault["msg"].removeprefix("Value error, ")
            )
            faults.append(f"{key or 'run file'}: {what}")
        do = f"`{kind.explained_by}` lists every key and its values"
        raise ConfigError("; ".join(faults), where, do) from None


def _did_you_mean(kind: Any, path: tuple[int | str, ...]) -> str:
    """The key of that section whose name is nearest to the unknown one at the end of the path."""
    *parents, key = path
    for name in parents:
        fields = getattr(kind, "model_fields", {})
        inside = [fields[name].annotation, *get_args(fields[name].annotation)] if name in fields else []
        kind = next((part for part in inside if hasattr(part, "model_fields")), None)
    return suggest(str(key), getattr(kind, "model_fields", ()))


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"not an override: {override!r}", "--set", "write it as a.b=value")
    *parents, leaf = key.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise ConfigError(f"{parent!r} holds a value, not keys", f"--set {override}", "check the dotted key")
    try:
        tree[leaf] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"the value is not valid YAML: {value!r}", f"--set {key}", "quote it") from None


def fingerprint(covers: dict[str, Any]) -> str:
    """Sixteen hex digits that change whenever anything in `covers` (plain JSON values) changes."""
    text = json.dumps(covers, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]

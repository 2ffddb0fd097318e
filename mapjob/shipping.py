"""What a submission ships to a cluster: the run file as any machine can read it, and this package."""

import os
import shutil
from pathlib import Path

import yaml

import mapjob
from mapjob.config import Config, Model, fingerprint
from mapjob.errors import ConfigError
from mapjob.inert import redacted

RUN_FILE = "run.yaml"


def submission_id(config: Config, limit: int | None = None) -> str:
    """Names the run file: the same one, with the same overrides and limit, has the same id wherever it is submitted."""
    covers = {"config": portable(config).model_dump(mode="json"), "limit": limit}
    return f"mapjob-{fingerprint(covers)}"


def portable(config: Config) -> Config:
    """The run file as the cluster gets it: relative paths from this folder made absolute, the address its own."""
    paths = config.input.path
    absolute = _absolute(paths) if isinstance(paths, str) else [_absolute(path) for path in paths]
    models = config.models
    reward = models.reward
    moved = {
        "policy": _with_own_folders(models.policy),
        "reference": models.reference and _with_own_folders(models.reference),
        "reward": {name: _with_own_folders(model) for name, model in reward.items()}
        if isinstance(reward, dict)
        else _with_own_folders(reward),
    }
    return config.model_copy(
        update={
            "input": config.input.model_copy(update={"path": absolute}),
            "output": config.output.model_copy(update={"path": _absolute(config.output.path)}),
            "models": models.model_copy(update=moved),
            "execution": config.execution.model_copy(update={"address": None}),
        }
    )


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(path)


def _with_own_folders(model: Model) -> Model:
    """A model whose folders that stand here are absolute; any other path is taken for a name on the hub."""
    here = {
        name: os.path.abspath(path)
        for name, path in (("path", model.path), ("adapter", model.adapter))
        if path is not None and os.path.isdir(path)
    }
    return model.model_copy(update=here)


def pack(config: Config, folder: Path) -> None:
    """Write what is shipped: the run file, resolved, and the sources of the package that is running here.

    Raises ConfigError for a run file that holds a secret.
    """
    text = yaml.safe_dump(portable(config).model_dump(mode="json"), sort_keys=False)
    if redacted(text) != text:
        found = (redacted(line.strip()) for line in text.splitlines() if redacted(line) != line)
        raise ConfigError(
            "a URL of the run file holds a password, key or token, which would reach the cluster's dashboard and logs",
            next(found, "the run file"),
            "put credentials into the environment of the cluster's machines, or give them a role",
        )
    (folder / RUN_FILE).write_text(text, encoding="utf-8")
    shutil.copytree(
        Path(mapjob.__file__).parent, folder / "mapjob", ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
    )

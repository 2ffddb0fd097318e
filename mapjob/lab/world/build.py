"""Build the known world in a folder: corpus, tokenizer, policy and reward model; or take the finished world there."""

import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mapjob.errors import ConfigError
from mapjob.lab.world.corpus import describe, make_rows, tasks_of, write_shards
from mapjob.lab.world.items import ItemWorld
from mapjob.lab.world.settings import WorldSettings
from mapjob.lab.world.tasks import Task

log = logging.getLogger(__name__)

# Raise it with every change of the tasks, the corpus or the training: worlds of another version are rebuilt.
_VERSION = 1
_PARTS = ("corpus", "policy", "reward")
_BUILDING = ".building"


class KnownWorld(WorldSettings):
    """Questions with one right answer, of which a policy learns the form; built if it does not exist.

    Trainings have steps, not seconds, so that a seed gives the same models on a slow machine.
    """

    kind: Literal["forms"] = "forms"
    num_pairs: int = Field(6000, ge=1)
    seed: int = 0
    flipped_share: float = Field(0.1, ge=0, le=0.5, description="share of the corpus's labels that are wrong")
    policy_steps: int = Field(600, ge=1)
    reward_steps: int = Field(700, ge=1, description="of the reward model's training; fewer make a worse model")
    reward_flipped: float = Field(0.0, ge=0, le=0.5, description="share of the reward model's labels that are wrong")
    hidden_size: int = Field(128, ge=16, multiple_of=16, description="of both models")

    @property
    def gives_reasons(self) -> bool:
        """Answers of the policy may state a reason."""
        return True

    def tasks(self) -> dict[str, Task]:
        """The tasks of the corpus's prompts; they grade any answer to these."""
        return {task.prompt: task for task in tasks_of(self.num_pairs, self.seed)}

    def make(self, building: Path, base: Path | None) -> dict[str, Any]:
        """Write corpus, policy and reward model; returns facts about them."""
        rows = make_rows(self.num_pairs, self.flipped_share, self.seed)
        write_shards(rows, building / "corpus", num_shards=max(1, self.num_pairs // 1000))
        corpus = describe(rows)
        log.info(
            "world: {pairs} pairs of answers, {flipped} of them flipped, {repeated} repeated, "
            "{identical_sides} with identical sides".format(**corpus)
        )
        # Imported here because a world that is found finished must not wait for PyTorch.
        from mapjob.lab.world.models import make_models

        trainings = self.model_dump(include={"seed", "policy_steps", "reward_steps", "reward_flipped", "hidden_size"})
        return {"corpus": corpus, **make_models(building, **trainings)}


DEMO = KnownWorld()


@dataclass(frozen=True)
class World:
    """A finished world: the folder of Parquet shards, the two folders of transformers models, and facts about them."""

    corpus: Path
    policy: Path
    reward: Path
    facts: dict


def build_world(folder: Path, settings: KnownWorld | ItemWorld = DEMO) -> World:
    """Return the world in `folder`; build it first unless a finished world of the same settings exists.

    The corpus is the same byte for byte for the same seed; the models are so as far as PyTorch is on one machine.
    Raises ConfigError for a folder whose corpus or models are not from here.
    """
    parameters = {"version": _VERSION} | settings.model_dump(exclude={"folder"})
    world = _finished(folder, parameters)
    if world:
        log.info(f"world: found finished in {folder}")
        return world
    base = None if settings.base is None else settings.base.path
    if base is not None:
        build_world(base, settings.base)
    _claim(folder)
    started = time.perf_counter()
    # Threads that spin while they wait are a disaster on a busy machine; OpenMP reads this when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    facts = settings.make(folder / _BUILDING, base)
    facts["seconds"] = round(time.perf_counter() - started, 1)
    _publish(folder, {"parameters": parameters, "facts": facts})
    log.info(f"world: finished in {facts['seconds']:.0f} s")
    return _world(folder, facts)


def _world(folder: Path, facts: dict) -> World:
    return World(*(folder / part for part in _PARTS), facts)


def _finished(folder: Path, parameters: dict) -> World | None:
    try:
        record = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    is_whole = all((folder / part).is_dir() for part in _PARTS)
    return _world(folder, record["facts"]) if is_whole and record.get("parameters") == parameters else None


def _claim(folder: Path) -> None:
    """Make an empty folder to build in. Refuses a folder whose parts have no mark of a world, finished or begun."""
    ours = (folder / "world.json").exists() or (folder / _BUILDING).exists()
    strange = [part for part in _PARTS if (folder / part).exists()]
    if strange and not ours:
        raise ConfigError(f"the {strange[0]} in this folder is not from here", str(folder), "name a new folder")
    shutil.rmtree(folder / _BUILDING, ignore_errors=True)
    (folder / _BUILDING).mkdir(parents=True)


def _publish(folder: Path, record: dict) -> None:
    # The building folder goes last: until then it marks the parts as ours, whenever a crash comes.
    (folder / "world.json").unlink(missing_ok=True)
    for part in _PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
        os.replace(folder / _BUILDING / part, folder / part)
    written = folder / _BUILDING / "world.json"
    written.write_text(json.dumps(record, indent=2), encoding="utf-8")
    os.replace(written, folder / "world.json")
    (folder / _BUILDING).rmdir()

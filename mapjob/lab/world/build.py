"""Build the world in a folder: corpus, tokenizer, policy and reward model; or find it there, finished."""

import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mapjob.errors import ConfigError
from mapjob.lab.world.corpus import describe, make_rows, write_shards
from mapjob.lab.world.settings import DEFAULT_TRAINING, Training

log = logging.getLogger(__name__)

# Raise it with every change of the tasks, the corpus or the training: worlds of another version are rebuilt.
_VERSION = 1
_PARTS = ("corpus", "policy", "reward")
_BUILDING = ".building"


@dataclass(frozen=True)
class World:
    """A finished world: the folder of Parquet shards, the two transformers model folders, and what is known of them."""

    corpus: Path
    policy: Path
    reward: Path
    facts: dict


def build_world(
    folder: Path,
    *,
    num_pairs: int = 6000,
    num_shards: int = 6,
    seed: int = 0,
    flipped_share: float = 0.10,
    training: Training = DEFAULT_TRAINING,
) -> World:
    """Return the world in `folder`, building it first unless one with these very parameters stands there finished.

    The corpus is the same byte for byte for the same seed; the models are so as far as PyTorch is on one machine.
    Raises ConfigError for impossible numbers, and for a folder whose corpus or models are not from here.
    """
    folder = Path(folder)
    shares = (flipped_share, training.reward_flipped)
    if num_pairs < 1 or not 1 <= num_shards <= num_pairs or not all(0 <= share <= 0.5 for share in shares):
        raise ConfigError(
            f"no world of {num_pairs} pairs in {num_shards} shards with a share of {flipped_share} flipped",
            str(folder),
            "give at least one pair to a shard, and a flipped share between 0 and 0.5",
        )
    parameters = {
        "version": _VERSION,
        "num_pairs": num_pairs,
        "num_shards": num_shards,
        "seed": seed,
        "flipped_share": flipped_share,
        "training": training.parameters,
    }
    world = _finished(folder, parameters)
    if world:
        log.info(f"world: found finished in {folder}")
        return world
    _claim(folder)
    started = time.perf_counter()
    facts = _build(folder / _BUILDING, parameters, training)
    facts["seconds"] = round(time.perf_counter() - started, 1)
    _publish(folder, {"parameters": parameters, "facts": facts})
    log.info(f"world: finished in {facts['seconds']:.0f} s")
    return _world(folder, facts)


def _build(building: Path, parameters: dict, training: Training) -> dict:
    rows = make_rows(parameters["num_pairs"], parameters["flipped_share"], parameters["seed"])
    write_shards(rows, building / "corpus", parameters["num_shards"])
    corpus = describe(rows)
    log.info(
        "world: {pairs} pairs of answers, {flipped} of them flipped, {repeated} repeated, "
        "{identical_sides} with identical sides".format(**corpus)
    )
    # Threads that spin while they wait are a disaster on a busy machine; OpenMP reads this when PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here because a world that is found finished must not wait for PyTorch.
    from mapjob.lab.world.models import make_models

    models = make_models(building, training=training, seed=parameters["seed"])
    return {"corpus": corpus, **models}


def _world(folder: Path, facts: dict) -> World:
    return World(*(folder / part for part in _PARTS), facts)


def _finished(folder: Path, parameters: dict) -> World | None:
    try:
        record = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    stands = all((folder / part).is_dir() for part in _PARTS)
    return _world(folder, record["facts"]) if stands and record.get("parameters") == parameters else None


def _claim(folder: Path) -> None:
    """Make an empty building place. Refuses a folder whose parts carry no mark of a world, finished or begun."""
    ours = (folder / "world.json").exists() or (folder / _BUILDING).exists()
    strange = [part for part in _PARTS if (folder / part).exists()]
    if strange and not ours:
        raise ConfigError(f"the {strange[0]} in this folder is not from here", str(folder), "name a new folder")
    shutil.rmtree(folder / _BUILDING, ignore_errors=True)
    (folder / _BUILDING).mkdir(parents=True)


def _publish(folder: Path, record: dict) -> None:
    # The building place goes last: until then it marks the parts as ours, whatever moment a crash may choose.
    (folder / "world.json").unlink(missing_ok=True)
    for part in _PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
        os.replace(folder / _BUILDING / part, folder / part)
    written = folder / _BUILDING / "world.json"
    written.write_text(json.dumps(record, indent=2), encoding="utf-8")
    os.replace(written, folder / "world.json")
    (folder / _BUILDING).rmdir()

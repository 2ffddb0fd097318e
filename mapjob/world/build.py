"""Build the world in a folder: corpus, tokenizer, policy and reward model; or find it there, finished."""

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from mapjob.errors import ConfigError
from mapjob.world.corpus import describe, make_rows, write_shards
from mapjob.world.streams import stream
from mapjob.world.tasks import QUALITY, write_answer

# Raise it with every change of the tasks, the corpus or the training: worlds of another version are rebuilt.
_VERSION = 1
_PARTS = ("corpus", "policy", "reward")
_BUILDING = ".building"
_VOCAB_SIZE = 1024
_TOKENIZER_TASKS = 4000


@dataclass(frozen=True)
class Training:
    """Steps of the two trainings; fixed numbers, not seconds, so that a seed gives the same models on a slow machine."""

    policy_steps: int = 500
    reward_steps: int = 800


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
    training: Training = Training(),
    say: Callable[[str], None] = print,
) -> World:
    """Return the world in `folder`, building it first unless one with these very parameters stands there finished.

    The corpus is the same byte for byte for the same seed; the models are so as far as PyTorch is on one machine.
    Raises ConfigError for impossible numbers, and for a folder whose corpus or models are not from here.
    """
    folder = Path(folder)
    if num_pairs < 1 or not 1 <= num_shards <= num_pairs or not 0 <= flipped_share <= 0.5:
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
        "training": asdict(training),
    }
    world = _finished(folder, parameters)
    if world:
        say(f"world: found finished in {folder}")
        return world
    _claim(folder)
    started = time.perf_counter()
    facts = _build(folder / _BUILDING, parameters, training, say)
    facts["seconds"] = round(time.perf_counter() - started, 1)
    _publish(folder, {"parameters": parameters, "facts": facts})
    say(f"world: finished in {facts['seconds']:.0f} s")
    return _world(folder, facts)


def _build(building: Path, parameters: dict, training: Training, say: Callable[[str], None]) -> dict:
    # Imported here because a world that is found finished must not wait for PyTorch.
    import torch
    from transformers.utils import logging

    from mapjob.world.evaluate import policy_quality, reward_accuracy
    from mapjob.world.tokenizer import train_tokenizer
    from mapjob.world.train import train_policy, train_reward

    seed = parameters["seed"]
    rows = make_rows(parameters["num_pairs"], parameters["flipped_share"], seed)
    write_shards(rows, building / "corpus", parameters["num_shards"])
    facts = {"corpus": describe(rows)}
    say(
        "world: {pairs} pairs of answers, {flipped} of them flipped, {repeated} repeated, "
        "{identical_sides} with identical sides".format(**facts["corpus"])
    )
    tokenizer = train_tokenizer(_texts(seed), _VOCAB_SIZE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        say(f"policy: learns from answers of mixed quality, {training.policy_steps} steps")
        started = time.perf_counter()
        policy = train_policy(tokenizer, steps=training.policy_steps, seed=seed, say=say)
        policy_seconds = time.perf_counter() - started
        gold = policy_quality(tokenizer, policy, seed)
        by_group = ", ".join(f"{group} {value:.2f}" for group, value in gold.items() if group != "all")
        say(f"policy: done in {policy_seconds:.0f} s; mean gold reward of its own answers: {by_group}")
        say(f"reward model: learns which answer is better, {training.reward_steps} steps")
        started = time.perf_counter()
        reward = train_reward(tokenizer, policy, steps=training.reward_steps, seed=seed, say=say)
        reward_seconds = time.perf_counter() - started
        accuracy = reward_accuracy(tokenizer, reward, seed)
        say(f"reward model: done in {reward_seconds:.0f} s; right on {accuracy['all']:.1%} of held-out pairs")
    facts["policy"] = {"parameters": policy.num_parameters(), "seconds": round(policy_seconds, 1), "mean_gold": gold}
    facts["reward"] = {
        "parameters": reward.num_parameters(), "seconds": round(reward_seconds, 1), "accuracy": accuracy,
    }  # fmt: skip
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    for name, model in (("policy", policy), ("reward", reward)):
        model.save_pretrained(building / name)
        tokenizer.save_pretrained(building / name)
    if bars:
        logging.enable_progress_bar()
    return facts


def _texts(seed: int) -> list[str]:
    rng = random.Random(f"tokenizer {seed}")
    tasks = islice(stream("train", "tokenizer", seed), _TOKENIZER_TASKS)
    return [text for task in tasks for text in (task.prompt, *(write_answer(task, level, rng) for level in QUALITY))]


def _world(folder: Path, facts: dict) -> World:
    return World(*(folder / part for part in _PARTS), facts)


def _finished(folder: Path, parameters: dict) -> World | None:
    try:
        record = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    stands = all((folder / part).is_dir() for part in _PARTS)
    return _world(folder, record["facts"]) if stands and record["parameters"] == parameters else None


def _claim(folder: Path) -> None:
    """Make an empty building place. Refuses a folder whose parts carry no mark of a world, finished or begun."""
    ours = (folder / "world.json").exists() or (folder / _BUILDING).exists()
    strange = [part for part in _PARTS if (folder / part).exists()]
    if strange and not ours:
        raise ConfigError(f"there is already a {strange[0]} here, of some other making", str(folder), "name a new folder")
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

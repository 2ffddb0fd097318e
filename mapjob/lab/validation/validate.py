"""A validation from start to end: score once, select by every metric, train and measure every arm, compare."""

import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import mapjob
from mapjob.config.load import fingerprint, parse_config
from mapjob.config.run import Model
from mapjob.errors import ConfigError
from mapjob.job.run import run_job
from mapjob.lab.training.config import Training
from mapjob.lab.training.train import train
from mapjob.lab.validation.arms import RANDOM, Evaluation, arms_of
from mapjob.lab.validation.config import Validation
from mapjob.lab.validation.held_out import read_clean, read_gold, read_held_out
from mapjob.lab.validation.labels import disturb_rewards, label_noise
from mapjob.lab.validation.report import as_text
from mapjob.lab.validation.selections import Corpus, Selections
from mapjob.lab.validation.table import START, Table, combine
from mapjob.lab.validation.verdict import gains_figure, verdict
from mapjob.lab.world.build import build_world
from mapjob.lab.world.models import few_threads
from mapjob.ranking.compare import Choice
from mapjob.store.run_folder import FinishedRun
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)

SCORED = ("records", "policy", "reference", "reward")  # families that decide every arm
CLEAN = ("reducible_loss",)  # metrics whose probe is trained on clean held-out pairs
OF_ARMS = {"metric", "metrics", "alpha", "keep", "signals"}  # keys of a selection that an arm decides


def validate(validation: Validation, of_development: bool = False) -> dict[str, Any]:
    """Do what is left of a validation; returns plain values: verdict, rows of the table, and its path.

    of_development: test on the prompts that are set aside to choose a recipe by. A finished arm is one create-only
    file, so the same call resumes from the arms that are finished. Raises MapjobError.
    """
    worlds = list(validation.each_world())
    first, *others = results = (
        validate_worlds(worlds, of_development) if len(worlds) > 1 else [_validate(worlds[0], of_development)]
    )
    rows = combine([result["rows"] for result in results]) if others else first["rows"]
    forms = [result["preference_for_form"] for result in results]
    form = None if forms[0] is None else float(np.mean(forms))
    result = first | {
        "config": validation.model_dump(mode="json"),
        "worlds": len(results),
        "refused": {name: why for result in results for name, why in result["refused"].items()},
        "rows": rows,
        "preference_for_form": form,
        "verdict": verdict(rows, form),
    }
    return result | {"path": _publish(result, Storage(validation.run.output.path).below("validation"))}


def validate_worlds(worlds: Sequence[Validation], of_development: bool) -> list[dict[str, Any]]:
    """One process per core, each with a world of its own: their models are too small for a second thread."""
    level, spawn = logging.getLogger("mapjob").level, multiprocessing.get_context("spawn")
    num = min(len(worlds), os.cpu_count() or 1)
    with ProcessPoolExecutor(num, spawn, _start_process, (level,)) as processes:
        return list(processes.map(_validate, worlds, [of_development] * len(worlds)))


def _start_process(level: int) -> None:
    """Log to stderr, and end if the process that waits for this one has ended, however it did."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mapjob").setLevel(level)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _validate(validation: Validation, of_development: bool) -> dict[str, Any]:
    """One corpus, or one known world."""
    world = validation.world
    if world is not None:
        build_world(world.path, world)
    # The matrices of a known world are so small that a second thread costs more than it brings.
    with few_threads(1) if world is not None else nullcontext():
        everything, tasks = validation.everything, None if world is None else world.tasks()
        run = FinishedRun.of(run_job(everything))
        _check_plain(run)
        corpus = Corpus.of(everything)
        groups = everything.input.columns.group, validation.groups
        held_out = read_held_out(run.folder, validation.development, of_development, *groups, tasks)
        log.info(f"held out: {len(held_out.records):,} pairs of {held_out.num_prompts:,} prompts")
        storage = _storage(validation, corpus, of_development)
        gold = None if tasks is None else read_gold(run.folder, tasks)
        by_probe = _score_by_probes(validation, run, corpus, storage, of_development)
        selections = Selections(validation, corpus, by_probe, gold)
        evaluation = Evaluation(validation, run, held_out)
        policy = everything.models.policy.model_copy(update={"dtype": "float32"})
        done = {START: _load_or_make(storage, START, evaluation.measure, policy)[0]}
        arms, refused = list(arms_of(validation)), {}
        for number, arm in enumerate(arms, 1):
            try:
                rows, swapped = selections.rows(arm)
            except ConfigError as error:  # the metric has no meaning on this corpus
                refused[arm.choice.name] = f"{error.what} ({error.where}): {error.do}"
                continue
            start = time.monotonic()
            done[arm.name], is_new = _load_or_make(storage, arm.name, evaluation.train, arm, rows, swapped)
            spent = f"{time.monotonic() - start:.0f} s" if is_new else "there already"
            log.info(f"{number} of {len(arms)}: {arm.name}, {len(rows):,} pairs, {spent}")
        for name, why in refused.items():
            log.info(f"left out: {name}: {why}")
        return {
            "run_id": run.manifest["run_id"],
            "held_out": {
                "pairs": len(held_out.records),
                "prompts": held_out.num_prompts,
                "development": of_development,
            },
            "refused": refused,
            "rows": Table(held_out, done.pop(START)).rows(list(done.values())),
            "preference_for_form": None if tasks is None else evaluation.preference_for_form(),
            "label_noise": [] if validation.label_noise is None else label_noise(validation, selections),
            "disturbed": [] if validation.disturb is None else disturb_rewards(validation, selections),
        }


def _publish(result: dict[str, Any], storage: Storage) -> str:
    """Put the files of a complete comparison into a folder named by what they say; returns the folder."""
    folder = storage.below(fingerprint({"validation": result["config"], "held_out": result["held_out"]}))
    if any("over_random" in row for row in result["rows"]):
        folder.create("gains.svg", gains_figure(result["rows"]))
    folder.create("validation.md", f"```text\n{as_text(result)}\n```\n".encode())
    folder.create("validation.json", (json.dumps(result, indent=2) + "\n").encode())
    return folder.url


def _check_plain(run: FinishedRun) -> None:
    """Raises ConfigError for a corpus of more than roles and contents: no answer of a policy has more than these."""
    corpus = run.manifest["corpus"]
    if more := [*corpus["message_keys"], *corpus["reading"].get("template", ())]:
        raise ConfigError(
            f"the answers to held-out prompts are plain messages, and this corpus has more: {', '.join(more)}",
            f"run.input.path: {run.manifest['config']['input']['path']}",
            "validate on a corpus of roles and contents; `mapjob run` and `mapjob train` take this one",
        )


def _storage(validation: Validation, corpus: Corpus, of_development: bool) -> Storage:
    """The folder of the arms. Its name covers all that can change an arm, and so no metrics, ratios and seeds."""
    families = corpus.job.families.items()
    covers = {
        "mapjob": mapjob.__version__,
        "units": [unit.id for unit in corpus.job.plan.units],
        "families": {name: family for name, family in families if name.partition(".")[0] in SCORED},
        "selection": validation.run.selection.model_dump(mode="json", exclude=OF_ARMS),
        "recipe": validation.recipe.model_dump(mode="json", exclude={"max_steps"}),
        "probe": validation.probe and validation.probe.model_dump(mode="json"),
        "held_out": [validation.development, of_development, validation.groups],
        "max_new_tokens": validation.max_new_tokens,
    }
    return Storage(validation.run.output.path).below("validation", fingerprint(covers))


def _load_or_make(
    storage: Storage, name: str, make: Callable[..., Any], *arguments: Any
) -> tuple[dict[str, Any], bool]:
    """(the stored result of this name, whether this call made it). Makes it if nothing is stored, and puts it once."""
    file = f"arms/{name}.json"
    stored, is_new = storage.read(file), False
    if stored is None:
        is_new = storage.create(file, json.dumps(make(*arguments)).encode())
        stored = storage.read(file)
        assert stored is not None
    return json.loads(stored), is_new


def _score_by_probes(
    validation: Validation, run: FinishedRun, corpus: Corpus, storage: Storage, of_development: bool
) -> dict[str, Corpus]:
    """The corpus with the scores of a probe, by the metrics that use it: the policy after a short DPO training, against
    the policy before. Without those whose probe would be trained on no pair, or on prompts that are tested on.
    """
    clean = [name for name in validation.of_probe if name in CLEAN]
    others = [name for name in validation.of_probe if name not in CLEAN]
    scored: dict[str, Corpus] = {}
    if others:
        ranking = corpus.ranking(Choice(RANDOM, None, 1.0), validation.run.selection)
        rows = np.sort(corpus.rows(ranking)[: validation.probe.pairs])
        log.info(f"probe: DPO on {len(rows):,} random pairs")
        scored |= dict.fromkeys(others, _score_by_probe(validation, run, storage, others, "probe", rows=rows))
    if clean and validation.development and not of_development:
        world = validation.world
        rows, swapped = read_clean(run.folder, validation.development, None if world is None else world.tasks())
        if len(rows):
            log.info(f"probe: DPO on {len(rows):,} clean held-out pairs")
            pairs = {"rows": rows, "swapped": swapped, "part": "held_out"}
            scored |= dict.fromkeys(clean, _score_by_probe(validation, run, storage, clean, "clean-probe", **pairs))
    return scored


def _score_by_probe(
    validation: Validation, run: FinishedRun, storage: Storage, metrics: list[str], name: str, **pairs: Any
) -> Corpus:
    """The corpus with the scores of one probe, for these metrics. pairs: as `train` takes them."""
    folder = Path(validation.models_folder) / f"{name}-{storage.url.rpartition('/')[2]}"
    if not folder.exists():
        recipe = validation.recipe.model_dump(include={"batch_size", "accumulate", "learning_rate", "lora"})
        rate = validation.probe.learning_rate
        recipe |= {} if rate is None else {"learning_rate": rate}
        train(run, Training(objective="dpo", **recipe), folder, **pairs)
    tree = validation.everything.model_dump()
    tree["models"]["policy"] = Model(path=str(folder), dtype="float32").model_dump()
    tree["selection"]["metrics"] = metrics
    config = parse_config(tree)
    run_job(config)
    return Corpus.of(config)

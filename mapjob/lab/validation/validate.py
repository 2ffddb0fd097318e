"""The whole of a validation: score once, select by every metric, train and measure each, compare."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mapjob
from mapjob.config import Config, Model, fingerprint, parse_config
from mapjob.errors import ConfigError
from mapjob.job.run import run_job
from mapjob.lab.training.config import Training
from mapjob.lab.training.train import train
from mapjob.lab.validation.arms import RANDOM, Evaluation, arms_of
from mapjob.lab.validation.config import Validation
from mapjob.lab.validation.held_out import read_held_out
from mapjob.lab.validation.labels import disturb_rewards, label_noise
from mapjob.lab.validation.report import as_text
from mapjob.lab.validation.selections import Corpus, Selections
from mapjob.lab.validation.table import START, Table
from mapjob.lab.world.build import build_world
from mapjob.ranking.sweep import Choice
from mapjob.store.run_folder import FinishedRun
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)

SCORED = ("records", "policy", "reference", "reward")  # families that decide an arm whatever else is selected by
OF_ARMS = {"metric", "metrics", "alpha", "keep", "signals"}  # of a selection, what each arm says itself


def validate(validation: Validation, of_development: bool = False) -> dict[str, Any]:
    """Carry out what of a validation is not done yet; returns plain values: the table's rows, and where it is.

    of_development: test on the prompts that are set aside to choose a recipe by. Every arm that is finished is one
    create-only file, so the same call goes on where one was stopped. Raises MapjobError.
    """
    if validation.world is not None:
        build_world(validation.world.path, validation.world)
    with _few_threads(validation):
        everything = validation.everything
        run = FinishedRun.of(run_job(everything))
        corpus = Corpus.of(everything)
        groups = everything.input.columns.group, validation.groups
        held_out = read_held_out(run.folder, validation.development, of_development, *groups)
        log.info(f"held out: {len(held_out.records):,} pairs of {held_out.num_prompts:,} prompts")
        storage = _storage(validation, corpus, of_development)
        selections = Selections(validation, corpus, _by_probe(validation, run, corpus, storage))
        evaluation = Evaluation(validation, run, held_out)
        policy = everything.models.policy.model_copy(update={"dtype": "float32"})
        done = {START: _kept(storage, START, lambda: evaluation.measure(policy))[0]}
        arms, refused = list(arms_of(validation)), {}
        for number, arm in enumerate(arms, 1):
            try:
                rows = selections.rows(arm.choice, arm.seed)
            except ConfigError as error:  # the metric has no meaning on this corpus
                refused[arm.choice.name] = error.what
                continue
            start = time.monotonic()
            done[arm.name], is_new = _kept(storage, arm.name, lambda arm=arm, rows=rows: evaluation.train(arm, rows))
            spent = f"{time.monotonic() - start:.0f} s" if is_new else "there already"
            log.info(f"{number} of {len(arms)}: {arm.name}, {len(rows):,} pairs, {spent}")
        for name, why in refused.items():
            log.info(f"left out: {name}: {why}")
        tested = {"pairs": len(held_out.records), "prompts": held_out.num_prompts, "development": of_development}
        result = {
            "config": validation.model_dump(mode="json"),
            "run_id": run.manifest["run_id"],
            "held_out": tested,
            "refused": refused,
            "rows": Table(held_out, done.pop(START)).rows(list(done.values())),
            "label_noise": [] if validation.label_noise is None else label_noise(validation, selections),
            "disturbed": [] if validation.disturb is None else disturb_rewards(validation, selections),
        }
    return result | {"path": _published(result, storage)}


def _published(result: dict[str, Any], storage: Storage) -> str:
    """Both files of a comparison that is complete, last, and named by what was asked for; returns the folder."""
    folder = storage.below(fingerprint({"validation": result["config"]}))
    folder.create("validation.md", f"```text\n{as_text(result)}\n```\n".encode())
    folder.create("validation.json", (json.dumps(result, indent=2) + "\n").encode())
    return folder.url


@contextmanager
def _few_threads(validation: Validation) -> Iterator[None]:
    """A known world's matrices are so small that a second thread costs more than it brings."""
    threads = torch.get_num_threads()
    if validation.world is not None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _storage(validation: Validation, corpus: Corpus, of_development: bool) -> Storage:
    """Where the arms are kept: under all that can change one, so not under the metrics, ratios and seeds there are."""
    families = corpus.job.families.items()
    covers = {
        "mapjob": mapjob.__version__,
        "units": [unit.id for unit in corpus.job.plan.units],
        "families": {name: own for name, own in families if name.partition(".")[0] in SCORED},
        "selection": validation.run.selection.model_dump(mode="json", exclude=OF_ARMS),
        "recipe": validation.recipe.model_dump(mode="json", exclude={"max_steps"}),
        "probe": validation.probe and validation.probe.model_dump(mode="json"),
        "held_out": [validation.development, of_development, validation.groups],
        "max_new_tokens": validation.max_new_tokens,
    }
    return Storage(validation.run.output.path).below("validation", fingerprint(covers))


def _kept(storage: Storage, name: str, make: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
    """(what stands under this name, whether this call made it); made and put create-only where nothing stands."""
    file = f"arms/{name}.json"
    stands, is_new = storage.read(file), False
    if stands is None:
        is_new = storage.create(file, json.dumps(make()).encode())
        stands = storage.read(file)
        assert stands is not None
    return json.loads(stands), is_new


def _by_probe(validation: Validation, run: FinishedRun, corpus: Corpus, storage: Storage) -> Corpus | None:
    """The corpus as the probe scored it: the policy, trained a little by DPO, against itself as it was."""
    probe = validation.probe
    if probe is None or not validation.of_probe:
        return None
    folder = Path(validation.models_folder) / f"probe-{storage.url.rpartition('/')[2]}"
    if not folder.exists():
        ranking = corpus.ranking(Choice(RANDOM, None, 1.0), validation.run.selection)
        rows = np.sort(corpus.rows(ranking)[: probe.pairs])
        log.info(f"probe: DPO on {len(rows):,} random pairs")
        how = validation.recipe.model_dump(include={"batch_size", "accumulate", "learning_rate", "lora"})
        how |= {"objective": "dpo"} | ({} if probe.learning_rate is None else {"learning_rate": probe.learning_rate})
        train(run, Training(**how), folder, rows=rows)
    return Corpus.of(_scored_by(validation, folder))


def _scored_by(validation: Validation, probe: Path) -> Config:
    tree = validation.everything.model_dump()
    tree["models"]["policy"] = Model(path=str(probe), dtype="float32").model_dump()
    tree["selection"]["metrics"] = validation.of_probe
    config = parse_config(tree)
    run_job(config)
    return config

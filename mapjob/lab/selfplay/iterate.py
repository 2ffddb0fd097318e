"""`mapjob selfplay`: respond, score, pair, select, rewrite, respond again, train, measure; then again with the trained
policy.

After Huang et al. 2025 (arXiv 2503.01864). A stage names its result by what it is made from and reuses a finished one,
so a loop that was killed resumes where it stopped.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mapjob.config.load import fingerprint, parse_config
from mapjob.config.run import Config, Model
from mapjob.config.selection import Keep
from mapjob.errors import ConfigError
from mapjob.lab.selfplay.config import GenerateConfig, SelfPlayConfig
from mapjob.lab.selfplay.generate import make_corpus, read_from
from mapjob.lab.selfplay.known_world import build_worlds
from mapjob.lab.selfplay.measures import (
    HeldOutPrompts,
    Measured,
    best_of,
    describe_fall,
    describe_means,
    means_of,
)
from mapjob.lab.selfplay.tasks import task_spec
from mapjob.lab.training.losses import all_parameters, needs_reference
from mapjob.lab.world.models import few_threads
from mapjob.scoring.model_files import model_files
from mapjob.scoring.reward_families import reward_family
from mapjob.scoring.spec import scorer_files
from mapjob.store.run_folder import FinishedRun, Manifest, path_of, read_units
from mapjob.store.score_store import ScoreStore
from mapjob.store.storage import SCRATCH, Storage

log = logging.getLogger(__name__)

Run = Callable[[Config], dict[str, Any]]  # `mapjob run`: returns the manifest


def play(config: SelfPlayConfig, run: Run) -> dict[str, Any]:
    """Run the iterations of the run file, until the judge, if there is one, stops them; returns the content of
    selfplay.json. run: scores, ranks and publishes.

    Raises MapjobError; finished stages are kept, and the same call resumes from them.
    """
    if config.world is None:
        return _play(config, run)
    build_worlds(config.world, None if config.judge is None else config.judge.path)
    # The matrices of a known world are so small that a second thread costs more than it brings.
    with few_threads(1):
        return _play(config, run)


def _play(config: SelfPlayConfig, run: Run) -> dict[str, Any]:
    _check(config)
    held_out = None
    if config.selection.held_out:
        held_out = HeldOutPrompts.of(config, task_spec(_generation(config, config.models.policy)).style)
    policies, measured = [config.models.policy], list[Measured]()
    iterations, before, stopped = list[dict[str, Any]](), set[str](), None
    for number in range(config.iterations + 1):
        if number:
            log.info(f"iteration {number} of {config.iterations}: policy {policies[-1].path}")
            iteration, before = _iteration(_draw_anew(config, number), policies[-1], number, before, held_out, run)
            iterations.append(iteration)
            policies.append(Model(path=iteration["trained"], dtype=policies[0].dtype))
        if held_out is not None:
            measured.append(held_out.measure(policies[-1]))
            log.info(f"held out, after iteration {number}: {describe_means(measured[-1])}")
            if number:
                iteration["held_out"] = means_of(measured[-1])
            if (stopped := describe_fall(measured)) is not None:
                log.info(f"stopped after iteration {number} of {config.iterations}: {stopped}")
                break
    best = best_of(measured) if config.judge is not None else len(iterations)
    body = {
        "config": config.model_dump(mode="json"),
        "start": means_of(measured[0]) if measured else None,
        "held_out": len(held_out.prompts) if held_out is not None else 0,
        "iterations": iterations,
        "stopped": stopped,
        "best": best,
        "policy": policies[best].path,
    }
    made = [[it["run_id"], Path(it["trained"]).name] for it in iterations]
    name = fingerprint({"iterations": made, "measured": [means_of(policy) for policy in measured]})
    folder = Storage(config.output.path).below("selfplay", name)
    folder.create("selfplay.json", (json.dumps(body, indent=2) + "\n").encode())
    return {**body, "path": folder.url}


def _draw_anew(config: SelfPlayConfig, number: int) -> SelfPlayConfig:
    """What an iteration plays by: other random numbers than the one before, if it draws at all. Its runs hold out
    nothing, since held-out prompts are not answered for them.
    """
    selection = {"seed": config.selection.seed + number - 1, "held_out": 0.0}
    generation = {"seed": config.generation.seed + number - 1} if config.fresh_responses else {}
    update = {
        "selection": config.selection.model_copy(update=selection),
        "generation": config.generation.model_copy(update=generation),
    }
    return config.model_copy(update=update)


def _check(config: SelfPlayConfig) -> None:
    """Raises ConfigError for a fault that would stop the loop after hours of generation."""
    from mapjob.lab.training.train import check_one_gpu

    check_one_gpu()
    if not Storage(config.output.path).is_local:
        raise ConfigError(
            "trained policies are folders, and this output is not on a disk",
            f"output.path: {config.output.path}",
            "give a folder that every machine of the cluster reaches",
        )
    all_parameters(config.training.objective, config.training.parameters)
    scorer_files(run_config(config, config.models.policy, ["not made yet"], config.selection.keep))
    if config.judge is not None:
        reward_family(model_files(config.judge, "judge"), "judge")


def _generation(config: SelfPlayConfig, policy: Model) -> GenerateConfig:
    return GenerateConfig(
        policy=None if config.generation.engine == "openai" else policy,
        **{name: getattr(config, name) for name in ("prompts", "output", "generation", "evolve", "execution")},
    )


def _iteration(
    config: SelfPlayConfig, policy: Model, number: int, before: set[str], held_out: HeldOutPrompts | None, run: Run
) -> tuple[dict[str, Any], set[str]]:
    """(a row of the table, ids of the selected prompts). before: the ids that the last iteration selected."""
    generation = _generation(config, policy if config.fresh_responses else config.models.policy)
    apart = held_out.ids if held_out is not None else frozenset[str]()
    candidates = [make_corpus(generation, held_out=apart)]
    rewrites: dict[str, Any] = {"rows": 0, "left_out": {}}
    seeds = None
    if config.evolve is not None:
        seeds = run(run_config(config, policy, [candidates[0]["path"]], config.evolve_keep))
        corpus = make_corpus(read_from(generation, f"{path_of(seeds)}/selected"), evolution=config.evolve)
        rewrites = corpus["counts"]
        if rewrites["rows"]:
            candidates.append(make_corpus(read_from(generation, corpus["path"]), held_out=apart))
        else:
            log.info(f"no rewrite can be a prompt: {rewrites['left_out']}")
    paths = [corpus["path"] for corpus in candidates]
    manifest = run(run_config(config, policy, paths, config.selection.keep))
    folder = FinishedRun.of(manifest).folder
    tables = [folder.read_table(name, ["prompt_id"]) for name in folder.tables("selected")]
    selected = {prompt_id for table in tables for prompt_id in table["prompt_id"].to_pylist()}
    training = _train(config, manifest, number)
    statistics = manifest["statistics"]
    return {
        "iteration": number,
        "run_id": manifest["run_id"],
        "policy": policy.path,
        "candidates": paths,
        "prompts": candidates[0]["prompts"]["prompts"],
        "rewrites": {"kept": rewrites["rows"], "left_out": rewrites["left_out"]},
        "left_out": [corpus["counts"]["left_out"] for corpus in candidates],
        "pairs": manifest["counts"]["ranked"],
        "selected": manifest["counts"]["selected"],
        "mean_reward": _mean_rewards(config, seeds or manifest),  # without rewrites, so that iterations compare
        "mean_abs_reward_margin": statistics["abs_reward_margin"]["mean"],
        "mean_abs_implicit_margin": statistics["abs_implicit_margin"]["mean"],
        "selected_before": len(selected & before) / max(1, len(selected)),
        **training,
    }, selected


def run_config(config: SelfPlayConfig, policy: Model, candidates: Sequence[str], keep: Keep) -> Config:
    """The run file of `mapjob run` over these candidates. The default reference of a training is its first policy."""
    reference = config.models.reference or (policy if needs_reference(config.training.objective) else None)
    whole = config.model_dump(include={"output", "models", "scoring", "selection", "execution", "max_error_rate"})
    whole["input"] = {
        "path": list(candidates),
        "reading": {"prompt": ["prompt"], "responses": "responses"},
        "columns": {"group": "group" if config.prompts.group else None},
        "plain_text": config.prompts.plain_text,
    }
    whole["models"] |= {"policy": policy.model_dump(), "reference": reference and reference.model_dump()}
    whole["selection"]["keep"] = keep.model_dump()
    return parse_config(whole, "the run of an iteration")


def _train(config: SelfPlayConfig, manifest: Manifest, number: int) -> dict[str, Any]:
    """Train the run's policy on its selection, unless that is done. The folder appears once it is complete."""
    import torch

    from mapjob.lab.training.train import train

    name = fingerprint({"run": manifest["run_id"], "training": config.training.model_dump(mode="json")})
    root = Path(Storage(config.output.path).root)
    output, unfinished = root / "policies" / f"{number}-{name}", root / SCRATCH / f"policy-{name}"
    if not output.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        result = train(FinishedRun.of(manifest), config.training, unfinished / "model")
        facts = {key: result[key] for key in ("pairs", "dropped", "steps", "first_loss", "last_loss")}
        (unfinished / "model" / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        output.parent.mkdir(exist_ok=True)
        os.rename(unfinished / "model", output)
        shutil.rmtree(unfinished)
        torch.cuda.empty_cache()  # the actors of the next stage need it
    else:
        log.info(f"trained already: {output}")
    return {"trained": str(output), "training": json.loads((output / "training.json").read_text(encoding="utf-8"))}


def _mean_rewards(config: SelfPlayConfig, manifest: Manifest) -> dict[str, float]:
    """Per reward model, the mean over all responses that a run scored."""
    store, means = ScoreStore(config.output.path), {}
    for name, family in manifest["fingerprints"].items():
        if name.partition(".")[0] == "reward":
            columns = [pc.list_flatten(table["rewards"]) for table in store.read_all(family, read_units(manifest))]
            means[name] = float(np.mean(np.concatenate([column.to_numpy() for column in columns])))
    return means

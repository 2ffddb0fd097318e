"""`mapjob selfplay`: respond, score, pair, select, rewrite, respond again, train; then again with the trained policy.

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
from mapjob.lab.training.losses import all_parameters, needs_reference
from mapjob.scoring.spec import scorer_files
from mapjob.store.run_folder import FinishedRun, Manifest, path_of, read_units
from mapjob.store.score_store import ScoreStore
from mapjob.store.storage import SCRATCH, Storage

log = logging.getLogger(__name__)

Run = Callable[[Config], dict[str, Any]]  # `mapjob run`: returns the manifest


def play(config: SelfPlayConfig, run: Run) -> dict[str, Any]:
    """Run every iteration of the run file; returns the content of selfplay.json. run: scores, ranks and publishes.

    Raises MapjobError; finished stages are kept, and the same call resumes from them.
    """
    _check(config)
    iterations: list[dict[str, Any]] = []
    policy, before = config.models.policy, set[str]()
    for number in range(1, config.iterations + 1):
        log.info(f"iteration {number} of {config.iterations}: policy {policy.path}")
        iteration, before = _iteration(config, policy, number, before, run)
        iterations.append(iteration)
        policy = Model(path=iteration["trained"], dtype=policy.dtype)
    body = {"config": config.model_dump(mode="json"), "iterations": iterations, "policy": policy.path}
    name = fingerprint({"iterations": [[it["run_id"], Path(it["trained"]).name] for it in iterations]})
    folder = Storage(config.output.path).below("selfplay", name)
    folder.create("selfplay.json", (json.dumps(body, indent=2) + "\n").encode())
    return {**body, "path": folder.url}


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


def _iteration(
    config: SelfPlayConfig, policy: Model, number: int, before: set[str], run: Run
) -> tuple[dict[str, Any], set[str]]:
    """(a row of the table, ids of the selected prompts). before: the ids that the last iteration selected."""
    responder = policy if config.fresh_responses else config.models.policy
    generation = GenerateConfig(
        policy=None if config.generation.engine == "openai" else responder,
        **{name: getattr(config, name) for name in ("prompts", "output", "generation", "evolve", "execution")},
    )
    candidates = [make_corpus(generation)]
    rewrites: dict[str, Any] = {"rows": 0, "left_out": {}}
    seeds = None
    if config.evolve is not None:
        seeds = run(run_config(config, policy, [candidates[0]["path"]], config.evolve_keep))
        corpus = make_corpus(read_from(generation, f"{path_of(seeds)}/selected"), evolution=config.evolve)
        rewrites = corpus["counts"]
        if rewrites["rows"]:
            candidates.append(make_corpus(read_from(generation, corpus["path"])))
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

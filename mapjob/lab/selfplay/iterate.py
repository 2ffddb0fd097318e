"""`mapjob selfplay`: respond, score, pair, select, rewrite, respond again, train; then with the trained policy again.

After Huang et al. 2025 (arXiv 2503.01864). Each stage names its result by what it was made from and finds it again when
it stands finished, so a loop that was killed goes on where it was.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mapjob.config import Config, Keep, Model, fingerprint, parse_config
from mapjob.errors import ConfigError
from mapjob.lab.selfplay.config import GenerateConfig, Prompts, SelfPlayConfig
from mapjob.lab.selfplay.generate import answered, evolved, of_rewrites
from mapjob.lab.training.losses import needs_reference
from mapjob.scoring.spec import scorer_files
from mapjob.store.run_folder import FinishedRun, Manifest, RunFolder, path_of
from mapjob.store.score_store import ScoreStore
from mapjob.store.storage import SCRATCH, Storage

log = logging.getLogger(__name__)

Run = Callable[[Config], dict[str, Any]]  # `mapjob run`: returns the manifest


def play(config: SelfPlayConfig, run: Run) -> dict[str, Any]:
    """Every iteration of the run file; returns what selfplay.json says of them. run: scores, ranks and publishes.

    Raises MapjobError; what stands by then is kept, and the same call goes on there.
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
    name = fingerprint({"iterations": [[each["run_id"], Path(each["trained"]).name] for each in iterations]})
    folder = Storage(config.output.path).below("selfplay", name)
    folder.create("selfplay.json", (json.dumps(body, indent=2) + "\n").encode())
    return {**body, "path": folder.url}


def _check(config: SelfPlayConfig) -> None:
    """Raises ConfigError for what would end the loop after hours of generation."""
    from mapjob.lab.training.losses import all_parameters
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
    """(what the table says of it, ids of the prompts that were selected). before: those of the iteration before."""
    responder = policy if config.fresh_responses else config.models.policy
    asking = GenerateConfig(
        prompts=config.prompts,
        output=config.output,
        policy=None if config.generation.engine == "openai" else responder,
        generation=config.generation,
        evolve=config.evolve,
        execution=config.execution,
    )
    candidates = [answered(asking, None)]
    rewrites: dict[str, Any] = {"rows": 0, "left_out": {}}
    seeds = None
    if config.evolve is not None:
        seeds = run(run_config(config, policy, [candidates[0]["path"]], config.evolve_keep))
        best = Prompts(
            path=f"{path_of(seeds)}/selected",
            group="group" if config.prompts.group else None,
            plain_text=config.prompts.plain_text,
        )
        made = evolved(asking.model_copy(update={"prompts": best}), None)
        rewrites = made["counts"]
        if rewrites["rows"]:
            candidates.append(answered(of_rewrites(asking, made), None))
        else:
            log.info(f"no rewrite is fit to be a prompt: {rewrites['left_out']}")
    paths = [each["path"] for each in candidates]
    manifest = run(run_config(config, policy, paths, config.selection.keep))
    selected = set(_prompt_ids(FinishedRun.of(manifest).folder))
    training = _trained(config, manifest, number)
    statistics = manifest["statistics"]
    return {
        "iteration": number,
        "run_id": manifest["run_id"],
        "policy": policy.path,
        "candidates": paths,
        "prompts": candidates[0]["prompts"]["prompts"],
        "rewrites": {"kept": rewrites["rows"], "left_out": rewrites["left_out"]},
        "left_out": [each["counts"]["left_out"] for each in candidates],
        "pairs": manifest["counts"]["ranked"],
        "selected": manifest["counts"]["selected"],
        "mean_reward": _mean_rewards(config, seeds or manifest),
        "mean_abs_reward_margin": statistics["abs_reward_margin"]["mean"],
        "mean_abs_implicit_margin": statistics["abs_implicit_margin"]["mean"],
        "selected_before": len(selected & before) / max(1, len(selected)),
        **training,
    }, selected


def run_config(config: SelfPlayConfig, policy: Model, candidates: Sequence[str], keep: Keep) -> Config:
    """The run file of `mapjob run` over these candidates. What is trained against a reference has the policy that it
    starts from, where the run file names none."""
    reference = config.models.reference or (policy if needs_reference(config.training.objective) else None)
    whole = config.model_dump(include={"output", "models", "scoring", "selection", "execution", "max_error_rate"})
    whole["input"] = {
        "path": list(candidates),
        "layout": "candidates",
        "columns": {"group": "group" if config.prompts.group else None},
        "plain_text": config.prompts.plain_text,
    }
    whole["models"] |= {"policy": policy.model_dump(), "reference": reference and reference.model_dump()}
    whole["selection"]["keep"] = keep.model_dump()
    return parse_config(whole, "the run of an iteration")


def _trained(config: SelfPlayConfig, manifest: Manifest, number: int) -> dict[str, Any]:
    """Train the run's policy on its selection, unless that was done. The folder appears when all is in it."""
    import torch

    from mapjob.lab.training.train import train

    name = fingerprint({"run": manifest["run_id"], "training": config.training.model_dump(mode="json")})
    root = Path(Storage(config.output.path).root)
    output, unfinished = root / "policies" / f"{number}-{name}", root / SCRATCH / f"policy-{name}"
    if not output.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        result = train(FinishedRun.of(manifest), config.training, unfinished / "model")
        kept = {key: result[key] for key in ("pairs", "dropped", "steps", "first_loss", "last_loss")}
        (unfinished / "model" / "training.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
        output.parent.mkdir(exist_ok=True)
        os.rename(unfinished / "model", output)
        shutil.rmtree(unfinished)
        torch.cuda.empty_cache()  # the actors of the next stage need it
    else:
        log.info(f"trained already: {output}")
    return {"trained": str(output), "training": json.loads((output / "training.json").read_text(encoding="utf-8"))}


def _prompt_ids(folder: RunFolder) -> Iterator[str]:
    for name in folder.tables("selected"):
        yield from folder.read_table(name, ["prompt_id"])["prompt_id"].to_pylist()


def _mean_rewards(config: SelfPlayConfig, manifest: Manifest) -> dict[str, float]:
    """Of all responses that a run scored, by reward model; for responses to the prompts of the run file alone, so that
    iterations compare."""
    store, means = ScoreStore(config.output.path), {}
    for name, family in manifest["fingerprints"].items():
        if name.partition(".")[0] == "reward":
            columns = [pc.list_flatten(table["rewards"]) for table in store.read_all(family, manifest["units"])]
            means[name] = float(np.mean(np.concatenate([column.to_numpy() for column in columns])))
    return means

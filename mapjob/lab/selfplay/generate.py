"""`mapjob generate`, top to bottom: read prompts, cut them into units, answer or rewrite what is missing, count."""

import hashlib
import logging
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import mapjob
from mapjob.config import fingerprint
from mapjob.corpus.plan import Unit
from mapjob.errors import InputError
from mapjob.lab.selfplay.config import GenerateConfig, Prompts
from mapjob.lab.selfplay.folder import GeneratedFolder
from mapjob.lab.selfplay.prompts import Prompt, count_text, read_prompts
from mapjob.lab.selfplay.tasks import TaskSpec, task_spec
from mapjob.pipeline.progress import Events
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)

VERSIONS = ("ray", "torch", "transformers", "pyarrow", "numpy")


def generate(config: GenerateConfig, limit: int | None = None) -> dict[str, Any]:
    """Responses to every prompt, or with `evolve` to rewrites of it; returns generation.json.

    limit: the first so many rows of the prompts. What is done by then stays when this ends early, and the same call
    goes on there. Raises MapjobError.
    """
    if config.evolve is None:
        return answered(config, limit)
    rewrites = evolved(config, limit)
    if not rewrites["counts"]["rows"]:
        do = "use a model that follows instructions, or loosen evolve"
        reasons = count_text(rewrites["counts"]["left_out"])
        raise InputError(f"no rewrite can be a prompt ({reasons})", rewrites["path"], do)
    return answered(of_rewrites(config, rewrites), None)


def of_rewrites(config: GenerateConfig, rewrites: dict[str, Any]) -> GenerateConfig:
    """The same run file, over the prompts that `evolved` made."""
    group = "group" if config.prompts.group else None
    prompts = Prompts(path=rewrites["path"], group=group, plain_text=config.prompts.plain_text)
    return config.model_copy(update={"prompts": prompts, "evolve": None})


def answered(config: GenerateConfig, limit: int | None = None) -> dict[str, Any]:
    """`generation.num_responses` to each prompt, as a corpus of candidates."""
    return _carried_out(task_spec(config), "candidates", config, limit)


def evolved(config: GenerateConfig, limit: int | None = None) -> dict[str, Any]:
    """Rewrites of each prompt, as a corpus of prompts."""
    assert config.evolve is not None, "asked for by who has a section evolve"
    return _carried_out(task_spec(config, config.evolve), "prompts", config, limit)


def _carried_out(spec: TaskSpec, kind: Any, config: GenerateConfig, limit: int | None) -> dict[str, Any]:
    start = time.monotonic()
    source = read_prompts(config.prompts, spec.style, limit)
    prompts = source.prompts
    units = cut(prompts, config.generation.prompts_per_unit)
    folder = GeneratedFolder(config.output.path, kind, _name(spec, prompts, config))
    reasons = f" ({count_text(source.left_out)})" if source.left_out else ""
    log.info(f"prompts: {len(prompts):,} of {source.rows:,} rows{reasons}, {len(units)} units")
    log.info(f"read as: {spec.style}; {kind}: {folder.url}")
    if (finished := folder.manifest) is not None:
        log.info(f"this is finished already: {folder.url}")
        return finished
    Storage(config.output.path).check_conditions()
    done = folder.unit_ids()
    todo = [unit for unit in units if unit[0].id not in done]
    tokens = _work(spec, kind, folder, todo, config) if todo else 0
    body = {
        "kind": kind,
        "path": folder.url,
        "name": folder.name,
        "mapjob": mapjob.__version__,
        "config": config.model_dump(mode="json"),
        "limit": limit,
        "covers": spec.covers,
        "commit": spec.files.commit if spec.files else None,
        "prompts": {"rows": source.rows, "prompts": len(prompts), "left_out": dict(source.left_out)},
        "units": len(units),
        "counts": folder.count([unit.id for unit, _ in units]),
        "spent": {"seconds": round(time.monotonic() - start, 3), "tokens": tokens, "units": len(todo)},
        "versions": {"python": platform.python_version()} | {name: version(name) for name in VERSIONS},
    }
    return folder.finish(body)


def _work(
    spec: TaskSpec,
    kind: str,
    folder: GeneratedFolder,
    todo: Sequence[tuple[Unit, Sequence[Prompt]]],
    config: GenerateConfig,
) -> int:
    """Tokens that were written."""
    # Slow to import; a finished folder needs neither Ray nor torch.
    from mapjob.lab.selfplay.graph import work_through
    from mapjob.pipeline.cluster import connect
    from mapjob.pipeline.progress import ScoringProgress
    from mapjob.pipeline.watchdog import ended_by_signals
    from mapjob.scoring.tokenizers import check_vocabulary

    if spec.files is not None:
        check_vocabulary("policy", spec.files)
    with ended_by_signals() as listen:
        cpus, gpus = connect(config.execution.address)
        listen()
        num_prompts = sum(len(prompts) for _, prompts in todo)
        with ScoringProgress(kind, len(todo), num_prompts, Events(), "prompts") as progress:
            for receipt in work_through(spec, folder, todo, config.execution, cpus, gpus):
                for name in receipt.costs.keys() - progress.total.costs.keys():
                    log.info(receipt.costs[name].engine)
                progress.add(receipt)
    return sum(cost.tokens for cost in progress.total.costs.values())


def cut(prompts: Sequence[Prompt], prompts_per_unit: int) -> list[tuple[Unit, Sequence[Prompt]]]:
    """Units of so many prompts in their order, the last one shorter."""
    starts = range(0, len(prompts), prompts_per_unit)
    parts = [prompts[start : start + prompts_per_unit] for start in starts]
    return [
        (Unit(f"part-{number:05}", "the prompts", start, start + len(part)), part)
        for number, (start, part) in enumerate(zip(starts, parts))
    ]


def _name(spec: TaskSpec, prompts: Sequence[Prompt], config: GenerateConfig) -> str:
    """Covers all that decides what the files of a folder hold, so that a change of any of it begins another folder."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.id, prompt.group, prompt.source_id, prompt.rewrite, prompt.generation)).encode())
    per_unit = config.generation.prompts_per_unit
    return fingerprint({"task": spec.covers, "prompts": digest.hexdigest(), "prompts_per_unit": per_unit})

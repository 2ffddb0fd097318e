"""`mapjob generate`, top to bottom: read prompts, cut them into units, answer or rewrite what is missing, count."""

import hashlib
import logging
import time
from collections.abc import Collection, Sequence
from typing import Any

import mapjob
from mapjob.config.load import fingerprint
from mapjob.corpus.units import Unit
from mapjob.errors import InputError
from mapjob.lab.selfplay.config import Evolution, GenerateConfig, Prompts
from mapjob.lab.selfplay.folder import GeneratedFolder, Kind
from mapjob.lab.selfplay.prompts import Prompt, count_text, read_prompts
from mapjob.lab.selfplay.tasks import TaskSpec, task_spec
from mapjob.pipeline.progress import Events
from mapjob.selection.manifest import read_versions
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)

Units = list[tuple[Unit, list[Prompt]]]


def generate(config: GenerateConfig, limit: int | None = None) -> dict[str, Any]:
    """Responses to every prompt, or with `evolve` to rewrites of it; returns generation.json.

    limit: read the first rows of the prompts only. Units that are done stay if this stops early, and the same call
    resumes from them. Raises MapjobError.
    """
    if config.evolve is None:
        return make_corpus(config, limit)
    rewrites = make_corpus(config, limit, config.evolve)
    if not rewrites["counts"]["rows"]:
        do = "use a model that follows instructions, or loosen evolve"
        reasons = count_text(rewrites["counts"]["left_out"])
        raise InputError(f"no rewrite can be a prompt ({reasons})", rewrites["path"], do)
    return make_corpus(read_from(config, rewrites["path"]))


def read_from(config: GenerateConfig, path: str) -> GenerateConfig:
    """The run file that answers the prompts of another corpus, one that mapjob wrote."""
    group = "group" if config.prompts.group else None
    prompts = Prompts(path=path, group=group, plain_text=config.prompts.plain_text)
    return config.model_copy(update={"prompts": prompts, "evolve": None})


def make_corpus(
    config: GenerateConfig,
    limit: int | None = None,
    evolution: Evolution | None = None,
    held_out: Collection[str] = (),
) -> dict[str, Any]:
    """Responses to the prompts as a corpus of candidates, or with an evolution their rewrites as a corpus of prompts.

    held_out: ids of prompts that are left out. Returns generation.json; of a finished corpus, the one that is stored.
    """
    start, spec = time.monotonic(), task_spec(config, evolution)
    kind: Kind = "candidates" if evolution is None else "prompts"
    source = read_prompts(config.prompts, spec.style, limit)
    prompts = [prompt for prompt in source.prompts if prompt.id not in held_out]
    if len(prompts) < len(source.prompts):
        source.left_out["held_out"] = len(source.prompts) - len(prompts)
    units = cut(prompts, config.generation.prompts_per_unit)
    folder = GeneratedFolder(config.output.path, kind, _name(spec, prompts, config))
    reasons = f" ({count_text(source.left_out)})" if source.left_out else ""
    for note in source.notes:
        log.info(note)
    log.info(f"prompts: {len(prompts):,} of {source.rows:,} rows{reasons}, {len(units)} units")
    log.info(f"read as: {spec.style}; {kind}: {folder.url}")
    if (finished := folder.manifest) is not None:
        log.info(f"this is finished already: {folder.url}")
        return finished
    Storage(config.output.path).check_conditions()
    done = folder.unit_ids()
    todo = [unit for unit in units if unit[0].id not in done]
    tokens = _work(spec, kind, folder, todo, config) if todo else 0
    manifest = {
        "kind": kind,
        "path": folder.url,
        "name": folder.name,
        "mapjob": mapjob.__version__,
        "config": config.model_dump(mode="json"),
        "limit": limit,
        "covers": spec.identity,
        "commit": spec.files.commit if spec.files else None,
        "prompts": {"rows": source.rows, "prompts": len(prompts), "left_out": dict(source.left_out)},
        "units": len(units),
        "counts": folder.count([unit.id for unit, _ in units]),
        "spent": {"seconds": round(time.monotonic() - start, 3), "tokens": tokens, "units": len(todo)},
        "versions": read_versions(),
    }
    return folder.finish(manifest)


def _work(spec: TaskSpec, kind: Kind, folder: GeneratedFolder, todo: Units, config: GenerateConfig) -> int:
    """Do the units on Ray; returns how many tokens were written."""
    # Slow to import; a finished folder needs neither Ray nor torch.
    from mapjob.lab.selfplay.graph import work_through
    from mapjob.pipeline.cluster import connect
    from mapjob.pipeline.progress import ScoringProgress
    from mapjob.scoring.tokenizers import check_vocabulary

    if spec.files is not None:
        check_vocabulary("policy", spec.files)
    cpus, gpus = connect(config.execution.address)
    num_prompts = sum(len(prompts) for _, prompts in todo)
    with ScoringProgress(kind, len(todo), num_prompts, Events(), "prompts") as progress:
        for receipt in work_through(spec, folder, todo, config.execution, cpus, gpus):
            for name in receipt.costs.keys() - progress.total.costs.keys():
                log.info(receipt.costs[name].engine)
            progress.add(receipt)
    return sum(cost.tokens for cost in progress.total.costs.values())


def cut(prompts: list[Prompt], prompts_per_unit: int) -> Units:
    """Units of prompts in their order, the last one shorter."""
    units: Units = []
    for start in range(0, len(prompts), prompts_per_unit):
        part = prompts[start : start + prompts_per_unit]
        units.append((Unit(f"part-{len(units):05}", "the prompts", start, start + len(part)), part))
    return units


def _name(spec: TaskSpec, prompts: Sequence[Prompt], config: GenerateConfig) -> str:
    """Covers everything that decides the files of a folder, so that a change of any of it starts another folder."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(repr((prompt.id, prompt.group, prompt.source_id, prompt.rewrite, prompt.generation)).encode())
    per_unit = config.generation.prompts_per_unit
    return fingerprint({"task": spec.identity, "prompts": digest.hexdigest(), "prompts_per_unit": per_unit})

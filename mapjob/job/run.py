"""A whole run, top to bottom: plan, score what is missing, rank, publish."""

import logging
from collections.abc import Sequence
from itertools import chain

import numpy as np
import pyarrow as pa

from mapjob.errors import ConfigError
from mapjob.job.prepare import (
    Job,
    RunFile,
    Source,
    describe,
    find_warnings,
    name_units,
    prepare,
    prepare_for_ranking,
    read_config,
    read_source,
    slices,
)
from mapjob.job.publish import draw_page, rank_and_publish
from mapjob.job.rank import check_records, check_scored, prepare_again, rank_scored
from mapjob.job.unit_size import keep_pace, measure_pace
from mapjob.pipeline.progress import Events, Spent
from mapjob.pipeline.reuse import take_stored
from mapjob.pipeline.stages import Todo, passes
from mapjob.report.pair import examples_of
from mapjob.scoring.reader_families import RECORDS
from mapjob.selection.checks import judge
from mapjob.selection.rows import ranked_rows
from mapjob.store.run_folder import FinishedRun, Manifest, find_promoted, open_run, path_of, where_it_is
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)


def run_job(
    config: RunFile,
    limit: int | None = None,
    code_allowed: bool = False,
    events: str | None = None,
    note: str | None = None,
) -> Manifest:
    """Score what is missing, rank, publish, promote; returns the manifest, with `promoted` and `checks` as they are
    now. Of a run that was finished already, `spent` is what this call took.

    config: a run file's path, its content, or a Config. code_allowed: models may run code of their own, if the run file
    allows it too. events: a file to append JSON lines to. note: for people, kept in the manifest. Raises MapjobError;
    what is committed by then stays, and the same call resumes from it.
    """
    config = read_config(config)
    if (trusted := config.models.with_own_code) and not code_allowed:
        keys = ", ".join(f"models.{name}.trust_remote_code" for name in trusted)
        do = "read that code, then add --trust-remote-code; or take the key out of the run file"
        raise ConfigError("the run file lets a model run its own code, the command line does not", keys, do)
    spent = Spent()
    job = prepare(config, limit, code_allowed)
    for line in describe(job):
        log.info(line)
    for warning in find_warnings(job):
        log.warning(warning)
    log_file = Events(events)
    finished = None if job.plan.unnamed else job.run_folder.read_manifest()
    if finished is None or job.todo():  # also what a finished run has lost
        Storage(config.output.path).check_conditions()
        job = _read_and_score(job, spent, log_file)
        finished = job.run_folder.read_manifest()
    if finished is not None:
        log.info(f"this run is already finished: {job.run_folder.url}")
        finished = where_it_is(finished, config.output.path) | {"spent": spent.as_json}  # of this call
        return conclude(job, finished, promote=True)
    with spent.on("pack"):
        job.store.write_packs(job.families.values(), {unit.id: unit.num_rows for unit in job.plan.units})
    manifest = rank_and_publish(job, spent, note, for_use=True)
    log_file.add("finish", run_path=path_of(manifest), counts=manifest["counts"], **manifest["spent"])
    return conclude(job, manifest, promote=True)


def conclude(job: Job, manifest: Manifest, promote: bool) -> Manifest:
    """Promote a finished run, if asked and if no check of the run file fails. Returns its manifest with `checks`, those
    that fail now, and `promoted`: whether latest.json names it now.
    """
    if job.config.name not in (None, manifest["name"]):
        log.info(f"a finished run keeps its first name: {manifest['name'] or 'none'}, not {job.config.name}")
    failed = judge(manifest["measures"], job.config.checks)
    for check in failed:
        log.warning(f"check failed: {check['why']}")
    if promote and not failed:
        job.run_folder.promote()
    is_promoted = find_promoted(job.config.output.path) == job.run_id
    return {**manifest, "checks": failed, "promoted": is_promoted}


def rank_job(
    source: Source,
    limit: int | None = None,
    code_allowed: bool = False,
    overrides: Sequence[str] = (),
    promote: bool = False,
    note: str | None = None,
) -> Manifest:
    """Rank and publish from the score store; no model is loaded. Returns the manifest.

    source: a run file's path, its content, or a Config; or the path of an output folder or a run folder, for the
    settings of its (promoted) run on the corpus as it is now: then not even the models' files are needed. overrides:
    `a.b=value` on top, as --set gives them. promote: let latest.json name the new run, if its
    checks pass. note: for people, kept in the manifest. Raises IncompleteError if scores are missing.
    """
    spent = Spent()
    config, ran = read_source(source, overrides)
    job = prepare_for_ranking(config, ran, limit, code_allowed)
    check_scored(job)
    finished = job.run_folder.read_manifest()
    if finished is None:
        finished = rank_and_publish(job, spent, note, for_use=promote)
    return conclude(job, where_it_is(finished, config.output.path), promote)


def render_report(run: FinishedRun, num_examples: int = 0) -> str:
    """report.html of a run once more, from its folder alone; with texts of so many selected pairs of each kind.

    Without texts it is the same file to the byte. Raises MapjobError if the run has no report.json.
    """
    return draw_page(run.folder, examples_of(run, num_examples))


def _read_and_score(job: Job, spent: Spent, events: Events) -> Job:
    """Name the units that are new, and score what is missing; again on what is left if the cluster shrinks.

    Returns the job with all units named.
    """
    if not job.plan.unnamed and not job.todo():
        log.info("every unit is already scored")
        events.add("start", run_id=job.run_id, units=len(job.plan.units), rows=job.plan.num_rows)
        return job
    # Slow to import, and neither a run that finds everything scored nor a ranking needs them.
    from mapjob.pipeline.cluster import connect
    from mapjob.pipeline.watchdog import ClusterShrunk

    checked = not all(job.store.done(scorer.fingerprint) for scorer in job.scorers)
    if checked:
        _check_models(job)  # before the corpus is read for a model that cannot be loaded
    ids: dict[int, str] = {}
    started = False
    while True:
        with spent.on("ray"):
            cpus, spent.gpus = connect(job.config.execution.address)
        try:
            if job.plan.unnamed:
                with spent.on("read"):
                    job = name_units(job, ids, cpus, spent.gpus)
            if not started:
                events.add("start", run_id=job.run_id, units=len(job.plan.units), rows=job.plan.num_rows)
                started = True
            if todo := job.todo():
                check_records(job, todo)
                if not checked:
                    _check_models(job)
                    checked = True
                with spent.on("score"):
                    _score(job, todo, cpus, spent, events)
                keep_pace(job.config.output.path, measure_pace(job.scorers, spent.total))
            return job
        except ClusterShrunk as shrunk:
            log.info(f"{shrunk.what}: continuing on what is left")


def _check_models(job: Job) -> None:
    """Before anything is read for them. Raises ModelError."""
    # Slow to import, and not needed if everything is scored.
    from mapjob.scoring.architecture import check_architecture
    from mapjob.scoring.tokenizers import check_vocabulary

    for reader in job.derived:
        job.store.declare(reader.fingerprint, reader.identity)
    for scorer in job.scorers:
        check_architecture(scorer.files, scorer.kind, scorer.name)
        if not scorer.files.code_allowed:  # else the workers do, where a tokenizer's own code runs
            check_vocabulary(scorer.name, scorer.files)
        job.store.declare(scorer.fingerprint, scorer.description)


def _score(job: Job, todo: Sequence[Todo], cpus: float, spent: Spent, events: Events) -> None:
    from mapjob.pipeline.graph import score
    from mapjob.pipeline.progress import ScoringProgress

    if len(todo) < len(job.plan.units):
        log.info(f"{len(job.plan.units) - len(todo)} units are already scored, {len(todo)} are not")
    before = {scorer.name: job.store.done(scorer.fingerprint) for scorer in job.scorers}
    for scorers, share in passes(job.config.execution.schedule, job.derived, job.scorers, todo):
        title = " + ".join(s.name for s in scorers) or "reading"
        num_rows = sum(item.unit.num_rows for item in share)
        with ScoringProgress(title, len(share), num_rows, events) as progress:
            for part in slices(share):
                left, receipts = take_stored(part, scorers, job.families[RECORDS], job.store, before)
                # A model of which the store has all rows is not loaded.
                lacking = [scorer for scorer in scorers if any(scorer.name in item.missing for item in left)]
                graph = score(job.config, job.plan.corpus, job.derived, lacking, left, cpus, spent.gpus) if left else ()
                for receipt in chain(receipts, graph):
                    for name in receipt.costs.keys() - spent.total.costs.keys():
                        log.info(receipt.costs[name].engine)
                    progress.add(receipt)
                    spent.total.add(receipt)


def load_scores(path: str) -> pa.Table:
    """Every ranked pair of a finished run in rank order: ids, scores, margins, group and `selected`, no texts.

    path: a run folder, or an output folder for its promoted run. `.to_pandas()` makes a frame of it,
    `datasets.Dataset(table)` a dataset. No model is needed. Raises ConfigError if the corpus is no longer that of the
    run.
    """
    job = prepare_again(open_run(path).manifest, "read selected/, or run the run file again")
    scored, ranking = rank_scored(job)
    every = np.arange(len(ranking.pairs))
    rows = ranked_rows(ranking, job.config.selection, every, ranking.rank)
    edges = np.searchsorted(ranking.pairs.position, job.plan.first_rows)
    parts = []
    for unit in scored.units.read():
        unit_rows = rows.take(every[edges[unit.index] : edges[unit.index + 1]])
        pairs = unit_rows.pairs_of(unit.pairs)
        parts.append(pa.table({**unit_rows.our_columns(pairs), "group": pairs.group}))
    selected = pa.array(np.isin(every, ranking.kept))
    return pa.concat_tables(parts).append_column("selected", selected).take(pa.array(ranking.order))

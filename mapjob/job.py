"""A whole run, top to bottom: plan, score what is missing, rank, publish."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mapjob.config import Config, fingerprint, parse_config
from mapjob.config.signals import Signals
from mapjob.errors import ConfigError, IncompleteError, InputError
from mapjob.pipeline.events import Events
from mapjob.prepare import Job, describe, prepare, with_own_code
from mapjob.ranking.agreement import agreement
from mapjob.ranking.order import I64
from mapjob.ranking.pairs import RankedPairs
from mapjob.ranking.profile import ALSO
from mapjob.ranking.select import Ranking, rank_pairs
from mapjob.ranking.sweep import Choice, Sweep
from mapjob.ranking.sweep import sweep as compare_choices
from mapjob.report.card import card
from mapjob.report.examples import examples_of
from mapjob.report.html import page
from mapjob.report.summary import Summary, summary
from mapjob.report.sweep import as_json, overlap_figure
from mapjob.store.formats import extra_files
from mapjob.store.manifest import count_reasons, count_rows, manifest
from mapjob.store.publish import Texts, check_complete, publish_errors, publish_rows, rows_of_unit
from mapjob.store.rows import held_out_rows, ranked_rows, selected_rows
from mapjob.store.run_folder import RunFolder
from mapjob.store.scored import Scored, load_scored
from mapjob.store.storage import Storage
from mapjob.store.units import ScoredUnits

Say = Callable[[str], None]


def run(
    config: Config,
    limit: int | None = None,
    say: Say = lambda _: None,
    verbose: bool = False,
    code_allowed: bool = False,
    events: str | None = None,
) -> dict[str, Any]:
    """Score what is missing, rank, publish; returns the manifest. A finished run is returned as it stands.

    code_allowed: models may run code of their own where the run file trusts it too. events: a file that JSON lines are
    appended to as things happen. Raises MapjobError; what is committed by then stays, and the same call goes on there.
    """
    if (trusted := with_own_code(config)) and not code_allowed:
        raise ConfigError(
            "the run file lets a model run code of its own, the command line does not",
            ", ".join(f"models.{name}.trust_remote_code" for name in trusted),
            "read that code, then add --trust-remote-code; or take the key out of the run file",
        )
    spent = Spent()
    job = prepare(config, limit, code_allowed)
    for line in describe(job):
        say(line)
    finished = job.run_folder.manifest
    if finished is not None:
        job.run_folder.point_latest()
        say(f"this run is finished already: {job.run_folder.url}")
        return finished
    if not config.output.content_names:
        Storage(config.output.path).check_conditions()
    log = Events(events)
    log.add("start", run_id=job.run_id, units=len(job.plan.units), rows=job.plan.num_rows)
    _score(job, spent, say, verbose, log)
    manifest = _rank_and_publish(job, spent, say)
    log.add("finish", run_path=path_of(manifest), counts=manifest["counts"], **manifest["spent"])
    return manifest


def rank(
    config: Config, limit: int | None = None, say: Say = lambda _: None, code_allowed: bool = False
) -> dict[str, Any]:
    """Rank and publish from the score store; no model is loaded. Raises IncompleteError where scores are missing."""
    spent = Spent()
    job = prepare(config, limit, code_allowed)
    check_scored(job)
    finished = job.run_folder.manifest
    return finished if finished is not None else _rank_and_publish(job, spent, say)


def sweep(
    config: Config, wanted: Sequence[Choice], limit: int | None = None, say: Say = lambda _: None
) -> tuple[Sweep, str]:
    """Select by every choice from the score store, and publish nothing but the comparison; no model is loaded.

    Returns it, and the URL of its folder (`sweep.json`, `overlap.svg`). Raises as `rank` does.
    """
    metrics = tuple(dict.fromkeys(choice.metric for choice in wanted))
    selection = config.selection.model_copy(update={"metrics": metrics, "signals": Signals()})
    config = parse_config(config.model_copy(update={"selection": selection}).model_dump())
    job = prepare(config, limit)
    check_scored(job)
    scored = load_scored(ScoredUnits(job.plan, job.families, job.store, config.selection), config.selection, ALSO)
    check_error_rate(job, scored)
    swept = compare_choices(scored.pairs, config.selection, wanted, scored.units.pair_ids)
    for name, why in swept.refused.items():
        say(f"left out: {name}: {why}")
    folder = Storage(config.output.path).below("sweeps", fingerprint({"run": job.run_id, "choices": repr(wanted)}))
    folder.create("sweep.json", (json.dumps(as_json(swept), indent=2) + "\n").encode())
    folder.create("overlap.svg", overlap_figure(swept))
    return swept, folder.url


def ranked_pair(manifest: dict[str, Any], which: str) -> dict[str, Any] | None:
    """A pair of a finished run by rank or pair_id, selected or not, ranked again from the score store; None if neither.

    Raises ConfigError when corpus or models are no longer those of the run.
    """
    job = prepare(parse_config(manifest["config"]), manifest["limit"])
    if job.run_folder.run_id != manifest["run_id"]:
        raise ConfigError(
            "the corpus or a model changed since this run, so only its selected pairs can be shown",
            path_of(manifest),
            "run the run file again for a ranking of what stands there now",
        )
    scored, ranking = ranked(job)
    if which.isdecimal() and 1 <= int(which) <= len(ranking.order):
        picked = ranking.order[int(which) - 1 : int(which)]
    else:
        picked = _index_of(ranking.pairs, scored.units.find(which))
    if not len(picked):
        return None
    return picked_rows(job, scored, ranking, picked)[0]


def report(run: RunFolder, num_examples: int = 0) -> str:
    """report.html of a run once more, from its folder alone; with texts of so many selected pairs of each kind.

    Without texts it is the same file to the byte. Raises ConfigError for a run that is older than report.json.
    """
    drawn_from = run.report_data
    if drawn_from is None:
        raise ConfigError(
            "this run is older than reports that can be written again",
            f"{run.url}/report.json is not there",
            "`mapjob rank` with its run file makes the run anew from the same scores; no model is loaded",
        )
    return page(drawn_from, Summary.from_json(drawn_from["summary"]), examples_of(run, num_examples))


def _index_of(pairs: RankedPairs, found: list[tuple[int, int]]) -> I64:
    """Index of the first pair found that is ranked; at most one. found: (position, place) of pairs."""
    for position, place in found:
        own = np.arange(*np.searchsorted(pairs.position, [position, position + 1]))
        if pairs.place is not None:
            own = own[pairs.place[own] == place]
        if len(own):
            return own[:1]
    return np.zeros(0, np.int64)


def picked_rows(job: Job, scored: Scored, ranking: Ranking, picked: I64) -> list[dict[str, Any]]:
    """Rows as a selection would hold them, of the pairs at these indices of the ranking, in this order."""
    selection = job.config.selection
    rows = ranked_rows(ranking, selection, picked, ranking.rank[picked])
    unit_of = np.searchsorted(job.plan.first_rows, rows.position, side="right") - 1
    return [
        rows_of_unit(job.plan, unit, rows.take(np.array([i])), Texts(control=job.control)).to_pylist()[0]
        for i, unit in enumerate(scored.units.read(unit_of))
    ]


def path_of(manifest: dict[str, Any]) -> str:
    """Where a finished run is."""
    return RunFolder(manifest["config"]["output"]["path"], manifest["run_id"]).url


class Spent:
    """Seconds of each stage, tokens and model seconds of each scorer, of this call alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: Counter[str] = Counter()
        self.model_s: Counter[str] = Counter()
        self.engines: dict[str, str] = {}
        self.scored_rows = 0
        self.gpus = 0.0  # of the cluster, while it scored

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - start

    @property
    def as_json(self) -> dict[str, Any]:
        rounded = {stage: round(seconds, 3) for stage, seconds in self.seconds.items()}
        model_s = {name: round(seconds, 3) for name, seconds in self.model_s.items()}
        return {
            "seconds": rounded,
            "scored_rows": self.scored_rows,
            "tokens": dict(self.tokens),
            "model_s": model_s,
            "gpus": self.gpus,
            "engines": self.engines,
        }


def _score(job: Job, spent: Spent, say: Say, verbose: bool, log: Events) -> None:
    # Ray and torch are slow to import, and ranking needs neither.
    from mapjob.pipeline.graph import connect, missing, passes, score
    from mapjob.pipeline.progress import ScoringProgress
    from mapjob.pipeline.signals import ended_by_signals
    from mapjob.scoring.models import check_architecture
    from mapjob.scoring.tokenizers import check_vocabulary

    todo = missing(job.plan, job.readers, job.scorers, job.store)
    if not todo:
        say("every unit is scored already")
        return
    for reader in job.readers:
        job.store.declare(reader.fingerprint, reader.covers)
    for scorer in job.scorers:
        check_architecture(scorer)
        if not scorer.files.code_allowed:  # else the workers do, where a tokenizer's own code runs
            check_vocabulary(scorer.name, scorer.files)
        job.store.declare(scorer.fingerprint, scorer.description)
    if len(todo) < len(job.plan.units):
        say(f"{len(job.plan.units) - len(todo)} units are scored already, {len(todo)} are not")
    with ended_by_signals() as listen:
        with spent.on("ray"):
            cpus, gpus = connect(job.config.execution.address, verbose)
            spent.scored_rows, spent.gpus = sum(item.unit.num_rows for item in todo), gpus
            listen()
        with spent.on("score"):
            for scorers, share in passes(job.config.execution.schedule, job.readers, job.scorers, todo):
                title = " + ".join(s.name for s in scorers) or "reading"
                num_rows = sum(item.unit.num_rows for item in share)
                with ScoringProgress(title, len(share), num_rows, log) as progress:
                    for receipt in score(job.config, job.plan.corpus, job.readers, scorers, share, cpus, gpus):
                        for name in receipt.engines.keys() - spent.engines.keys():
                            say(receipt.engines[name])
                        spent.engines |= receipt.engines
                        progress.add(receipt)
                        spent.tokens.update(receipt.tokens)
                        spent.model_s.update(receipt.model_s)


def ranked(job: Job) -> tuple[Scored, Ranking]:
    """The scored corpus and its ranking, from the score store; with lengths and groups, for the report."""
    selection = job.config.selection
    scored = load_scored(ScoredUnits(job.plan, job.families, job.store, selection), selection, ALSO)
    check_error_rate(job, scored)
    return scored, rank_pairs(scored.pairs, selection, scored.units.pair_ids)


def check_scored(job: Job) -> None:
    """Raises IncompleteError where the score store lacks a unit of any column family."""
    lacking = {name: number for name, number in job.lacking().items() if number}
    if lacking:
        missing = ", ".join(f"{number} of {len(job.plan.units)} units of {name}" for name, number in lacking.items())
        path = job.config.output.path
        raise IncompleteError(f"the score store lacks {missing}", path, "`mapjob run` with this run file scores them")


def check_error_rate(job: Job, scored: Scored) -> None:
    """Raises InputError when more rows are broken than the run file allows."""
    broken = {reason: positions for reason, positions in scored.refused.items() if not reason.is_dropped}
    share = sum(map(len, broken.values())) / job.plan.num_rows
    if share > job.config.max_error_rate:
        position = min(int(positions[0]) for positions in broken.values())
        first = scored.units.row(position)
        file, row = job.plan.locate(position)
        listed = ", ".join(f"{number:,} {reason}" for reason, number in count_reasons(broken).items())
        raise InputError(
            f"{share:.2%} of the rows are broken ({listed}), more than max_error_rate {job.config.max_error_rate:.2%}",
            f"the first is {file}, row {row}: {first['reason']} ({first['detail'] or 'no detail'})",
            "mend the corpus, check input.layout, or raise max_error_rate",
        )


def _rank_and_publish(job: Job, spent: Spent, say: Say) -> dict[str, Any]:
    config, plan = job.config, job.plan
    with spent.on("rank"):
        scored, ranking = ranked(job)
        refused = scored.refused | ranking.dropped
        in_ranking = np.concatenate([ranking.pairs.position, ranking.held_out.position])
        if config.selection.pairs_per_record > 1:
            in_ranking = np.unique(in_ranking)
        check_complete(plan, in_ranking, list(refused.values()))
    folder = job.run_folder_of(scored)
    for warning in ranking.warnings:
        say(f"warning: {warning}")
    with spent.on("publish"):
        goals = config.selection.signals.reward_goals
        texts = Texts(config.output_format, job.control, goals is None or goals.system_role)
        publish_rows(scored.units, selected_rows(ranking, config.selection), texts, folder, "selected/train")
        if config.selection.held_out:
            publish_rows(scored.units, held_out_rows(ranking, config.selection), texts, folder, "held_out/test")
        publish_errors(scored.units, refused, folder)
        for name, data in extra_files(config.output_format, plan.corpus.style).items():
            folder.put_file(name, data)
    body = manifest(
        folder.run_id,
        config,
        plan,
        job.families,
        ranking,
        models={s.name: {"weights": s.files.weights_hash, "tokenizer": s.files.tokenizer_hash} for s in job.scorers},
        limit=job.limit,
        counts=count_rows(plan, ranking, count_reasons(refused)),
        flags=scored.flags,
        warnings=ranking.warnings,
        spent=spent.as_json,
    )
    folder.put_card(card(body))
    overlaps = agreement(ranking, config.selection, scored.units.pair_ids)
    whole = {**body, "summary": summary(ranking, config.selection.metric, overlaps).as_json}
    folder.put_report_data({name: part for name, part in whole.items() if name not in ("units", "fingerprints")})
    folder.put_report(report(folder))
    return folder.commit(body)

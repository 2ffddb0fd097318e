"""Rankings from the score store, without a model: the whole of one, a pair of one, or many side by side."""

import json
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mapjob.arrays import I64
from mapjob.config import Config, fingerprint, parse_config
from mapjob.config.selection import Signals
from mapjob.errors import ConfigError, IncompleteError, InputError
from mapjob.job.prepare import Job, prepare
from mapjob.ranking.compare import PROFILE_COLUMNS
from mapjob.ranking.pairs import RankedPairs
from mapjob.ranking.rank import Ranking, rank_pairs
from mapjob.ranking.sweep import Choice, Sweep
from mapjob.ranking.sweep import sweep as compare_choices
from mapjob.report.sweep import as_json, overlap_figure
from mapjob.selection.manifest import count_reasons
from mapjob.selection.publish import Texts, rows_of_unit
from mapjob.selection.rows import ranked_rows
from mapjob.selection.scored import Scored, ScoredUnits, load_scored
from mapjob.store.run_folder import Manifest, path_of
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)


def rank_scored(job: Job) -> tuple[Scored, Ranking]:
    """The scored corpus and its ranking, from the score store; with lengths and groups, for the report."""
    selection = job.config.selection
    scored = load_scored(ScoredUnits(job.plan, job.families, job.store, selection), selection, PROFILE_COLUMNS)
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
            "fix the corpus, check input.layout, or raise max_error_rate",
        )


def find_pair(manifest: Manifest, which: str) -> dict[str, Any] | None:
    """A pair of a finished run by rank or pair_id, selected or not, ranked again from the score store; None if neither.

    Raises ConfigError when corpus or models are no longer those of the run.
    """
    job = prepare(parse_config(manifest["config"]), manifest["limit"])
    if job.run_folder.run_id != manifest["run_id"]:
        raise ConfigError(
            "the corpus or a model changed since this run, so only its selected pairs can be shown",
            path_of(manifest),
            "run the run file again to rank what the corpus is now",
        )
    scored, ranking = rank_scored(job)
    if which.isdecimal() and 1 <= int(which) <= len(ranking.order):
        picked = ranking.order[int(which) - 1 : int(which)]
    else:
        picked = _index_of(ranking.pairs, scored.units.find(which))
    if not len(picked):
        return None
    return pick_rows(job, scored, ranking, picked)[0]


def _index_of(pairs: RankedPairs, found: list[tuple[int, int]]) -> I64:
    """Index of the first pair found that is ranked; at most one. found: (position, pair_in_row) of pairs."""
    for position, pair_in_row in found:
        own = np.arange(*np.searchsorted(pairs.position, [position, position + 1]))
        if pairs.pair_in_row is not None:
            own = own[pairs.pair_in_row[own] == pair_in_row]
        if len(own):
            return own[:1]
    return np.zeros(0, np.int64)


def pick_rows(job: Job, scored: Scored, ranking: Ranking, picked: I64) -> list[dict[str, Any]]:
    """Rows as a selection would hold them, of the pairs at these indices of the ranking, in this order."""
    selection = job.config.selection
    rows = ranked_rows(ranking, selection, picked, ranking.rank[picked])
    unit_of = np.searchsorted(job.plan.first_rows, rows.position, side="right") - 1
    return [
        rows_of_unit(job.plan, unit, rows.take(np.array([i])), Texts(control=job.control)).to_pylist()[0]
        for i, unit in enumerate(scored.units.read(unit_of))
    ]


def sweep_job(config: Config, wanted: Sequence[Choice], limit: int | None = None) -> tuple[Sweep, str]:
    """Select by every choice from the score store, and publish nothing but the comparison; no model is loaded.

    Returns it, and the URL of its folder (`sweep.json`, `overlap.svg`). Raises as `rank` does.
    """
    metrics = tuple(dict.fromkeys(choice.metric for choice in wanted))
    selection = config.selection.model_copy(update={"metrics": metrics, "signals": Signals()})
    config = parse_config(config.model_copy(update={"selection": selection}).model_dump())
    job = prepare(config, limit)
    check_scored(job)
    scored = load_scored(
        ScoredUnits(job.plan, job.families, job.store, config.selection), config.selection, PROFILE_COLUMNS
    )
    check_error_rate(job, scored)
    swept = compare_choices(scored.pairs, config.selection, wanted, scored.units.pair_ids)
    for name, why in swept.refused.items():
        log.info(f"left out: {name}: {why}")
    folder = Storage(config.output.path).below("sweeps", fingerprint({"run": job.run_id, "choices": repr(wanted)}))
    folder.create("sweep.json", (json.dumps(as_json(swept), indent=2) + "\n").encode())
    folder.create("overlap.svg", overlap_figure(swept))
    return swept, folder.url

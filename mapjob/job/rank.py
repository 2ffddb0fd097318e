"""Rankings from the score store, without a model: the whole of one, a pair of one, or many side by side."""

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import mapjob
from mapjob.arrays import I64
from mapjob.collective import Local, Pieces
from mapjob.config.load import fingerprint, parse_config
from mapjob.config.selection import Signals
from mapjob.corpus.plan import Plan
from mapjob.errors import ConfigError, IncompleteError, InputError, Reason
from mapjob.job.prepare import Job, Source, prepare_for_ranking, read_source
from mapjob.pipeline.stages import Todo
from mapjob.ranking.compare import PROFILE_COLUMNS, Choice, Sweep
from mapjob.ranking.compare import sweep as compare_choices
from mapjob.ranking.pairs import RankedPairs
from mapjob.ranking.rank import Ranking, rank_pairs
from mapjob.report.sweep import as_json, overlap_figure
from mapjob.scoring.reader_families import RECORDS
from mapjob.selection.load import Scored, drop_repeats, load_scored, read_scored
from mapjob.selection.manifest import count_reasons
from mapjob.selection.publish import Texts, rows_of_unit
from mapjob.selection.rows import ranked_rows
from mapjob.selection.scored import RowIds, ScoredUnits
from mapjob.store.run_folder import Manifest, describe_loss, has_units, path_of
from mapjob.store.storage import Storage

log = logging.getLogger(__name__)


# A corpus of more rows, or one of several pieces if the run file has a cluster, is ranked by Ray tasks.
ROWS_IN_ONE_PROCESS = 20_000_000
ROWS_PER_PIECE, MAX_PIECES = 1_000_000, 250  # what pieces send each other are references of the driver's


@dataclass(frozen=True)
class ScoredPieces:
    """A scored corpus in pieces, and where programs on them run. scored: handles of Scored; pair_ids: of all rows."""

    run: Pieces
    scored: list[Any]
    pair_ids: RowIds

    @classmethod
    def load(cls, job: Job) -> "ScoredPieces":
        """With lengths and groups for the report. Raises InputError if too many rows are broken."""
        num = count_pieces(job)
        run: Pieces = Local()
        if num > 1:
            from mapjob.pipeline.cluster import connect  # Ray is slow to import
            from mapjob.pipeline.on_ray import OnRay

            connect(job.config.execution.address)
            run = OnRay()
        selection, whole = job.config.selection, units_of(job, job.plan)
        units = [units_of(job, plan) for plan in job.plan.pieces(num)] if num > 1 else [whole]
        if job.decisions.verdicts is not None:
            units = run.run(ScoredUnits.settle, [units])
        read = run.run(read_scored, [units], selection, PROFILE_COLUMNS)
        scored = run.run(drop_repeats, [read], selection)
        del read
        _check_broken(job, run.get(run.run(_count_refused, [scored])[0]), whole.row)
        return cls(run, scored, whole.pair_ids)


def count_pieces(job: Job) -> int:
    """In how many pieces a corpus is ranked: by Ray tasks if there are several."""
    num_rows = job.plan.num_rows
    if job.config.selection.near_duplicates is not None:
        return 1  # each pair is compared with all better ones
    if num_rows <= ROWS_IN_ONE_PROCESS and not (num_rows > ROWS_PER_PIECE and job.config.execution.is_cluster):
        return 1
    return min(MAX_PIECES, -(-num_rows // ROWS_PER_PIECE), len(job.plan.units))


def units_of(job: Job, plan: Plan) -> ScoredUnits:
    return ScoredUnits(plan, job.families, job.store, job.config.selection, job.decisions)


def _count_refused(scored: Scored) -> dict[Reason, tuple[int, int]]:
    return count_reasons(scored.refused)


def rank_scored(job: Job) -> tuple[Scored, Ranking]:
    """The scored corpus and its ranking, in this process. Raises InputError if too many rows are broken."""
    scored = load_scored(units_of(job, job.plan), job.config.selection, PROFILE_COLUMNS)
    _check_broken(job, count_reasons(scored.refused), scored.units.row)
    return scored, rank_pairs(scored.pairs, job.config.selection, scored.units.pair_ids)


def check_records(job: Job, todo: Sequence[Todo]) -> None:
    """Before models score units for hours: raises InputError if too many of their rows are broken as they were read."""
    units = {item.unit.id for item in todo}
    indices = [index for index, unit in enumerate(job.plan.units) if unit.id in units]
    ids = [job.plan.units[index].id for index in indices]
    first_rows, refused = job.plan.first_rows, defaultdict(list)
    for index, table in zip(indices, job.store.read_all(job.families[RECORDS], ids)):
        for row, reason in enumerate(table["reason"].to_pylist() if table["reason"].null_count < len(table) else ()):
            if reason is not None:
                refused[Reason(reason)].append(int(first_rows[index]) + row)

    def read_row(position: int) -> dict[str, str | None]:
        index = int(np.searchsorted(first_rows, position, side="right")) - 1
        table = job.store.read(job.families[RECORDS], job.plan.units[index].id)
        return table.slice(position - first_rows[index], 1).select(["reason", "detail"]).to_pylist()[0]

    _check_broken(job, count_reasons({reason: np.array(rows) for reason, rows in refused.items()}), read_row)


def _check_broken(
    job: Job, refused: dict[Reason, tuple[int, int]], read_row: Callable[[int], dict[str, str | None]]
) -> None:
    """refused: as `count_reasons` has it. read_row: reason and detail of the row at a position."""
    broken = {reason: counted for reason, counted in refused.items() if not reason.is_dropped}
    share = sum(number for number, _ in broken.values()) / job.plan.num_rows
    if share > job.config.max_error_rate:
        position = min(position for _, position in broken.values())
        first = read_row(position)
        file, row = job.plan.locate(position)
        reasons = ", ".join(f"{number:,} {reason}" for reason, (number, _) in broken.items())
        raise InputError(
            f"{share:.2%} of the rows are broken ({reasons}), more than max_error_rate {job.config.max_error_rate:.2%}",
            f"the first is {file}, row {row}: {first['reason']} ({first['detail'] or 'no detail'})",
            "fix the corpus, check input.reading (mapjob read shows the rows), or raise max_error_rate",
        )


def check_scored(job: Job) -> None:
    """Raises IncompleteError if the score store lacks a unit of any column family."""
    lacking = {name: number for name, number in job.lacking().items() if number}
    if lacking:
        missing = ", ".join(f"{number} of {len(job.plan.units)} units of {name}" for name, number in lacking.items())
        path = job.config.output.path
        raise IncompleteError(f"the score store lacks {missing}", path, "`mapjob run` with the run file scores them")


def prepare_again(manifest: Manifest, do: str) -> Job:
    """The job of a finished run, without models. Raises ConfigError if it or the corpus is not as it was; do: then."""
    if loss := describe_loss(manifest):
        raise ConfigError(f"{loss}, so only these can be read", path_of(manifest), do)
    job = prepare_for_ranking(parse_config(manifest["config"]), manifest)
    same_units = has_units(manifest, [unit.id for unit in job.plan.units])
    same_units &= job.families == manifest["fingerprints"]
    if not same_units or manifest["mapjob"] != mapjob.__version__:
        why = "another version of mapjob made this run" if same_units else "the corpus changed since this run"
        raise ConfigError(f"{why}, so only its selected pairs can be read", path_of(manifest), do)
    return job


def find_pair(manifest: Manifest, which: str) -> dict[str, Any] | None:
    """A pair of a finished run by pair_id or rank, selected or not, ranked again from the score store; None if neither.

    Raises ConfigError if the corpus is no longer that of the run.
    """
    job = prepare_again(manifest, "run the run file again to rank what the corpus is now")
    scored, ranking = rank_scored(job)
    index = _index_of(ranking.pairs, scored.units.find(which))
    if not len(index) and which.isdecimal() and 1 <= int(which) <= len(ranking.order):
        index = ranking.order[int(which) - 1 : int(which)]
    return pick_rows(job, scored, ranking, index)[0] if len(index) else None


def _index_of(pairs: RankedPairs, matches: list[tuple[int, int]]) -> I64:
    """Index of the first match that is ranked; empty if none is. matches: (position, pair_in_row) of pairs."""
    for position, pair_in_row in matches:
        is_match = pairs.position == position
        if pairs.pair_in_row is not None:
            is_match &= pairs.pair_in_row == pair_in_row
        if is_match.any():
            return np.flatnonzero(is_match)[:1]
    return np.zeros(0, np.int64)


def pick_rows(job: Job, scored: Scored, ranking: Ranking, index: I64) -> list[dict[str, Any]]:
    """Rows as a selection would hold them, of the pairs at these indices of the ranking, in this order."""
    rows = ranked_rows(ranking, job.config.selection, index, ranking.rank[index])
    unit_of = np.searchsorted(job.plan.first_rows, rows.position, side="right") - 1
    return [
        next(rows_of_unit(job.plan, unit, rows.take(np.array([i])), Texts(control=job.control))).to_pylist()[0]
        for i, unit in enumerate(scored.units.read(unit_of))
    ]


def sweep_job(
    source: Source, wanted: Sequence[Choice], limit: int | None = None, overrides: Sequence[str] = ()
) -> tuple[Sweep, str]:
    """Select by every choice from the score store, and publish nothing but the comparison; no model is loaded.

    source, overrides: as in `rank_job`. Returns the comparison, and the URL of its folder (`sweep.json`,
    `overlap.svg`). Raises as `rank_job` does.
    """
    config, ran = read_source(source, overrides)
    metrics = tuple(dict.fromkeys(choice.metric for choice in wanted))
    selection = config.selection.model_copy(update={"metrics": metrics, "signals": Signals()})
    config = parse_config(config.model_copy(update={"selection": selection}).model_dump())
    job = prepare_for_ranking(config, ran, limit)
    check_scored(job)
    pieces = ScoredPieces.load(job)
    pairs = pieces.run.run(_pairs_of, [pieces.scored])
    swept = compare_choices(pieces.run, pairs, config.selection, wanted, pieces.pair_ids)
    for name, why in swept.refused.items():
        log.info(f"left out: {name}: {why}")
    folder = Storage(config.output.path).below("sweeps", fingerprint({"run": job.run_id, "choices": repr(wanted)}))
    folder.create("sweep.json", (json.dumps(as_json(swept), indent=2) + "\n").encode())
    folder.create("overlap.svg", overlap_figure(swept))
    return swept, folder.url


def _pairs_of(scored: Scored) -> RankedPairs:
    return scored.pairs

"""From a scored corpus to a run folder: ranked, selected and counted by programs on its pieces, here or on Ray."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from mapjob import collective
from mapjob.collective import Pieces
from mapjob.config.selection import Selection
from mapjob.errors import IncompleteError, MapjobError, Reason
from mapjob.job.prepare import Job
from mapjob.job.rank import ScoredPieces
from mapjob.pipeline.progress import Spent
from mapjob.ranking.compare import overlap, peers
from mapjob.ranking.rank import Ranking, rank_pairs
from mapjob.report.card import card
from mapjob.report.page import page
from mapjob.report.pages import Row
from mapjob.report.summary import Summary, summary
from mapjob.selection.checks import Measures, judge, measure, read_ids, share_again
from mapjob.selection.decide import Warnings
from mapjob.selection.decisions import FILE
from mapjob.selection.files import WrittenFile, list_written
from mapjob.selection.formats import extra_files
from mapjob.selection.load import Scored
from mapjob.selection.manifest import count_reasons, count_rows, describe_margins, manifest
from mapjob.selection.publish import Texts, check_complete, publish_errors, publish_rows
from mapjob.selection.rows import held_out_rows, selected_rows
from mapjob.selection.scored import RowIds
from mapjob.store.run_folder import Manifest, RunFolder, find_promoted

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranked:
    """A ranked piece of a corpus. scored: without its pairs, which the ranking has."""

    scored: Scored
    ranking: Ranking

    @property
    def refused(self) -> dict[Reason, Any]:
        """Positions of the rows that are not ranked, by reason."""
        return self.scored.refused | self.ranking.pairs.dropped


@dataclass(frozen=True)
class Facts:
    """What a manifest says of a ranking, over all pieces."""

    statistics: dict[str, Any]
    counts: dict[str, Any]
    flags: dict[str, int]
    warnings: Warnings


def rank_and_publish(job: Job, spent: Spent, note: str | None, for_use: bool) -> Manifest:
    """Rank what is scored, and write the run folder: rows, errors, card, report, and last the manifest.

    note, for_use: as the manifest keeps them.
    """
    folder, selection = job.run_folder, job.config.selection
    with spent.on("rank"):
        pieces = ScoredPieces.load(job)
        run, ids = pieces.run, pieces.pair_ids
        ranked = run.run(_rank, [pieces.scored], selection, ids)
        del pieces  # the ranking has what is needed of them
        facts: Facts = run.get(run.run(_count, [ranked], selection)[0])
    for warning, example in facts.warnings.items():
        log.warning(f"{warning} ({example})" if example else warning)
    with spent.on("publish"):
        goals = selection.signals.reward_goals
        texts = Texts(job.config.output_format, job.control, goals is None or goals.system_role)
        num_files = {}
        for of, work in {"selected": _put_selected, "held_out": _put_held_out, "errors": _put_errors}.items():
            if of != "held_out" or selection.held_out:
                put = run.run(work, [ranked], selection, texts, folder, list_written(folder, of))
                num_files[of] = run.get(put[0])
        if job.decisions.identity:
            folder.put_table(FILE, job.decisions.as_table())
        for name, data in extra_files(job.config.output_format, job.plan.corpus.style).items():
            folder.put_file(name, data)
        measures = run.get(run.run(_measure, [ranked], facts, selection)[0])
        measures |= _compare_with_promoted(job, run, len(ranked))
    body = manifest(
        folder.run_id,
        job.config,
        job.plan,
        job.families,
        decisions=job.decisions.identity,
        units=folder.put_units([unit.id for unit in job.plan.units]),
        statistics=facts.statistics,
        models=job.models,
        limit=job.limit,
        name=job.config.name,
        note=note,
        for_use=for_use,
        counts=facts.counts,
        measures=measures,
        checks=judge(measures, job.config.checks),
        flags=facts.flags,
        warnings=[*facts.warnings],
        spent=spent.as_json,
    )
    folder.put_text("README.md", card(body))
    overlaps = {peer: run.get(run.run(_overlap, [ranked], selection, peer, ids)[0]) for peer in peers(selection)}
    summed_up = run.get(run.run(_summarise, [ranked], selection.metric, overlaps)[0])
    # The report, and what it is drawn from: the manifest without its long lists, and the summary of all pairs.
    drawn_from = {name: part for name, part in body.items() if name not in ("units", "fingerprints")}
    folder.put_text("report.json", json.dumps(drawn_from | {"summary": asdict(summed_up)}) + "\n")
    folder.put_text("report.html", draw_page(folder))
    folder.check_holds(num_files)
    return folder.commit(body)


def _compare_with_promoted(job: Job, run: Pieces, num: int) -> Measures:
    """What share of the promoted run's pairs this one, which is written, selects again; None without such a run."""
    folder, path = job.run_folder, job.config.output.path
    promoted = RunFolder(path, run_id) if (run_id := find_promoted(path)) not in (None, folder.run_id) else None
    if promoted is not None and promoted.read_manifest() is None:
        log.warning(f"the promoted run {run_id} is gone: {promoted.url}")
        return {"overlap": None, "overlap_with": run_id}
    before = promoted.tables("selected") if promoted is not None else []
    if not before:
        return {"overlap": None, "overlap_with": None}
    try:
        ids = [
            run.run(read_ids, [[names[i::num] for i in range(num)]], of)
            for of, names in ((promoted, before), (folder, folder.tables("selected")))
        ]
    except MapjobError as error:
        if isinstance(error, IncompleteError):
            raise
        log.warning(f"the selection of the promoted run cannot be read: {error.what} ({error.where})")
        return {"overlap": None, "overlap_with": run_id}
    overlap = run.get(run.run(share_again, ids)[0])
    return {"overlap": overlap, "overlap_with": None if overlap is None else run_id}


def draw_page(folder: RunFolder, examples: Mapping[str, Sequence[Row]] | None = None) -> str:
    """report.html of a run, from its report.json. Raises MapjobError if there is none."""
    drawn_from = json.loads(folder.read("report.json"))
    return page(drawn_from, TypeAdapter(Summary).validate_python(drawn_from["summary"]), examples)


# The programs, of one piece each.


def _rank(scored: Scored, selection: Selection, pair_ids: RowIds) -> Ranked:
    return Ranked(replace(scored, pairs=None), rank_pairs(scored.pairs, selection, pair_ids))


def _count(ranked: Ranked, selection: Selection) -> Facts:
    ranking, plan = ranked.ranking, ranked.scored.units.plan
    positions = np.concatenate([ranking.pairs.position, ranking.held_out.position])
    if selection.pairs_per_record > 1:
        positions = np.unique(positions)
    check_complete(plan, positions, list(ranked.refused.values()))
    reasons = {reason: num for reason, (num, _) in count_reasons(ranked.refused).items()}
    counts, settled = count_rows(collective.total(plan.num_rows), ranking, reasons), ranked.scored.units.settled
    of_excluded, warnings = ranked.scored.excluded.report()
    counts |= of_excluded
    if settled is not None:
        counts["verdicts"] = settled.counts
        warnings |= settled.warnings
    flags = collective.fold(ranked.scored.flags, _add_up)
    return Facts(describe_margins(ranking), counts, flags, warnings | dict.fromkeys(ranking.warnings, ""))


def _measure(ranked: Ranked, facts: Facts, selection: Selection) -> Measures:
    return measure(ranked.ranking, facts.counts, facts.flags, selection)


def _add_up(pieces: list[dict[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for piece in pieces for name in piece)
    return {name: sum(piece.get(name, 0) for piece in pieces) for name in names}


def _put_selected(
    ranked: Ranked, selection: Selection, texts: Texts, folder: RunFolder, written: list[WrittenFile]
) -> int:
    rows = selected_rows(ranked.ranking, selection)
    return publish_rows(ranked.scored.units, rows, texts, folder, "selected/train", written)


def _put_held_out(
    ranked: Ranked, selection: Selection, texts: Texts, folder: RunFolder, written: list[WrittenFile]
) -> int:
    rows = held_out_rows(ranked.ranking, selection)
    return publish_rows(ranked.scored.units, rows, texts, folder, "held_out/test", written)


def _put_errors(ranked: Ranked, _: Selection, __: Texts, folder: RunFolder, written: list[WrittenFile]) -> int:
    return publish_errors(ranked.scored.units, ranked.refused, folder, written)


def _overlap(ranked: Ranked, selection: Selection, peer: str, pair_ids: RowIds) -> float:
    return overlap(ranked.ranking, selection, peer, pair_ids)


def _summarise(ranked: Ranked, metric: str, overlaps: dict[str, float]) -> Summary:
    return summary(ranked.ranking, metric, overlaps)

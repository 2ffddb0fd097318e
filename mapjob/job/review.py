"""Pairs that a person should look at, with the sides as the corpus has them, so that a verdict is about its label."""

from typing import Any, Literal

import numpy as np

from mapjob.arrays import I64
from mapjob.corpus.records import plain_text
from mapjob.errors import Reason
from mapjob.job.prepare import Job
from mapjob.job.rank import prepare_again, rank_scored
from mapjob.metrics.map import map_score
from mapjob.ranking.pairs import MARGIN, MARGINS, RankedPairs
from mapjob.ranking.rank import Ranking
from mapjob.selection.publish import Texts, rows_of_unit
from mapjob.selection.rows import Rows
from mapjob.selection.scored import ScoredUnits
from mapjob.store.run_folder import Manifest

Kind = Literal["contradicted", "near_cut", "top"]
TEXTS = ("prompt", "chosen", "rejected")


def find_for_review(manifest: Manifest, kind: Kind, num: int) -> list[dict[str, Any]]:
    """At most `num` pairs of a finished run that no verdict settles, with texts, margins and scores.

    kind: contradicted: the reward model prefers the rejected side, the surest first, also of pairs that on_disagreement
    drops or exchanges; near_cut: ranked next to the last that is kept; top: the first ones. Raises ConfigError if the
    corpus is no longer that of the run.
    """
    job = prepare_again(manifest, "run the run file again to review what the corpus is now")
    scored, ranking = rank_scored(job)
    selection = job.config.selection
    as_labelled = selection.model_copy(update={"on_disagreement": "keep"})
    units = ScoredUnits(job.plan, job.families, job.store, as_labelled)
    parts = []
    for unit in units.read_numbers():
        settled = scored.units.settled
        is_open = np.ones(len(unit.pairs), bool) if settled is None else settled.apply(unit.pairs).decision == 0
        columns, contradicted = unit.pairs.columns, unit.pairs.contradicted(selection.votes)
        margin = columns["chosen_reward"] - columns["rejected_reward"]
        parts.append(np.stack([unit.pairs.position, unit.pairs.pair_in_row, margin, is_open, contradicted & is_open]))
    table = np.concatenate(parts, axis=1)
    position, pair_in_row = table[:2].astype(np.int64)
    margin, is_open, contradicted = table[2], *table[3:].astype(bool)
    rank = _ranks(ranking, position, pair_in_row)
    if kind == "contradicted":
        dropped = np.isin(position, ranking.pairs.dropped.get(Reason.DISAGREEMENT, []))
        index = np.flatnonzero(contradicted & ((rank > 0) | dropped))
        index = index[np.argsort(margin[index], kind="stable")][:num]
    else:
        last = int(ranking.kept_rank[-1]) if len(ranking.kept) else 0
        first = max(0, last - num // 2) if kind == "near_cut" else 0
        index = np.flatnonzero(is_open & (rank > first))
        index = index[np.argsort(rank[index])][:num]
    pairs = RankedPairs(position[index], {}, pair_in_row=pair_in_row[index].astype(np.int32))
    return _read_pairs(job, units, pairs, rank[index], ranking)


def _ranks(ranking: Ranking, position: I64, pair_in_row: I64) -> I64:
    """1 = best, 0: not ranked."""
    pairs, several = ranking.pairs, int(pair_in_row.max(initial=0)) + 1
    keys = pairs.position * several + (0 if pairs.pair_in_row is None else pairs.pair_in_row)  # ascend
    wanted = position * several + pair_in_row
    at = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    return np.where(keys[at] == wanted, ranking.rank[at], 0)


def _read_pairs(job: Job, units: ScoredUnits, pairs: RankedPairs, ranks: I64, ranking: Ranking) -> list[dict[str, Any]]:
    """pairs: those to show, in their order; ranks: of these, 0 for none."""
    rows_at: dict[int, dict[str, Any]] = {}
    unit_of = np.searchsorted(job.plan.first_rows, pairs.position, side="right") - 1
    selection, candidates = job.config.selection, job.plan.corpus.reading.gives_candidates
    for unit in units.read(np.unique(unit_of)):
        here = np.flatnonzero(unit_of == unit.index)
        here = here[np.lexsort((pairs.pair_in_row[here], pairs.position[here]))]
        rows, start = Rows(pairs, here, here, {}, {}), 0
        for table in rows_of_unit(job.plan, unit, rows, Texts(control=job.control)):
            some = here[start : start + table.num_rows]
            of_unit = Rows(pairs, some, some, {}, {}).pairs_of(unit.pairs)
            columns = of_unit.columns
            reward, implicit = (
                MARGIN[name](*(columns[part] for part in MARGINS[name]))
                for name in ("reward_margin", f"{selection.implicit}_margin")
            )
            scores = map_score(reward, implicit, ranking.scale, selection.alpha)
            for i, (at, row) in enumerate(zip(some.tolist(), table.to_pylist())):
                pair_id = row["pair_id"]
                if candidates:  # which may give another pair tomorrow
                    sides = f":{of_unit.chosen[i]}-{of_unit.rejected[i]}"
                    pair_id = pair_id.removesuffix(sides) + sides
                file, line = job.plan.locate(int(pairs.position[at]))
                rows_at[at] = {
                    "pair_id": pair_id,
                    "rank": int(ranks[at]) or None,
                    "map_score": float(scores[i]),
                    "reward_margin": float(reward[i]),
                    "implicit_margin": float(implicit[i]),
                    "chosen_reward": row["chosen_reward"],
                    "rejected_reward": row["rejected_reward"],
                    "group": None if of_unit.group is None else of_unit.group[i].as_py(),
                    "file": file,
                    "row": line,
                    **{name: plain_text(row[name], with_roles=True) for name in TEXTS},
                }
            start += table.num_rows
    return [rows_at[at] for at in range(len(ranks))]

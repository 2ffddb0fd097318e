"""The manifest of a run: what decides it (and so the run id) and what it counted."""

import platform
from importlib.metadata import version
from itertools import chain
from pathlib import PurePath
from typing import Any

import numpy as np

import mapjob
from mapjob import collective
from mapjob.arrays import F64, I64
from mapjob.config.load import fingerprint
from mapjob.config.run import Config
from mapjob.corpus.plan import Plan
from mapjob.errors import Reason
from mapjob.metrics.quantiles import quantiles
from mapjob.metrics.statistics import Moments
from mapjob.ranking.rank import Ranking
from mapjob.selection.decisions import Decisions
from mapjob.store.forgotten import Rows
from mapjob.store.run_folder import Manifest

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# What a run folder holds: since 3 what of the models decides the scores, since 4 units by content, since 5 the same
# last bits on every processor, since 6 files that say which rows they hold, since 7 goals by quantiles and alpha-DPO's
# margins by the gap per token, since 8 measures.
RUN_FOLDER = 8
VERSIONS = ("ray", "torch", "transformers", "pyarrow", "numpy")


def run_id(config: Config, plan: Plan, families: dict[str, str], forgotten: Rows, decisions: Decisions) -> str:
    """The same units in the same files, column families and selection give the same id, and so find their run again.
    A file that was touched may have other values in columns that are copied, so that it makes another run. What people
    decided counts by its content, wherever the files are.

    families: name -> fingerprint, of the records and of every scorer. forgotten: rows that left since they were scored.
    """
    gone = {unit.id: list(forgotten[unit.id]) for unit in plan.units if unit.id in forgotten}
    covers = {
        "mapjob": mapjob.__version__,
        "run_folder": RUN_FOLDER,
        "input": config.input.path,
        "units": [(unit.id, unit.name, unit.start, unit.identity) for unit in plan.units],
        "families": families,
        "selection": config.selection.model_dump(mode="json", exclude={"verdicts": True, "exclude": {"ids"}}),
        "decisions": decisions.identity,
        "output_format": config.output_format,
        **({"forgotten": gone} if gone else {}),
    }
    return f"{config.selection.metric}-{fingerprint(covers)}"


def manifest(run_id: str, config: Config, plan: Plan, families: dict[str, str], **measured: Any) -> Manifest:
    """Plain JSON values. measured: what the job wrote and counted (units, statistics, counts, flags, and so on)."""
    return {
        "run_id": run_id,
        "mapjob": mapjob.__version__,
        "config": config.model_dump(mode="json"),
        "corpus": {
            "reading": plan.corpus.reading.identity,
            "style": plan.corpus.style,
            "message_keys": list(plan.corpus.message_keys),
            "num_files": plan.num_files,
            "num_units": len(plan.units),
            "num_rows": plan.num_rows,
            "rows_per_unit": plan.rows_per_unit_by_name,
            "converted": sorted({PurePath(unit.file).name for unit in plan.units if unit.is_converted}),
        },
        "fingerprints": families,
        **measured,
        "versions": read_versions(),
    }


def describe_margins(ranking: Ranking) -> dict[str, Any]:
    """The manifest's statistics, over the ranked pairs of all pieces."""
    # Of several reward models; their margins are divided by the standard deviation.
    rewards = {name: {"mean": m.mean, "std": m.std} for name, m in ranking.pairs.rewards.items()}
    margins = {"reward": ranking.reward_margin, "implicit": ranking.implicit_margin}
    described = quantiles([(np.abs(margin), QUANTILES, "linear") for margin in margins.values()])
    return {
        "over_pairs": ranking.moments["reward"].count,
        **{f"abs_{name}_margin": _describe(of, ranking.moments[name]) for name, of in zip(margins, described)},
        "scale": {"reward": ranking.scale.reward, "implicit": ranking.scale.implicit},
        **({"rewards": rewards} if rewards else {}),
        "cut_off": ranking.cut_off,
    }


def _describe(values: F64, moments: Moments) -> dict[str, Any]:
    by_share = {str(share): float(value) for share, value in zip(QUANTILES, values)}
    return {"mean": moments.mean, "std": moments.std, "quantiles": by_share}


def count_rows(num_rows: int, ranking: Ranking, reasons: dict[Reason, int]) -> dict[str, Any]:
    """Rows of all pieces by outcome; rows = ranked + held_out + dropped + broken, unless a row gives several pairs.

    ranked, selected and held_out count pairs. pairs_per_record above 1 adds ranked_rows, held_out_rows, and by reason
    the pairs that were dropped beside others of their row.
    """
    several, pairs, held_out = {}, ranking.pairs, ranking.held_out
    if pairs.pair_in_row is not None:
        several["ranked_rows"] = collective.total(len(np.unique(pairs.position)))
        several["held_out_rows"] = collective.total(len(np.unique(held_out.position)))
        beside = collective.total(np.array([pairs.num_beside.get(reason, 0) for reason in Reason]))
        several["pairs_dropped_beside"] = {reason.value: int(n) for reason, n in zip(Reason, beside) if n}
    margin = ranking.reward_margin
    counted = [len(pairs), len(held_out), len(ranking.kept), int((margin < 0).sum()), int((margin == 0).sum())]
    num_ranked, num_held_out, num_selected, num_negative, num_zero = collective.total(np.array(counted)).tolist()
    return {
        "rows": num_rows,
        **several,
        "ranked": num_ranked,
        "held_out": num_held_out,
        "selected": num_selected,
        "passed_over": ranking.cut.passed_over,
        "dropped": sum(n for reason, n in reasons.items() if reason.is_dropped),
        "broken": sum(n for reason, n in reasons.items() if not reason.is_dropped),
        "by_reason": {reason.value: n for reason, n in reasons.items()},
        "label_disagreements": num_negative,
        "no_reward_margin": num_zero,
    }


def count_reasons(refused: dict[Reason, I64]) -> dict[Reason, tuple[int, int]]:
    """(rows, the first of them) by reason, over all pieces: the most frequent first, then by that row.

    refused: positions by reason.
    """
    here = {reason: (len(rows), int(rows[0])) for reason, rows in refused.items() if len(rows)}
    return collective.fold(here, _merge)


def _merge(pieces: list[dict[Reason, tuple[int, int]]]) -> dict[Reason, tuple[int, int]]:
    merged: dict[Reason, tuple[int, int]] = {}
    for reason, (num, first) in chain(*(piece.items() for piece in pieces)):
        earlier = merged.get(reason, (0, first))
        merged[reason] = earlier[0] + num, min(earlier[1], first)
    return dict(sorted(merged.items(), key=lambda item: (-item[1][0], item[1][1])))


def read_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS}

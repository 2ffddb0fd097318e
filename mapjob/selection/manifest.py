"""The manifest of a run: what decides it (and so the run id) and what it counted."""

import platform
from importlib.metadata import version
from pathlib import PurePath
from typing import Any

import numpy as np

import mapjob
from mapjob.arrays import I64
from mapjob.config.load import fingerprint
from mapjob.config.run import Config
from mapjob.corpus.plan import Plan
from mapjob.errors import Reason
from mapjob.metrics.statistics import Moments
from mapjob.ranking.rank import Ranking
from mapjob.store.run_folder import Manifest

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
# What a run folder holds: since 3 what of the models decides the scores, since 4 units by content, since 5 the same
# last bits on every processor.
RUN_FOLDER = 5
VERSIONS = ("ray", "torch", "transformers", "pyarrow", "numpy")


def run_id(config: Config, plan: Plan, families: dict[str, str]) -> str:
    """The same units in the same files, column families and selection give the same id, and so find their run again.
    A file that was touched may have other values in columns that are copied, so that it makes another run.

    families: name -> fingerprint, of the records and of every scorer.
    """
    covers = {
        "mapjob": mapjob.__version__,
        "run_folder": RUN_FOLDER,
        "input": config.input.path,
        "units": [(unit.id, unit.name, unit.start, unit.identity) for unit in plan.units],
        "families": families,
        "selection": config.selection.model_dump(mode="json"),
        "output_format": config.output_format,
    }
    return f"{config.selection.metric}-{fingerprint(covers)}"


def manifest(
    run_id: str, config: Config, plan: Plan, families: dict[str, str], ranking: Ranking, **measured: Any
) -> Manifest:
    """Plain JSON values. `measured` is what the job counted: counts, flags, warnings, spent (seconds, tokens)."""
    # Of several reward models; their margins are divided by the standard deviation.
    rewards = {name: {"mean": m.mean, "std": m.std} for name, m in ranking.pairs.rewards.items()}
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
        "units": [unit.id for unit in plan.units],
        "statistics": {
            "over_pairs": len(ranking.pairs),
            "abs_reward_margin": _describe(np.abs(ranking.reward_margin), ranking.moments["reward"]),
            "abs_implicit_margin": _describe(np.abs(ranking.implicit_margin), ranking.moments["implicit"]),
            "scale": {"reward": ranking.scale.reward, "implicit": ranking.scale.implicit},
            **({"rewards": rewards} if rewards else {}),
            "cut_off": ranking.cut_off,
        },
        **measured,
        "versions": read_versions(),
    }


def _describe(values: np.ndarray, moments: Moments) -> dict[str, Any]:
    quantiles = np.quantile(values, QUANTILES)
    return {
        "mean": moments.mean,
        "std": moments.std,
        "quantiles": {str(q): float(value) for q, value in zip(QUANTILES, quantiles)},
    }


def count_rows(plan: Plan, ranking: Ranking, reasons: dict[Reason, int]) -> dict[str, Any]:
    """Rows by outcome; rows = ranked + held_out + dropped + broken, unless a row gives several pairs.

    ranked, selected and held_out count pairs. pairs_per_record above 1 adds ranked_rows, held_out_rows, and by reason
    the pairs that were dropped beside others of their row.
    """
    several = {}
    if ranking.pairs.pair_in_row is not None:
        several["ranked_rows"] = len(np.unique(ranking.pairs.position))
        several["held_out_rows"] = len(np.unique(ranking.held_out.position))
        several["pairs_dropped_beside"] = {reason.value: n for reason, n in ranking.pairs.num_beside.items()}
    return {
        "rows": plan.num_rows,
        **several,
        "ranked": len(ranking.pairs),
        "held_out": len(ranking.held_out),
        "selected": len(ranking.kept),
        "passed_over": ranking.cut.passed_over,
        "dropped": sum(n for reason, n in reasons.items() if reason.is_dropped),
        "broken": sum(n for reason, n in reasons.items() if not reason.is_dropped),
        "by_reason": {reason.value: n for reason, n in reasons.items()},
        "label_disagreements": int((ranking.reward_margin < 0).sum()),
        "no_reward_margin": int((ranking.reward_margin == 0).sum()),
    }


def count_reasons(refused: dict[Reason, I64]) -> dict[Reason, int]:
    """Rows by reason, the most frequent first, then by the first row of each. refused: positions by reason."""
    seen = [(-len(positions), positions[0], reason) for reason, positions in refused.items() if len(positions)]
    return {reason: -number for number, _, reason in sorted(seen)}


def read_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide numbers."""
    return {"python": platform.python_version()} | {name: version(name) for name in VERSIONS}

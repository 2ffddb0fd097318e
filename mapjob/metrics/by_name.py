"""Metrics of a run file by name, from the columns of the pairs that are ranked.

`c` holds columns of shape (N,) by the names of metrics/table.py; of several reward models, `rewards` has the moments.
"""

from collections.abc import Mapping

import numpy as np

from mapjob.config import Selection
from mapjob.errors import ConfigError
from mapjob.metrics.bees import bees
from mapjob.metrics.column import Column
from mapjob.metrics.dcrm import dcrm
from mapjob.metrics.difficulty import beta_dpo_weight, difficulty_gap, ifd_margin
from mapjob.metrics.ensemble import Ensemble
from mapjob.metrics.map import METRICS, Scale
from mapjob.metrics.statistics import F64, Moments
from mapjob.metrics.table import LOGPS, POLICY, UNCONDITIONAL

Columns = Mapping[str, F64]


def metric(name: str, c: Columns, selection: Selection, scale: Scale, rewards: Mapping[str, Moments]) -> Column:
    """A metric's value of each pair; larger ranks first. Raises ConfigError where it has no meaning on this corpus."""
    h, implicit = c["reward_margin"], c[f"{selection.implicit}_margin"]
    match name:
        case "bees":
            return bees({"reward": h}, c["dpo_margin"])
        case "dcrm":
            # DCRM has no scale of its own but the one that makes margins log-odds.
            log_odds = scale.reward if selection.scale == "calibrated" else 1.0
            return Column(dcrm(h, c["edit_distance"], *_of(c, LOGPS), scale=log_odds))
        case "difficulty_gap":
            return Column(difficulty_gap(c["dpo_margin"], beta=1.0))  # beta changes no rank
        case "beta_dpo_weight":
            return beta_dpo_weight(implicit, Moments.of(implicit))
        case "ifd_margin":
            return Column(ifd_margin(*_of(c, LOGPS), *_of(c, UNCONDITIONAL), *_of(c, POLICY[2:])))
        case "ensemble_mean" | "ensemble_worst" | "ensemble_bees" | "reward_disagreement":
            return _of_models(name, c, rewards)
        case "random":
            return Column(np.random.default_rng(selection.seed).random(len(h)))
    return Column(METRICS[name](h, implicit, scale, selection.alpha))


def _of(c: Columns, names: tuple[str, ...]) -> list[F64]:
    return [c[name] for name in names]


def _of_models(name: str, c: Columns, rewards: Mapping[str, Moments]) -> Column:
    if not rewards:
        raise ConfigError(
            f"{name} compares several reward models, and there is one",
            "models.reward",
            "give it as a mapping of name -> model, or take another metric",
        )
    margins = {model: c[f"reward_margin.{model}"] for model in rewards}
    if name == "ensemble_bees":
        return bees(margins)
    ensemble = Ensemble.of(margins, rewards)
    values = {"ensemble_mean": ensemble.mean, "ensemble_worst": ensemble.worst}
    return Column(values.get(name, ensemble.disagreement), ensemble.warnings)

"""What other choices would select from one scored corpus, by metric, alpha and share; and how much they agree."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mapjob.arrays import F64, I64
from mapjob.config import WITH_ALPHA, Keep, Metric, Selection
from mapjob.errors import ConfigError
from mapjob.ranking.compare import Profile, jaccard, pack, profile
from mapjob.ranking.order import PairIds, cut
from mapjob.ranking.pairs import RankedPairs
from mapjob.ranking.rank import Ranking, rank_pairs

CALIBRATED = "calibrated"


@dataclass(frozen=True)
class Choice:
    """One selection. alpha: a number, or `calibrated` for alpha 1 on margins in log-odds; None without one."""

    metric: Metric
    alpha: float | str | None
    ratio: float

    @property
    def name(self) -> str:
        return self.metric if self.alpha is None else f"{self.metric} {self.alpha}"

    def of(self, selection: Selection) -> Selection:
        """The selection of the run file with this choice in it."""
        update: dict[str, Any] = {"metric": self.metric, "metrics": (), "keep": Keep(ratio=self.ratio)}
        if self.alpha == CALIBRATED:
            update |= {"scale": "calibrated", "alpha": 1.0}
        elif self.alpha is not None:
            update["alpha"] = self.alpha
        return selection.model_copy(update=update)


@dataclass(frozen=True)
class Outcome:
    """group_drift: half the summed change of the groups' shares (total variation), from 0 to 1."""

    choice: Choice
    profile: Profile
    cut_off: float | None
    group_drift: float

    @property
    def as_json(self) -> dict[str, Any]:
        return {**asdict(self.choice), **asdict(self.profile), "cut_off": self.cut_off, "group_drift": self.group_drift}


@dataclass(frozen=True)
class Sweep:
    """jaccard: (S, S), shared pairs over all pairs of either; refused: choices that have no meaning here, and why."""

    everything: Profile
    outcomes: list[Outcome]
    jaccard: F64
    refused: dict[str, str]


def choices(metrics: Sequence[Metric], alphas: Sequence[float | str], ratios: Sequence[float]) -> list[Choice]:
    """Every combination, ratio by ratio; a metric without an alpha once."""
    return [
        Choice(metric, alpha, ratio)
        for ratio in ratios
        for metric in metrics
        for alpha in (alphas if metric in WITH_ALPHA else [None])
    ]


def sweep(pairs: RankedPairs, selection: Selection, wanted: Sequence[Choice], pair_ids: PairIds) -> Sweep:
    """Rank the same pairs by every choice; each metric and alpha is ranked once, whatever the number of shares."""
    rankings: dict[str, Ranking | str] = {}
    outcomes, kept = [], []
    everything = None
    for choice in wanted:
        if choice.name not in rankings:
            try:
                rankings[choice.name] = rank_pairs(pairs, choice.of(selection), pair_ids)
            except ConfigError as error:
                rankings[choice.name] = error.what
        ranking = rankings[choice.name]
        if isinstance(ranking, str):
            continue
        everything = everything or profile(ranking, np.arange(len(ranking.pairs)))
        no_margin = ranking.reward_margin == 0
        kept_at = cut(ranking.pairs, choice.of(selection), ranking.order, ranking.score, no_margin).kept_at
        picked = ranking.order[kept_at]
        outcomes.append(outcome(choice, ranking, picked, everything))
        kept.append(pack(picked, len(ranking.pairs)))
    if everything is None:
        raise ConfigError(
            "no choice of the sweep has a meaning on this corpus",
            "; ".join(f"{name}: {why}" for name, why in rankings.items()),
            "sweep over other metrics, or see what the reasons say",
        )
    refused = {name: why for name, why in rankings.items() if isinstance(why, str)}
    return Sweep(everything, outcomes, jaccard(kept), refused)


def outcome(choice: Choice, ranking: Ranking, picked: I64, everything: Profile) -> Outcome:
    of_picked = profile(ranking, picked)
    names = of_picked.groups.keys() | everything.groups.keys()
    drift = sum(abs(of_picked.groups.get(name, 0.0) - everything.groups.get(name, 0.0)) for name in names) / 2
    return Outcome(choice, of_picked, float(ranking.score[picked[-1]]) if len(picked) else None, drift)

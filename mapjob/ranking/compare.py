"""How much selections agree, what a set of ranked pairs is like, and what other choices would select (sweep)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64, I64
from mapjob.config.run import WITH_ALPHA, Keep, Metric, Selection
from mapjob.errors import ConfigError
from mapjob.metrics.table import METRICS, metric
from mapjob.ranking.order import PairIds, cut, rank_order
from mapjob.ranking.pairs import RankedPairs
from mapjob.ranking.rank import Ranking, inputs_of, rank_pairs

PEERS = ("map", "explicit", "implicit_small", "random")  # every corpus has what they need


def agreement(ranking: Ranking, selection: Selection, pair_ids: PairIds) -> dict[str, float]:
    """Jaccard overlap of the selection with the selections of its size by the metrics of PEERS and of the run file.

    They go by the same caps and quotas; none of them skips near duplicates, which take long to find.
    pair_ids: by position in the corpus, for ties.
    """
    pairs, no_margin = ranking.pairs, ranking.reward_margin == 0
    plain = selection.model_copy(update={"keep": Keep(count=len(ranking.kept)), "near_duplicates": None})
    inputs = inputs_of(pairs, selection, ranking.scale)
    kept = pack(ranking.kept, len(pairs))
    overlaps = {}
    for name in dict.fromkeys([*PEERS, *ranking.further]):
        if name in METRICS and name != selection.metric:
            values = ranking.further[name] if name in ranking.further else metric(name, inputs).values
            order = rank_order(values, lambda index: pair_ids(pairs.position[index]), no_margin)
            picked = order[cut(pairs, plain, order, values, no_margin).kept_at]
            overlaps[name] = float(jaccard([kept, pack(picked, len(pairs))])[0, 1])
    return overlaps


def pack(picked: I64, num_pairs: int) -> npt.NDArray[np.uint8]:
    """A selection in one bit per pair. picked: indices."""
    chosen = np.zeros(num_pairs, bool)
    chosen[picked] = True
    return np.packbits(chosen)


def jaccard(kept: Sequence[npt.NDArray[np.uint8]]) -> F64:
    """kept: packed bits of each selection. Two empty selections are the same: 1."""
    size = len(kept)
    overlap = np.ones((size, size))
    for i in range(size):
        for j in range(i):
            union = int(np.bitwise_count(kept[i] | kept[j]).sum())
            overlap[i, j] = overlap[j, i] = int(np.bitwise_count(kept[i] & kept[j]).sum()) / union if union else 1.0
    return overlap


QUANTILES = (0.05, 0.5, 0.95)
PROFILE_COLUMNS = ("chosen_num_tokens", "rejected_num_tokens", "group")  # what a profile needs beside the margins


@dataclass(frozen=True)
class Profile:
    """What a set of pairs is like: shares in [0, 1], means of tokens, quantiles (5, 50, 95 %) of both margins."""

    num_pairs: int
    label_disagreement: float  # share that the reward model has the other way round
    chosen_num_tokens: float
    rejected_num_tokens: float
    reward_margin: tuple[float, ...]
    implicit_margin: tuple[float, ...]
    groups: dict[str, float]


def profile(ranking: Ranking, picked: I64) -> Profile:
    """Of the pairs at these indices of the ranking; of none, every number is 0."""
    pairs = ranking.pairs
    reward, implicit = ranking.reward_margin[picked], ranking.implicit_margin[picked]
    counts = np.bincount(pairs.group[picked], minlength=len(pairs.groups))
    shares = {str(name): float(n / max(1, len(picked))) for name, n in zip(pairs.groups, counts) if name is not None}
    return Profile(
        len(picked),
        _mean(reward < 0),
        _mean(pairs.columns["chosen_num_tokens"][picked]),
        _mean(pairs.columns["rejected_num_tokens"][picked]),
        _quantiles(reward),
        _quantiles(implicit),
        shares,
    )


def _mean(values: npt.NDArray) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else 0.0


def _quantiles(values: F64) -> tuple[float, ...]:
    return tuple(np.quantile(values, QUANTILES).tolist()) if len(values) else (0.0,) * len(QUANTILES)


# What other choices of metric, alpha and share would select from one scored corpus.

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
    """Rank the same pairs by every choice; each metric and alpha is ranked once, whatever the number of shares, and
    memory holds one ranking at a time.
    """
    outcomes: dict[Choice, Outcome] = {}
    kept: dict[Choice, npt.NDArray[np.uint8]] = {}
    refused: dict[str, str] = {}
    everything = None
    for same_ranking in _by_ranking(wanted):
        first = same_ranking[0]
        try:
            ranking = rank_pairs(pairs, first.of(selection), pair_ids)
        except ConfigError as error:
            refused[first.name] = error.what
            continue
        everything = everything or profile(ranking, np.arange(len(ranking.pairs)))
        no_margin = ranking.reward_margin == 0
        for choice in same_ranking:
            kept_at = cut(ranking.pairs, choice.of(selection), ranking.order, ranking.score, no_margin).kept_at
            picked = ranking.order[kept_at]
            of_picked = profile(ranking, picked)
            names = everything.groups | of_picked.groups  # in the same order in every process, and so the same sum
            drift = sum(abs(of_picked.groups.get(name, 0.0) - everything.groups.get(name, 0.0)) for name in names) / 2
            cut_off = float(ranking.score[picked[-1]]) if len(picked) else None
            outcomes[choice] = Outcome(choice, of_picked, cut_off, drift)
            kept[choice] = pack(picked, len(ranking.pairs))
    if everything is None:
        raise ConfigError(
            "no choice of the sweep has a meaning on this corpus",
            "; ".join(f"{name}: {why}" for name, why in refused.items()),
            "sweep over other metrics, or see what the reasons say",
        )
    in_order = [choice for choice in wanted if choice in outcomes]
    overlap = jaccard([kept[choice] for choice in in_order])
    return Sweep(everything, [outcomes[choice] for choice in in_order], overlap, refused)


def _by_ranking(wanted: Sequence[Choice]) -> Iterable[list[Choice]]:
    """The choices that differ in their share alone, together."""
    groups: dict[str, list[Choice]] = {}
    for choice in wanted:
        groups.setdefault(choice.name, []).append(choice)
    return groups.values()

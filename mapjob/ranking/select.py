"""From the pairs of a corpus to a ranking and a selection: scale, score, order, cut."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob.config import Selection
from mapjob.errors import ConfigError, Reason
from mapjob.metrics.bees import bees
from mapjob.metrics.column import Column
from mapjob.metrics.difficulty import beta_dpo_weight, difficulty_gap
from mapjob.metrics.map import METRICS, Scale, map_score
from mapjob.metrics.statistics import F64, Moments
from mapjob.ranking.caps import within_cap
from mapjob.ranking.order import I64, PairIds, num_kept_by_threshold, num_kept_by_tokens, rank_order
from mapjob.ranking.pairs import RankedPairs


@dataclass(frozen=True)
class Ranking:
    """All ranked pairs and what the selection keeps of them. Arrays are of shape (N,)."""

    pairs: RankedPairs
    map_score: F64
    score: F64  # of the metric of the run; equals map_score for metric: map
    order: I64  # index in `pairs`, best first
    kept: I64  # index in `pairs` of the selection, best first
    kept_rank: I64  # of each of `kept`, 1 = best; rises by more than 1 where the selection passes over pairs
    scale: Scale
    moments: dict[str, Moments]  # of |reward_margin| and |implicit_margin|
    warnings: tuple[str, ...]  # what the scale and the metric have to say

    @property
    def reward_margin(self) -> F64:
        return self.pairs.columns["reward_margin"]

    @property
    def implicit_margin(self) -> F64:
        return self.pairs.columns["implicit_margin"]

    @property
    def dropped(self) -> dict[Reason, I64]:
        """Positions in the corpus of the scored pairs that fell by a rule."""
        return self.pairs.dropped

    @property
    def cut_off(self) -> float | None:
        """Score of the last pair that is kept."""
        return float(self.score[self.kept[-1]]) if len(self.kept) else None

    @property
    def rank(self) -> I64:
        """1 = best, aligned with `pairs`."""
        rank = np.empty(len(self.order), np.int64)
        rank[self.order] = np.arange(1, len(self.order) + 1)
        return rank


def rank_pairs(pairs: RankedPairs, selection: Selection, pair_ids: PairIds) -> Ranking:
    """Score, rank and cut. Statistics are over exactly the pairs that are ranked. pair_ids: by position in the corpus.

    Raises ConfigError where the metric has no meaning on this corpus: nothing to rank, a policy that equals its
    reference, constant margins, a calibration without a solution.
    """
    reward, implicit = pairs.columns["reward_margin"], pairs.columns["implicit_margin"]
    if not len(pairs):
        raise ConfigError(
            "no pair is left to rank", "the scored corpus", "see errors/ or `mapjob plan` for the reasons"
        )
    if selection.implicit == "dpo" and not implicit.any():
        raise ConfigError(
            "every DPO margin is 0: the policy gives the same log-probabilities as the reference",
            "models.reference",
            "use implicit: simpo, or the reference that the policy was trained from",
        )
    # Merged over units in plan order, as a distributed pass would.
    edges = np.searchsorted(pairs.position, pairs.unit_starts)
    moments = {name: _moments(np.abs(m), edges) for name, m in (("reward", reward), ("implicit", implicit))}
    scale = _scale(selection, reward, implicit, moments)
    alpha_map = map_score(reward, implicit, scale, selection.alpha)
    metric = _metric(selection, reward, implicit, scale, alpha_map)
    score = metric.values
    no_margin = reward == 0
    order = rank_order(score, lambda index: pair_ids(pairs.position[index]), no_margin)
    places = _cut(pairs, selection, order, score, no_margin)
    warnings = (*scale.warnings, *metric.warnings)
    return Ranking(pairs, alpha_map, score, order, order[places], places + 1, scale, moments, warnings)


def _moments(values: F64, edges: I64) -> Moments:
    return Moments.merged(Moments.of(part) for part in np.split(values, edges))


def _scale(selection: Selection, reward: F64, implicit: F64, moments: dict[str, Moments]) -> Scale:
    if selection.scale == "raw":
        return Scale.raw(selection.beta)
    if selection.scale == "calibrated":
        return Scale.calibrated(reward, implicit)
    return Scale.zscore(moments["reward"], moments["implicit"])


def _metric(selection: Selection, reward: F64, implicit: F64, scale: Scale, alpha_map: F64) -> Column:
    match selection.metric:
        case "map":
            return Column(alpha_map)
        case "bees":
            return bees({"reward": reward}, implicit)
        case "difficulty_gap":
            return Column(difficulty_gap(implicit, beta=1.0))  # beta changes no rank
        case "beta_dpo_weight":
            return beta_dpo_weight(implicit, Moments.of(implicit))
        case "random":
            return Column(np.random.default_rng(selection.seed).random(len(reward)))
    return Column(METRICS[selection.metric](reward, implicit, scale, selection.alpha))


def _cut(pairs: RankedPairs, selection: Selection, order: I64, score: F64, no_margin: npt.NDArray[np.bool_]) -> I64:
    """Places in the order that are kept, ascending."""
    keep = selection.keep
    places = np.arange(len(order))
    if selection.per_prompt is not None:
        places = np.flatnonzero(within_cap(_one_key(pairs.prompt_key)[order], selection.per_prompt))
    if keep.ratio is not None:
        return places[: int(keep.ratio * len(order))]
    if keep.count is not None:
        return places[: keep.count]
    in_order = order[places]
    if keep.threshold is not None:
        return places[: num_kept_by_threshold(score[in_order], no_margin[in_order], keep.threshold)]
    return places[: num_kept_by_tokens(pairs.columns["num_tokens"][in_order].astype(np.int64), keep.tokens)]


def _one_key(keys: npt.NDArray[np.uint64]) -> I64:
    """(N, 2) keys as small integers that are equal where the keys are."""
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)

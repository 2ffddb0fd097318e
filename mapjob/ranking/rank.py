"""From the pairs of a corpus to a ranking and a selection: scale, score, order, cut."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.arrays import F64, I64
from mapjob.config.selection import Selection
from mapjob.errors import ConfigError
from mapjob.metrics.columns import REWARD
from mapjob.metrics.map import Scale, log_odds_slope, map_score
from mapjob.metrics.reward_augmented import Goals, reward_goals
from mapjob.metrics.signals import compute_signal
from mapjob.metrics.statistics import Moments, sigmoid
from mapjob.metrics.table import Inputs, metric
from mapjob.ranking.arrange import Arrangement, Picked, arrange
from mapjob.ranking.gather import is_held_out
from mapjob.ranking.order import Cut, PairIds
from mapjob.ranking.pairs import RankedPairs

LABELS_OF_THE_REWARD_MODEL = (
    "no label contradicts the reward margin, so it cannot be calibrated by labels: it is taken to be in log-odds, as "
    "that of a model trained on preferences is, and the implicit margin is fitted to it"
)


@dataclass(frozen=True)
class Ranking:
    """All ranked pairs and what the selection keeps of them. Arrays are of shape (N,)."""

    pairs: RankedPairs
    implicit_margin: F64
    map_score: F64
    score: F64  # of the metric of the run; equals map_score for metric: map
    further: dict[str, npt.NDArray]  # the selection's other metrics, and its signals
    goals: Goals | None  # of reward-augmented rows, if the selection asks for them
    arranged: Arrangement
    picked: Picked
    held_out: RankedPairs  # of the held-out prompts, in corpus order; not ranked
    scale: Scale
    moments: dict[str, Moments]  # of |reward_margin| and |implicit_margin|
    warnings: tuple[str, ...]  # what the scale and the metrics have to say

    def pick(self, selection: Selection) -> "Ranking":
        """The same ranking, of which another selection keeps other pairs; by the same caps, quotas and kind of size."""
        return replace(self, picked=self.arranged.pick(selection))

    @property
    def order(self) -> I64:
        """Index in `pairs`, best first."""
        return self.arranged.order

    @property
    def cut(self) -> Cut:
        """What is kept of `order`."""
        return self.picked.cut

    @property
    def reward_margin(self) -> F64:
        return self.pairs.columns["reward_margin"]

    @property
    def kept(self) -> I64:
        """Index in `pairs` of the selection, best first."""
        return self.order[self.cut.kept_at]

    @property
    def kept_rank(self) -> I64:
        """The rank of each of `kept`, 1 = best; it rises by more than 1 if the selection skips pairs."""
        ranks = self.arranged.ranks
        return self.cut.kept_at + 1 if ranks is None else ranks[self.cut.kept_at]

    @property
    def cut_off(self) -> float | None:
        """Score of the last pair that is kept, over all pieces."""
        last = (int(self.kept_rank[-1]), float(self.score[self.kept[-1]])) if len(self.cut.kept_at) else (0, None)
        return collective.fold(last, max)[1]

    @property
    def rank(self) -> I64:
        """1 = best, aligned with `pairs`."""
        rank = np.empty(len(self.order), np.int64)
        ranks = self.arranged.ranks
        rank[self.order] = np.arange(1, len(self.order) + 1) if ranks is None else ranks
        return rank


def rank_pairs(pairs: RankedPairs, selection: Selection, pair_ids: PairIds) -> Ranking:
    """Score, rank and cut. Statistics are over exactly the pairs that are ranked. pair_ids: by position in the corpus.

    Raises ConfigError if the metric has no meaning on this corpus: nothing to rank, a policy that equals its
    reference, constant margins, a calibration without a solution.
    """
    held_out = pairs.take(np.zeros(0, np.int64))
    if selection.held_out:
        apart = is_held_out(pairs.prompt_key, selection.held_out, selection.seed)
        pairs, held_out = pairs.take(~apart), pairs.take(apart)
    scale, moments = scale_of(pairs, selection)
    columns = pairs.columns
    reward, implicit = columns["reward_margin"], columns[f"{selection.implicit}_margin"]
    alpha_map = map_score(reward, implicit, scale, selection.alpha)
    inputs = inputs_of(pairs, selection, scale)
    score = metric(selection.metric, inputs)
    further: dict[str, npt.NDArray] = {}
    warnings = [*scale.warnings, *score.warnings]
    for name in selection.metrics:
        column = metric(name, inputs)
        further[name] = column.values
        warnings += column.warnings
    goals = None
    for name, parameters in selection.signals:
        if parameters is not None and name == "reward_goals":
            goals = reward_goals(*inputs.of(REWARD))
            warnings += goals.warnings
        elif parameters is not None:
            values, of_signal = compute_signal(name, parameters.model_dump(), inputs)
            further |= values
            warnings += of_signal
    num_rows = None
    if goals is not None:  # two rows of each pair that has them
        num_rows = np.zeros(len(pairs), np.int64)
        num_rows[goals.pair] = 2
    arranged = arrange(pairs, selection, score.values, pair_ids, num_rows)
    picked = arranged.pick(selection)
    warnings += picked.cut.warnings
    return Ranking(
        pairs,
        implicit,
        alpha_map,
        score.values,
        {name: values for name, values in further.items() if name not in ("map", selection.metric)},
        goals,
        arranged,
        picked,
        held_out,
        scale,
        moments,
        tuple(dict.fromkeys(warnings)),
    )


def inputs_of(pairs: RankedPairs, selection: Selection, scale: Scale) -> Inputs:
    log_odds = scale.reward if selection.scale == "calibrated" else 1.0
    return Inputs(pairs.columns, selection.implicit, scale, selection.alpha, log_odds, selection.seed, pairs.rewards)


def scale_of(pairs: RankedPairs, selection: Selection) -> tuple[Scale, dict[str, Moments]]:
    """MAP's scale, and the moments of both absolute margins, over these pairs. Raises ConfigError as `rank_pairs`."""
    if not collective.total(len(pairs)):
        raise ConfigError(
            "no pair is left to rank", "the scored corpus", "see errors/ or `mapjob plan` for the reasons"
        )
    reward, implicit = pairs.columns["reward_margin"], pairs.columns[f"{selection.implicit}_margin"]
    if "dpo_margin" in pairs.columns and not collective.is_any(pairs.columns["dpo_margin"] != 0):
        raise ConfigError(
            "every DPO margin is 0: the policy gives the same log-probabilities as the reference",
            "models.reference",
            "use implicit: simpo, or the reference that the policy was trained from",
        )
    moments = {"reward": Moments.of(np.abs(reward)), "implicit": Moments.of(np.abs(implicit))}
    if selection.scale == "raw":  # the paper's formula as written: beta is inside the implicit margin
        return Scale(1.0, selection.beta), moments
    if selection.scale == "calibrated":  # log-odds of the labels, so that alpha = 1 compares like with like
        if not collective.is_any(reward < 0):  # the reward model made the labels, or the others were dropped
            implicit_slope = log_odds_slope(implicit, "implicit margin", sigmoid(-reward))
            return Scale(1.0, implicit_slope, (LABELS_OF_THE_REWARD_MODEL,)), moments
        slopes = log_odds_slope(reward, "reward margin"), log_odds_slope(implicit, "implicit margin")
        return Scale(*slopes), moments
    return Scale.zscore(moments["reward"], moments["implicit"]), moments

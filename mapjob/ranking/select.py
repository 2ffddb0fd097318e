"""From scored pairs to a ranking and a selection: duplicates, disagreement, scale, score, order, cut."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.config import Selection
from mapjob.errors import ConfigError, Reason
from mapjob.metrics import margins
from mapjob.metrics.map import METRICS, Scale, map_score
from mapjob.metrics.statistics import F64, Moments
from mapjob.ranking.caps import within_cap
from mapjob.ranking.duplicates import is_repeat
from mapjob.ranking.order import I64, num_kept_by_threshold, num_kept_by_tokens, rank_order

SIDES = (
    ("chosen_reward", "rejected_reward"),
    ("chosen_logps", "rejected_logps"),
    ("chosen_num_tokens", "rejected_num_tokens"),
    ("ref_chosen_logps", "ref_rejected_logps"),
)


@dataclass(frozen=True)
class Pairs:
    """Rows that were scored by every model, in corpus order. All arrays are of shape (N,), keys of shape (N, 2).

    `columns` holds both of each of SIDES, the last where a reference was scored.
    """

    position: I64  # of the row in the whole corpus
    unit: I64  # index of its unit in the plan
    pair_id: pa.Array
    content_key: npt.NDArray[np.uint64]  # of the chosen and of the rejected side, each with its prompt
    prompt_key: npt.NDArray[np.uint64]
    chosen: I64  # index of the chosen completion in its record
    rejected: I64
    columns: dict[str, F64]

    def __len__(self) -> int:
        return len(self.position)

    def take(self, index: npt.NDArray) -> "Pairs":
        """The pairs at an index array, or where a mask is True."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        arrays = {name: getattr(self, name)[index] for name in ("position", "unit", "content_key", "prompt_key")}
        arrays |= {"chosen": self.chosen[index], "rejected": self.rejected[index]}
        columns = {name: column[index] for name, column in self.columns.items()}
        return Pairs(**arrays, pair_id=self.pair_id.take(pa.array(index)), columns=columns)

    def swapped(self, where: npt.NDArray[np.bool_]) -> "Pairs":
        """The pairs with chosen and rejected exchanged where the mask is True."""
        columns = dict(self.columns)
        for one, other in SIDES:
            if one in columns:
                columns[one], columns[other] = (
                    np.where(where, self.columns[other], self.columns[one]),
                    np.where(where, self.columns[one], self.columns[other]),
                )
        chosen, rejected = np.where(where, self.rejected, self.chosen), np.where(where, self.chosen, self.rejected)
        key = np.where(where[:, None], self.content_key[:, ::-1], self.content_key)
        return replace(self, columns=columns, chosen=chosen, rejected=rejected, content_key=key)


@dataclass(frozen=True)
class Ranking:
    """All ranked pairs and what the selection keeps of them."""

    pairs: Pairs
    reward_margin: F64
    implicit_margin: F64
    map_score: F64
    score: F64  # of the metric of the run; equals map_score for metric: map
    order: I64  # positions in `pairs`, best first
    kept: I64  # positions in `pairs` of the selection, best first
    scale: Scale
    moments: dict[str, Moments]  # of |reward_margin| and |implicit_margin|
    dropped: dict[Reason, Pairs]  # scored pairs that fell by a rule here

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


def rank_pairs(pairs: Pairs, selection: Selection) -> Ranking:
    """Rank scored pairs and cut. Statistics are over exactly the rows that are ranked.

    Raises ConfigError where the metric has no meaning on this corpus: nothing to rank, a policy that equals its
    reference, constant margins, a calibration without a solution.
    """
    repeats = is_repeat(pairs.content_key, either_way=selection.on_disagreement == "relabel")
    dropped = {Reason.DUPLICATE: pairs.take(repeats)}
    pairs = pairs.take(~repeats)
    contradicts = margins.reward_margin(pairs.columns["chosen_reward"], pairs.columns["rejected_reward"]) < 0
    if selection.on_disagreement == "drop":
        dropped[Reason.DISAGREEMENT] = pairs.take(contradicts)
        pairs = pairs.take(~contradicts)
    elif selection.on_disagreement == "relabel":
        pairs = pairs.swapped(contradicts)
    if not len(pairs):
        raise ConfigError(
            "no pair is left to rank", "the scored corpus", "see errors/ or `mapjob plan` for the reasons"
        )

    reward, implicit = _margins(pairs, selection)
    moments = {name: _moments(np.abs(m), pairs.unit) for name, m in (("reward", reward), ("implicit", implicit))}
    scale = _scale(selection, reward, implicit, moments)
    alpha_map = map_score(reward, implicit, scale, selection.alpha)
    score = _score(selection, reward, implicit, scale, alpha_map)
    order = rank_order(score, pairs.pair_id, reward == 0)
    kept = _cut(pairs, selection, order, score, reward == 0)
    return Ranking(pairs, reward, implicit, alpha_map, score, order, kept, scale, moments, dropped)


def _margins(pairs: Pairs, selection: Selection) -> tuple[F64, F64]:
    c = pairs.columns
    reward = margins.reward_margin(c["chosen_reward"], c["rejected_reward"])
    policy = c["chosen_logps"], c["rejected_logps"]
    if selection.implicit == "simpo":
        return reward, margins.simpo_margin(*policy, c["chosen_num_tokens"], c["rejected_num_tokens"])
    implicit = margins.dpo_margin(*policy, c["ref_chosen_logps"], c["ref_rejected_logps"])
    if not implicit.any():
        raise ConfigError(
            "every DPO margin is 0: the policy gives the same log-probabilities as the reference",
            "models.reference",
            "use implicit: simpo, or the reference that the policy was trained from",
        )
    return reward, implicit


def _moments(values: F64, unit: I64) -> Moments:
    """Merged over units in plan order, as a distributed pass would."""
    edges = np.flatnonzero(np.diff(unit)) + 1
    return Moments.merged(Moments.of(part) for part in np.split(values, edges))


def _scale(selection: Selection, reward: F64, implicit: F64, moments: dict[str, Moments]) -> Scale:
    if selection.scale == "raw":
        return Scale.raw(selection.beta)
    if selection.scale == "calibrated":
        return Scale.calibrated(reward, implicit)
    return Scale.zscore(moments["reward"], moments["implicit"])


def _score(selection: Selection, reward: F64, implicit: F64, scale: Scale, alpha_map: F64) -> F64:
    if selection.metric == "map":
        return alpha_map
    if selection.metric == "random":
        return np.random.default_rng(selection.seed).random(len(reward))
    return METRICS[selection.metric](reward, implicit, scale, selection.alpha)


def _cut(pairs: Pairs, selection: Selection, order: I64, score: F64, no_margin: npt.NDArray[np.bool_]) -> I64:
    keep = selection.keep
    num_ranked = len(order)
    if selection.per_prompt is not None:
        order = order[within_cap(_one_key(pairs.prompt_key)[order], selection.per_prompt)]
    if keep.ratio is not None:
        return order[: int(keep.ratio * num_ranked)]
    if keep.count is not None:
        return order[: keep.count]
    if keep.threshold is not None:
        return order[: num_kept_by_threshold(score[order], no_margin[order], keep.threshold)]
    tokens = pairs.columns["chosen_num_tokens"] + pairs.columns["rejected_num_tokens"]
    return order[: num_kept_by_tokens(tokens[order].astype(np.int64), keep.tokens)]


def _one_key(keys: npt.NDArray[np.uint64]) -> I64:
    """(N, 2) keys as small integers that are equal where the keys are."""
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)

"""How much selections agree, what a set of ranked pairs is like, and what other choices would select (sweep)."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.arrays import F64, I64
from mapjob.collective import Pieces
from mapjob.config.selection import WITH_ALPHA, Keep, Metric, Selection
from mapjob.errors import ConfigError
from mapjob.metrics.columns import NUM_TOKENS
from mapjob.metrics.quantiles import quantiles
from mapjob.metrics.table import metric
from mapjob.ranking.arrange import arrange
from mapjob.ranking.order import PairIds
from mapjob.ranking.pairs import RankedPairs
from mapjob.ranking.rank import Ranking, inputs_of, rank_pairs

PEERS = ("map", "explicit", "implicit_small", "random")  # every corpus has what they need


def peers(selection: Selection) -> list[str]:
    """The metrics that a selection is compared with: those of PEERS and of the run file."""
    return [name for name in dict.fromkeys([*PEERS, *selection.metrics]) if name != selection.metric]


def overlap(ranking: Ranking, selection: Selection, peer: str, pair_ids: PairIds) -> float:
    """Jaccard overlap of the selection with the selection of its size by another metric, over all pieces.

    That goes by the same caps and quotas; it does not skip near duplicates, which take long to find.
    pair_ids: by position in the corpus, for ties.
    """
    pairs, num_kept = ranking.pairs, collective.total(len(ranking.kept))
    plain = selection.model_copy(update={"keep": Keep(count=num_kept), "near_duplicates": None})
    inputs = inputs_of(pairs, selection, ranking.scale)
    values = ranking.further[peer] if peer in ranking.further else metric(peer, inputs).values
    arranged = arrange(pairs, plain, values, pair_ids)
    picked = arranged.order[arranged.pick(plain).cut.kept_at]
    return float(jaccard([pack(ranking.kept, len(pairs)), pack(picked, len(pairs))])[0, 1])


def pack(picked: I64, num_pairs: int) -> npt.NDArray[np.uint8]:
    """A selection in one bit per pair. picked: indices."""
    chosen = np.zeros(num_pairs, bool)
    chosen[picked] = True
    return np.packbits(chosen)


def jaccard(kept: Sequence[npt.NDArray[np.uint8]]) -> F64:
    """Over all pieces; of two empty selections 1. kept: packed bits of each selection of this piece's pairs."""
    size = len(kept)
    common, either = np.zeros((size, size), np.int64), np.zeros((size, size), np.int64)
    for i in range(size):
        for j in range(i):
            common[i, j] = np.bitwise_count(kept[i] & kept[j]).sum()
            either[i, j] = np.bitwise_count(kept[i] | kept[j]).sum()
    common, either = collective.total(np.stack([common, either]))
    half = np.tril(np.divide(common, either, out=np.ones((size, size)), where=either > 0), -1)
    return half + half.T + np.eye(size)


QUANTILES = (0.05, 0.5, 0.95)
# What a profile and the measures of a run need beside the margins.
PROFILE_COLUMNS = ("chosen_num_tokens", "rejected_num_tokens", "group", "prompt")


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
    """Of the pairs at these indices of the ranking, over all pieces; of none, every number is 0."""
    pairs = ranking.pairs
    reward, implicit = ranking.reward_margin[picked], ranking.implicit_margin[picked]
    num = collective.total(len(picked))
    counts = collective.total(np.bincount(pairs.group[picked], minlength=len(pairs.groups)))
    shares = {str(name): float(n / max(1, num)) for name, n in zip(pairs.groups, counts) if name is not None}
    tokens = [int(pairs.columns[name][picked].sum(dtype=np.float64)) for name in NUM_TOKENS]
    means = collective.total(np.array([int((reward < 0).sum()), *tokens])) / max(1, num)
    spread = quantiles([(reward, QUANTILES, "linear"), (implicit, QUANTILES, "linear")]) if num else [np.zeros(3)] * 2
    return Profile(num, *means.tolist(), *(tuple(values.tolist()) for values in spread), shares)


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


def sweep(
    run: Pieces, pieces: Sequence[Any], selection: Selection, wanted: Sequence[Choice], pair_ids: PairIds
) -> Sweep:
    """Rank the same pairs by every choice; each metric and alpha is ranked once, whatever the number of shares, and
    memory holds one ranking at a time.

    pieces: RankedPairs of the pieces of a corpus.
    """
    profiles: dict[Choice, tuple[Profile, float | None]] = {}
    kept: list[list[Any]] = []
    refused: dict[str, str] = {}
    everything = None
    for same_ranking in _by_ranking(wanted):
        try:
            tried = run.run(_try_choices, [pieces], same_ranking, selection, pair_ids, everything is None)
        except ConfigError as error:
            refused[same_ranking[0].name] = error.what
            continue
        of_all, of_choices, _ = run.get(tried[0])
        everything = everything or of_all
        profiles |= zip(same_ranking, of_choices)
        kept.append(tried)
    if everything is None:
        raise ConfigError(
            "no choice of the sweep has a meaning on this corpus",
            "; ".join(f"{name}: {why}" for name, why in refused.items()),
            "sweep over other metrics, or see what the reasons say",
        )
    overlaps = run.get(run.run(_overlaps, kept)[0])
    outcomes = [Outcome(choice, *of, _drift(of[0], everything)) for choice, of in profiles.items()]
    in_order = sorted(range(len(outcomes)), key=lambda index: wanted.index(outcomes[index].choice))
    return Sweep(everything, [outcomes[index] for index in in_order], overlaps[np.ix_(in_order, in_order)], refused)


def _try_choices(
    pairs: RankedPairs, same_ranking: Sequence[Choice], selection: Selection, pair_ids: PairIds, with_all: bool
) -> tuple[Profile | None, list[tuple[Profile, float | None]], list[npt.NDArray[np.uint8]]]:
    """(profile of all pairs, if wanted; profile and cut-off of each choice; the pairs of each choice, in bits)."""
    ranking = rank_pairs(pairs, same_ranking[0].of(selection), pair_ids)
    of_all = profile(ranking, np.arange(len(ranking.pairs))) if with_all else None
    picked = [ranking, *(ranking.pick(choice.of(selection)) for choice in same_ranking[1:])]
    of_choices = [(profile(choice, choice.kept), choice.cut_off) for choice in picked]
    return of_all, of_choices, [pack(choice.kept, len(choice.pairs)) for choice in picked]


def _overlaps(*tried: tuple[Any, Any, list[npt.NDArray[np.uint8]]]) -> F64:
    return jaccard([bits for *_, kept in tried for bits in kept])


def _drift(of_choice: Profile, everything: Profile) -> float:
    names = everything.groups | of_choice.groups  # in the same order in every process, and so the same sum
    return sum(abs(of_choice.groups.get(name, 0.0) - everything.groups.get(name, 0.0)) for name in names) / 2


def _by_ranking(wanted: Sequence[Choice]) -> Iterable[list[Choice]]:
    """The choices that differ in their share alone, together."""
    groups: dict[str, list[Choice]] = {}
    for choice in wanted:
        groups.setdefault(choice.name, []).append(choice)
    return groups.values()

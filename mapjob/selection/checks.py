"""Measures of a run, which its manifest keeps, and the checks that decide by them whether it is promoted."""

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mapjob import collective
from mapjob.config.run import Checks
from mapjob.config.selection import Selection
from mapjob.errors import Reason
from mapjob.metrics.columns import NUM_TOKENS
from mapjob.metrics.quantiles import quantiles
from mapjob.ranking.rank import Ranking
from mapjob.store.run_folder import RunFolder

Keys = npt.NDArray[np.uint64]
Measures = dict[str, Any]

MAX_GROUPS = 20  # whose shares are kept, the largest
LONGEST_NAME = 100  # characters of a group's name
FAR = 3.0  # interquartile ranges beyond a quartile: Tukey's "far out" (Exploratory Data Analysis, 1977)


def measure(ranking: Ranking, counts: dict[str, Any], flags: dict[str, int], selection: Selection) -> Measures:
    """What checks and history go by, over all pieces. Shares are in [0, 1]; None: there is nothing to measure.

    ranking: with PROFILE_COLUMNS; counts, flags: of the manifest.
    """
    pairs, kept, num = ranking.pairs, ranking.kept, counts["selected"]
    tokens = [int(pairs.columns[name][kept].sum(dtype=np.float64)) for name in NUM_TOKENS]
    chosen, rejected = (total / num if num else None for total in collective.total(np.array(tokens)).tolist())
    groups, by_reason = share_groups(ranking), counts["by_reason"]
    excluded = sum(number for reason, number in by_reason.items() if reason.startswith("excluded_"))
    largest = next(iter(groups.items()), (None, None))
    return {
        "dropped": (counts["dropped"] - excluded) / counts["rows"],  # people meant what they left out
        "broken": counts["broken"] / counts["rows"],
        "contradicted": share_contradicted(counts, flags, selection),
        "largest_group": largest[0],
        "group_share": largest[1],
        "groups": groups,
        "prompt_share": count_largest(pairs.prompt_key[kept, 0]) / num if num else None,
        "chosen_num_tokens": chosen,
        "rejected_num_tokens": rejected,
        "length_ratio": chosen / rejected if num else None,
        "reward_outliers": share_outliers(ranking) if num else None,
    }


def share_contradicted(counts: dict[str, Any], flags: dict[str, int], selection: Selection) -> float:
    """Of the pairs that are ranked, or would be but for on_disagreement: those whose label the reward model
    contradicts, also if they were dropped or relabelled for it.
    """
    if selection.on_disagreement == "keep":
        return counts["label_disagreements"] / counts["ranked"]
    dropped = counts["by_reason"].get(Reason.DISAGREEMENT.value, 0)
    contradicted = dropped + flags.get("relabelled", 0)
    return min(1.0, contradicted / (counts["ranked"] + counts["held_out"] + dropped))


def share_groups(ranking: Ranking) -> dict[str, float]:
    """Shares of the selection by group, the largest first; pairs without a group are in none."""
    pairs = ranking.pairs
    counts = collective.total(np.bincount(pairs.group[ranking.kept], minlength=len(pairs.groups))).tolist()
    named = [(n, _shorten(str(name))) for n, name in zip(counts, pairs.groups) if name is not None and n]
    largest = sorted(named, key=lambda group: (-group[0], group[1]))[:MAX_GROUPS]
    return {name: n / sum(counts) for n, name in largest}


def _shorten(name: str) -> str:
    """A name of at most LONGEST_NAME characters; two that begin alike, such as URLs, stay two."""
    if len(name) <= LONGEST_NAME:
        return name
    mark = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{name[: LONGEST_NAME - len(mark) - 1]}…{mark}"


def share_outliers(ranking: Ranking) -> float:
    """Of the selection: pairs whose reward margin is more than FAR interquartile ranges of all ranked pairs' margins
    beyond their quartiles; none if half of all margins are one number.
    """
    margin = ranking.reward_margin
    low, high = quantiles([(margin, (0.25, 0.75), "linear")])[0].tolist()
    reach = FAR * (high - low)
    picked = margin[ranking.kept]
    is_far = ((picked < low - reach) | (picked > high + reach)) & (reach > 0)
    num_far, num = collective.total(np.array([int(is_far.sum()), len(picked)])).tolist()
    return num_far / num


def count_largest(keys: Keys) -> int:
    """How often the most frequent key occurs in all pieces."""
    together = _meet(keys, collective.num_receivers(collective.total(keys.nbytes)))
    return collective.fold(int(np.unique(together, return_counts=True)[1].max(initial=0)), max)


def share_again(before: Keys, now: Keys) -> float | None:
    """How many of the keys before, over all pieces, are among those of now; None if there were none."""
    num = collective.num_receivers(collective.total(before.nbytes + now.nbytes))
    before, now = (np.unique(_meet(keys, num)) for keys in (before, now))
    counts = [len(before), len(np.intersect1d(before, now, assume_unique=True))]
    num_before, num_again = collective.total(np.array(counts)).tolist()
    return num_again / num_before if num_before else None


def _meet(keys: Keys, num: int) -> Keys:
    """The keys of all pieces that are of this piece's range, of `num`: equal ones are in one piece."""
    receiver = (keys >> np.uint64(32)) * np.uint64(num) >> np.uint64(32)
    order, edges = collective.divide(receiver, num)
    return np.concatenate([keys[:0], *collective.exchange(lambda: (keys[order[a:b]] for a, b in pairwise(edges)))])


def read_ids(names: Sequence[str], folder: RunFolder) -> Keys:
    """Hashes of the pair_ids in these tables of a run, eight bytes each. Raises MapjobError if one cannot be read."""
    digests: list[bytes] = []
    for name in names:
        for chunk in folder.read_column(name, "pair_id").chunks:
            ids = (str(value).encode() for value in chunk.to_pylist())
            digests.append(b"".join(hashlib.blake2b(value, digest_size=8).digest() for value in ids))
    return np.frombuffer(b"".join(digests), np.uint64)


# Checks: which limits a run's measures are beyond.


def judge(measures: Measures, checks: Checks) -> list[dict[str, Any]]:
    """What fails: `check`, `value` (None: it could not be measured), `limit`, and `why` as a sentence."""
    failed = []
    for check, limit in checks:
        value = measures.get(check)
        if limit is None or (value is None and (check != "overlap" or measures.get("overlap_with") is None)):
            continue
        if value is None or (value < limit if check == "overlap" else value > limit):
            failed.append({"check": check, "value": value, "limit": limit, "why": _explain(measures, check, limit)})
    return failed


def _explain(measures: Measures, check: str, limit: float) -> str:
    value, number = measures[check], _number if check == "length_ratio" else _percent
    of = f" of {measures['largest_group']!r}" if check == "group_share" else ""
    of = f" with {measures['overlap_with']}" if check == "overlap" else of
    measured = "could not be measured" if value is None else f"is {number(value)}"
    return f"{check}{of} {measured}, {'at least' if check == 'overlap' else 'at most'} {number(limit)}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g}%"

"""BeeS, the dual margin: pairs that reward models and the policy's implicit reward together are sure about.

Deng et al. 2025, "Less is More", arXiv 2502.14560, as the authors' code has it. It asks for large implicit margins,
where MAP asks for small ones. The implicit margin is DPO's log-ratio gap, summed over tokens and without beta, of a
policy that was trained by DPO on a small part of the corpus; the explicit one is the reward margin. Bounds are in the
units of the reward model the authors used: margins of ArmoRM (0.01 to 0.1) have to be multiplied by about 150 first.
"""

from collections.abc import Mapping

import numpy as np

from mapjob import collective
from mapjob.arrays import F64
from mapjob.metrics.columns import Column
from mapjob.metrics.elementary import log, log1p
from mapjob.metrics.statistics import sigmoid

LOWER = -2.0
EXPLICIT_DIVISOR = 1.5
IMPLICIT_DIVISOR = 2.0
MIN_ABOVE = 30  # the search ends once fewer margins than this lie above the bound
# Keeps a source that is quite sure from overruling all others; a power of two, so that 1 - CLAMP is exact.
CLAMP = 2.0**-20


def bees(reward_margins: Mapping[str, F64], dpo_margin: F64 | None = None) -> Column:
    """P = prod p_k / (prod p_k + prod (1 - p_k)) over all sources, in (0, 1); larger means more surely preferred.

    reward_margins: (N,) by name, one per reward model; dpo_margin: (N,), left out if no reference was scored.
    p_k is that of `probability`, held in [2^-20, 1 - 2^-20]: two sources that contradict each other entirely give 0.5,
    for which the formula as printed has 0/0. Raises ValueError without a source.
    """
    sources = [(f"margin of {name}", margin, EXPLICIT_DIVISOR) for name, margin in reward_margins.items()]
    if dpo_margin is not None:
        sources.append(("implicit margin", dpo_margin, IMPLICIT_DIVISOR))
    if not sources:
        raise ValueError("BeeS needs at least one margin")
    parts = [probability(margin, divisor, name) for name, margin, divisor in sources]
    clamped = [np.clip(part.values, CLAMP, 1 - CLAMP) for part in parts]
    log_odds = np.sum([log(p) - log1p(-p) for p in clamped], axis=0)
    return Column(sigmoid(log_odds), tuple(text for part in parts for text in part.warnings))


def probability(margin: F64, divisor: float, name: str) -> Column:
    """p = (clip(margin, -2, U) + 2) / (the largest such value of the corpus), in [0, 1]; U is `upper_bound`.

    margin: (N,). If all margins are the same between the bounds, the source says nothing and p is 0.5 throughout.
    Margins beyond the bounds are counted in the warnings; a search that found no bound says so there.
    """
    if not (num := collective.total(len(margin))):
        return Column(margin)
    upper, (_, largest) = upper_bound(margin, divisor), collective.ends(margin)
    height = np.clip(margin, LOWER, max(upper, LOWER)) - LOWER
    lowest, highest = collective.ends(height)
    if lowest == highest:
        return Column(np.full(len(margin), 0.5), (f"BeeS: the {name} is the same for all pairs within its bounds",))
    warnings = []
    below, above = (collective.total(int(beyond.sum())) for beyond in (margin < LOWER, margin > upper))
    if below or above:
        counts = f"{below:,} of {num:,} pairs count as {LOWER:g}, {above:,} as {upper:g}"
        warnings.append(f"BeeS clips the {name}: {counts}")
    if upper > largest:
        scale = "margins as small as ArmoRM's need a factor of about 150"
        warnings.append(f"BeeS found no upper bound for the {name}, whose largest is {largest:.3g}: {scale}")
    if highest * CLAMP > 1:
        faint = collective.total(int(((height > 0) & (height < CLAMP * highest)).sum()))
        beside = f"beside the largest, {largest:.3g}"
        warnings.append(f"BeeS cannot tell {faint:,} of {num:,} pairs apart by the {name}, {beside}")
    return Column(height / highest, tuple(warnings))


def upper_bound(margin: F64, divisor: float) -> float:
    """The authors' search for U: from int(largest / divisor) upwards in steps of 1, to the first bound that suffices.

    A bound u suffices if fewer margins lie above u than u lies below the largest, or fewer than 30, or if u is
    above the largest. The search always ends: more than N below the largest, the first condition holds at once.
    margin: (N,), N > 0 over all pieces, finite.
    """
    num, (_, largest) = collective.total(len(margin)), collective.ends(margin)
    start = float(np.trunc(largest / divisor))
    num_steps = max(0, int(np.ceil(largest - start)) + 1) if largest - start <= num else 0
    bounds = start + np.arange(num_steps + 1)
    num_above = num - collective.total(np.searchsorted(np.sort(margin), bounds, side="right"))
    suffices = (num_above < largest - bounds) | (num_above < MIN_ABOVE) | (bounds > largest)
    return float(bounds[suffices.argmax()])

"""Every metric and pairing of the run file by name: its columns, two lines on what it is and whose, a metric's value.
One entry is all that a new metric needs.

The functions' docstrings have the formulas. h is the reward margin, d the difference of mean log-probabilities per
token, g DPO's log-ratio gap; "implicit" is d or g as selection.implicit says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from mapjob import collective
from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.bees import bees
from mapjob.metrics.columns import (
    COLLISION,
    DISTANCE,
    EACH_MODEL,
    IMPLICIT,
    LOGPS,
    NUM_TOKENS,
    POLICY,
    REFERENCE,
    REWARD,
    UNCONDITIONAL,
    Column,
    G,
    H,
    check_finite,
)
from mapjob.metrics.dcrm import dcrm
from mapjob.metrics.ensemble import standardise
from mapjob.metrics.map import Scale, map_score, map_signed, simpo_margin
from mapjob.metrics.peers import beta_dpo_weight, data_map, ifd_margin, length_free, on_policy, reducible_loss
from mapjob.metrics.statistics import Moments


def random_numbers(seed: int, num: int) -> F64:
    """As numpy's default generator gives them for all pieces one after the other; each takes one step of it."""
    return np.random.Generator(np.random.PCG64(seed).advance(collective.before(num))).random(num)


@dataclass(frozen=True)
class Inputs:
    """What a metric takes: columns of the ranked pairs, and keys of the run file. `inputs[name]` is a column of shape
    (N,) by the names of metrics/columns.py; implicit_margin is that of the run. Raises ValueError for a column that
    holds a value that is not finite.

    log_odds: what brings the reward margin to log-odds if it was calibrated, else 1. rewards: moments of each of
    several reward models.
    """

    columns: Mapping[str, F64]
    implicit: str  # simpo or dpo
    scale: Scale
    alpha: float = 1.0
    log_odds: float = 1.0
    seed: int = 0
    rewards: Mapping[str, Moments] = field(default_factory=dict)

    def __getitem__(self, name: str) -> F64:
        name = f"{self.implicit}_margin" if name == IMPLICIT else name
        check_finite(**{name: self.columns[name]})
        return self.columns[name]

    def of(self, names: tuple[str, ...]) -> list[F64]:
        return [self[name] for name in names]

    @property
    def margin_before(self) -> F64:
        """The reference's margin, as the implicit one is taken: against itself it has none."""
        if self.implicit == "dpo":
            return np.zeros(len(self[G]))
        return simpo_margin(*self.of(REFERENCE), *self.of(NUM_TOKENS))

    def margins_of_models(self, metric: str) -> dict[str, F64]:
        """Each of several reward models' margins. Raises ConfigError if there is only one."""
        if not self.rewards:
            do = "give it as a mapping of name -> model, or take another metric"
            raise ConfigError(f"{metric} compares several reward models, and there is one", "models.reward", do)
        return {model: self[f"reward_margin.{model}"] for model in self.rewards}

    def over_models(self, metric: str, statistic: Callable[..., F64]) -> Column:
        """A numpy statistic (mean, min, std) of each pair's standardised margins over the reward models."""
        margins_KN, warnings = standardise(self.margins_of_models(metric), self.rewards)
        return Column(statistic(margins_KN, axis=0), warnings)


class Metric(NamedTuple):
    """columns: what it goes by, scored columns and margins. value: of each pair, (N,); larger ranks first."""

    columns: tuple[str, ...]
    about: str
    value: Callable[[Inputs], Column | F64]


def metric(name: str, inputs: Inputs) -> Column:
    """A metric's value of each pair. Raises ConfigError if it has no meaning on this corpus."""
    value = METRICS[name].value(inputs)
    return value if isinstance(value, Column) else Column(value)


METRICS: dict[str, Metric] = {
    "map": Metric(
        (H, IMPLICIT),
        "S_r |h| - alpha S_i |implicit|: the reward model's margin less what the policy already expresses of it.\n"
        "Large: much left to learn. Blind to swapped labels. MAP, Huang et al. 2025, arXiv 2503.01864.",
        lambda c: map_score(c[H], c[IMPLICIT], c.scale, c.alpha),
    ),
    "map_signed": Metric(
        (H, IMPLICIT),
        "S_r h - alpha S_i |implicit|: MAP with the sign of the label, low where the reward model contradicts it.\n"
        "Finds flipped labels as far as the reward model is right. A variant of MAP, arXiv 2503.01864.",
        lambda c: map_signed(c[H], c[IMPLICIT], c.scale, c.alpha),
    ),
    "explicit": Metric(
        (H,),
        "|h|: the pairs that the reward model tells apart best.\nThe first half of MAP alone, arXiv 2503.01864.",
        lambda c: np.abs(c[H]),
    ),
    "implicit_small": Metric(
        (IMPLICIT,),
        "-|implicit|: the pairs that the policy tells apart least.\nThe second half of MAP alone, arXiv 2503.01864.",
        lambda c: -np.abs(c[IMPLICIT]),
    ),
    "implicit_large": Metric(
        (IMPLICIT,),
        "|implicit|: the pairs that the policy already tells apart.\n"
        "The opposite of what MAP asks for, for comparison; see arXiv 2503.01864.",
        lambda c: np.abs(c[IMPLICIT]),
    ),
    "bees": Metric(
        (H, G),
        "P = prod p / (prod p + prod (1 - p)): the chance of a right label by h and g together, clipped and scaled.\n"
        "Large margins on both sides come first. BeeS, dual margin, Deng et al. 2025, arXiv 2502.14560.",
        lambda c: bees({"reward": c[H]}, c[G]),
    ),
    "dcrm": Metric(
        (H, *LOGPS, DISTANCE),
        "(sigma(h) - 1/2) / (edit distance + |s_w - s_l| + 1): much reward for little change in the text.\n"
        "Close pairs with a clear difference come first. DCRM, Huang and Goyal 2025, arXiv 2506.14157.",
        lambda c: dcrm(c[H], c[DISTANCE], *c.of(LOGPS), scale=c.log_odds),
    ),
    "difficulty_gap": Metric(
        (G,),
        "-beta g: the pairs that the policy, against its reference, has least or wrongly learned.\n"
        "Smallest implicit reward gap first. Difficulty-based selection, 2025, arXiv 2508.04149.",
        lambda c: -c[G],  # beta changes no rank
    ),
    "beta_dpo_weight": Metric(
        (IMPLICIT,),
        "exp(-z^2 / 2), z = (implicit - mu) / sigma: near the mean; outliers either way are taken for noise.\n"
        "The weight by which batches are filtered. beta-DPO, Wu et al. 2024, arXiv 2407.08639.",
        lambda c: beta_dpo_weight(c[IMPLICIT], Moments.of(c[IMPLICIT])),
    ),
    "ifd_margin": Metric(
        (*POLICY, *UNCONDITIONAL),
        "IFD(chosen) - IFD(rejected), IFD = PPL(y|x) / PPL(y): where the prompt helps the rejected side more.\n"
        "Needs one forward pass without the prompt. IFD, Li et al. 2023, arXiv 2308.12032.",
        lambda c: ifd_margin(*c.of(LOGPS), *c.of(UNCONDITIONAL), *c.of(NUM_TOKENS)),
    ),
    "ensemble_mean": Metric(
        (H, EACH_MODEL),
        "Mean of h over several reward models, each in standard deviations of its rewards: what they say together.\n"
        "Signed by the label. Reward model ensembles, Coste et al. 2023, arXiv 2310.02743.",
        lambda c: c.over_models("ensemble_mean", np.mean),
    ),
    "ensemble_worst": Metric(
        (EACH_MODEL,),
        "Smallest h of any reward model, in the same unit: pairs that every model confirms come first.\n"
        "Signed by the label. Reward model ensembles, Coste et al. 2023, arXiv 2310.02743.",
        lambda c: c.over_models("ensemble_worst", np.min),
    ),
    "ensemble_bees": Metric(
        (EACH_MODEL,),
        "BeeS over the margins of several reward models: the chance of a right label if they err independently.\n"
        "Two that contradict each other cancel out. BeeS, Deng et al. 2025, arXiv 2502.14560.",
        lambda c: bees(c.margins_of_models("ensemble_bees")),
    ),
    "reward_disagreement": Metric(
        (EACH_MODEL,),
        "Standard deviation of h over several reward models, in the same unit: where they differ most.\n"
        "Pairs to look at, or to leave out. Reward model ensembles, Coste et al. 2023, arXiv 2310.02743.",
        lambda c: c.over_models("reward_disagreement", np.std),
    ),
    "explicit_signed": Metric(
        (H,),
        "h: the pairs whose label the reward model confirms best, the easier examples.\n"
        "Contradicted labels come last. Ranking by difficulty, as in SelectiveDPO, 2025, arXiv 2502.09650 (abstract).",
        lambda c: c[H],
    ),
    "explicit_signed_low": Metric(
        (H,),
        "-h: the pairs whose label the reward model contradicts most, and then the hard ones.\n"
        "The other end of explicit_signed; see arXiv 2502.09650 (abstract).",
        lambda c: -c[H],
    ),
    "implicit_signed": Metric(
        (IMPLICIT,),
        "implicit, signed by the label: the pairs that the policy has learned, or finds easy, come first.\n"
        "SelectiveDPO, Gao et al. 2025, arXiv 2502.09650 (code).",
        lambda c: c[IMPLICIT],
    ),
    "implicit_signed_low": Metric(
        (IMPLICIT,),
        "-implicit, signed by the label: the pairs that the policy has wrong, or not learned, come first.\n"
        "Wrong labels are among them. The other end of SelectiveDPO's order, arXiv 2502.09650 (code).",
        lambda c: -c[IMPLICIT],
    ),
    "chosen_quality": Metric(
        REWARD[:1],
        "r_w: the pairs whose chosen side is best, whatever the rejected one is.\n"
        "What matters in preference data for DPO, 2025, arXiv 2508.18312 (abstract).",
        lambda c: c[REWARD[0]],
    ),
    "data_map": Metric(
        REWARD,
        "z((r_w + r_l) / 2) - z(|h| / 2): both sides are good and alike, of high mean and low spread.\n"
        "After the Alignment Data Map, 2025, arXiv 2505.23114 (abstract); its one number is ours.",
        lambda c: data_map(*c.of(REWARD)),
    ),
    "length_free": Metric(
        (H, *NUM_TOKENS),
        "h - b (n_w - n_l), b by least squares: the margin that the difference in length does not explain.\n"
        "Signed by the label. After length-controlled win rates, Dubois et al. 2024, arXiv 2404.04475.",
        lambda c: length_free(c[H], *c.of(NUM_TOKENS)),
    ),
    "on_policy": Metric(
        (*LOGPS, *COLLISION, *NUM_TOKENS),
        "a_w + a_l, a the mean of log p - log sum p^2: the pairs that the policy would most likely write itself.\n"
        "The logarithm of WPO's weight before it is cut at 1, Zhou et al. 2024, arXiv 2406.11827 (code).",
        lambda c: on_policy(*c.of(LOGPS), *c.of(COLLISION), *c.of(NUM_TOKENS)),
    ),
    "reducible_loss": Metric(
        (IMPLICIT, *REFERENCE, *NUM_TOKENS),
        "log sigma(S_i implicit) - log sigma(S_i before): what a training on clean held-out pairs takes off the loss.\n"
        "Policy: so trained; reference: before. Mindermann et al. 2022, arXiv 2206.07137, for pairs (derived).",
        lambda c: reducible_loss(c[IMPLICIT], c.margin_before, c.scale.implicit),
    ),
    "random": Metric(
        (),
        "A seeded random number: the selection that every metric has to beat.\n"
        "selection.seed gives another one. No source.",
        lambda c: random_numbers(c.seed, len(c[H])),
    ),
}


class Pairing(NamedTuple):
    """columns: what the pairing of candidates goes by, scored ones and margins."""

    columns: tuple[str, ...]
    about: str


PAIRINGS: dict[str, Pairing] = {
    "best_worst": Pairing(
        (),
        "Best response against worst by reward: one pair per prompt.\n"
        "Self-play of MAP, Huang et al. 2025, arXiv 2503.01864.",
    ),
    "best_sigma": Pairing(
        (),
        "Best response against the one nearest to mu - 2 sigma of its prompt's rewards: one pair per prompt.\n"
        "Xiao et al. 2025, arXiv 2502.16825 (code).",
    ),
    "dcrm": Pairing(
        (H, *LOGPS, DISTANCE),
        "Of all ordered pairs of responses those of largest DCRM: best-of-N^2, at most k per prompt.\n"
        "Huang and Goyal 2025, arXiv 2506.14157.",
    ),
    "map": Pairing(
        (H, IMPLICIT),
        "Of all pairs of responses those of largest MAP, at most k per prompt.\n"
        "The scale is that of the best_worst pairs. After MAP, Huang et al. 2025, arXiv 2503.01864.",
    ),
    "ranked": Pairing(
        (),
        "Best response against every other one, widest reward gap first, at most k per prompt.\n"
        "Curry-DPO, Pattnaik et al. 2024, arXiv 2403.07230.",
    ),
}

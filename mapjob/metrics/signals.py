"""Training signals: margins, weights and soft labels that a training objective takes from columns of the selection.

A signal of the run file is a function and its entry in SIGNALS; the first two lines of its docstring say what it is,
the objective it is for, and its source. d is the difference of mean log-probabilities per token, g DPO's log-ratio gap,
h the reward margin, s a sum of log-probabilities. In training the authors take mu and sigma over a batch; here they are
those of the corpus (population sigma). All shapes (N,).
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, get_type_hints

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mapjob import collective
from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.columns import (
    COLLISION,
    IMPLICIT,
    LOGPS,
    NUM_TOKENS,
    REFERENCE,
    REWARD,
    Column,
    D,
    Finite,
    H,
    Positive,
    per_token,
)
from mapjob.metrics.elementary import exp
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.peers import on_policy
from mapjob.metrics.reward_augmented import prompt_with_goal
from mapjob.metrics.statistics import Moments, log_sigmoid, sigmoid
from mapjob.metrics.table import Inputs

# Past e^20 the objective is a straight line, so the gradient no longer depends on it; float32 holds both ends.
LARGEST_EXPONENT = 20.0


def amapo_margin(simpo_margin: F64, moments: Moments | None = None, *, beta: Positive = 2.0) -> Column:
    """beta exp(mu (mu - d) / sigma) where d is below its mean mu, else 0: more margin for pairs that lag behind.
    -log sigma(beta d - margin). AMaPO, Deng et al. 2025, arXiv 2511.09385.

    The margin is detached. moments: those of d unless given. beta is in front, as in the authors' code. With mu < 0 the
    exponent changes its sign, and harder pairs get smaller margins: a warning says so. Exponents are held within
    [-20, 20], and counted. With sigma = 0 no pair is below the mean, and every margin is 0.
    """
    d, moments = simpo_margin, moments or Moments.of(simpo_margin)
    mu, sigma = moments.mean, moments.std
    if sigma == 0:
        return Column(np.zeros(len(d)), (f"AMaPO: every implicit margin is {mu:g}, so every margin is 0",))
    exponent = (mu - d) / sigma * mu
    below = d < mu
    warnings = []
    if mu < 0:
        warnings.append(f"AMaPO: the mean implicit margin is {mu:.3g}, below 0, so harder pairs get smaller margins")
    num_clipped = collective.total(int((below & (np.abs(exponent) > LARGEST_EXPONENT)).sum()))
    if num_clipped:
        warnings.append(f"AMaPO: {num_clipped:,} of {moments.count:,} exponents were beyond 20 and count as 20")
    exponential = exp(np.clip(exponent, -LARGEST_EXPONENT, LARGEST_EXPONENT))
    return Column(np.where(below, beta * exponential, 0.0), tuple(warnings))


def alpha_dpo_margin(
    simpo_margin: F64,
    ref_chosen_logps: F64,
    ref_rejected_logps: F64,
    chosen_num_tokens: F64,
    rejected_num_tokens: F64,
    *,
    gamma_beta_ratio: Finite,
    alpha: Finite = 0.1,
) -> Column:
    """gamma/beta + alpha (g' - mu) / sigma: SimPO's margin, wider where the policy has left its reference, per token.
    -log sigma(beta (d - margin)). alpha-DPO, Wu et al. 2024, arXiv 2410.10148.

    g' = d - d_ref, the gap of log-ratios per token, as all of the authors' configurations have it; DPO's g, of sums,
    has another sign for some pairs. The margin is in units of d; alpha 0.05 to 0.2. With sigma = 0 every margin is
    gamma/beta.
    """
    ref_chosen = per_token(ref_chosen_logps, chosen_num_tokens)
    gap = simpo_margin - (ref_chosen - per_token(ref_rejected_logps, rejected_num_tokens))
    moments = Moments.of(gap)
    if moments.std == 0:
        warning = f"alpha-DPO: every gap per token is {moments.mean:g}, so every margin is gamma/beta"
        return Column(np.full(len(gap), gamma_beta_ratio), (warning,))
    return Column(gamma_beta_ratio + alpha * ((gap - moments.mean) / moments.std))


def bpo_margin(
    chosen_logps: F64,
    rejected_logps: F64,
    ref_chosen_logps: F64,
    ref_rejected_logps: F64,
    *,
    beta: Positive = 0.1,
    alpha: Positive = 0.3,
) -> tuple[F64, npt.NDArray[np.bool_]]:
    """min(beta (s_w - s_w_ref), -alpha beta (s_l - s_l_ref)), and which side binds: the one that improved less.
    Replaces DPO's margin. BPO, 2025, arXiv 2506.03557.

    chosen_binds is True if that is the chosen side, also if both are equal. alpha weighs the rejected side. Raises
    ConfigError if the policy equals its reference, which makes every margin 0.
    """
    chosen_gain, rejected_gain = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    if collective.total(len(chosen_gain)) and not collective.is_any((chosen_gain != 0) | (rejected_gain != 0)):
        raise ConfigError(
            "every BPO margin is 0: the policy gives the same log-probabilities as the reference",
            "models.reference",
            "use the reference that the policy was trained from",
        )
    chosen, rejected = beta * chosen_gain, -alpha * beta * rejected_gain
    return np.minimum(chosen, rejected), chosen <= rejected


def repo_loss(simpo_margin: F64, *, gamma: Finite = 0.5) -> tuple[F64, npt.NDArray[np.bool_]]:
    """max(0, gamma - d), and whether the pair is active (d < gamma): pairs beyond gamma have no gradient at all.
    The share that is active is what would be trained on. RePO, Wu et al. 2025, arXiv 2503.07426.

    gamma 0.4 to 0.6.
    """
    return np.maximum(0.0, gamma - simpo_margin), simpo_margin < gamma


LogOdds = Annotated[Positive, Field(description="brings the reward margin to log-odds")]


def madpo_weight(
    reward_margin: F64,
    *,
    c_max: Annotated[float, Field(gt=1, allow_inf_nan=False)] = 2.0,
    c_min: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, Field(description="null: 1 / c_max")] = None,
    rate: Positive = 1.0,
    tau: Finite = 6.9068,
    scale: LogOdds = 1.0,
) -> F64:
    """sigma(c h) / sigma(h), 1 if h < -tau, h in log-odds: a factor of the DPO loss, larger for small margins.
    By default 0.995 to 1.206 for h > 0 and down to 0.03 below: it mutes contradicted pairs. MADPO, arXiv 2510.05342.

    c = c_min + (c_max - c_min) / (1 + (c_max - 1) / (1 - c_min) * exp(rate * (|h| - tau))): near c_max for pairs of
    small margin, 1 at |h| = tau, near c_min beyond it. c_min is 1 / c_max unless given. h = scale * reward_margin is in
    log-odds (see `log_odds_slope`). Raises ValueError unless c_max > 1 and 0 < c_min < 1.
    """
    c_min = 1 / c_max if c_min is None else c_min
    if not (c_max > 1 and 0 < c_min < 1):
        raise ValueError(f"c_max is {c_max} and c_min is {c_min}: MADPO needs c_max > 1 and 0 < c_min < 1")
    h = scale * reward_margin
    log_ratio = math.log((c_max - 1) / (1 - c_min))
    c = c_min + (c_max - c_min) * sigmoid(-(rate * (np.abs(h) - tau) + log_ratio))
    weighed = np.maximum(h, -tau)  # what is below gets 1 in any case
    return np.where(h > -tau, exp(log_sigmoid(c * weighed) - log_sigmoid(weighed)), 1.0)


def mmpo_target(reward_margin: F64, *, gamma: LogOdds = 1.0) -> tuple[F64, npt.NDArray[np.bool_]]:
    """p = sigma(gamma |h|), and whether the pair is swapped (h < 0): a soft label after the reward model.
    -p log sigma(beta g) - (1 - p) log sigma(-beta g). MMPO, Kim et al. 2024, arXiv 2410.03145.

    gamma brings h to log-odds; the authors took 2.2, 0.3 and 1.1 for three reward models, so tune it.
    """
    return sigmoid(gamma * np.abs(reward_margin)), reward_margin < 0


def wpo_weight(
    chosen_logps: F64,
    rejected_logps: F64,
    chosen_collision_logps: F64,
    rejected_collision_logps: F64,
    chosen_num_tokens: F64,
    rejected_num_tokens: F64,
) -> F64:
    """min(1, exp(a_w + a_l)), a the mean of log p - log sum p^2: what the policy would write itself weighs more.
    Multiplies the loss of the pair. WPO, Zhou et al. 2024, arXiv 2406.11827.

    Means are over tokens; `on_policy` has a_w + a_l. Rounds to 0 if that is below -745 nats.
    """
    logarithm = on_policy(
        chosen_logps,
        rejected_logps,
        chosen_collision_logps,
        rejected_collision_logps,
        chosen_num_tokens,
        rejected_num_tokens,
    )
    return exp(np.minimum(logarithm, 0.0))


class Signal(NamedTuple):
    """columns: of the pair, in the order in which the function takes them. function: its keyword-only parameters are
    the signal's keys in the run file. yields: the names of the columns that it returns.
    """

    columns: tuple[str, ...]
    function: Callable[..., Any]
    yields: tuple[str, ...]

    @property
    def about(self) -> str:
        """Two lines on what it is and whose: the first ones of the function's docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n\n")[0]


SIGNALS: dict[str, Signal] = {
    "amapo_margin": Signal((D,), amapo_margin, ("amapo_margin",)),
    "alpha_dpo_margin": Signal((D, *REFERENCE, *NUM_TOKENS), alpha_dpo_margin, ("alpha_dpo_margin",)),
    "gamma_po_margin": Signal((IMPLICIT,), gamma_po_margin, ("gamma_po_margin",)),
    "madpo_weight": Signal((H,), madpo_weight, ("madpo_weight",)),
    "bpo_margin": Signal((*LOGPS, *REFERENCE), bpo_margin, ("bpo_margin", "bpo_chosen_binds")),
    "repo_loss": Signal((D,), repo_loss, ("repo_loss", "repo_active")),
    "mmpo_target": Signal((H,), mmpo_target, ("mmpo_target", "mmpo_swapped")),
    "wpo_weight": Signal((*LOGPS, *COLLISION, *NUM_TOKENS), wpo_weight, ("wpo_weight",)),
    "reward_goals": Signal(REWARD, prompt_with_goal, ()),  # rows, made by `metrics.reward_augmented.reward_goals`
}


def compute_signal(
    name: str, parameters: Mapping[str, Any], inputs: Inputs
) -> tuple[dict[str, npt.NDArray], tuple[str, ...]]:
    """(its columns by name, each (N,), and warnings). Corpus statistics are over these pairs."""
    signal = SIGNALS[name]
    result = signal.function(*inputs.of(signal.columns), **parameters)
    if isinstance(result, Column):
        return dict(zip(signal.yields, [result.values], strict=True)), result.warnings
    return dict(zip(signal.yields, result if isinstance(result, tuple) else [result], strict=True)), ()


def keyword_parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """(type with its bounds, default; ... for none) of each keyword-only parameter, as pydantic takes a field."""
    types = get_type_hints(function, include_extras=True)
    return {
        name: (types[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }

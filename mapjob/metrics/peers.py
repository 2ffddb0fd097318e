"""Metrics of other authors whose formulas take more than a line. All shapes (N,)."""

import numpy as np

from mapjob import collective
from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.columns import Column, per_token
from mapjob.metrics.elementary import exp
from mapjob.metrics.statistics import Moments, exact_mean, log_sigmoid, total_sum


def beta_dpo_weight(implicit_margin: F64, moments: Moments) -> Column:
    """exp(-((g - mu) / sigma)^2 / 2), in [0, 1], by which beta-DPO draws pairs (Wu et al. 2024, arXiv 2407.08639).

    1 at the corpus mean; gaps far from it on either side are taken for noise. beta cancels out. implicit_margin: (N,);
    moments: its corpus statistics (the authors keep a running mean of batches). Rounds to 0 beyond 38 sigma. With
    sigma = 0 every weight is 1.
    """
    if moments.std == 0:
        warning = f"beta-DPO: every implicit margin is {moments.mean:g}, so every weight is 1"
        return Column(np.ones(len(implicit_margin)), (warning,))
    return Column(exp(-0.5 * np.square((implicit_margin - moments.mean) / moments.std)))


def ifd_margin(
    chosen_logps: F64,
    rejected_logps: F64,
    chosen_unconditional_logps: F64,
    rejected_unconditional_logps: F64,
    chosen_num_tokens: F64,
    rejected_num_tokens: F64,
) -> F64:
    """IFD(chosen) - IFD(rejected), IFD = PPL(y|x) / PPL(y): instruction-following difficulty (Li et al. 2023, arXiv
    2308.12032), taken as a margin.

    IFD = exp((s_unconditional - s) / n) is below 1 if the prompt helps to predict the completion; the margin is
    large if it helps the rejected one more. The unconditional s is the sum over the same n tokens without the
    prompt. Shapes (N,). Raises ValueError if a perplexity ratio passes e^700.
    """
    log_chosen = per_token(chosen_unconditional_logps - chosen_logps, chosen_num_tokens)
    log_rejected = per_token(rejected_unconditional_logps - rejected_logps, rejected_num_tokens)
    if max(log_chosen.max(initial=0.0), log_rejected.max(initial=0.0)) > 700:
        raise ValueError(
            "a prompt costs its completion more than 700 nats per token: the log-probabilities are damaged"
        )
    return exp(log_chosen) - exp(log_rejected)


def data_map(chosen_reward: F64, rejected_reward: F64) -> Column:
    """z((r_w + r_l) / 2) - z(|r_w - r_l| / 2): a pair's mean reward against its spread, in standard deviations.

    The Alignment Data Map (2025, arXiv 2505.23114, abstract) keeps pairs of high mean and low spread; that both weigh
    the same is our reading of it. A part without a spread over the corpus counts 0, with a warning.
    """
    parts = {"mean": (chosen_reward + rejected_reward) / 2, "spread": np.abs(chosen_reward - rejected_reward) / 2}
    moments = {name: Moments.of(values) for name, values in parts.items()}
    mean, spread = (_z(values, moments[name]) for name, values in parts.items())
    constant = [name for name, of in moments.items() if of.std == 0]
    return Column(mean - spread, tuple(f"data_map: every pair has the same {name} of rewards" for name in constant))


def _z(values: F64, moments: Moments) -> F64:
    return (values - moments.mean) / moments.std if moments.std > 0 else np.zeros(len(values))


def length_free(reward_margin: F64, chosen_num_tokens: F64, rejected_num_tokens: F64) -> Column:
    """h - b (n_w - n_l): the margin if both sides were of equal length; b is the least-squares slope over the corpus.

    A line through the means, not through the origin, so that a bias for the chosen side is not taken for one of length.
    Tokens are the policy's. Without differences in length it is h, with a warning. After the regression of
    length-controlled win rates (Dubois et al. 2024, arXiv 2404.04475).
    """
    longer = chosen_num_tokens - rejected_num_tokens
    beside = longer - exact_mean(longer)
    squares = total_sum(np.square(beside))
    if squares == 0:
        return Column(reward_margin, ("length_free: every pair differs in length by the same, so it is h",))
    slope = total_sum(beside * (reward_margin - exact_mean(reward_margin))) / squares
    return Column(reward_margin - slope * longer)


def on_policy(
    chosen_logps: F64,
    rejected_logps: F64,
    chosen_collision_logps: F64,
    rejected_collision_logps: F64,
    chosen_num_tokens: F64,
    rejected_num_tokens: F64,
) -> F64:
    """a_w + a_l, a the mean over tokens of log p - log sum_v p_v^2, in nats (WPO, Zhou et al. 2024, arXiv 2406.11827).

    The collision column is the sum of log sum_v p_v^2 over the completion's tokens: the policy's log-probability to
    draw one token twice. `wpo_weight` is exp of this, at most 1.
    """
    chosen = per_token(chosen_logps - chosen_collision_logps, chosen_num_tokens)
    rejected = per_token(rejected_logps - rejected_collision_logps, rejected_num_tokens)
    return chosen + rejected


def reducible_loss(implicit_margin: F64, margin_before: F64, unit: float) -> F64:
    """log sigma(S m) - log sigma(S m_before): the loss of a pair before a training on clean held-out pairs less that
    after it, in nats. The reducible holdout loss (Mindermann et al. 2022, arXiv 2206.07137), with a loss of pairs.

    Large: not learned yet, and learnable from other pairs. About 0 or below: learned, a wrong label, or what no pair
    teaches. The policy is the one so trained, the reference what it was trained from. With margins of DPO's kind the
    policy before has none, so the order is that of the gap. unit: S, as in MAP. Raises ConfigError if the two policies
    are the same.
    """
    if collective.total(len(implicit_margin)) and not collective.is_any(implicit_margin != margin_before):
        raise ConfigError(
            "every reducible loss is 0: the policy gives the same log-probabilities as the reference",
            "models.reference",
            "policy: trained on clean held-out pairs; reference: what it was trained from",
        )
    return log_sigmoid(unit * implicit_margin) - log_sigmoid(unit * margin_before)

"""How hard a pair is for the policy. The three measures draw the line between hard and wrong differently."""

import numpy as np

from mapjob.arrays import F64
from mapjob.metrics.columns import Column, finite, per_token
from mapjob.metrics.statistics import Moments


def difficulty_gap(dpo_margin: F64, beta: float = 0.1) -> F64:
    """-beta * g (arXiv 2508.04149, difficulty-based selection by the implicit reward gap): larger is harder.

    The smallest signed gap comes first, so a pair that the policy has the wrong way round is the hardest.
    dpo_margin: g, (N,). Raises ValueError for values that are not finite.
    """
    (g,) = finite(dpo_margin=dpo_margin)
    return -beta * g


def beta_dpo_weight(implicit_margin: F64, moments: Moments) -> Column:
    """exp(-((g - mu) / sigma)^2 / 2), in [0, 1], by which beta-DPO draws pairs (Wu et al. 2024, arXiv 2407.08639).

    1 at the corpus mean; gaps far from it on either side are taken for noise. beta cancels out. implicit_margin: (N,);
    moments: its corpus statistics (the authors keep a running mean of batches). Rounds to 0 beyond 38 sigma. With
    sigma = 0 every weight is 1. Raises ValueError for values that are not finite.
    """
    (g,) = finite(implicit_margin=implicit_margin)
    if moments.std == 0:
        return Column(np.ones(len(g)), (f"beta-DPO: every implicit margin is {moments.mean:g}, so every weight is 1",))
    return Column(np.exp(-0.5 * np.square((g - moments.mean) / moments.std)))


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
    prompt. Shapes (N,). Raises ValueError for values that are not finite, and if a perplexity ratio passes e^700.
    """
    s_w, s_l, u_w, u_l, n_w, n_l = finite(
        chosen_logps=chosen_logps,
        rejected_logps=rejected_logps,
        chosen_unconditional_logps=chosen_unconditional_logps,
        rejected_unconditional_logps=rejected_unconditional_logps,
        chosen_num_tokens=chosen_num_tokens,
        rejected_num_tokens=rejected_num_tokens,
    )
    log_chosen, log_rejected = per_token(u_w - s_w, n_w), per_token(u_l - s_l, n_l)
    if max(log_chosen.max(initial=0.0), log_rejected.max(initial=0.0)) > 700:
        raise ValueError("a prompt costs its completion more than 700 nats a token: the log-probabilities are damaged")
    return np.exp(log_chosen) - np.exp(log_rejected)

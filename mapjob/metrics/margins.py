"""Explicit and implicit margins of a pair, signed by its label: positive means the chosen side is ahead.

All functions take float64 arrays of shape (N,) and return shape (N,). Notation: shared names of the field,
s = summed log-probability of a completion in nats, n = its number of tokens, r = its reward.
"""

from mapjob.arrays import F64


def reward_margin(chosen_reward: F64, rejected_reward: F64) -> F64:
    """h = r_w - r_l, in the reward model's own units."""
    return chosen_reward - rejected_reward


def simpo_margin(chosen_logps: F64, rejected_logps: F64, chosen_num_tokens: F64, rejected_num_tokens: F64) -> F64:
    """d = s_w / n_w - s_l / n_l, nats per token, without beta (SimPO, Meng et al. 2024, arXiv 2405.14734)."""
    return chosen_logps / chosen_num_tokens - rejected_logps / rejected_num_tokens


def dpo_margin(chosen_logps: F64, rejected_logps: F64, ref_chosen_logps: F64, ref_rejected_logps: F64) -> F64:
    """g = (s_w - s_w_ref) - (s_l - s_l_ref), nats, without beta (DPO, Rafailov et al. 2023, arXiv 2305.18290).

    Never divided by length.
    """
    return (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)

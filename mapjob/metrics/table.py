"""Every metric, training signal and pairing by name: the columns it needs, and two lines on what it is and whose.

Formulas stand in the docstrings of the functions. h is the reward margin, d the difference of mean log-probabilities a
token, g DPO's log-ratio gap; "implicit" is d or g as selection.implicit says.
"""

from typing import NamedTuple

REWARD = ("chosen_reward", "rejected_reward")
LOGPS = ("chosen_logps", "rejected_logps")
POLICY = (*LOGPS, "chosen_num_tokens", "rejected_num_tokens")
REFERENCE = ("ref_chosen_logps", "ref_rejected_logps")
UNCONDITIONAL = ("chosen_unconditional_logps", "rejected_unconditional_logps")
COLLISION = ("chosen_collision_logps", "rejected_collision_logps")
# Margins, and the scored columns that each is made of. implicit_margin is one of the two below it.
MARGINS = {
    "reward_margin": REWARD,
    "simpo_margin": POLICY,
    "dpo_margin": (*LOGPS, *REFERENCE),
}
H, D, G, IMPLICIT, DISTANCE = "reward_margin", "simpo_margin", "dpo_margin", "implicit_margin", "edit_distance"
EACH_MODEL = "reward_margin.*"  # one column for each of several reward models


class Method(NamedTuple):
    """The columns that a method goes by, scored ones and margins, and two lines that explain it."""

    columns: tuple[str, ...]
    about: str


METRICS: dict[str, Method] = {
    "map": Method(
        (H, IMPLICIT),
        "S_r |h| - alpha S_i |implicit|: the reward model's margin less what the policy already expresses of it.\n"
        "Large: much left to learn. Blind to swapped labels. MAP, Huang et al. 2025, arXiv 2503.01864.",
    ),
    "map_signed": Method(
        (H, IMPLICIT),
        "S_r h - alpha S_i |implicit|: MAP with the sign of the label, low where the reward model contradicts it.\n"
        "Finds flipped labels as far as the reward model is right. A variant of MAP, arXiv 2503.01864.",
    ),
    "map_unregularised": Method(
        (H, IMPLICIT),
        "S_r h - alpha S_i implicit: MAP without absolute values, for comparison.\n"
        "Pairs that the policy has the wrong way round come first. A variant of MAP, arXiv 2503.01864.",
    ),
    "explicit": Method(
        (H,),
        "|h|: the pairs that the reward model tells apart best.\nThe first half of MAP alone, arXiv 2503.01864.",
    ),
    "implicit_small": Method(
        (IMPLICIT,),
        "-|implicit|: the pairs that the policy tells apart least.\nThe second half of MAP alone, arXiv 2503.01864.",
    ),
    "implicit_large": Method(
        (IMPLICIT,),
        "|implicit|: the pairs that the policy already tells apart.\n"
        "The opposite of what MAP asks for, for comparison; see arXiv 2503.01864.",
    ),
    "bees": Method(
        (H, G),
        "P = prod p / (prod p + prod (1 - p)): the chance of a right label by h and g together, clipped and scaled.\n"
        "Large margins on both sides come first. BeeS, dual margin, Deng et al. 2025, arXiv 2502.14560.",
    ),
    "dcrm": Method(
        (H, *LOGPS, DISTANCE),
        "(sigma(h) - 1/2) / (edit distance + |s_w - s_l| + 1): much reward for little change in the text.\n"
        "Close pairs with a clear difference come first. DCRM, Huang and Goyal 2025, arXiv 2506.14157.",
    ),
    "difficulty_gap": Method(
        (G,),
        "-beta g: the pairs that the policy, against its reference, has least or wrongly learned.\n"
        "Smallest implicit reward gap first. Difficulty-based selection, 2025, arXiv 2508.04149.",
    ),
    "beta_dpo_weight": Method(
        (IMPLICIT,),
        "exp(-z^2 / 2), z the standardised implicit margin: near its mean; outliers either way are taken for noise.\n"
        "The weight by which batches are filtered. beta-DPO, Wu et al. 2024, arXiv 2407.08639.",
    ),
    "ifd_margin": Method(
        (*POLICY, *UNCONDITIONAL),
        "IFD(chosen) - IFD(rejected), IFD = PPL(y|x) / PPL(y): where the prompt helps the rejected side more.\n"
        "Needs one forward pass without the prompt. IFD, Li et al. 2023, arXiv 2308.12032.",
    ),
    "ensemble_mean": Method(
        (H, EACH_MODEL),
        "Mean of h over several reward models, each in standard deviations of its rewards: what they say together.\n"
        "Signed by the label. Reward model ensembles, Coste et al. 2023, arXiv 2310.02743.",
    ),
    "ensemble_worst": Method(
        (EACH_MODEL,),
        "Smallest h of any reward model, in the same unit: pairs that every model confirms come first.\n"
        "Signed by the label. Reward model ensembles, Coste et al. 2023, arXiv 2310.02743.",
    ),
    "ensemble_bees": Method(
        (EACH_MODEL,),
        "BeeS over the margins of several reward models: the chance of a right label if they err independently.\n"
        "Two that contradict each other cancel out. BeeS, Deng et al. 2025, arXiv 2502.14560.",
    ),
    "reward_disagreement": Method(
        (EACH_MODEL,),
        "Standard deviation of h over several reward models, in the same unit: where they differ most.\n"
        "Pairs to look at, or to leave out. Reward model ensembles, Coste et al. 2023, arXiv 2310.02743.",
    ),
    "random": Method(
        (),
        "A seeded random number: the selection that every metric has to beat.\n"
        "selection.seed gives another one. No source.",
    ),
}

SIGNALS: dict[str, Method] = {
    "amapo_margin": Method(
        (D,),
        "beta exp(mu (mu - d) / sigma) where d is below its mean mu, else 0: more margin for pairs that lag behind.\n"
        "-log sigma(beta d - margin). AMaPO, Deng et al. 2025, arXiv 2511.09385.",
    ),
    "alpha_dpo_margin": Method(
        (G,),
        "gamma/beta + alpha z(g): SimPO's margin, wider where the policy has left its reference.\n"
        "-log sigma(beta (d - margin)). alpha-DPO, Wu et al. 2024, arXiv 2410.10148.",
    ),
    "gamma_po_margin": Method(
        (IMPLICIT,),
        "A target margin a pair, gamma0 on average: larger for clear pairs, smaller for doubtful ones.\n"
        "-log sigma(beta d - margin). gamma-PO, Sun et al. 2025, arXiv 2506.03690.",
    ),
    "madpo_weight": Method(
        (H,),
        "sigma(c h) / sigma(h), h in log-odds: pairs of small reward margin weigh more, easy ones less.\n"
        "Multiplies the DPO loss of the pair. MADPO, 2025, arXiv 2510.05342.",
    ),
    "bpo_margin": Method(
        (*LOGPS, *REFERENCE),
        "min(beta (s_w - s_w_ref), -alpha beta (s_l - s_l_ref)), and which side binds: the one that improved less.\n"
        "Takes the place of DPO's margin. BPO, 2025, arXiv 2506.03557.",
    ),
    "repo_loss": Method(
        (D,),
        "max(0, gamma - d), and whether the pair is active: pairs beyond gamma have no gradient at all.\n"
        "The share that is active is what would be trained on. RePO, Wu et al. 2025, arXiv 2503.07426.",
    ),
    "mmpo_target": Method(
        (H,),
        "sigma(gamma |h|), and whether the pair is swapped: a soft label after the reward model.\n"
        "-p log sigma(beta g) - (1 - p) log sigma(-beta g). MMPO, Kim et al. 2024, arXiv 2410.03145.",
    ),
    "wpo_weight": Method(
        (*POLICY, *COLLISION),
        "min(1, exp(a_w + a_l)), a the mean of log p - log sum p^2: what the policy would write itself weighs more.\n"
        "Multiplies the loss of the pair. WPO, Zhou et al. 2024, arXiv 2406.11827.",
    ),
    "reward_goals": Method(
        REWARD,
        "Two rows for a pair, each side's reward as the goal in the prompt; for the rejected one's the sides swap.\n"
        "A larger corpus, not a column. Reward-augmented data, Zhang et al. 2024, arXiv 2410.08067.",
    ),
}

PAIRINGS: dict[str, Method] = {
    "best_worst": Method(
        (),
        "Best response against worst by reward: one pair a prompt.\n"
        "Self-play of MAP, Huang et al. 2025, arXiv 2503.01864.",
    ),
    "dcrm": Method(
        (H, *LOGPS, DISTANCE),
        "Of all ordered pairs of responses those of largest DCRM: best-of-N^2, at most k a prompt.\n"
        "Huang and Goyal 2025, arXiv 2506.14157.",
    ),
    "map": Method(
        (H, IMPLICIT),
        "Of all pairs of responses those of largest MAP, at most k a prompt.\n"
        "The scale is that of the best_worst pairs. After MAP, Huang et al. 2025, arXiv 2503.01864.",
    ),
    "ranked": Method(
        (),
        "Best response against every other one, widest reward gap first, at most k a prompt.\n"
        "Curry-DPO, Pattnaik et al. 2024, arXiv 2403.07230.",
    ),
}

"""Training signals of a run file, each as the columns that a trainer reads, from those of the pairs that are ranked."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy.typing as npt

from mapjob.arrays import F64
from mapjob.metrics.adaptive_margins import (
    alpha_dpo_margin,
    amapo_margin,
    bpo_margin,
    madpo_weight,
    mmpo_target,
    repo_loss,
    wpo_weight,
)
from mapjob.metrics.columns import (
    COLLISION,
    DISTANCE,
    IMPLICIT,
    LOGPS,
    NUM_TOKENS,
    POLICY,
    REFERENCE,
    REWARD,
    D,
    G,
    H,
)
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.statistics import Moments

Signal = tuple[str, npt.NDArray, tuple[str, ...]]


def signals(wanted: Any, implicit: str, c: Mapping[str, F64]) -> Iterator[Signal]:
    """(name of the column, its values of shape (N,), warnings) of every signal that the selection asks for.

    wanted: the run file's selection.signals. implicit: simpo or dpo. c: columns by the names of metrics/columns.py.
    Corpus statistics are over these pairs. reward_goals makes rows, and no column, so it is not here.
    """
    if (p := wanted.amapo_margin) is not None:
        d = c["simpo_margin"]
        margin = amapo_margin(d, Moments.of(d), p.beta)
        yield "amapo_margin", margin.values, margin.warnings
    if (p := wanted.alpha_dpo_margin) is not None:
        g = c["dpo_margin"]
        margin = alpha_dpo_margin(g, Moments.of(g), p.gamma_beta_ratio, p.alpha)
        yield "alpha_dpo_margin", margin.values, margin.warnings
    if (p := wanted.gamma_po_margin) is not None:
        gap = p.beta * c[f"{implicit}_margin"]
        margin = gamma_po_margin(gap, p.beta * p.gamma_beta_ratio, p.tau)
        yield "gamma_po_margin", margin.values, margin.warnings
    if (p := wanted.madpo_weight) is not None:
        yield "madpo_weight", madpo_weight(p.scale * c["reward_margin"], p.c_max, p.c_min, p.rate, p.tau), ()
    if (p := wanted.bpo_margin) is not None:
        margin, chosen_binds = bpo_margin(*(c[name] for name in (*LOGPS, *REFERENCE)), p.beta, p.alpha)
        yield "bpo_margin", margin, ()
        yield "bpo_chosen_binds", chosen_binds, ()
    if (p := wanted.repo_loss) is not None:
        loss, active = repo_loss(c["simpo_margin"], p.gamma)
        yield "repo_loss", loss, ()
        yield "repo_active", active, ()
    if (p := wanted.mmpo_target) is not None:
        target, swapped = mmpo_target(c["reward_margin"], p.gamma)
        yield "mmpo_target", target, ()
        yield "mmpo_swapped", swapped, ()
    if wanted.wpo_weight is not None:
        yield "wpo_weight", wpo_weight(*(c[name] for name in (*LOGPS, *COLLISION, *NUM_TOKENS))), ()


# Every training signal and pairing by name: the columns it goes by, and two lines on what it is and whose. Formulas
# stand in the docstrings of the functions. h is the reward margin, d the difference of mean log-probabilities a
# token, g DPO's log-ratio gap; "implicit" is d or g as selection.implicit says.


class Method(NamedTuple):
    """The columns that a method goes by, scored ones and margins, and two lines that explain it."""

    columns: tuple[str, ...]
    about: str


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

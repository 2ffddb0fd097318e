"""Training signals of a run file, each as the columns that a trainer reads, from those of the pairs that are ranked."""

from collections.abc import Iterator, Mapping

import numpy.typing as npt

from mapjob.arrays import F64
from mapjob.config import Selection
from mapjob.metrics.adaptive_margins import alpha_dpo_margin, amapo_margin, bpo_margin, repo_loss
from mapjob.metrics.columns import COLLISION, LOGPS, NUM_TOKENS, REFERENCE
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.statistics import Moments
from mapjob.metrics.weights import madpo_weight, mmpo_target, wpo_weight

Signal = tuple[str, npt.NDArray, tuple[str, ...]]


def signals(selection: Selection, c: Mapping[str, F64]) -> Iterator[Signal]:
    """(name of the column, its values of shape (N,), warnings) of every signal that the selection asks for.

    c: columns by the names of metrics/columns.py. Corpus statistics are over these pairs. reward_goals makes rows, and
    no column, so it is not here.
    """
    wanted = selection.signals
    if (p := wanted.amapo_margin) is not None:
        d = c["simpo_margin"]
        margin = amapo_margin(d, Moments.of(d), p.beta, p.beta_inside)
        yield "amapo_margin", margin.values, margin.warnings
    if (p := wanted.alpha_dpo_margin) is not None:
        g = c["dpo_margin"]
        margin = alpha_dpo_margin(g, Moments.of(g), p.gamma_beta_ratio, p.alpha)
        yield "alpha_dpo_margin", margin.values, margin.warnings
    if (p := wanted.gamma_po_margin) is not None:
        gap = p.beta * c[f"{selection.implicit}_margin"]
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

"""The objectives: the loss of each pair of a batch, from sums of log-probabilities.

s is the sum of a completion's log-probabilities, n its number of tokens, d = s_w / n_w - s_l / n_l, and
g = (s_w - s_w_ref) - (s_l - s_l_ref). All values are in nats, all shapes (B,). Margins and weights are constants:
gradients go through d, g and the log-ratios alone.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mapjob.errors import ConfigError
from mapjob.lab.training.config import Objective
from mapjob.metrics.columns import REFERENCE
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.signals import (
    LARGEST_EXPONENT,
    amapo_margin,
    bpo_margin,
    keyword_parameters,
    madpo_weight,
    mmpo_target,
    repo_loss,
)
from mapjob.store.run_folder import Manifest


def default_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The default of each keyword-only parameter."""
    return {name: default for name, (_, default) in keyword_parameters(function).items()}


# What is also a column of a selection has the same defaults here.
REPO, AMAPO, GAMMA_PO = default_of(repo_loss), default_of(amapo_margin), default_of(gamma_po_margin)
MADPO, BPO, MMPO = default_of(madpo_weight), default_of(bpo_margin), default_of(mmpo_target)


@dataclass(frozen=True)
class Batch:
    """A batch of pairs, each column of shape (B,); None if the objective does not need it.

    earlier_margins: (M,), d of pairs of earlier batches, as the policy was then.
    """

    chosen_logps: Tensor
    rejected_logps: Tensor
    chosen_num_tokens: Tensor
    rejected_num_tokens: Tensor
    ref_chosen_logps: Tensor | None = None
    ref_rejected_logps: Tensor | None = None
    reward_margin: Tensor | None = None
    earlier_margins: Tensor | None = None

    @property
    def simpo_margin(self) -> Tensor:
        """d, nats a token."""
        return self.chosen_logps / self.chosen_num_tokens - self.rejected_logps / self.rejected_num_tokens

    @property
    def chosen_ratio(self) -> Tensor:
        """s_w - s_w_ref."""
        return self.chosen_logps - self.ref_chosen_logps

    @property
    def rejected_ratio(self) -> Tensor:
        """s_l - s_l_ref."""
        return self.rejected_logps - self.ref_rejected_logps

    @property
    def dpo_margin(self) -> Tensor:
        """g."""
        return self.chosen_ratio - self.rejected_ratio


def dpo(batch: Batch, *, beta: float = 0.1) -> Tensor:
    """-log sigma(beta * g) (DPO, Rafailov et al. 2023, arXiv 2305.18290)."""
    return -logsigmoid(beta * batch.dpo_margin)


def simpo(batch: Batch, *, beta: float = 2.5, gamma_beta_ratio: float = 0.55) -> Tensor:
    """-log sigma(beta * d - gamma), gamma = beta * gamma_beta_ratio (SimPO, Meng et al. 2024, arXiv 2405.14734).

    The defaults are those with which the MAP paper trains Llama-3.
    """
    return -logsigmoid(beta * (batch.simpo_margin - gamma_beta_ratio))


def repo(batch: Batch, *, gamma: float = REPO["gamma"]) -> Tensor:
    """max(0, gamma - d) (RePO, Wu et al. 2025, arXiv 2503.07426; gamma 0.4 to 0.6).

    Pairs with d >= gamma have no gradient.
    """
    return torch.relu(gamma - batch.simpo_margin)


def amapo(batch: Batch, *, beta: float = AMAPO["beta"]) -> Tensor:
    """-log sigma(beta * d - margin), margin = beta * exp(mu * (mu - d) / sigma) where d < mu, else 0.

    AMaPO, Deng et al. 2025, arXiv 2511.09385; beta 2 to 3. mu and sigma are those of the batch (population sigma); with
    sigma = 0 every margin is 0. Margins grow with mu, so the loss may rise while the policy learns. Exponents are held
    within [-20, 20]; a batch of n pairs has none beyond unless |mu| is above 20 / sqrt(n - 1) nats a token.
    """
    d = batch.simpo_margin
    fixed = d.detach()
    mu, sigma = fixed.mean(), fixed.std(correction=0)
    below = (fixed < mu) & (sigma > 0)
    exponent = torch.where(below, mu * (mu - fixed) / sigma, 0.0).clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
    return -logsigmoid(beta * d - torch.where(below, beta * exponent.exp(), 0.0))


def gamma_po(
    batch: Batch,
    *,
    beta: float = GAMMA_PO["beta"],
    gamma_beta_ratio: float = GAMMA_PO["gamma_beta_ratio"],
    tau: float = GAMMA_PO["tau"],
) -> Tensor:
    """-log sigma(beta * d - gamma), gamma_i = gamma0 * B * softmax_i(-(gamma0 / tau) * sigma(gamma_i - beta * d_i)).

    gamma-PO on SimPO, Sun et al. 2025, arXiv 2506.03690; gamma0 = beta * gamma_beta_ratio is the mean margin over this
    batch and earlier pairs: over a small batch alone, margins are far from those of the corpus. `metrics.gamma_po` has
    the paper's parameters for other models.
    """
    gap = beta * batch.simpo_margin
    earlier = gap[:0] if batch.earlier_margins is None else beta * batch.earlier_margins
    margins = _gamma_po_margins(torch.cat([gap.detach(), earlier.to(gap)]), beta * gamma_beta_ratio, tau)
    return -logsigmoid(gap - margins[: len(gap)])


def _gamma_po_margins(gap: Tensor, gamma0: float, tau: float) -> Tensor:
    """gamma-PO's margins of a batch as the authors find them: 20 steps of exponentiated gradient from equal margins.

    gamma_i = gamma0 * B * p_i; the shares p go down tau * KL(p, uniform) + the mean of -log sigma(gap - gamma). With
    tau >= 0.5 a step halves the distance to the solution.
    """
    step, log_size = min(0.5 / tau, 1.0), math.log(len(gap))
    log_share = torch.zeros_like(gap)
    for _ in range(20):
        slope = tau * log_share + gamma0 * torch.sigmoid(gamma0 * log_share.exp() - gap)
        log_share = torch.log_softmax(log_share - step * slope, 0) + log_size
    return gamma0 * log_share.exp()


def madpo(
    batch: Batch,
    *,
    beta: float = 0.1,
    c_max: float = MADPO["c_max"],
    c_min: float | None = MADPO["c_min"],
    rate: float = MADPO["rate"],
    tau: float = MADPO["tau"],
    reward_scale: float = MADPO["scale"],
) -> Tensor:
    """-w * log sigma(beta * g), w = sigma(c * h) / sigma(h) where h > -tau, else 1 (MADPO, arXiv 2510.05342).

    h = reward_scale * reward_margin has to be in log-odds; `madpo_weight` has c, which falls with |h|.
    """
    h = batch.reward_margin.double().cpu().numpy()
    weight = madpo_weight(h, c_max=c_max, c_min=c_min, rate=rate, tau=tau, scale=reward_scale)
    weight = torch.from_numpy(weight).to(batch.chosen_logps)
    return -weight * logsigmoid(beta * batch.dpo_margin)


def bpo(batch: Batch, *, beta: float = BPO["beta"], alpha: float = BPO["alpha"]) -> Tensor:
    """-log sigma(min(beta * (s_w - s_w_ref), -alpha * beta * (s_l - s_l_ref))) (BPO, arXiv 2506.03557).

    Only the side that has improved less is trained on; alpha weighs the rejected side.
    """
    return -logsigmoid(torch.minimum(beta * batch.chosen_ratio, -alpha * beta * batch.rejected_ratio))


def bpo_hinge(batch: Batch, *, beta: float = BPO["beta"], alpha: float = BPO["alpha"]) -> Tensor:
    """max(0, 1 - min(beta * (s_w - s_w_ref), -alpha * beta * (s_l - s_l_ref))) (BPO, arXiv 2506.03557).

    The form of BPO that its authors report as the better one.
    """
    return torch.relu(1 - torch.minimum(beta * batch.chosen_ratio, -alpha * beta * batch.rejected_ratio))


def mmpo(batch: Batch, *, beta: float = 0.1, gamma: float = MMPO["gamma"]) -> Tensor:
    """-p * log sigma(beta * g) - (1 - p) * log sigma(-beta * g), p = sigma(gamma * h) (MMPO, arXiv 2410.03145).

    gamma brings the reward margin h to log-odds; the authors took 2.2, 0.3 and 1.1 for three reward models, so tune it.
    They swap pairs with p < 1/2 and give them 1 - p, which is the same sum.
    """
    p, logit = torch.sigmoid(gamma * batch.reward_margin), beta * batch.dpo_margin
    return -p * logsigmoid(logit) - (1 - p) * logsigmoid(-logit)


LOSSES: dict[Objective, Callable[..., Tensor]] = {
    loss.__name__: loss for loss in (dpo, simpo, repo, amapo, gamma_po, madpo, bpo, bpo_hinge, mmpo)
}


def all_parameters(objective: Objective, overrides: Mapping[str, float]) -> dict[str, Any]:
    """An objective's parameters: its defaults and what overrides them. Raises ConfigError for an unknown parameter."""
    known = default_of(LOSSES[objective])
    for name in overrides.keys() - known.keys():
        has = ", ".join(f"{key}={value}" for key, value in known.items())
        raise ConfigError(f"{objective} has no parameter {name!r}", f"the parameters of {objective}", f"it has {has}")
    return known | dict(overrides)


# The columns of a selection that an objective needs beside the pair; without any, the trained model is enough.
COLUMNS: dict[Objective, tuple[str, ...]] = dict.fromkeys(get_args(Objective), ()) | {
    "dpo": REFERENCE,
    "madpo": (*REFERENCE, "reward_margin"),
    "bpo": REFERENCE,
    "bpo_hinge": REFERENCE,
    "mmpo": (*REFERENCE, "reward_margin"),
}


def needs_reference(objective: Objective) -> bool:
    return set(REFERENCE) <= set(COLUMNS[objective])


def check_run(manifest: Manifest, objective: Objective, where: str) -> None:
    """Raises ConfigError for a run without pairs, in another layout than TRL's, or without the objective's columns."""
    layout = manifest["config"]["output_format"]
    if layout != "trl":
        do = "`mapjob rank` the run file with --set output_format=trl, then train on that run"
        raise ConfigError(f"the selection is in the layout of {layout}, and TRL trains on its own", where, do)
    if not manifest["counts"]["selected"]:
        raise ConfigError("no pair is selected, so there is nothing to train on", where, "raise selection.keep")
    # Ask for the scorer, not for the columns: the corpus may have columns of these names.
    if needs_reference(objective) and "reference" not in manifest["fingerprints"]:
        others = ", ".join(name for name, columns in COLUMNS.items() if not columns)
        raise ConfigError(
            f"{objective} needs {' and '.join(REFERENCE)}, and this run scored no reference",
            where,
            f"set models.reference and selection.implicit: dpo in the run file and run it again; or take {others}",
        )

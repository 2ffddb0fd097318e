"""Each objective on one batch against plain Python floats, and against the gradient that its constants leave."""

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mapjob.lab.training.losses import COLUMNS, LOSSES, Batch, all_parameters
from mapjob.lab.training.losses import gamma_po as gamma_po_loss
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.signals import amapo_margin, bpo_margin
from mapjob.metrics.statistics import Moments

Row = dict[str, float]
# Sums of log-probabilities and tokens of both sides, then the reference's, then the reward margin.
ROWS = [
    (-61.2, -80.5, 31, 44, -63.0, -79.1, 1.2),
    (-12.9, -9.3, 7, 6, -11.2, -9.9, -0.4),
    (-140.0, -99.9, 90, 41, -150.3, -97.0, 3.3),
    (-25.0, -75.0, 20, 25, -22.1, -60.7, 9.5),
    (-77.7, -30.3, 33, 20, -70.0, -41.0, -8.1),
    (-5.5, -6.1, 3, 3, -5.5, -6.1, 0.0),
]
NAMES = [field.name for field in fields(Batch) if field.name != "earlier_margins"]
PLAIN = [dict(zip(NAMES, row)) for row in ROWS]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def minus_log_sigma(x: float) -> float:
    return math.log1p(math.exp(-x)) if x >= 0 else -x + math.log1p(math.exp(x))


def d(row: Row) -> float:
    mean_chosen = row["chosen_logps"] / row["chosen_num_tokens"]
    return mean_chosen - row["rejected_logps"] / row["rejected_num_tokens"]


def ratios(row: Row) -> tuple[float, float]:
    return row["chosen_logps"] - row["ref_chosen_logps"], row["rejected_logps"] - row["ref_rejected_logps"]


def g(row: Row) -> float:
    return ratios(row)[0] - ratios(row)[1]


def dpo(rows: list[Row]) -> list[float]:
    return [minus_log_sigma(0.1 * g(row)) for row in rows]


def simpo(rows: list[Row]) -> list[float]:
    return [minus_log_sigma(2.5 * d(row) - 2.5 * 0.55) for row in rows]


def repo(rows: list[Row]) -> list[float]:
    return [max(0.0, 0.5 - d(row)) for row in rows]


def amapo(rows: list[Row]) -> list[float]:
    ds = [d(row) for row in rows]
    mu = sum(ds) / len(ds)
    deviation = math.sqrt(sum((x - mu) ** 2 for x in ds) / len(ds))
    margins = [2.0 * math.exp((mu - x) / deviation * mu) if x < mu else 0.0 for x in ds]
    return [minus_log_sigma(2.0 * x - margin) for x, margin in zip(ds, margins)]


def gamma_po(rows: list[Row]) -> list[float]:
    """The equation itself, solved by damped iteration."""
    gaps, gamma0, tau = [10.0 * d(row) for row in rows], 10.0 * 0.4, 10.0
    gammas = [gamma0] * len(gaps)
    for _ in range(400):
        raised = [math.exp(-(gamma0 / tau) * sigma(gamma - gap)) for gamma, gap in zip(gammas, gaps)]
        softmax = [each / sum(raised) for each in raised]
        gammas = [math.sqrt(gamma * gamma0 * len(gaps) * share) for gamma, share in zip(gammas, softmax)]
    return [minus_log_sigma(gap - gamma) for gap, gamma in zip(gaps, gammas)]


def madpo(rows: list[Row]) -> list[float]:
    losses = []
    for row in rows:
        h = row["reward_margin"]
        c = 0.5 + (2.0 - 0.5) / (1 + ((2.0 - 1) / (1 - 0.5)) * math.exp(abs(h) - 6.9068))
        weight = sigma(c * h) / sigma(h) if h > -6.9068 else 1.0
        losses.append(weight * minus_log_sigma(0.1 * g(row)))
    return losses


def bpo(rows: list[Row]) -> list[float]:
    return [minus_log_sigma(min(0.1 * ratios(row)[0], -0.3 * 0.1 * ratios(row)[1])) for row in rows]


def bpo_hinge(rows: list[Row]) -> list[float]:
    return [max(0.0, 1 - min(0.1 * ratios(row)[0], -0.3 * 0.1 * ratios(row)[1])) for row in rows]


def mmpo(rows: list[Row]) -> list[float]:
    """With the swap of pairs that are more likely the other way round."""
    losses = []
    for row in rows:
        p, gap = sigma(1.0 * row["reward_margin"]), 0.1 * g(row)
        if p < 0.5:
            p, gap = 1 - p, -gap
        losses.append(p * minus_log_sigma(gap) + (1 - p) * minus_log_sigma(-gap))
    return losses


BY_HAND: dict[str, Callable[[list[Row]], list[float]]] = {
    each.__name__: each for each in (dpo, simpo, repo, amapo, gamma_po, madpo, bpo, bpo_hinge, mmpo)
}


def batch(rows: list[Row], requires_grad: bool = False) -> Batch:
    columns = {name: torch.tensor([float(row[name]) for row in rows]) for name in NAMES}
    for name in ("chosen_logps", "rejected_logps"):
        columns[name].requires_grad_(requires_grad)
    return Batch(**columns)


def test_gamma_po_is_solved_over_the_batch_and_earlier_pairs():
    earlier = PLAIN[3:]
    ours = gamma_po_loss(replace(batch(PLAIN[:3]), earlier_margins=torch.tensor([d(row) for row in earlier])))
    assert ours.tolist() == pytest.approx(BY_HAND["gamma_po"](PLAIN)[:3], abs=1e-5, rel=0)
    assert ours.tolist() != pytest.approx(BY_HAND["gamma_po"](PLAIN[:3]), abs=1e-2, rel=0)


def test_every_objective_is_here():
    assert LOSSES.keys() == BY_HAND.keys() == COLUMNS.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_one_batch_by_hand(name):
    ours = LOSSES[name](batch(PLAIN)).tolist()
    print(f"{name}: largest deviation {max(abs(a - b) for a, b in zip(ours, BY_HAND[name](PLAIN))):.1e}")
    assert ours == pytest.approx(BY_HAND[name](PLAIN), abs=1e-5, rel=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_pair_alone_and_pairs_that_are_all_the_same(name):
    for rows in (PLAIN[:1], [PLAIN[3]] * 4):
        values = LOSSES[name](batch(rows, requires_grad=True))
        values.mean().backward()
        assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", ["amapo", "gamma_po", "madpo"])
def test_no_gradient_flows_through_margins_and_weights(name):
    """The gradient of the loss with respect to s_w is that with the margin, or weight, as a number."""
    pairs = batch(PLAIN, requires_grad=True)
    LOSSES[name](pairs).sum().backward()
    values = BY_HAND[name](PLAIN)
    expected = []
    for row, value in zip(PLAIN, values):
        if name == "madpo":
            expected.append(-0.1 * value / minus_log_sigma(0.1 * g(row)) * sigma(-0.1 * g(row)))
        else:  # value = -log sigma(x), and x is beta * d less a number
            beta = all_parameters(name, {})["beta"]
            expected.append(-beta / row["chosen_num_tokens"] * (1 - math.exp(-value)))
    assert pairs.chosen_logps.grad.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_pairs_beyond_repos_margin_have_no_gradient():
    pairs = batch(PLAIN, requires_grad=True)
    LOSSES["repo"](pairs).sum().backward()
    assert [value == 0 for value in pairs.chosen_logps.grad.tolist()] == [d(row) >= 0.5 for row in PLAIN]


def test_bpo_moves_the_binding_side_alone():
    pairs = batch(PLAIN[:5], requires_grad=True)
    LOSSES["bpo"](pairs).sum().backward()
    columns = {name: np.array([row[name] for row in PLAIN[:5]]) for name in NAMES[:2] + NAMES[4:6]}
    _, chosen_binds = bpo_margin(**columns)
    assert [value != 0 for value in pairs.chosen_logps.grad.tolist()] == chosen_binds.tolist()
    assert [value == 0 for value in pairs.rejected_logps.grad.tolist()] == chosen_binds.tolist()


def test_a_batch_that_is_the_corpus_has_the_margins_of_the_columns():
    """What `mapjob` computes over a corpus is what is trained with when one batch holds it all."""
    ds = np.array([d(row) for row in PLAIN])
    margins = amapo_margin(ds, Moments.of(ds)).values
    assert LOSSES["amapo"](batch(PLAIN)).tolist() == pytest.approx(
        [minus_log_sigma(2.0 * x - margin) for x, margin in zip(ds, margins)], abs=1e-5
    )
    gaps, margins = [10.0 * x for x in ds], gamma_po_margin(ds).values
    assert LOSSES["gamma_po"](batch(PLAIN)).tolist() == pytest.approx(
        [minus_log_sigma(gap - margin) for gap, margin in zip(gaps, margins)], abs=1e-5
    )

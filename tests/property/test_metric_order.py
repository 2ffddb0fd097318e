"""One table in any order and in any parts gives each pair the same bits, where the corpus statistics are the same."""

import numpy as np
import pytest

from mapjob.metrics.bees import bees
from mapjob.metrics.dcrm import dcrm
from mapjob.metrics.ensemble import standardise
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.peers import beta_dpo_weight, data_map, ifd_margin, length_free, on_policy, reducible_loss
from mapjob.metrics.signals import (
    alpha_dpo_margin,
    amapo_margin,
    bpo_margin,
    madpo_weight,
    mmpo_target,
    repo_loss,
    wpo_weight,
)
from mapjob.metrics.statistics import Moments

NUM = 1_003  # no multiple of what vector instructions take at once
RNG = np.random.default_rng(0)
H, D, G = RNG.normal(0.5, 2, NUM), RNG.normal(0.1, 0.6, NUM), RNG.normal(3, 15, NUM).round(1)
S = -RNG.gamma(20, 5, (6, NUM))
N = RNG.integers(1, 300, (2, NUM)).astype(float)

OF_D, OF_G, OF_H = Moments.of(D), Moments.of(G), Moments.of(H)


def ensemble(i: np.ndarray) -> np.ndarray:
    return standardise({"a": H[i], "b": G[i]}, {"a": OF_H, "b": OF_G})[0]


# Each takes the rows of an index array.
WITH_STATISTICS_GIVEN = {
    "dcrm": lambda i: dcrm(H[i], N[0, i], S[0, i], S[1, i]),
    "beta_dpo_weight": lambda i: beta_dpo_weight(G[i], OF_G).values,
    "ifd_margin": lambda i: ifd_margin(*S[:4, i], *N[:, i]),
    "amapo_margin": lambda i: amapo_margin(D[i], OF_D).values,
    "bpo_margin": lambda i: bpo_margin(*S[:4, i])[0],
    "repo_loss": lambda i: repo_loss(D[i])[0],
    "madpo_weight": lambda i: madpo_weight(H[i]),
    "mmpo_target": lambda i: mmpo_target(H[i])[0],
    "on_policy": lambda i: on_policy(*S[:4, i], *N[:, i]),
    "reducible_loss": lambda i: reducible_loss(D[i], G[i], 0.7),
    "wpo_weight": lambda i: wpo_weight(*S[:4, i], *N[:, i]),
    "ensemble mean": lambda i: ensemble(i).mean(axis=0),
    "ensemble worst": lambda i: ensemble(i).min(axis=0),
    "ensemble disagreement": lambda i: ensemble(i).std(axis=0),
}
OF_THE_WHOLE_CORPUS = {
    "bees": lambda i: bees({"reward": H[i]}, G[i]).values,
    "gamma_po_margin": lambda i: gamma_po_margin(D[i]).values,
    "alpha_dpo_margin": lambda i: alpha_dpo_margin(D[i], *S[:2, i], *N[:, i], gamma_beta_ratio=0.3).values,
    "data_map": lambda i: data_map(H[i], G[i]).values,
    "length_free": lambda i: length_free(H[i], *N[:, i]).values,
}


@pytest.mark.parametrize("name", [*WITH_STATISTICS_GIVEN, *OF_THE_WHOLE_CORPUS])
def test_any_order(name):
    values = {**WITH_STATISTICS_GIVEN, **OF_THE_WHOLE_CORPUS}[name]
    order = np.random.default_rng(1).permutation(NUM)
    assert values(order).tobytes() == values(np.arange(NUM))[order].tobytes()


@pytest.mark.parametrize("name", WITH_STATISTICS_GIVEN)
@pytest.mark.parametrize("rows_per_part", [1, 7, 64])
def test_any_parts(name, rows_per_part):
    values = WITH_STATISTICS_GIVEN[name]
    parts = [np.arange(start, min(start + rows_per_part, NUM)) for start in range(0, NUM, rows_per_part)]
    assert np.concatenate([values(part) for part in parts]).tobytes() == values(np.arange(NUM)).tobytes()

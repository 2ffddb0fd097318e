"""Metrics and signals at the edges: ties, constants, huge and tiny margins, and values that are no numbers.

The oracle is arithmetic of 60 digits (mpmath), which knows no overflow and no cancellation.
"""

import re
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mpmath import mpf

from mapjob.config.selection import Selection
from mapjob.errors import ConfigError
from mapjob.metrics.bees import CLAMP, bees, upper_bound
from mapjob.metrics.columns import (
    COLLISION,
    DISTANCE,
    EACH_MODEL,
    IMPLICIT,
    MARGINS,
    POLICY,
    REFERENCE,
    REWARD,
    UNCONDITIONAL,
)
from mapjob.metrics.dcrm import dcrm
from mapjob.metrics.ensemble import VOTES, standardise
from mapjob.metrics.gamma_po import gamma_po_margin
from mapjob.metrics.map import Scale
from mapjob.metrics.peers import beta_dpo_weight, data_map, ifd_margin, length_free, reducible_loss
from mapjob.metrics.reward_augmented import reward_goals
from mapjob.metrics.signals import (
    SIGNALS,
    alpha_dpo_margin,
    amapo_margin,
    bpo_margin,
    compute_signal,
    madpo_weight,
    mmpo_target,
    repo_loss,
    wpo_weight,
)
from mapjob.metrics.statistics import Moments, log_sigmoid, sigmoid
from mapjob.metrics.table import METRICS, Inputs, metric
from mapjob.ranking.gather import gather
from mapjob.ranking.rank import rank_pairs
from tests.golden.columns import pairs_of

pytestmark = pytest.mark.filterwarnings("error")

mpmath.mp.dps = 60

# Below this, exp has no float64 to round to but 0.
SMALLEST_EXPONENT = -740

# Ties are the rule, and so are numbers of very different size; 1e100 is the largest that is taken.
numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 30.0, -30.0, 800.0, -800.0, 1e-9, 1e100, -1e100])
numbers |= st.floats(-50, 50).map(lambda x: round(x, 3))
tokens = st.sampled_from([1.0, 2.0, 7.0, 2048.0])
few = settings(max_examples=60, deadline=None)


ONE, TWO = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 1.0])
ANY_MOMENTS = Moments.of(ONE)
RATES = {"alpha_dpo_margin": {"gamma_beta_ratio": 0.3}}
ANY_REWARDS = {"a": ANY_MOMENTS, "b": ANY_MOMENTS}
SCORED = {name: TWO for name in (*REWARD, *POLICY, *REFERENCE, *UNCONDITIONAL, *COLLISION, *MARGINS, DISTANCE)}
SCORED |= {f"reward_margin.{model}": TWO for model in ANY_REWARDS}


def columns(count: int, values: st.SearchStrategy[float] = numbers, max_size: int = 12) -> st.SearchStrategy:
    """`count` columns of one length."""
    row = st.tuples(*[values] * count)
    rows = st.lists(row, min_size=1, max_size=max_size)
    return rows.map(lambda given_rows: [np.array(column) for column in zip(*given_rows)])


def assert_close(ours: np.ndarray, theirs: list) -> None:
    """To nine digits, and no zero where the exact value is a float64."""
    assert np.isfinite(ours).all()
    for value, exact in zip(ours.tolist(), theirs, strict=True):
        assert abs(mpf(value) - exact) <= mpf("1e-9") * abs(exact) + mpf("1e-300"), (value, exact)
        assert (value == 0) <= (abs(exact) < mpf("1e-300"))


def mp_sigma(x: mpf) -> mpf:
    return 1 / (1 + mpmath.exp(-x))


def of(column: np.ndarray) -> list[mpf]:
    return [mpf(value) for value in column.tolist()]


# Closed formulas against exact arithmetic


@given(columns(1))
def test_sigmoid(given_columns):
    (x,) = given_columns
    assert_close(sigmoid(x), [mp_sigma(value) for value in of(x)])
    assert_close(log_sigmoid(x), [-mpmath.log1p(mpmath.exp(-value)) for value in of(x)])
    assert sigmoid(np.zeros(1))[0] == 0.5


@given(columns(3), st.sampled_from([1.0, 0.01, 150.0]), st.integers(0, 5000))
def test_dcrm(given_columns, scale, distance):
    h, s_w, s_l = given_columns
    exact = [
        (mp_sigma(scale * x) - mpf("0.5")) / (distance + abs(w - u) + 1) for x, w, u in zip(of(h), of(s_w), of(s_l))
    ]
    ours = dcrm(h, np.full(len(h), distance), s_w, s_l, scale=scale)
    assert_close(ours, exact)
    assert np.sign(ours).tolist() == np.sign(h).tolist()


@given(columns(1))
def test_beta_dpo_weight(given_columns):
    (g,) = given_columns
    moments = Moments.of(g)
    ours = beta_dpo_weight(g, moments)
    assert bool(ours.warnings) == (moments.std == 0)
    if moments.std == 0:
        assert ours.values.tolist() == [1.0] * len(g)
    else:
        mu, sigma = mpf(moments.mean), mpf(moments.std)
        assert_close(ours.values, [mpmath.exp(-(((x - mu) / sigma) ** 2) / 2) for x in of(g)])


@given(columns(4, st.floats(-600, 0).map(lambda x: round(x, 2))), tokens, tokens)
def test_ifd_margin(given_columns, n_w, n_l):
    s_w, s_l, u_w, u_l = given_columns
    counts = {"chosen_num_tokens": np.full(len(s_w), n_w), "rejected_num_tokens": np.full(len(s_w), n_l)}
    ours = ifd_margin(s_w, s_l, u_w, u_l, **counts)
    assert np.isfinite(ours).all()
    for value, w, u, without_w, without_u in zip(ours.tolist(), *map(of, given_columns), strict=True):
        sides = mpmath.exp((without_w - w) / n_w), mpmath.exp((without_u - u) / n_l)
        # The difference has the digits of the larger of the two perplexity ratios.
        assert abs(mpf(value) - (sides[0] - sides[1])) <= mpf("1e-12") * max(sides)


@given(columns(1), st.sampled_from([0.25, 2.0, 3.0]))
def test_amapo_margin(given_columns, beta):
    (d,) = given_columns
    moments = Moments.of(d)
    ours = amapo_margin(d, moments, beta=beta).values
    if moments.std == 0:
        assert not ours.any()
        return
    mu, sigma = mpf(moments.mean), mpf(moments.std)
    exact = []
    for x in of(d):
        exponent = (mu - x) / sigma * mu
        value = mpmath.exp(max(min(exponent, 20), -20)) * beta
        exact.append(value if x < mu else mpf(0))
    assert_close(ours, exact)


@given(columns(1))
def test_alpha_dpo_margin(given_columns):
    (g,) = given_columns
    none, one = np.zeros(len(g)), np.ones(len(g))
    moments = Moments.of(g)
    ours = alpha_dpo_margin(g, none, none, one, one, gamma_beta_ratio=0.4, alpha=0.1)
    if moments.std == 0:
        assert ours.values.tolist() == [0.4] * len(g)
    else:
        mu, sigma = mpf(moments.mean), mpf(moments.std)
        exact = [mpf(0.4) + mpf(0.1) * ((x - mu) / sigma) for x in of(g)]
        np.testing.assert_allclose(ours.values, [float(x) for x in exact], rtol=1e-9, atol=1e-12)


@given(columns(4))
def test_bpo_margin(given_columns):
    s_w, s_l, ref_w, ref_l = given_columns
    same = (s_w == ref_w).all() and (s_l == ref_l).all()
    if same:
        with pytest.raises(ConfigError, match="reference"):
            bpo_margin(s_w, s_l, ref_w, ref_l)
        return
    rho, chosen_binds = bpo_margin(s_w, s_l, ref_w, ref_l, beta=0.1, alpha=0.3)
    for value, binds, w, u, rw, ru in zip(rho.tolist(), chosen_binds, *map(of, given_columns), strict=True):
        chosen, rejected = mpf(0.1) * (w - rw), -mpf(0.3) * mpf(0.1) * (u - ru)
        nearly = mpf("1e-9") * (abs(chosen) + abs(rejected)) + mpf("1e-15") * (abs(w) + abs(u) + abs(rw) + abs(ru))
        assert abs(mpf(value) - min(chosen, rejected)) <= nearly
        assert binds == (chosen <= rejected) or abs(chosen - rejected) <= nearly


@given(columns(1), st.sampled_from([0.4, 0.6, 1.0]))
def test_repo_loss(given_columns, gamma):
    (d,) = given_columns
    loss, active = repo_loss(d, gamma=gamma)
    assert_close(loss, [max(mpf(0), mpf(gamma) - x) for x in of(d)])
    assert active.tolist() == [x < gamma for x in d.tolist()]
    assert (loss > 0).tolist() == active.tolist()


@given(columns(1), st.sampled_from([(2.0, 0.5, 1.0, 6.9068), (1.5, 0.1, 3.0, 0.0), (10.0, 0.9, 0.1, 60.0)]))
def test_madpo_weight(given_columns, parameters):
    (h,) = given_columns
    c_max, c_min, rate, tau = parameters
    exact = []
    for x in of(h):
        ratio = (mpf(c_max) - 1) / (1 - mpf(c_min))
        c = mpf(c_min) + (mpf(c_max) - mpf(c_min)) / (1 + ratio * mpmath.exp(mpf(rate) * (abs(x) - mpf(tau))))
        exact.append(mp_sigma(c * x) / mp_sigma(x) if x > -mpf(tau) else mpf(1))
    assert_close(madpo_weight(h, c_max=c_max, c_min=c_min, rate=rate, tau=tau), exact)


@given(columns(1), st.sampled_from([2.2, 0.3, 1.1]))
def test_mmpo_target(given_columns, gamma):
    (h,) = given_columns
    target, swapped = mmpo_target(h, gamma=gamma)
    p = [mp_sigma(mpf(gamma) * x) for x in of(h)]
    assert_close(target, [max(value, 1 - value) for value in p])
    assert swapped.tolist() == [value < 0.5 for value in p]


@given(columns(4), tokens, tokens)
def test_wpo_weight(given_columns, n_w, n_l):
    counts = {"chosen_num_tokens": np.full(len(given_columns[0]), n_w)}
    counts["rejected_num_tokens"] = np.full(len(given_columns[0]), n_l)
    ours = wpo_weight(*given_columns, **counts)
    assert np.isfinite(ours).all()
    for value, w, u, q_w, q_u in zip(ours.tolist(), *map(of, given_columns), strict=True):
        log_weight = min(mpf(0), (w - q_w) / n_w + (u - q_u) / n_l)
        size = abs(w) + abs(q_w) + abs(u) + abs(q_u)  # what rounding of the sums may cost
        if size < 1e5:
            assert abs(mpf(value) - mpmath.exp(log_weight)) <= mpf("1e-9") * mpmath.exp(log_weight) + mpf("1e-300")
            assert value > 0 or log_weight < SMALLEST_EXPONENT
        assert 0 <= value <= 1


# Eighths are exact in binary, so a spread of 0 is one in both kinds of arithmetic.
eighths = st.sampled_from([0.0, -0.0, 1.0, -1.0, 800.0]) | st.integers(-400, 400).map(lambda x: x / 8)


def mp_z(values: list[mpf]) -> list[mpf]:
    mu = mpmath.fsum(values) / len(values)
    sigma = mpmath.sqrt(mpmath.fsum((x - mu) ** 2 for x in values) / len(values))
    return [(x - mu) / sigma if sigma else mpf(0) for x in values]


def assert_near(ours: np.ndarray, theirs: list, sizes: list) -> None:
    """To nine digits of the parts that a value is the difference of."""
    for value, exact, size in zip(ours.tolist(), theirs, sizes, strict=True):
        assert abs(mpf(value) - exact) <= mpf("1e-9") * (size + mpf("1e-9")), (value, exact)


@given(columns(2, eighths))
def test_data_map(given_columns):
    w, u = map(of, given_columns)
    means, spreads = ([(x + sign * y) / 2 for x, y in zip(w, u)] for sign in (1, -1))
    parts = mp_z(means), mp_z([abs(x) for x in spreads])
    ours = data_map(*given_columns)
    assert_near(ours.values, [m - s for m, s in zip(*parts)], [abs(m) + abs(s) for m, s in zip(*parts)])
    assert len(ours.warnings) == sum(not any(part) for part in parts)


@given(columns(1, eighths, 30), st.lists(st.tuples(tokens, tokens), min_size=30, max_size=30))
def test_length_free(given_columns, lengths):
    (h,) = given_columns
    n_w, n_l = (np.array(side[: len(h)]) for side in zip(*lengths))
    longer = of(n_w - n_l)
    mu, mean_h = (mpmath.fsum(values) / len(h) for values in (longer, of(h)))
    squares = mpmath.fsum((x - mu) ** 2 for x in longer)
    products = mpmath.fsum((x - mu) * (y - mean_h) for x, y in zip(longer, of(h)))
    slope = products / squares if squares else mpf(0)
    ours = length_free(h, n_w, n_l)
    largest = max(map(abs, of(h)))  # a slope is as sure as the margins that it is made of
    exact = [y - slope * x for x, y in zip(longer, of(h))]
    assert_near(ours.values, exact, [largest + abs(slope * x) for x in longer])
    assert bool(ours.warnings) == (squares == 0)


@given(columns(2, numbers | eighths), st.sampled_from([0.0, 1.0, 1e-3, 30.0]))
def test_reducible_loss(given_columns, unit):
    after, before = given_columns
    if (after == before).all():
        with pytest.raises(ConfigError, match="every reducible loss is 0"):
            reducible_loss(after, before, unit)
        return
    losses = [[mpmath.log1p(mpmath.exp(-mpf(unit) * x)) for x in of(column)] for column in given_columns]
    ours = reducible_loss(after, before, unit)
    assert np.isfinite(ours).all()
    assert_near(ours, [b - a for a, b in zip(*losses)], [a + b for a, b in zip(*losses)])


@given(st.lists(st.lists(st.sampled_from([-2.0, -1e-9, 0.0, -0.0, 1.0]), min_size=1, max_size=9), min_size=1))
def test_votes(rows):
    """A model that gives all pairs one reward never votes, whatever the others do."""
    width = min(map(len, rows))
    margins_KN = np.array([row[:width] for row in rows])
    for vote in VOTES.values():
        fallen = vote.contradicts(margins_KN)
        assert fallen.tolist() == vote.contradicts(np.vstack([margins_KN, np.zeros(width)])).tolist()
        assert not (fallen & vote.contradicts(-margins_KN)).any()
        assert fallen[(margins_KN < 0).all(axis=0)].all()
    assert (VOTES["all"].contradicts(margins_KN) <= VOTES["majority"].contradicts(margins_KN)).all()


# Corpora of one pair, and of equal pairs


@pytest.mark.parametrize("num", [1, 4])
@pytest.mark.parametrize("name", [name for name in METRICS if name != "random"])
def test_equal_pairs_have_one_value_and_are_ranked_by_their_ids(name, num):
    scored = (column for column in SCORED if "margin" not in column)
    c = {column: np.full(num, (1.0 + i) ** 2) for i, column in enumerate(scored)}
    both = {"chosen": np.full(num, 5.0), "rejected": np.full(num, 3.0)}
    c |= {f"{side}_reward.{model}": values for model in "ab" for side, values in both.items()}
    moments = Moments.of(np.array([5.0, 3.0]))
    pairs, selection = pairs_of(c), Selection(metric=name, scale="raw", keep={"count": num})
    ranked = gather([pairs], num, selection, {"a": moments, "b": moments})
    ranking = rank_pairs(ranked, selection, pairs.pair_id.take)
    assert np.isfinite(ranking.score).all()
    assert len(set(ranking.score.tolist())) == 1
    assert ranking.kept.tolist() == list(range(num))


# Corpus procedures


@few
@given(st.lists(numbers, min_size=1, max_size=60), st.integers(1, 40), st.sampled_from([1.5, 2.0]))
def test_bees_search_is_the_step_by_step_one(values, repeats, divisor):
    margin = np.array(values * repeats)  # more than 30, so that the search takes steps
    largest, u = max(values), int(max(values) / divisor)
    above = sum(m > u for m in margin.tolist())
    while not (above < largest - u or above < 30 or u > largest):
        u += 1
        above = sum(m > u for m in margin.tolist())
    assert upper_bound(margin, divisor) == u


def test_bees_search_takes_many_steps_where_many_margins_are_large():
    """A hundred margins at 90 and one at 100: bounds from 50 on leave out too many, until fewer than 30 are above."""
    assert upper_bound(np.array([90.0] * 100 + [100.0]), 2.0) == 90.0
    assert upper_bound(np.array([9.0] * 29 + [10.0]), 2.0) == 9.0, "30 above 5 are not few"
    assert upper_bound(np.array([9.0] * 28 + [10.0]), 2.0) == 5.0, "29 are"
    assert upper_bound(np.array([0.04, 0.1] * 50), 1.5) == 1.0, "above the largest: no bound was found"


@given(columns(2, max_size=40))
def test_bees(given_columns):
    explicit, implicit = given_columns
    ours = bees({"reward": explicit}, implicit)
    assert np.isfinite(ours.values).all()
    assert ((ours.values > 0) & (ours.values < 1 + 1e-15)).all()
    # Larger on both sides is never worse.
    order = np.lexsort((implicit, explicit))
    for i, j in pairwise(order):
        if implicit[i] <= implicit[j]:
            assert ours.values[i] <= ours.values[j] * (1 + 1e-12)


@given(columns(2, max_size=40))
def test_bees_of_entirely_contradictory_pairs(given_columns):
    """Where both sources tell pairs apart: the best of one that is the worst of the other gets 0.5."""
    explicit = np.concatenate([given_columns[0], [1e4, -1e4, 0.0]])
    implicit = np.concatenate([given_columns[1], [-1e4, 1e4, 0.0]])
    assume(np.abs(explicit).max() <= 1e4 and np.abs(implicit).max() <= 1e4)
    values = bees({"reward": explicit}, implicit).values
    assert values[-3] == values[-2] == 0.5


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=30))
def test_bees_of_constant_sources_says_nothing(models):
    constant = {f"model {i}": np.full(4, row[0]) for i, row in enumerate(models)}
    ours = bees(constant)
    assert ours.values.tolist() == [0.5] * 4
    assert len(ours.warnings) == len(constant)


def test_many_sure_models_stay_within_the_numbers():
    margin = np.array([-50.0, 0.0, 50.0])
    values = bees({f"model {i}": margin for i in range(50)}).values
    assert 0 < values[0] < 1e-290
    assert values[2] == 1.0
    assert bees({"one": margin}).values[0] == pytest.approx(CLAMP)


@few
@given(
    st.lists(numbers, min_size=1, max_size=30),
    st.sampled_from([4.0, 5.0, 0.375, 3.0, 0.01, 40.0]),
    st.sampled_from([10.0, 20.0, 3.0, 1.0]),
)
def test_gamma_po_solves_its_equation(gaps, gamma0, tau):
    ours = gamma_po_margin(np.array(gaps), beta=1.0, gamma_beta_ratio=gamma0, tau=tau)
    assert not ours.warnings
    gammas = of(ours.values)
    v = [mpmath.exp(-(mpf(gamma0) / mpf(tau)) * mp_sigma(x - mpf(gap))) for x, gap in zip(gammas, gaps)]
    middle = mpmath.fsum(v) / len(v)
    assert_close(ours.values, [mpf(gamma0) * x / middle for x in v])
    assert abs(mpmath.fsum(gammas) / len(gammas) - gamma0) <= mpf("1e-9") * gamma0
    # A clearer pair has no smaller margin.
    by_gap = ours.values[np.argsort(gaps, kind="stable")]
    assert (np.diff(by_gap) >= -1e-12 * gamma0).all()


@pytest.mark.parametrize("gaps", [[0.0, 41.0], [0.0, 45.0], [1e100, -1e100], [0.0] * 5 + [39.9]])
def test_gamma_po_converges_where_margins_jump(gaps):
    """gamma0 / tau of 40: margins fall off a cliff, where plain Newton steps go back and forth."""
    ours = gamma_po_margin(np.array(gaps), beta=1.0, gamma_beta_ratio=40.0, tau=1.0)
    assert not ours.warnings
    v = [mpmath.exp(-40 * mp_sigma(x - mpf(gap))) for x, gap in zip(of(ours.values), gaps)]
    assert_close(ours.values, [40 * x * len(v) / mpmath.fsum(v) for x in v])


@given(columns(3, max_size=20), st.lists(numbers, min_size=6, max_size=20))
def test_ensemble(given_columns, rewards):
    moments = {f"{i}": Moments.of(np.array(rewards) * 10.0**-i) for i in range(3)}
    reward_margins = {f"{i}": margin for i, margin in enumerate(given_columns)}
    if moments["0"].std == 0:
        assume(all(m.std == 0 for m in moments.values()))
        with pytest.raises(ConfigError, match="same reward"):
            standardise(reward_margins, moments)
        return
    margins_KN, _ = standardise(reward_margins, moments)
    mean, worst, disagreement = margins_KN.mean(axis=0), margins_KN.min(axis=0), margins_KN.std(axis=0)
    for column in (mean, worst, disagreement):
        assert np.isfinite(column).all()
    assert (worst <= mean + 1e-9 * np.abs(mean)).all()
    assert (disagreement >= 0).all()


@given(columns(2))
def test_reward_goals_lie_between_1_and_10(given_columns):
    chosen, rejected = given_columns
    if not (chosen > rejected).any():
        with pytest.raises(ConfigError, match="no goal"):
            reward_goals(chosen, rejected)
        return
    goals = reward_goals(chosen, rejected)
    assert ((goals.goal >= 1) & (goals.goal <= 10)).all()
    assert goals.pair.tolist() == [i for i in range(len(chosen)) if chosen[i] > rejected[i] for _ in range(2)]
    assert goals.num_skipped == (chosen <= rejected).sum()
    assert (goals.goal[::2] >= goals.goal[1::2]).all()


# Refusals


def columns_of(method: tuple[str, ...]) -> list[str]:
    named = [f"reward_margin.{model}" for model in ANY_REWARDS] if EACH_MODEL in method else []
    return [*named, *("simpo_margin" if name == IMPLICIT else name for name in method if name != EACH_MODEL)]


METHODS = [(name, column) for name, entry in METRICS.items() for column in columns_of(entry.columns)]
METHODS += [(name, column) for name, entry in SIGNALS.items() if entry.yields for column in columns_of(entry.columns)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize(("name", "column"), [pair for pair in METHODS if pair != ("ensemble_mean", "reward_margin")])
def test_what_is_no_number_is_refused_with_its_column_and_row(name, column, bad):
    inputs = Inputs(SCORED | {column: np.array([1.0, bad, 3.0])}, "simpo", Scale(1.0, 1.0), rewards=ANY_REWARDS)
    with pytest.raises(ValueError, match=f"{re.escape(column)} is .* in row 1;"):
        metric(name, inputs) if name in METRICS else compute_signal(name, RATES.get(name, {}), inputs)


@pytest.mark.parametrize("taker", [ifd_margin, wpo_weight])
def test_a_completion_without_tokens_is_refused(taker):
    with pytest.raises(ValueError, match="0 tokens"):
        taker(ONE, ONE, ONE, ONE, np.array([1.0, 0.0, 1.0]), ONE)


def test_a_perplexity_ratio_without_a_number_is_refused():
    with pytest.raises(ValueError, match="nats per token"):
        ifd_margin(np.array([-2000.0]), np.zeros(1), np.zeros(1), np.zeros(1), np.ones(1), np.ones(1))


def test_empty_columns_are_no_error():
    none = np.zeros(0)
    for ours in (bees({"reward": none}, none).values, gamma_po_margin(none).values, dcrm(*[none] * 4)):
        assert ours.shape == (0,)
    assert ifd_margin(*[none] * 6).shape == wpo_weight(*[none] * 6).shape == (0,)

"""Every metric and signal a second time: plain Python over rows, as the formulas are written, with no thought of speed.

A row is a dict of floats. Functions of a whole corpus take the list of rows. Nothing here is shared with mapjob.
"""

import math
import statistics
from collections.abc import Callable, Sequence

Row = dict[str, float]


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def h(row: Row) -> float:
    return row["chosen_reward"] - row["rejected_reward"]


def d(row: Row) -> float:
    return row["chosen_logps"] / row["chosen_num_tokens"] - row["rejected_logps"] / row["rejected_num_tokens"]


def gains(row: Row) -> tuple[float, float]:
    """s - s_ref of both sides."""
    return row["chosen_logps"] - row["ref_chosen_logps"], row["rejected_logps"] - row["ref_rejected_logps"]


def g(row: Row) -> float:
    chosen, rejected = gains(row)
    return chosen - rejected


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    middle = mean(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


# Selection


def clipping_bound(margins: Sequence[float], divisor: float) -> int:
    u = int(max(margins) / divisor)
    largest = max(margins)
    while True:
        above = sum(1 for m in margins if u < m)
        if above < largest - u or above < 30 or u > largest:
            return u
        u += 1


def bees(sources: Sequence[tuple[Sequence[float], float]]) -> list[float]:
    """sources: (margins, divisor of the search) of each."""
    probabilities = []
    for margins, divisor in sources:
        u = clipping_bound(margins, divisor)
        heights = [min(max(m, -2), u) + 2 for m in margins]
        highest = max(heights)
        probabilities.append([min(max(x / highest, 2**-20), 1 - 2**-20) for x in heights])
    found = []
    for ps in zip(*probabilities):
        right, wrong = math.prod(ps), math.prod(1 - p for p in ps)
        found.append(right / (right + wrong))
    return found


def dcrm(row: Row, scale: float) -> float:
    apart = row["edit_distance"] + abs(row["chosen_logps"] - row["rejected_logps"])
    return (sigma(scale * h(row)) - 0.5) / (apart + 1)


def ifd_margin(row: Row) -> float:
    def difficulty(side: str) -> float:
        tokens = row[f"{side}_num_tokens"]
        return math.exp(-row[f"{side}_logps"] / tokens) / math.exp(-row[f"{side}_unconditional_logps"] / tokens)

    return difficulty("chosen") - difficulty("rejected")


def beta_dpo_weight(rows: Sequence[Row], implicit: Callable[[Row], float]) -> list[float]:
    values = [implicit(row) for row in rows]
    mu, dev = mean(values), deviation(values)
    return [math.exp(-0.5 * ((value - mu) / dev) ** 2) for value in values]


def levenshtein(one: Sequence[int], other: Sequence[int]) -> int:
    previous = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        current = [i]
        for j, b in enumerate(other, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


def data_map(rows: Sequence[Row]) -> list[float]:
    means = [mean([row["chosen_reward"], row["rejected_reward"]]) for row in rows]
    spreads = [deviation([row["chosen_reward"], row["rejected_reward"]]) for row in rows]
    (m, m_dev), (s, s_dev) = [(mean(values), deviation(values)) for values in (means, spreads)]
    return [(x - m) / m_dev - (y - s) / s_dev for x, y in zip(means, spreads)]


def length_free(rows: Sequence[Row]) -> list[float]:
    longer = [row["chosen_num_tokens"] - row["rejected_num_tokens"] for row in rows]
    slope = statistics.linear_regression(longer, [h(row) for row in rows]).slope
    return [h(row) - slope * x for row, x in zip(rows, longer)]


def on_policy(row: Row) -> float:
    def mean_weight(side: str) -> float:
        return (row[f"{side}_logps"] - row[f"{side}_collision_logps"]) / row[f"{side}_num_tokens"]

    return mean_weight("chosen") + mean_weight("rejected")


def reducible_loss(rows: Sequence[Row]) -> list[float]:
    """In standard deviations of |d|; the reference is the policy before."""

    def loss(margin: float) -> float:
        return math.log1p(math.exp(-margin / unit))

    def before(row: Row) -> float:
        return (
            row["ref_chosen_logps"] / row["chosen_num_tokens"] - row["ref_rejected_logps"] / row["rejected_num_tokens"]
        )

    unit = deviation([abs(d(row)) for row in rows])
    return [loss(before(row)) - loss(d(row)) for row in rows]


def models_of(row: Row) -> list[str]:
    return [name.removeprefix("chosen_reward.") for name in row if name.startswith("chosen_reward.")]


def margin_of(row: Row, model: str) -> float:
    return row[f"chosen_reward.{model}"] - row[f"rejected_reward.{model}"]


def in_deviations(rows: Sequence[Row]) -> list[tuple[float, ...]]:
    """The margins of every pair by each model, in standard deviations of the model's rewards."""
    columns = []
    for model in models_of(rows[0]):
        unit = deviation([row[f"{side}_reward.{model}"] for side in ("chosen", "rejected") for row in rows])
        columns.append([margin_of(row, model) / unit for row in rows])
    return list(zip(*columns))


def is_contradicted(row: Row, votes: str) -> bool:
    """By so many of the reward models."""
    margins = [margin_of(row, model) for model in models_of(row)]
    against, confirming = sum(m < 0 for m in margins), sum(m > 0 for m in margins)
    return against > confirming if votes == "majority" else against > 0 and confirming == 0


METRIC: dict[str, Callable[[list[Row]], list[float]]] = {
    "bees": lambda rows: bees([([h(row) for row in rows], 1.5), ([g(row) for row in rows], 2.0)]),
    "dcrm": lambda rows: [dcrm(row, 1.0) for row in rows],
    "difficulty_gap": lambda rows: [-g(row) for row in rows],
    "beta_dpo_weight": lambda rows: beta_dpo_weight(rows, d),
    "ifd_margin": lambda rows: [ifd_margin(row) for row in rows],
    "explicit": lambda rows: [abs(h(row)) for row in rows],
    "implicit_small": lambda rows: [-abs(d(row)) for row in rows],
    "implicit_large": lambda rows: [abs(d(row)) for row in rows],
    "explicit_signed": lambda rows: [h(row) for row in rows],
    "explicit_signed_low": lambda rows: [-h(row) for row in rows],
    "implicit_signed": lambda rows: [d(row) for row in rows],
    "implicit_signed_low": lambda rows: [-d(row) for row in rows],
    "chosen_quality": lambda rows: [row["chosen_reward"] for row in rows],
    "data_map": data_map,
    "length_free": length_free,
    "on_policy": lambda rows: [on_policy(row) for row in rows],
    "reducible_loss": reducible_loss,
    "ensemble_mean": lambda rows: [mean(margins) for margins in in_deviations(rows)],
    "ensemble_worst": lambda rows: [min(margins) for margins in in_deviations(rows)],
    "ensemble_bees": lambda rows: bees([([margin_of(r, m) for r in rows], 1.5) for m in models_of(rows[0])]),
    "reward_disagreement": lambda rows: [deviation(margins) for margins in in_deviations(rows)],
}


# Pairings and cuts


def best_sigma(rewards: Sequence[float]) -> tuple[int, int]:
    """(best of a prompt's responses; of the others that nearest to mu - 2 sigma)."""
    best, aim = rewards.index(max(rewards)), mean(rewards) - 2 * deviation(rewards)
    return best, min((i for i in range(len(rewards)) if i != best), key=lambda i: abs(rewards[i] - aim))


# Signals


def amapo(rows: Sequence[Row], beta: float) -> list[float]:
    ds = [d(row) for row in rows]
    mu, dev = mean(ds), deviation(ds)
    return [beta * math.exp(((mu - x) / dev) * mu) if x < mu else 0.0 for x in ds]


def alpha_dpo(rows: Sequence[Row], ratio: float, alpha: float) -> list[float]:
    def gap(row: Row) -> float:
        w, u = gains(row)
        return w / row["chosen_num_tokens"] - u / row["rejected_num_tokens"]

    gaps = [gap(row) for row in rows]
    mu, dev = mean(gaps), deviation(gaps)
    return [ratio + alpha * (x - mu) / dev for x in gaps]


def gamma_po(gaps: Sequence[float], gamma0: float, tau: float, rounds: int = 400) -> list[float]:
    """The fixed point by damped iteration: half of the way, in logarithms, each round."""
    gammas = [gamma0] * len(gaps)
    for _ in range(rounds):
        exponentials = [math.exp(-(gamma0 / tau) * sigma(x - gap)) for x, gap in zip(gammas, gaps)]
        middle = mean(exponentials)
        gammas = [math.sqrt(x * gamma0 * e / middle) for x, e in zip(gammas, exponentials)]
    return gammas


def gamma_po_by_exponentiated_gradient(gaps: Sequence[float], gamma0: float, tau: float) -> list[float]:
    """The published procedure on one batch: 20 rounds from the uniform distribution, in steps of min(0.5 / tau, 1)."""
    step, number = min(0.5 / tau, 1.0), len(gaps)
    p = [1 / number] * number
    for _ in range(20):
        gammas = [gamma0 * number * x for x in p]
        away = [gamma0 * sigma(gamma - gap) for gamma, gap in zip(gammas, gaps)]
        slopes = [tau * (1 + math.log(number * x)) + pull for x, pull in zip(p, away)]
        raised = [x * math.exp(-step * slope) for x, slope in zip(p, slopes)]
        total = math.fsum(raised)
        p = [x / total for x in raised]
    return gammas


def madpo(row: Row, c_max: float, c_min: float, rate: float, tau: float) -> float:
    x = h(row)
    c = c_min + (c_max - c_min) / (1 + ((c_max - 1) / (1 - c_min)) * math.exp(rate * (abs(x) - tau)))
    return sigma(c * x) / sigma(x) if x > -tau else 1.0


def bpo(row: Row, beta: float, alpha: float) -> tuple[float, bool]:
    chosen, rejected = gains(row)
    one, other = beta * chosen, -alpha * beta * rejected
    return (one, True) if one <= other else (other, False)


def repo(row: Row, gamma: float) -> tuple[float, bool]:
    return max(0.0, gamma - d(row)), d(row) < gamma


def mmpo(row: Row, gamma: float) -> tuple[float, bool]:
    p = sigma(gamma * (row["chosen_reward"] - row["rejected_reward"]))
    return (1 - p, True) if p < 0.5 else (p, False)


def wpo(row: Row) -> float:
    return min(1.0, math.exp(on_policy(row)))

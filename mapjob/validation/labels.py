"""What selections make of wrong labels and of disturbed rewards. Nothing is trained: scores alone are changed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mapjob.errors import ConfigError
from mapjob.metrics.columns import NUM_TOKENS, REWARD
from mapjob.metrics.statistics import F64, Moments
from mapjob.ranking.agreement import jaccard, packed
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.select import Ranking
from mapjob.ranking.sweep import Choice
from mapjob.validation.arms import RANDOM
from mapjob.validation.config import Validation
from mapjob.validation.selections import Corpus, Selections
from mapjob.validation.statistics import auroc
from mapjob.validation.world import FLIPPED


def label_noise(validation: Validation, selections: Selections) -> list[dict[str, Any]]:
    """For each selection: how well its score finds wrong labels, and how many of them it takes.

    auroc: chance that a wrong label has a lower score than a right one; selected: share of wrong labels in the
    selection; moved: largest change of any pair's score when every wrong label is turned round, 0.0 where none of them
    changes in its last bit.
    """
    corpus = selections.corpus
    swap = _wrong_labels(validation, corpus)
    wrong = np.zeros(corpus.job.plan.num_rows, bool)
    wrong[corpus.pairs.position[swap]] = True
    injected = bool(validation.label_noise)
    rows = []
    for choice in _choices(validation):
        source = selections.source(choice.metric)
        turned = source.changed(lambda pairs: pairs.swapped(wrong[pairs.position]))
        # What is injected is noise on top of the corpus; what a known world has stands in it already.
        noisy, clean = (turned, source) if injected else (source, turned)
        ranking = _ranked(noisy, choice, validation)
        if ranking is None:
            continue
        flipped = wrong[ranking.pairs.position]
        other = _ranked(clean, choice, validation)
        rows.append(
            {
                "metric": choice.metric,
                "alpha": choice.alpha,
                "ratio": choice.ratio,
                "auroc": auroc(-ranking.score, flipped),
                "flipped": float(flipped.mean()),
                "selected": float(flipped[ranking.kept].mean()),
                "moved": float(np.abs(ranking.score - other.score).max()),
            }
        )
    return rows


def disturbed(validation: Validation, selections: Selections) -> list[dict[str, Any]]:
    """For each selection and disturbance of the rewards: what of the selection is left, and whether it follows.

    same: Jaccard overlap with the undisturbed selection; length_gap: mean difference in tokens between the two sides of
    a selected pair, whichever is longer; longer_preferred: share of selected pairs whose longer side has the higher
    reward, as the disturbed model says.
    """
    rows = []
    for choice in _choices(validation):
        source = selections.source(choice.metric)
        plain = _ranked(source, choice, validation)
        if plain is None:
            continue
        for name, change in _disturbances(validation, source):
            ranking = _ranked(source.changed(change), choice, validation)
            if ranking is None:
                continue
            own, undisturbed = (packed(each.kept, len(each.pairs)) for each in (ranking, plain))
            rows.append(
                {
                    "metric": choice.metric,
                    "alpha": choice.alpha,
                    "ratio": choice.ratio,
                    "disturbance": name,
                    "same": float(jaccard([own, undisturbed])[0, 1]),
                    **_lengths(ranking),
                }
            )
    return rows


def _choices(validation: Validation) -> list[Choice]:
    at_random = [Choice(RANDOM, None, ratio) for ratio in validation.ratios]
    return at_random + [choice for choice in validation.choices if choice.ratio < 1]


def _ranked(corpus: Corpus, choice: Choice, validation: Validation) -> Ranking | None:
    """None where the choice has no meaning on these scores."""
    try:
        return corpus.ranking(choice, validation.run.selection)
    except ConfigError:
        return None


def _wrong_labels(validation: Validation, corpus: Corpus) -> npt.NDArray[np.bool_]:
    """Of each pair: a known world's own flips, or so many that are drawn anew."""
    if not validation.label_noise:
        return corpus.column(FLIPPED)
    return np.random.default_rng(validation.run.selection.seed).random(len(corpus.pairs)) < validation.label_noise


def _disturbances(validation: Validation, corpus: Corpus) -> Iterator[tuple[str, Callable[[Pairs], Pairs]]]:
    disturb = validation.disturb
    rewards, lengths = _moments(corpus, REWARD), _moments(corpus, NUM_TOKENS)
    yield "none", lambda pairs: pairs
    for size in disturb.noise:
        yield f"noise {size:g}", lambda pairs, size=size: _with(pairs, lambda side, r, n: r + size * rewards.std * side)
    for factor in disturb.scale:
        yield f"scale {factor:g}", lambda pairs, factor=factor: _with(pairs, lambda side, r, n: factor * r)
    for size in disturb.length_bias:
        per_token = size * rewards.std / lengths.std if lengths.std else 0.0
        yield f"length {size:g}", lambda pairs, slope=per_token: _with(pairs, lambda side, r, n: r + slope * n)


def _with(pairs: Pairs, change: Callable[[F64, F64, F64], F64]) -> Pairs:
    """change: of standard normal noise, rewards and lengths of one side. The noise hangs on the row alone."""
    noise = np.array([np.random.default_rng(int(row)).standard_normal(2) for row in pairs.position]).reshape(-1, 2)
    columns = dict(pairs.columns)
    for side, (reward, num_tokens) in enumerate(zip(REWARD, NUM_TOKENS)):
        columns[reward] = change(noise[:, side], columns[reward], columns[num_tokens])
    return replace(pairs, columns=columns)


def _moments(corpus: Corpus, names: tuple[str, ...]) -> Moments:
    units = corpus.scored.units.read()
    return Moments.of(np.concatenate([np.asarray(unit.pairs.columns[n], float) for unit in units for n in names]))


def _lengths(ranking: Ranking) -> dict[str, float]:
    kept = ranking.kept
    chosen, rejected = (ranking.pairs.columns[name][kept].astype(np.float64) for name in NUM_TOKENS)
    gap, differ = chosen - rejected, chosen != rejected
    follows = np.sign(gap[differ]) == np.sign(ranking.reward_margin[kept][differ])
    return {"length_gap": float(np.abs(gap).mean()), "longer_preferred": float(follows.mean())}

"""What selections make of wrong labels and of disturbed rewards. Nothing is trained: scores alone are changed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.lab.validation.answers import FLIPPED
from mapjob.lab.validation.arms import RANDOM
from mapjob.lab.validation.config import Validation
from mapjob.lab.validation.selections import Corpus, Selections
from mapjob.lab.validation.statistics import auroc
from mapjob.metrics.columns import NUM_TOKENS, REWARD
from mapjob.metrics.statistics import Moments
from mapjob.ranking.compare import jaccard, packed
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking
from mapjob.ranking.sweep import Choice


def label_noise(validation: Validation, selections: Selections) -> list[dict[str, Any]]:
    """For each selection: how well its score finds wrong labels, and how many of them it takes.

    auroc: chance that a wrong label has a lower score than a right one; selected: share of wrong labels in the
    selection; moved: largest change of any pair's score when every wrong label is turned round, 0.0 where none of them
    changes in its last bit.
    """
    corpus = selections.corpus
    wrong = np.zeros(corpus.job.plan.num_rows, bool)
    wrong[corpus.pairs.position[_wrong_labels(validation, corpus)]] = True
    rows = []
    for source, choices in _by_source(validation, selections):
        turned = source.changed(lambda pairs: pairs.swapped(wrong[pairs.position]))
        # What is swapped anew is noise on top of the corpus; what a known world has stands in it already.
        noisy, clean = (turned, source) if validation.label_noise else (source, turned)
        for choice in choices:
            ranking, other = (_ranked(each, choice, validation) for each in (noisy, clean))
            if ranking is None or other is None:
                continue
            flipped = wrong[ranking.pairs.position]
            found = {
                "auroc": auroc(-ranking.score, flipped),
                "flipped": float(flipped.mean()),
                "selected": float(flipped[ranking.kept].mean()),
                "moved": float(np.abs(ranking.score - other.score).max()),
            }
            rows.append(_said(choice) | found)
    return rows


def disturbed(validation: Validation, selections: Selections) -> list[dict[str, Any]]:
    """For each selection and disturbance of the rewards: what of the selection is left, and whether it follows.

    same: Jaccard overlap with the undisturbed selection; length_gap: mean difference in tokens between the two sides of
    a selected pair, whichever is longer; longer_preferred: share of selected pairs whose longer side has the higher
    reward, as the disturbed model says.
    """
    rows = []
    for source, choices in _by_source(validation, selections):
        plain = {choice: _ranked(source, choice, validation) for choice in choices}
        for name, change in _disturbances(validation, source):
            changed = source.changed(change)
            for choice in choices:
                ranking, undisturbed = _ranked(changed, choice, validation), plain[choice]
                if ranking is None or undisturbed is None:
                    continue
                kept = [packed(each.kept, len(each.pairs)) for each in (ranking, undisturbed)]
                same = float(jaccard(kept)[0, 1])
                rows.append(_said(choice) | {"disturbance": name, "same": same} | _lengths(ranking))
    return rows


def _said(choice: Choice) -> dict[str, Any]:
    return {"metric": choice.metric, "alpha": choice.alpha, "ratio": choice.ratio}


def _by_source(validation: Validation, selections: Selections) -> list[tuple[Corpus, list[Choice]]]:
    """The choices that go by the policy's scores, then those that go by the probe's."""
    choices = _choices(validation)
    own = [choice for choice in choices if selections.source(choice.metric) is selections.corpus]
    others = [choice for choice in choices if choice not in own]
    return [(selections.corpus, own)] + ([(selections.by_probe, others)] if others else [])


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
    noise = np.random.default_rng(validation.run.selection.seed).standard_normal((corpus.job.plan.num_rows, 2))
    slope = rewards.std / lengths.std if lengths.std else 0.0
    yield "none", lambda pairs: pairs
    for size in disturb.noise:
        own = size * rewards.std * noise
        yield f"noise {size:g}", lambda pairs, own=own: _with_rewards(pairs, lambda r, _: r + own[pairs.position])
    for factor in disturb.scale:
        yield f"scale {factor:g}", lambda pairs, factor=factor: _with_rewards(pairs, lambda r, _: factor * r)
    for size in disturb.length_bias:
        yield f"length {size:g}", lambda pairs, size=size: _with_rewards(pairs, lambda r, n: r + size * slope * n)


def _with_rewards(pairs: Pairs, change: Callable[[F64, F64], F64]) -> Pairs:
    """change: of rewards and lengths of both sides, each (N, 2)."""
    rewards, lengths = (np.stack([pairs.columns[name] for name in names], 1) for names in (REWARD, NUM_TOKENS))
    return replace(pairs, columns=pairs.columns | dict(zip(REWARD, change(rewards, lengths).T)))


def _moments(corpus: Corpus, names: tuple[str, ...]) -> Moments:
    units = corpus.scored.units.read()
    return Moments.of(np.concatenate([np.asarray(unit.pairs.columns[n], float) for unit in units for n in names]))


def _lengths(ranking: Ranking) -> dict[str, float]:
    kept = ranking.kept
    chosen, rejected = (ranking.pairs.columns[name][kept].astype(np.float64) for name in NUM_TOKENS)
    gap = chosen - rejected
    follows = np.sign(gap) == np.sign(ranking.reward_margin[kept])
    unequal = max(1, int((gap != 0).sum()))
    return {"length_gap": float(np.abs(gap).mean()), "longer_preferred": float(follows[gap != 0].sum() / unequal)}

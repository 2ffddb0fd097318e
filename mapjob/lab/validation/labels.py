"""How selections react to wrong labels and to disturbed rewards. Only scores change, nothing is trained."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.lab.validation.config import Validation
from mapjob.lab.validation.selections import Corpus, Selections
from mapjob.lab.validation.statistics import auroc
from mapjob.lab.world.corpus import FLIPPED
from mapjob.metrics.columns import NUM_TOKENS, REWARD
from mapjob.metrics.statistics import Moments
from mapjob.ranking.compare import Choice, jaccard, pack
from mapjob.ranking.pairs import Pairs
from mapjob.ranking.rank import Ranking


def label_noise(validation: Validation, selections: Selections) -> list[dict[str, Any]]:
    """Per selection: how well its score finds wrong labels, and how many of them it takes.

    auroc: chance that a wrong label has a lower score than a right one; selected: share of wrong labels in the
    selection; moved: largest change of any pair's score when every wrong label is flipped, 0.0 if all scores stay
    the same to the last bit.
    """
    corpus = selections.corpus
    wrong = np.zeros(corpus.job.plan.num_rows, bool)
    wrong[corpus.pairs.position[_wrong_labels(validation, corpus)]] = True
    rows = []
    for source, choices in _by_source(validation, selections):
        turned = source.change(lambda pairs: pairs.swap(wrong[pairs.position]))
        # Labels that are swapped here are noise on top of the corpus; those of a known world are in it already.
        noisy, clean = (turned, source) if validation.label_noise else (source, turned)
        for choice in choices:
            ranking, other = _rank(noisy, choice, validation), _rank(clean, choice, validation)
            if ranking is None or other is None:
                continue
            flipped = wrong[ranking.pairs.position]
            row = _choice_row(choice)
            row["auroc"] = auroc(-ranking.score, flipped)
            row["flipped"] = float(flipped.mean())
            row["selected"] = float(flipped[ranking.kept].mean())
            row["moved"] = float(np.abs(ranking.score - other.score).max())
            rows.append(row)
    return rows


def disturb_rewards(validation: Validation, selections: Selections) -> list[dict[str, Any]]:
    """Per selection and disturbance of the rewards: how much of the selection stays, and whether it follows.

    same: Jaccard overlap with the undisturbed selection; length_gap: mean difference in tokens between the two sides of
    a selected pair, whichever is longer; longer_preferred: share of selected pairs whose longer side has the higher
    disturbed reward.
    """
    rows = []
    for source, choices in _by_source(validation, selections):
        plain = {choice: _rank(source, choice, validation) for choice in choices}
        for name, change in _disturbances(validation, source):
            changed = source.change(change)
            for choice in choices:
                ranking, undisturbed = _rank(changed, choice, validation), plain[choice]
                if ranking is None or undisturbed is None:
                    continue
                kept = [pack(r.kept, len(r.pairs)) for r in (ranking, undisturbed)]
                same = float(jaccard(kept)[0, 1])
                rows.append(_choice_row(choice) | {"disturbance": name, "same": same} | _lengths(ranking))
    return rows


def _choice_row(choice: Choice) -> dict[str, Any]:
    return {"metric": choice.metric, "alpha": choice.alpha, "ratio": choice.ratio}


def _by_source(validation: Validation, selections: Selections) -> list[tuple[Corpus, list[Choice]]]:
    """The choices that use the policy's scores, then those that use a probe's; at random first, all pairs never."""
    choices = validation.at_random + [choice for choice in validation.choices if choice.ratio < 1]
    by_policy = [choice for choice in choices if choice.metric not in validation.of_probe]
    probes = {id(scored): scored for scored in selections.by_probe.values()}
    return [(selections.corpus, by_policy)] + [
        (scored, [choice for choice in choices if selections.by_probe.get(choice.metric) is scored])
        for scored in probes.values()
    ]


def _rank(corpus: Corpus, choice: Choice, validation: Validation) -> Ranking | None:
    """None if the choice has no meaning on these scores."""
    try:
        return corpus.ranking(choice, validation.run.selection)
    except ConfigError:
        return None


def _wrong_labels(validation: Validation, corpus: Corpus) -> npt.NDArray[np.bool_]:
    """Which pairs have a wrong label, (N,): the flips of a known world, or this share of the pairs, drawn here."""
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
        added = size * rewards.std * noise
        yield f"noise {size:g}", lambda pairs, added=added: _with_rewards(pairs, lambda r, _: r + added[pairs.position])
    for factor in disturb.scale:
        yield f"scale {factor:g}", lambda pairs, factor=factor: _with_rewards(pairs, lambda r, _: factor * r)
    for size in disturb.length_bias:
        yield f"length {size:g}", lambda pairs, size=size: _with_rewards(pairs, lambda r, n: r + size * slope * n)


def _with_rewards(pairs: Pairs, change: Callable[[F64, F64], F64]) -> Pairs:
    """change: from rewards and lengths of both sides, each (N, 2), to rewards."""
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

"""What the figures and tables of a report say of all ranked pairs: counted once, stored with the run, some 100 kB."""

from dataclasses import dataclass, replace

import numpy as np

from mapjob import collective
from mapjob.ranking.compare import Profile, profile
from mapjob.ranking.rank import Ranking
from mapjob.report.figures import Density, Histogram, density, find_ends, histogram

MAX_GROUPS = 20


@dataclass(frozen=True)
class Group:
    """Pairs of a group; name: None for pairs without one."""

    name: str | None
    ranked: int
    selected: int


@dataclass(frozen=True)
class Summary:
    """All ranked pairs, and those that are selected. The profiles have no groups, of which there may be very many."""

    margins: Density
    histograms: dict[str, Histogram]
    everything: Profile
    selected: Profile
    groups: list[Group]  # the largest
    num_other_groups: int
    other_groups: Group  # all others together
    agreement: dict[str, float]  # Jaccard overlap with the selections of the same size by other metrics


def summary(ranking: Ranking, metric: str, agreement: dict[str, float]) -> Summary:
    """Over all pieces. ranking: with PROFILE_COLUMNS; metric: of the run; agreement: see `ranking.compare.overlap`."""
    is_selected = np.zeros(len(ranking.pairs), bool)
    is_selected[ranking.kept] = True
    columns, margins = ranking.pairs.columns, (ranking.reward_margin, ranking.implicit_margin)
    chosen, rejected = (columns[f"{side}_num_tokens"].astype(np.int32) for side in ("chosen", "rejected"))
    numbers = {
        "map_score" if metric == "map" else metric: ranking.score,
        "reward margin": ranking.reward_margin,
        "implicit margin": ranking.implicit_margin,
        "tokens of the chosen side": chosen,
        "tokens of the rejected side": rejected,
        "tokens, chosen less rejected": chosen - rejected,
    }
    reach, ends = find_ends(margins, list(numbers.values()))
    return Summary(
        density(*margins, reach, is_selected),
        {name: histogram(values, *end, is_selected) for (name, values), end in zip(numbers.items(), ends)},
        replace(profile(ranking, np.arange(len(ranking.pairs))), groups={}),
        replace(profile(ranking, ranking.kept), groups={}),
        *_groups(ranking),
        agreement,
    )


def _groups(ranking: Ranking) -> tuple[list[Group], int, Group]:
    """(the largest groups, how many others there are, all others together)."""
    pairs = ranking.pairs
    picked = (pairs.group, pairs.group[ranking.kept])
    ranked, selected = collective.total(np.stack([np.bincount(part, minlength=len(pairs.groups)) for part in picked]))
    order = np.argsort(-ranked, kind="stable")
    order = order[ranked[order] > 0]
    largest, others = order[:MAX_GROUPS], order[MAX_GROUPS:]
    groups = [Group(pairs.groups[index], int(ranked[index]), int(selected[index])) for index in largest]
    return groups, len(others), Group(None, int(ranked[others].sum()), int(selected[others].sum()))

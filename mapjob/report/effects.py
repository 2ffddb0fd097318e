"""What a selection does to labels, lengths, groups and repeats, and what other metrics would have chosen."""

from collections.abc import Iterator, Mapping
from typing import Any

from mapjob.errors import Reason
from mapjob.metrics.table import METRICS
from mapjob.ranking.compare import QUANTILES, Profile
from mapjob.report.markup import Html, named, note, section, table
from mapjob.report.summary import Group, Summary

Row = tuple[object, ...]


def effects(manifest: dict[str, Any], summary: Summary) -> Html:
    parts = [
        table(
            "All ranked pairs and the selection",
            ["of the pairs", "all ranked", "selected"],
            _rows(summary.everything, summary.selected),
        )
    ]
    if manifest["config"]["input"]["columns"]["group"] is not None:
        parts += ["<h3>Groups</h3>", table("Groups", ["group", "ranked", "selected", "kept"], _groups(summary))]
    repeats = list(_repeats(manifest["counts"]))
    if repeats:
        parts += ["<h3>Repeats and rules</h3>", table("Repeats and rules", ["rule", "rows or pairs"], repeats)]
    return section("effects", "What the selection does", *parts)


def _rows(everything: Profile, selected: Profile) -> Iterator[Row]:
    both = (everything, selected)
    yield "pairs", *(f"{one.num_pairs:,}" for one in both)
    yield "label against the reward model", *(f"{one.label_disagreement:.1%}" for one in both)
    yield "tokens of the chosen side, mean", *(f"{one.chosen_num_tokens:,.1f}" for one in both)
    yield "tokens of the rejected side, mean", *(f"{one.rejected_num_tokens:,.1f}" for one in both)
    for name in ("reward_margin", "implicit_margin"):
        for place, quantile in enumerate(QUANTILES):
            which = "median" if quantile == 0.5 else f"{quantile:.0%} quantile"
            yield f"{name.replace('_', ' ')}, {which}", *(f"{getattr(one, name)[place]:+.4g}" for one in both)


def _groups(summary: Summary) -> Iterator[Row]:
    """The largest groups, and all others together."""
    for group in summary.groups:
        yield Html("<i>without a group</i>") if group.name is None else group.name, *_share(group)
    if summary.num_other_groups:
        yield Html(f"<i>{summary.num_other_groups:,} other groups</i>"), *_share(summary.other_groups)


def _share(group: Group) -> tuple[str, str, str]:
    return f"{group.ranked:,}", f"{group.selected:,}", f"{group.selected / group.ranked:.1%}"


def _repeats(counts: dict[str, Any]) -> Iterator[Row]:
    for reason in (Reason.DUPLICATE, Reason.IDENTICAL_COMPLETIONS, Reason.DISAGREEMENT):
        if number := counts["by_reason"].get(reason):
            yield f"{reason}, dropped before the ranking", f"{number:,}"
    for reason, number in counts.get("pairs_dropped_beside", {}).items():
        yield f"{reason}, beside another pair of the row that is ranked", f"{number:,}"
    for rule, number in counts["passed_over"].items():
        yield f"passed over by {rule}, above the last pair that is kept", f"{number:,}"


def others(agreement: Mapping[str, float], metric: str) -> Html:
    """agreement: Jaccard overlap with the selections of the same size by other metrics."""
    rows = []
    for name, share in agreement.items():
        about = METRICS[name].about.split("\n")[0]
        rows.append((named(name, about), _bar(share), f"{share:.3f}"))
    chance = " <b>random</b> is what two selections of this size share by chance." if "random" in agreement else ""
    words = (
        f"Pairs that the selection by {metric} shares with one of the same size by another metric, over all pairs of "
        f"either (Jaccard). The others go by the same caps and quotas.{chance}"
    )
    overlaps = table("Overlap with other metrics", ["metric", "overlap", "Jaccard"], rows)
    return section("others", "Where other metrics would choose differently", note(words), overlaps)


def _bar(share: float) -> Html:
    return Html(f'<span class="bar"><span style="width:{100 * share:.1f}%"></span></span>')

"""report.html of a run: one file without script, font or image of elsewhere, that opens offline and in an e-mail."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mapjob.config import Config, parse_config
from mapjob.errors import Reason
from mapjob.escaping import html_text
from mapjob.metrics.table import METRICS
from mapjob.ranking.compare import QUANTILES, Profile
from mapjob.report.card import LOADING, formula
from mapjob.report.figures import distributions, picture
from mapjob.report.markup import Html, code, document, facts, listed, named, note, section, table, text
from mapjob.report.pair import Example, examples
from mapjob.report.summary import Group, Summary

# The head of a report: what was run, in one glance.

MOST_PATHS = MOST_QUOTAS = 8


def header(manifest: dict[str, Any], config: Config) -> Html:
    counts = manifest["counts"]
    title = f"{counts['selected']:,} pairs of {counts['rows']:,} rows, ranked by {config.selection.metric}"
    figures = {
        "rows read": counts["rows"],
        "pairs ranked": counts["ranked"],
        "pairs selected": counts["selected"],
        **({"pairs held out": counts["held_out"]} if counts["held_out"] else {}),
        "rows dropped": counts["dropped"],
        "rows broken": counts["broken"],
    }
    numbers = "".join(f"<div><dt>{name}</dt><dd>{number:,}</dd></div>" for name, number in figures.items())
    return Html(
        f'<header>\n<p class="eyebrow">mapjob · run {text(manifest["run_id"])}</p>\n<h1>{title}</h1>\n'
        f'<dl class="figures">{numbers}</dl>\n</header>\n'
    )


def overview(manifest: dict[str, Any], config: Config) -> Html:
    return section("run", "What was run", facts([*_models(manifest, config), *_facts(manifest, config)]))


def _models(manifest: dict[str, Any], config: Config) -> Iterator[tuple[str, Html]]:
    for name, model in config.scored_models.items():
        if model is not None:
            adapter = f"<br>adapter {code(model.adapter)}" if model.adapter else ""
            revision = f"revision {code(model.revision)}" if model.revision else "no revision given"
            weights = code(manifest["models"][name]["weights"][:12])
            yield name, Html(f"{code(model.path)}{adapter}<br>{revision}, {model.dtype}, hash of the weights {weights}")


def _facts(manifest: dict[str, Any], config: Config) -> Iterator[tuple[str, object]]:
    selection, corpus, statistics = config.selection, manifest["corpus"], manifest["statistics"]
    paths = [config.input.path] if isinstance(config.input.path, str) else config.input.path
    first = ", the first rows alone (--limit)" if manifest["limit"] else ""
    shape = f"{corpus['num_rows']:,} rows in {corpus['num_files']:,} files{first}"
    where = listed([code(path) for path in paths], MOST_PATHS)
    yield "data", Html(f"{where}<br>{shape}; layout {corpus['layout']}, read as {corpus['style']}")
    yield "score", code(formula(selection.metric))
    scale = statistics["scale"]
    yield (
        "with",
        f"alpha = {selection.alpha:g}; S_r = {scale['reward']:.6g}, S_i = {scale['implicit']:.6g} "
        f"(scale: {selection.scale}); implicit margin: {selection.implicit}",
    )
    counts = manifest["counts"]
    yield "kept", f"{_kept(config)}: {counts['selected']:,} of {counts['ranked']:,} ranked pairs"
    cut_off = statistics["cut_off"]
    yield "cut-off", "nothing is kept" if cut_off is None else f"the last kept pair scores {cut_off:.6g}"
    if rules := _rules(config):
        yield "rules", listed(rules, MOST_QUOTAS)
    versions = manifest["versions"] | {"mapjob": manifest["mapjob"]}
    yield "made with", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _kept(config: Config) -> str:
    keep = config.selection.keep
    if keep.ratio is not None:
        return f"the best {100 * keep.ratio:.6g}% of the ranking (keep.ratio)"
    if keep.count is not None:
        return f"the best {keep.count:,} (keep.count)"
    if keep.tokens is not None:
        return f"the best pairs of {keep.tokens:,} completion tokens (keep.tokens)"
    return f"scores of {keep.threshold:.6g} and more (keep.threshold)"


def _rules(config: Config) -> list[str]:
    selection = config.selection
    rules = []
    if selection.on_disagreement != "keep":
        rules.append(f"on_disagreement: {selection.on_disagreement}")
    if selection.per_prompt is not None:
        rules.append(f"at most {selection.per_prompt} pairs of one prompt")
    if selection.near_duplicates is not None:
        rules.append(f"no near duplicate of a better pair (Jaccard {selection.near_duplicates:g})")
    if selection.held_out:
        rules.append(f"{selection.held_out:g} of the prompts are held out")
    return rules + [f"quota of {name}: {share:g}" for name, share in (selection.quotas or {}).items()]


def warnings(manifest: dict[str, Any]) -> Html:
    most = 20
    told = [*manifest["warnings"]]
    told += [f"{flag}: {number:,} rows" for flag, number in manifest["flags"].items() if number]
    return section("warnings", "Warnings", note(listed(told, most) if told else "None."))


# The account of a run: rows that were not ranked, what it took, and how to train on the result.

STAGES = {
    "ray": "starting or joining Ray",
    "score": "scoring what was missing",
    "rank": "reading scores and ranking",
    "publish": "writing the selection",
}
OF_ACTORS = "Seconds of a model are those of all its actors together."
OF_THIS_CALL = (
    "All of this is of the call that finished the run; what an earlier, interrupted one had scored is not in it."
)


def refused(counts: dict[str, Any]) -> Html:
    """Rows by reason, and what each reason means."""
    rows = []
    for name, number in counts["by_reason"].items():
        reason = Reason(name)
        kind = "dropped" if reason.is_dropped else "broken"
        rows.append((named(name, f"{kind}: {reason.explanation}"), f"{number:,}", f"{number / counts['rows']:.2%}"))
    words = "Each is in <code>errors/</code> with its file and row. Broken rows count towards max_error_rate."
    parts = [note(words), table("Reasons", ["reason", "rows", "share"], rows)] if rows else [note("None.")]
    return section("refused", "Rows that were not ranked", *parts)


def cost(manifest: dict[str, Any]) -> Html:
    """Seconds and tokens of the call that finished the run."""
    spent = manifest["spent"]
    seconds = {stage: spent["seconds"][stage] for stage in STAGES if stage in spent["seconds"]}
    stages = [(STAGES[stage], f"{own:,.1f}", _pairs_per_s(manifest, stage, own)) for stage, own in seconds.items()]
    parts = [table("Seconds by stage", ["stage", "seconds", "pairs/s"], stages)]
    if spent["tokens"]:
        parts.append(table("Tokens by model", ["model", "tokens", "seconds", "tokens/s"], _tokens_by_model(spent)))
    ran = OF_ACTORS if spent["tokens"] else "No model ran: every score stood in the score store."
    parts.append(note(f"{ran} {OF_THIS_CALL}"))
    if spent["gpus"] and "score" in seconds:
        hours = spent["gpus"] * seconds["score"] / 3600
        parts.append(note(f"{hours:,.2f} GPU hours: {spent['gpus']:g} GPUs of the cluster for as long as it scored."))
    return section("cost", "Time and cost", *parts)


def _pairs_per_s(manifest: dict[str, Any], stage: str, seconds: float) -> str:
    counts = manifest["counts"]
    pairs = {"score": manifest["spent"]["scored_rows"], "rank": counts["ranked"], "publish": counts["selected"]}
    return f"{pairs[stage] / seconds:,.0f}" if stage in pairs and seconds else ""


def _tokens_by_model(spent: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, tokens in sorted(spent["tokens"].items()):
        seconds = spent["model_s"].get(name, 0.0)
        rate = f"{tokens / seconds:,.0f}" if seconds else ""
        engine = spent["engines"].get(name, "").removeprefix(f"{name}: ")
        yield named(name, engine), f"{tokens:,}", f"{seconds:,.1f}", rate


def training(manifest: dict[str, Any]) -> Html:
    """Commands and code, as the card has them."""
    config = manifest["config"]
    ours = ['mapjob train "this folder" --objective simpo'] if config["output_format"] == "trl" else []
    of_card = LOADING[config["output_format"]][manifest["corpus"]["style"]]
    blocks = ours + re.findall(r"```\w+\n(.*?)\n```", of_card, re.DOTALL)
    if config["selection"]["held_out"]:
        blocks.append('load_dataset("this folder", "held_out")  # pairs of the prompts that were held out')
    shown = [f'<pre tabindex="0"><code>{html_text(block)}</code></pre>' for block in blocks]
    return section("training", "Train on it", *shown)


# What a selection does to labels, lengths, groups and repeats, and what other metrics would have chosen.

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


def page(manifest: dict[str, Any], summary: Summary, rows: Sequence[Example] = ()) -> str:
    """The report of a run. manifest: as it is committed, without what is known of the commit alone; rows: examples, the
    only texts of the corpus in it.

    The same arguments give the same bytes.
    """
    config, metric = parse_config(manifest["config"]), manifest["config"]["selection"]["metric"]
    sections = [
        overview(manifest, config),
        picture(manifest, config, summary.margins),
        distributions(summary.histograms),
        effects(manifest, summary),
        others(summary.agreement, metric),
        refused(manifest["counts"]),
        cost(manifest),
        warnings(manifest),
        training(manifest),
        *([examples(rows)] if rows else []),
    ]
    title = f"mapjob: {manifest['counts']['selected']:,} pairs by {metric}"
    return document(title, f"{header(manifest, config)}<main>\n{''.join(sections)}</main>")

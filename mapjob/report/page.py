"""report.html of a run: one file without script, font or image from elsewhere, that opens offline and in an e-mail."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.errors import Reason
from mapjob.escaping import html_text
from mapjob.metrics.table import METRICS
from mapjob.ranking.compare import QUANTILES, Profile
from mapjob.report.card import formula, training_code
from mapjob.report.figures import distributions, picture
from mapjob.report.markup import Html, code, document, facts, list_lines, name_and_about, note, section, table, text
from mapjob.report.pages import Row
from mapjob.report.pair import examples
from mapjob.report.summary import Group, Summary
from mapjob.store.run_folder import Manifest

MAX_LINES = 8  # of paths or rules
MAX_WARNINGS = 20
STAGES = {
    "ray": "starting or joining Ray",
    "score": "scoring what was missing",
    "rank": "reading scores and ranking",
    "publish": "writing the selection",
}


def page(manifest: Manifest, summary: Summary, by_kind: Mapping[str, Sequence[Row]] | None = None) -> str:
    """The report of a run; the same arguments give the same bytes.

    manifest: as it is committed, without what only the commit knows; by_kind: examples, its only texts of the corpus.
    """
    config = parse_config(manifest["config"])
    counts, metric = manifest["counts"], config.selection.metric
    numbers = {
        "rows read": counts["rows"],
        "pairs ranked": counts["ranked"],
        "pairs selected": counts["selected"],
        **({"pairs held out": counts["held_out"]} if counts["held_out"] else {}),
        "rows dropped": counts["dropped"],
        "rows broken": counts["broken"],
    }
    called = (manifest["run_id"], manifest.get("name"), manifest.get("note"))
    figures = "".join(f"<div><dt>{name}</dt><dd>{number:,}</dd></div>" for name, number in numbers.items())
    body = [
        f'<header>\n<p class="eyebrow">mapjob · run {" · ".join(map(text, filter(None, called)))}</p>',
        f"<h1>{counts['selected']:,} pairs of {counts['rows']:,} rows, ranked by {metric}</h1>",
        f'<dl class="figures">{figures}</dl>\n</header>\n<main>',
        section("run", "What was run", facts([*_models(manifest, config), *_choices(manifest, config)])),
        picture(manifest, config, summary.margins),
        distributions(summary.histograms),
        effects(manifest, summary),
        others(summary.agreement, metric),
        refused(counts),
        cost(manifest),
        warnings(manifest),
        training(manifest),
        examples(by_kind) if by_kind else "",
        "</main>",
    ]
    return document(f"mapjob: {counts['selected']:,} pairs by {metric}", "\n".join(body))


def _models(manifest: Manifest, config: Config) -> Iterator[tuple[str, Html]]:
    for name, model in config.scored_models.items():
        if model is not None:
            adapter = f"<br>adapter {code(model.adapter)}" if model.adapter else ""
            revision = f"revision {code(model.revision)}" if model.revision else "no revision given"
            weights = code(manifest["models"][name]["weights"][:12])
            yield name, Html(f"{code(model.path)}{adapter}<br>{revision}, {model.dtype}, hash of the weights {weights}")


def _choices(manifest: Manifest, config: Config) -> Iterator[tuple[str, object]]:
    """Data, score, cut and rules of the selection."""
    selection, corpus, counts = config.selection, manifest["corpus"], manifest["counts"]
    limit = ", only the first rows (--limit)" if manifest["limit"] else ""
    shape = f"{corpus['num_rows']:,} rows in {corpus['num_files']:,} file{'s' * (corpus['num_files'] != 1)}{limit}"
    paths = [config.input.path] if isinstance(config.input.path, str) else config.input.path
    files = list_lines([code(path) for path in paths], MAX_LINES)
    yield "data", Html(f"{files}<br>{shape}, read as {corpus['style']}")
    columns = [f"{code(name)}: {code(json.dumps(value))}" for name, value in corpus["reading"].items()]
    yield "columns", list_lines(columns, MAX_LINES)
    yield "score", code(formula(selection.metric))
    scale, cut_off = manifest["statistics"]["scale"], manifest["statistics"]["cut_off"]
    yield (
        "with",
        f"alpha = {selection.alpha:g}; S_r = {scale['reward']:.6g}, S_i = {scale['implicit']:.6g} "
        f"(scale: {selection.scale}); implicit margin: {selection.implicit}",
    )
    yield "kept", f"{_kept(config)}: {counts['selected']:,} of {counts['ranked']:,} ranked pairs"
    yield "cut-off", "nothing is kept" if cut_off is None else f"the last kept pair scores {cut_off:.6g}"
    if rules := list(_rules(config)):
        yield "rules", list_lines(rules, MAX_LINES)
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
    if keep.between is not None:
        first, last = keep.between
        return f"from {100 * first:.6g}% to {100 * last:.6g}% of the ranking (keep.between)"
    return f"scores of {keep.threshold:.6g} and more (keep.threshold)"


def _rules(config: Config) -> Iterator[str]:
    selection = config.selection
    if selection.on_disagreement != "keep":
        by = f" by votes ({selection.votes})" if selection.votes else ""
        yield f"on_disagreement: {selection.on_disagreement}{by}"
    if selection.per_prompt is not None:
        yield f"at most {selection.per_prompt} pairs per prompt"
    if selection.near_duplicates is not None:
        yield f"no near duplicate of a better pair (Jaccard {selection.near_duplicates:g})"
    if selection.held_out:
        yield f"{selection.held_out:g} of the prompts are held out"
    for name, share in (selection.quotas or {}).items():
        yield f"quota of {name}: {share:g}"


def effects(manifest: Manifest, summary: Summary) -> Html:
    """What the selection does to labels, lengths, margins and groups, and which rules dropped or skipped pairs."""
    selected = _profile(summary.selected)
    both = [(name, value, selected[name]) for name, value in _profile(summary.everything).items()]
    parts = [table("All ranked pairs and the selection", ["of the pairs", "all ranked", "selected"], both)]
    if manifest["config"]["input"]["columns"]["group"] is not None:
        parts += ["<h3>Groups</h3>", table("Groups", ["group", "ranked", "selected", "kept"], _groups(summary))]
    if repeats := list(_repeats(manifest["counts"])):
        parts += ["<h3>Repeats and rules</h3>", table("Repeats and rules", ["rule", "rows or pairs"], repeats)]
    return section("effects", "What the selection does", *parts)


def _profile(pairs: Profile) -> dict[str, str]:
    cells = {
        "pairs": f"{pairs.num_pairs:,}",
        "reward model disagrees with the label": f"{pairs.label_disagreement:.1%}",
        "tokens of the chosen side, mean": f"{pairs.chosen_num_tokens:,.1f}",
        "tokens of the rejected side, mean": f"{pairs.rejected_num_tokens:,.1f}",
    }
    for margin, values in {"reward margin": pairs.reward_margin, "implicit margin": pairs.implicit_margin}.items():
        for quantile, value in zip(QUANTILES, values):
            which = "median" if quantile == 0.5 else f"{quantile:.0%} quantile"
            cells[f"{margin}, {which}"] = f"{value:+.4g}"
    return cells


def _groups(summary: Summary) -> Iterator[tuple[object, ...]]:
    """The largest groups, and all others together."""
    rows: list[tuple[object, Group]] = [
        (Html("<i>without a group</i>") if group.name is None else group.name, group) for group in summary.groups
    ]
    if summary.num_other_groups:
        rows.append((Html(f"<i>{summary.num_other_groups:,} other groups</i>"), summary.other_groups))
    for name, group in rows:
        yield name, f"{group.ranked:,}", f"{group.selected:,}", f"{group.selected / group.ranked:.1%}"


def _repeats(counts: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for reason in (Reason.DUPLICATE, Reason.IDENTICAL_COMPLETIONS, Reason.IDENTICAL_TOKENS, Reason.DISAGREEMENT):
        if number := counts["by_reason"].get(reason):
            yield f"{reason}, dropped before the ranking", f"{number:,}"
    for reason, number in counts.get("pairs_dropped_beside", {}).items():
        yield f"{reason}, while another pair of the row is ranked", f"{number:,}"
    for rule, number in counts["passed_over"].items():
        yield f"skipped by {rule}, above the last pair that is kept", f"{number:,}"


def others(agreement: Mapping[str, float], metric: str) -> Html:
    """agreement: Jaccard overlap with the selections of the same size by other metrics."""
    rows = []
    for name, share in agreement.items():
        bar = Html(f'<span class="bar"><span style="width:{100 * share:.1f}%"></span></span>')
        rows.append((name_and_about(name, METRICS[name].about.split("\n")[0]), bar, f"{share:.3f}"))
    chance = " <b>random</b> is what two selections of this size share by chance." if "random" in agreement else ""
    words = (
        f"Pairs that are both in the selection by {metric} and in one of the same size by another metric, over pairs "
        f"that are in either (Jaccard). All have the same caps and quotas.{chance}"
    )
    overlaps = table("Overlap with other metrics", ["metric", "overlap", "Jaccard"], rows)
    return section("others", "Where other metrics would choose differently", note(words), overlaps)


def refused(counts: dict[str, Any]) -> Html:
    """Rows by reason, and what each reason means."""
    rows = []
    for name, number in counts["by_reason"].items():
        reason = Reason(name)
        meaning = f"{'dropped' if reason.is_dropped else 'broken'}: {reason.explanation}"
        rows.append((name_and_about(name, meaning), f"{number:,}", f"{number / counts['rows']:.2%}"))
    words = "Each is in <code>errors/</code> with its file and row. Broken rows count towards max_error_rate."
    parts = [note(words), table("Reasons", ["reason", "rows", "share"], rows)] if rows else [note("None.")]
    return section("refused", "Rows that were not ranked", *parts)


def cost(manifest: Manifest) -> Html:
    """Seconds and tokens of the call that finished the run."""
    spent, counts = manifest["spent"], manifest["counts"]
    pairs = {"score": spent["scored_rows"], "rank": counts["ranked"], "publish": counts["selected"]}
    stages = [
        (words, f"{seconds:,.1f}", f"{pairs[stage] / seconds:,.0f}" if stage in pairs and seconds else "")
        for stage, words in STAGES.items()
        if (seconds := spent["seconds"].get(stage)) is not None
    ]
    parts = [table("Seconds by stage", ["stage", "seconds", "pairs/s"], stages)]
    words = "No model ran: every score was in the score store."
    if spent["tokens"]:
        words = "The seconds of a model are those of all its actors together."
        parts.append(table("Tokens by model", ["model", "tokens", "seconds", "tokens/s"], _tokens_by_model(spent)))
    parts.append(note(f"{words} What an earlier, interrupted call had scored is not in these numbers."))
    if spent["gpus"] and "score" in spent["seconds"]:
        hours = spent["gpus"] * spent["seconds"]["score"] / 3600
        parts.append(note(f"{hours:,.2f} GPU hours: {spent['gpus']:g} GPUs of the cluster for as long as it scored."))
    return section("cost", "Time and cost", *parts)


def _tokens_by_model(spent: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, tokens in sorted(spent["tokens"].items()):
        seconds = spent["model_s"].get(name, 0.0)
        rate = f"{tokens / seconds:,.0f}" if seconds else ""
        engine = spent["engines"].get(name, "").removeprefix(f"{name}: ")
        yield name_and_about(name, engine), f"{tokens:,}", f"{seconds:,.1f}", rate


def warnings(manifest: Manifest) -> Html:
    flags = [f"{flag}: {number:,} rows" for flag, number in manifest["flags"].items() if number]
    checks = [f"check failed, so the run was not promoted: {check['why']}" for check in manifest.get("checks", ())]
    lines = [*checks, *manifest["warnings"], *flags]
    return section("warnings", "Warnings", note(list_lines(lines, MAX_WARNINGS) if lines else "None."))


def training(manifest: Manifest) -> Html:
    """Commands and code, as the card has them."""
    config = manifest["config"]
    blocks = ['mapjob train "this folder" --objective simpo'] if config["output_format"] == "trl" else []
    blocks += [block for _, block in training_code(config["output_format"], manifest["corpus"]["style"])]
    if config["selection"]["held_out"]:
        blocks.append('load_dataset("this folder", "held_out")  # pairs of the prompts that were held out')
    shown = [f'<pre tabindex="0"><code>{html_text(block)}</code></pre>' for block in blocks]
    return section("training", "Train on it", *shown)

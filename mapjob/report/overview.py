"""The head of a report: what was run, in one glance."""

from collections.abc import Iterator
from typing import Any

from mapjob.config import Config
from mapjob.report.card import formula
from mapjob.report.markup import Html, code, facts, listed, note, section, text

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

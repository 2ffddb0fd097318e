"""The account of a run: rows that were not ranked, what it took, and how to train on the result."""

import re
from collections.abc import Iterator
from typing import Any

from mapjob.errors import Reason
from mapjob.escaping import text_in_html
from mapjob.report.card import LOADING
from mapjob.report.markup import Html, named, note, section, table

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
        parts.append(table("Tokens by model", ["model", "tokens", "seconds", "tokens/s"], _models(spent)))
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


def _models(spent: dict[str, Any]) -> Iterator[tuple[object, ...]]:
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
    shown = [f'<pre tabindex="0"><code>{text_in_html(block)}</code></pre>' for block in blocks]
    return section("training", "Train on it", *shown)

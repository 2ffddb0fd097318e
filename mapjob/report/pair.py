"""One pair of a run, for a person: its texts, its margins, and the sum that gives its rank."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from mapjob.corpus.records import plain_text
from mapjob.errors import ConfigError, Reason
from mapjob.escaping import for_terminal, one_line
from mapjob.report.markup import Html, code, long_text, note, section, text
from mapjob.report.pages import Pages, Row, with_texts
from mapjob.store.run_folder import FinishedRun, Manifest

TEXTS = ("prompt", "chosen", "rejected")
CHARACTERS = 300  # of a text in a report


def selected_pair(run: FinishedRun, which: str) -> Row | None:
    """The selected pair of a rank or a pair_id, from the run folder alone; None when it is not selected.

    Raises ConfigError, with the reason, for a pair that was not ranked at all.
    """
    wanted = pc.field("pair_id") == which
    # Ids of a column may be numbers too, and one that is not selected is no rank.
    if which.isdecimal() and run.manifest["config"]["input"]["columns"]["id"] is None:
        wanted |= pc.field("rank") == int(which)
    for name in run.folder.tables("selected"):
        row = run.folder.read_table(name).filter(wanted)[:1]
        if row.num_rows:
            return with_texts(run.manifest, row)
    for name in run.folder.tables("errors"):
        rows = run.folder.read_table(name).filter(pc.field("pair_id") == which).to_pylist()
        if rows:
            reason = Reason(rows[0]["reason"])
            what = f"this pair was not ranked: {reason} ({reason.explanation}; {rows[0]['detail'] or 'no detail'})"
            raise ConfigError(what, f"{rows[0]['file']}, row {rows[0]['row']}", "see errors/ of the run")
    return None


def pair_text(manifest: Manifest, row: Row, is_selected: bool) -> str:
    """The pair as text, its margins, and the arithmetic of its score."""
    kept = "selected" if is_selected else "not selected"
    lines = [
        f"rank {row['rank']:,} of {manifest['counts']['ranked']:,} ({kept}), pair_id {one_line(row['pair_id'])}",
        *(f"\n--- {name}\n{for_terminal(plain_text(row[name], with_roles=True))}" for name in TEXTS),
        "",
        *_arithmetic(manifest, row),
    ]
    if not row["label_agrees"]:
        lines.append("The reward model prefers the rejected side: the label may be wrong, or the reward model is.")
    return "\n".join(lines)


def _arithmetic(manifest: Manifest, row: Row) -> list[str]:
    statistics, selection = manifest["statistics"], manifest["config"]["selection"]
    scale, alpha = statistics["scale"], selection["alpha"]
    reward = abs(row["reward_margin"])
    lines = [
        f"reward margin   {row['reward_margin']:+10.4f} = {row['chosen_reward']:.4f} - ({row['rejected_reward']:.4f})"
        f"   {_position(reward, statistics['abs_reward_margin'])}"
    ]
    if "implicit_margin" in row:  # not under a stated goal: with another prompt no log-probability holds
        implicit = abs(row["implicit_margin"])
        lines += [
            f"implicit margin {row['implicit_margin']:+10.4f} ({selection['implicit']}; "
            f"{row['chosen_num_tokens']} and {row['rejected_num_tokens']} tokens)"
            f"   {_position(implicit, statistics['abs_implicit_margin'])}",
            f"map_score       {row['map_score']:+10.4f} = {scale['reward']:.4g} * {reward:.4g}"
            f" - {alpha:g} * {scale['implicit']:.4g} * {implicit:.4g}   (scale {selection['scale']})",
        ]
    if selection["metric"] != "map":
        lines.append(f"{selection['metric']:<16}{row[selection['metric']]:+10.4f}")
    return lines


def _position(value: float, described: dict[str, Any]) -> str:
    """How far |margin| is from the mean of the corpus, in standard deviations."""
    if not described["std"]:
        return "|margin| is the same for every pair"
    z = (value - described["mean"]) / described["std"]
    return f"|margin| is {abs(z):.1f} sd {'above' if z >= 0 else 'below'} the corpus mean"


def examples_of(run: FinishedRun, num: int) -> dict[str, list[Row]]:
    """So many selected pairs of each kind, best first, with their texts; no kind of which there are none."""
    if num == 0:
        return {}
    pages = Pages(run)
    every = np.arange(pages.starts[-1])
    contradicted = np.flatnonzero(pages.column("reward_margin").to_numpy() < 0)
    kinds = {
        "Best": every[:num],
        "Last selected": every[max(0, len(every) - num) :],
        "Best whose label the reward model disagrees with": contradicted[:num],
    }
    return {kind: pages.rows(indices) for kind, indices in kinds.items() if len(indices)}


def examples(by_kind: Mapping[str, Sequence[Row]]) -> Html:
    """The section of a report that was asked for texts."""
    parts = [note(f"Texts of the corpus, at most {CHARACTERS} characters of each.")]
    for kind, rows in by_kind.items():
        parts += [f"<h3>{kind}</h3>", *(pair_article(row, at_most=CHARACTERS) for row in rows)]
    return section("examples", "Examples", *parts)


def pair_article(row: Row, behind_rank: str = "", at_most: int | None = None) -> Html:
    """A pair with its scores and texts; behind_rank: what else to say of it; at_most: characters of each text."""
    known = [name for name in ("map_score", "reward_margin", "implicit_margin") if name in row]
    scores = ", ".join(f"{name.replace('_', ' ')} {row[name]:+.3f}" for name in known)
    disagrees = "" if row["label_agrees"] else "; <strong>reward model disagrees with the label</strong>"
    texts = ""
    for name in TEXTS:
        reward = "" if name == "prompt" else f", reward {row[f'{name}_reward']:.3f}"
        words = long_text(plain_text(row[name], with_roles=True), at_most)
        texts += f'<div><dt>{name}{reward}</dt><dd tabindex="0">{words}</dd></div>\n'
    return Html(
        f'<article class="pair">\n<p><strong>rank {row["rank"]:,}</strong>{text(behind_rank)}{disagrees}<br>\n'
        f"{scores}, {code(row['pair_id'])}</p>\n<dl>{texts}</dl>\n</article>"
    )

"""One pair of a run, for a person: its texts, its margins, and the sum that gives its rank."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.config import Columns
from mapjob.corpus.plan import Corpus
from mapjob.corpus.records import Text
from mapjob.errors import ConfigError, Reason
from mapjob.escaping import for_terminal, html_text, one_line
from mapjob.report.browse import Pages
from mapjob.report.markup import Html, code, note, section
from mapjob.selection.formats import read_pair
from mapjob.store.run_folder import RunFolder

Row = dict[str, Any]


def selected_pair(run: RunFolder, which: str) -> Row | None:
    """The selected pair of a rank or a pair_id, from the run folder alone; None when it is not selected.

    Raises ConfigError, with the reason, for a pair that was not ranked at all.
    """
    wanted = pc.field("pair_id") == which
    if which.isdecimal():
        wanted |= pc.field("rank") == int(which)
    for name in run.tables("selected"):
        row = run.read_table(name).filter(wanted)[:1]
        if row.num_rows:
            return with_texts(run.manifest or {}, row)
    for name in run.tables("errors"):
        rows = run.read_table(name).filter(pc.field("pair_id") == which).to_pylist()
        if rows:
            reason = Reason(rows[0]["reason"])
            what = f"this pair was not ranked: {reason} ({reason.explanation}; {rows[0]['detail'] or 'no detail'})"
            raise ConfigError(what, f"{rows[0]['file']}, row {rows[0]['row']}", "see errors/ of the run")
    return None


def with_texts(manifest: dict[str, Any], row: pa.Table) -> Row:
    """A selected row with prompt, chosen and rejected, whatever format its run was written in. row: of one row."""
    config, corpus = manifest["config"], manifest["corpus"]
    read_as = Corpus(corpus["layout"], Columns(**config["input"]["columns"]), corpus["style"])
    return row.to_pylist()[0] | read_pair(row, config["output_format"], read_as)._asdict()


def pair_text(run: RunFolder, row: Row, is_selected: bool) -> str:
    """The pair as text, its margins, and the arithmetic of its score."""
    manifest = run.manifest or {}
    kept = "selected" if is_selected else "not selected"
    lines = [
        f"rank {row['rank']:,} of {manifest['counts']['ranked']:,} ({kept}), pair_id {one_line(row['pair_id'])}",
        *_section("prompt", row["prompt"]),
        *_section("chosen", row["chosen"]),
        *_section("rejected", row["rejected"]),
        "",
        *_arithmetic(manifest, row),
    ]
    if not row["label_agrees"]:
        lines.append("The reward model prefers the rejected side: the label may be wrong, or the reward model is.")
    return "\n".join(lines)


def _section(title: str, text: str | list[dict[str, str]]) -> list[str]:
    if isinstance(text, str):
        return ["", f"--- {title}", for_terminal(text)]
    turns = [for_terminal(f"[{turn['role']}] {turn['content']}") for turn in text]
    return ["", f"--- {title}", *turns]


def _arithmetic(manifest: dict[str, Any], row: Row) -> list[str]:
    statistics, selection = manifest["statistics"], manifest["config"]["selection"]
    scale, alpha = statistics["scale"], selection["alpha"]
    reward, implicit = abs(row["reward_margin"]), abs(row["implicit_margin"])
    return [
        f"reward margin   {row['reward_margin']:+10.4f} = {row['chosen_reward']:.4f} - ({row['rejected_reward']:.4f})"
        f"   {_place(reward, statistics['abs_reward_margin'])}",
        f"implicit margin {row['implicit_margin']:+10.4f} ({selection['implicit']}; "
        f"{row['chosen_num_tokens']} and {row['rejected_num_tokens']} tokens)"
        f"   {_place(implicit, statistics['abs_implicit_margin'])}",
        f"map_score       {row['map_score']:+10.4f} = {scale['reward']:.4g} * {reward:.4g}"
        f" - {alpha:g} * {scale['implicit']:.4g} * {implicit:.4g}   (scale {selection['scale']})",
        *([f"{selection['metric']:<16}{row[selection['metric']]:+10.4f}"] if selection["metric"] != "map" else []),
    ]


def _place(value: float, described: dict[str, Any]) -> str:
    """Where |margin| stands in the corpus: in standard deviations from its mean."""
    if not described["std"]:
        return "|margin| is the same for every pair"
    z = (value - described["mean"]) / described["std"]
    return f"|margin| is {abs(z):.1f} sd {'above' if z >= 0 else 'below'} the corpus mean"


# Pairs with their texts, for a report that is asked for them.

CHARACTERS = 300


class Example(NamedTuple):
    """A row as a selection would hold it, and what it is an example of."""

    kind: str
    row: dict[str, Any]


def examples_of(run: RunFolder, num: int) -> list[Example]:
    """So many selected pairs of each kind, best first, with their texts."""
    if num == 0:
        return []
    pages = Pages(run)
    every = np.arange(pages.starts[-1])
    contradicted = np.flatnonzero(pages.column("reward_margin").to_numpy() < 0)
    kinds = {
        "The best": every[:num],
        "The last that are selected": every[max(0, len(every) - num) :],
        "The best whose label the reward model contradicts": contradicted[:num],
    }
    return [
        Example(kind, with_texts(pages.manifest, table.slice(place, 1)))
        for kind, numbers in kinds.items()
        for table in pages.tables(numbers)
        for place in range(table.num_rows)
    ]


def examples(rows: Sequence[Example]) -> Html:
    parts = [note(f"Texts of the corpus, at most {CHARACTERS} characters of each.")]
    for kind in dict.fromkeys(example.kind for example in rows):
        parts.append(f"<h3>{kind}</h3>")
        parts += [_pair(example.row) for example in rows if example.kind == kind]
    return section("examples", "Examples", *parts)


def _pair(row: dict[str, Any]) -> str:
    # Under a stated goal a pair has no implicit margin: with another prompt no log-probability holds.
    known = [name for name in ("map_score", "reward_margin", "implicit_margin") if name in row]
    margins = ", ".join(f"{name.replace('_', ' ')} {row[name]:+.3f}" for name in known)
    head = f"<p>rank {row['rank']:,}, {code(row['pair_id'])}: {margins}</p>"
    texts = "".join(f"<dt>{name}</dt><dd>{_short(row[name])}</dd>" for name in ("prompt", "chosen", "rejected"))
    return f'<article class="pair">{head}<dl>{texts}</dl></article>'


def _short(words: Text) -> str:
    whole = words if isinstance(words, str) else "\n".join(f"[{turn['role']}] {turn['content']}" for turn in words)
    if len(whole) <= CHARACTERS:
        return html_text(whole)
    return f"{html_text(whole[:CHARACTERS])}… <i>({len(whole):,} characters)</i>"

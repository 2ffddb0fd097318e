"""report.html of a run: one file without script, font or image of elsewhere, that opens offline and in an e-mail."""

from collections.abc import Sequence
from typing import Any

from mapjob.config import parse_config
from mapjob.report.account import cost, refused, training
from mapjob.report.effects import effects, others
from mapjob.report.examples import Example, examples
from mapjob.report.overview import header, overview, warnings
from mapjob.report.pictures import distributions, picture
from mapjob.report.style import STYLE
from mapjob.report.summary import Summary

# Whatever a browser might be made to load, it loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


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
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>mapjob: {manifest["counts"]["selected"]:,} pairs by {metric}</title>
<style>{STYLE}</style>
</head>
<body>
{header(manifest, config)}<main>
{"".join(sections)}</main>
</body>
</html>
"""

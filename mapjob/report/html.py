"""report.html of a run: one file without script, font or image of elsewhere, that opens offline and in an e-mail."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapjob.config import parse_config
from mapjob.ranking.select import Ranking
from mapjob.report.account import cost, refused, training
from mapjob.report.effects import effects, others
from mapjob.report.examples import Example, examples
from mapjob.report.overview import overview, warnings
from mapjob.report.pictures import distributions, picture
from mapjob.report.style import STYLE

# Whatever a browser might be made to load, it loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(
    manifest: dict[str, Any], ranking: Ranking, agreement: Mapping[str, float], rows: Sequence[Example] = ()
) -> str:
    """The report of a run. manifest: as it is committed; ranking: with lengths and groups (see profile.ALSO);
    agreement: Jaccard overlap with the selections of other metrics; rows: examples, the only texts of the corpus in it.

    The same arguments give the same bytes.
    """
    config, metric = parse_config(manifest["config"]), manifest["config"]["selection"]["metric"]
    kept = np.zeros(len(ranking.pairs), bool)
    kept[ranking.kept] = True
    sections = [
        overview(manifest, config),
        picture(ranking, config, kept),
        distributions(manifest, ranking, kept),
        effects(manifest, ranking),
        others(agreement, metric),
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
{"".join(sections)}</body>
</html>
"""

"""mapjob from Python, with the words of the command line. Raises MapjobError where that would print one."""

from typing import Any

import numpy as np
import pyarrow as pa

from mapjob import job, rankings
from mapjob.config import Config, load_config, parse_config
from mapjob.errors import ConfigError
from mapjob.prepare import prepare
from mapjob.store.rows import ranked_rows
from mapjob.store.run_folder import open_run


def run(config: Config | dict[str, Any] | str, **options: Any) -> dict[str, Any]:
    """Score what is missing, rank, publish; returns the manifest. config: a run file's path, its content, or a Config.

    options: limit, say, verbose, code_allowed, events as in mapjob.job.run.
    """
    return job.run(_config(config), **options)


def rank(config: Config | dict[str, Any] | str, **options: Any) -> dict[str, Any]:
    """Another selection from the same scores; no model is loaded. Returns the manifest.

    options: limit, say, code_allowed as in mapjob.job.rank.
    """
    return job.rank(_config(config), **options)


def load_scores(path: str) -> pa.Table:
    """Every ranked pair of a finished run in rank order: ids, scores, margins, group and `selected`, no texts.

    path: a run folder, or an output folder for its newest run. `.to_pandas()` makes a frame of it,
    `datasets.Dataset(table)` a data set. Raises ConfigError where corpus or models are no longer those of the run.
    """
    manifest = open_run(path).manifest
    assert manifest is not None, "open_run returns finished runs"
    prepared = prepare(parse_config(manifest["config"]), manifest["limit"])
    if prepared.run_folder.run_id != manifest["run_id"]:
        raise ConfigError(
            "the corpus or a model changed since this run, so only its selection is left of it",
            path,
            "read selected/, or run the run file again",
        )
    scored, ranking = rankings.ranked(prepared)
    every = np.arange(len(ranking.pairs))
    rows = ranked_rows(ranking, prepared.config.selection, every, ranking.rank)
    edges = np.searchsorted(ranking.pairs.position, prepared.plan.first_rows)
    parts = []
    for unit in scored.units.read():
        own = rows.take(every[edges[unit.index] : edges[unit.index + 1]])
        pairs = own.pairs_of(unit.pairs)
        parts.append(pa.table({**own.our_columns(pairs), "group": pairs.group}))
    table = pa.concat_tables(parts)
    selected = np.zeros(len(ranking.pairs), bool)
    selected[ranking.kept] = True
    return table.append_column("selected", pa.array(selected)).take(pa.array(ranking.order))


def _config(config: Config | dict[str, Any] | str) -> Config:
    if isinstance(config, Config):
        return config
    return parse_config(config) if isinstance(config, dict) else load_config(config)

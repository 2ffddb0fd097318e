"""`execution.rows_per_unit: auto`: how many rows are about a minute of one actor's work, so that a kill costs that."""

import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache

import numpy as np
import pyarrow as pa

from mapjob.config.run import Config
from mapjob.pipeline.progress import Total
from mapjob.scoring.model_files import ModelFiles
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.snapshots import Snapshots

SIZES = (32, 64, 125, 250, 500, 1000, 2000)  # a few, so that a machine's mood does not cut a corpus anew
WORK_S = 60.0
CHARACTERS_PER_TOKEN = 4.0
UTILISATION = 0.4  # of the peak
ON_A_CLUSTER = 312e12  # of an actor that this machine cannot look at: an A100
PACE = "pace.1"  # of the table of seconds per row, by model
CHANGED = 0.5  # a pace that differs by less is known well enough
TRIAL = 384  # rows and columns of the matrices that a core is timed by


def size_units(config: Config, models: Collection[ModelFiles]) -> int | Callable[[str, float], int]:
    """What the run file says; or a function of a file's name and the mean characters of a row: about a minute of the
    slowest scorer's actor, within 32 and 2,000 rows.

    By what a row took an actor in `mapjob plan` or an earlier run into this output (see `keep_pace`); before that by an
    estimate: operations of the layers, over what the device does.
    """
    if config.execution.rows_per_unit != "auto":
        return config.execution.rows_per_unit

    @cache
    def rows_in_a_minute(characters: float) -> int:
        from mapjob.scoring.costs import token_cost  # with transformers, and few plans need it

        tokens = min(characters / CHARACTERS_PER_TOKEN, 2.0 * config.scoring.max_length)
        known = _read_pace(Snapshots(config.output.path, PACE))
        seconds = [
            known.get(_model(files)) or 2.0 * token_cost(files) * tokens / _flop_per_s(config, files)
            for files in models
        ]
        return SIZES[max(0, bisect_right(SIZES, WORK_S / max(*seconds, 1e-9)) - 1)]

    return lambda _, characters: rows_in_a_minute(characters)


def measure_pace(scorers: Iterable[ScorerSpec], total: Total) -> dict[ModelFiles, float]:
    """Seconds that a row took an actor of each scorer in a run, of those that scored enough rows to say it."""
    return {
        scorer.files: total.costs[scorer.name].model_s / total.scored[scorer.name]
        for scorer in scorers
        if scorer.name in total.costs and total.scored[scorer.name] >= SIZES[0]
    }


def keep_pace(output: str, seconds_per_row: Mapping[ModelFiles, float]) -> None:
    """Write down what a row takes an actor, unless that is known well enough."""
    snapshots = Snapshots(output, PACE)
    known = _read_pace(snapshots)
    now = {_model(files): seconds for files, seconds in seconds_per_row.items()}
    if any(abs(known.get(model, 0.0) / max(seconds, 1e-9) - 1) > CHANGED for model, seconds in now.items()):
        paces = known | now
        snapshots.write(pa.table({"model": list(paces), "seconds_per_row": list(paces.values())}))


def _read_pace(snapshots: Snapshots) -> dict[str, float]:
    table = snapshots.read()
    return {} if table is None else dict(zip(table["model"].to_pylist(), table["seconds_per_row"].to_pylist()))


def _model(files: ModelFiles) -> str:
    return f"{files.weights_hash} {files.dtype}"


def _flop_per_s(config: Config, files: ModelFiles) -> float:
    """Floating-point operations per second of an actor: a GPU's by its name, a core's by a short trial."""
    import torch

    from mapjob.scoring.costs import peak_flop_per_s

    if torch.cuda.is_available():
        return UTILISATION * (peak_flop_per_s(torch.cuda.get_device_name(), files.dtype) or ON_A_CLUSTER)
    if config.execution.address is not None:
        return UTILISATION * ON_A_CLUSTER
    matrix = np.ones((TRIAL, TRIAL), np.float32)
    seconds = []
    for _ in range(9):  # the fastest counts, since other work on the machine only adds to the others
        start = time.process_time()
        matrix @ matrix
        seconds.append(time.process_time() - start)
    return UTILISATION * 2 * TRIAL**3 / max(min(seconds), 1e-6)

"""`execution.rows_per_unit: auto`: how many rows are about a minute of one actor's work, so that a kill costs that."""

import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable

import numpy as np
import pyarrow as pa

from mapjob.config.run import Config
from mapjob.pipeline.progress import Total
from mapjob.scoring.costs import GPUS, peak_flop_per_s, token_cost
from mapjob.scoring.model_files import ModelFiles
from mapjob.scoring.spec import ScorerSpec
from mapjob.store.snapshots import Snapshots

SIZES = (32, 64, 125, 250, 500, 1000, 2000)  # a few, so that a machine's mood does not cut a corpus anew
WORK_S = 60.0
CHARACTERS_PER_TOKEN = 4.0
UTILISATION = 0.4  # of the peak
ON_A_CLUSTER = GPUS["a100"].bfloat16 * 1e12  # of an actor that this machine cannot look at
CHANGED = 0.5  # a pace that differs by less is known well enough
TRIAL = 384  # rows and columns of the matrices that a core is timed by


def size_units(config: Config, models: Collection[ModelFiles]) -> Callable[[float], int]:
    """A function from the mean characters of a row to the rows of a unit: what the run file says, or about a minute of
    the slowest scorer's actor, within 32 and 2,000.

    By what an earlier run into this output took per row (see `keep_pace`); before that by an estimate: operations of
    the layers, over what the device does.
    """
    if config.execution.rows_per_unit != "auto":
        rows = config.execution.rows_per_unit
        return lambda _: rows

    def rows_in_a_minute(characters: float) -> int:
        tokens = min(characters / CHARACTERS_PER_TOKEN, 2.0 * config.scoring.max_length)
        seconds = 1e-9
        for files in models:
            known = _pace(config.output.path, files).read()
            estimate = 2.0 * token_cost(files) * tokens / _flop_per_s(config, files) if known is None else 0.0
            seconds = max(seconds, estimate if known is None else known["seconds_per_row"][0].as_py())
        return SIZES[max(0, bisect_right(SIZES, WORK_S / seconds) - 1)]

    return rows_in_a_minute


def keep_pace(output: str, scorers: Iterable[ScorerSpec], total: Total) -> None:
    """Write down what a row took each scorer in this run, unless that is known well enough."""
    for scorer in scorers:
        rows, cost = total.scored[scorer.name], total.costs.get(scorer.name)
        if cost is None or rows < SIZES[0]:
            continue
        pace, seconds = _pace(output, scorer.files), cost.model_s / rows
        known = pace.read()
        if known is None or abs(known["seconds_per_row"][0].as_py() / max(seconds, 1e-9) - 1) > CHANGED:
            pace.write(pa.table({"seconds_per_row": [seconds]}))


def _pace(output: str, files: ModelFiles) -> Snapshots:
    return Snapshots(output, f"pace-{files.weights_hash[:16]}-{files.dtype}")


def _flop_per_s(config: Config, files: ModelFiles) -> float:
    """Floating-point operations per second of an actor: a GPU's by its name, a core's by a short trial."""
    import torch  # slow, and a corpus that is known needs none of this

    if torch.cuda.is_available():
        return UTILISATION * (peak_flop_per_s(torch.cuda.get_device_name(), files.dtype) or ON_A_CLUSTER)
    if config.execution.address is not None:
        return UTILISATION * ON_A_CLUSTER
    matrix = np.ones((TRIAL, TRIAL), np.float32)
    matrix @ matrix
    start = time.process_time()
    for _ in range(4):
        matrix @ matrix
    return UTILISATION * 4 * 2 * TRIAL**3 / max(time.process_time() - start, 1e-6)

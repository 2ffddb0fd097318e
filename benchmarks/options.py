"""What each option of a model gains in speed and how far it moves the scores, beside the engine without it.

    python -m benchmarks.options [--records N] [--rounds N]

The same made models and lengths as in benchmarks.scoring; rounds are interleaved. Drift is in nats of a completion's
log-probability sum, in the mean and at most. float8 is tried where the device multiplies it.
"""

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ["GOMP_SPINCOUNT"] = "0"  # before torch is imported: threads that spin while they wait slow their neighbours

import numpy as np
import torch

from benchmarks.models import SHAPE, make_models
from benchmarks.yardsticks import Scenario, records_of, spec_of, spread, timed
from mapjob.scoring.encode import Encoded
from mapjob.scoring.models import arithmetic, default_device
from mapjob.scoring.scorers import Scorer

OPTIONS = {"compile": {"compile": True}, "head_dtype: bfloat16": {"head_dtype": "bfloat16"}}
FLOAT8 = {"dtype: float8": {"dtype": "float8"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{'option':<34}{'speed-up min/median/max':>26}{'mean drift':>14}{'largest':>12}{'sums of about':>16}")
    with tempfile.TemporaryDirectory(prefix="mapjob-benchmark-") as folder:
        make_models(Path(folder))
        for dtype in ("float32", "bfloat16"):
            compare(Path(folder), Scenario("policy", dtype, 2, arguments.records), arguments.rounds)


def compare(folder: Path, scenario: Scenario, rounds: int) -> None:
    spec, records = spec_of(folder, scenario), records_of(scenario, SHAPE["vocab_size"])
    in_bfloat16 = arithmetic(scenario.dtype, default_device()) == "bfloat16"
    options = OPTIONS if in_bfloat16 else {"compile": OPTIONS["compile"]}
    if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9) and scenario.dtype == "bfloat16":
        options = options | FLOAT8
    scorers = {"": Scorer(spec)}
    scorers |= {name: Scorer(replace(spec, files=replace(spec.files, **option))) for name, option in options.items()}
    scores = {name: logps(scorer, records) for name, scorer in scorers.items()}  # and compiling is done
    seconds: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(rounds):
        for name, scorer in scorers.items():
            timed(lambda scorer=scorer: logps(scorer, records), seconds[name])
    for name in options:
        gain = spread([plain / own for plain, own in zip(seconds[""], seconds[name])])
        drift = np.abs(scores[name] - scores[""])
        gains = "/".join(f"{gain[which]:.2f}" for which in ("min", "median", "max"))
        size = np.abs(scores[""]).mean()
        print(f"{scenario.dtype + ', ' + name:<34}{gains:>26}{drift.mean():>14.2g}{drift.max():>12.2g}{size:>16,.0f}")


def logps(scorer: Scorer, records: list[Encoded]) -> np.ndarray:
    return np.array(scorer.score(records).table["logps"].to_pylist()).ravel()


if __name__ == "__main__":
    main()

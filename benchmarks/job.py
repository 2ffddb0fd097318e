"""The whole job compared with the bare engine: pairs/s from start to manifest, over pairs/s of the scorers alone.

    python -m benchmarks.job [CORPUS [POLICY REWARD]] [--limit N] [--rows-per-unit N] [--output FOLDER] [--json]

If no models are given, it creates a policy and a reward model of 110M parameters with random weights, as fast as
trained ones. At the end it compares the selection with the authors' formula (Huang et al. 2025).
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.models import make_models
from mapjob.cli.options import log_to_stderr
from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.corpus.reader import read_records, read_rows
from mapjob.job.prepare import prepare
from mapjob.job.rank import rank_scored
from mapjob.job.run import rank_job, run_job
from mapjob.ranking.rank import Ranking
from mapjob.scoring.encode import Encoded, Encoder
from mapjob.scoring.scorers import make_scorer
from mapjob.selection.load import Scored

REAL_PAIRS = Path(__file__).parents[2] / "shared" / "data" / "alpaca_eval_pairs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", default=REAL_PAIRS, help="default: the developers' real pairs")
    parser.add_argument("policy", nargs="?")
    parser.add_argument("reward", nargs="?")
    parser.add_argument("--limit", type=int, help="only the first N rows; default with the benchmark's models: 240")
    parser.add_argument("--rows-per-unit", type=int, help="default with the benchmark's models: 6")
    parser.add_argument("--output", help="write the scores here; a finished output is only ranked again")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    log_to_stderr()
    with tempfile.TemporaryDirectory(prefix="mapjob-benchmark-") as folder:
        if arguments.policy is None:
            arguments.policy, arguments.reward = make_models(Path(folder) / "models")
            arguments.limit = arguments.limit or 240
            arguments.rows_per_unit = arguments.rows_per_unit or 6
        figures = measure(arguments, Path(arguments.output or Path(folder) / "output"))
    for name, value in figures.items():
        print(f"{name:<32}{value:>14,.4g}" if isinstance(value, float) else f"{name:<32}{value:>14}")
    if arguments.json:
        print(json.dumps(figures))


def measure(arguments: argparse.Namespace, output: Path) -> dict[str, Any]:
    config = run_file(arguments, output)
    start = time.monotonic()
    manifest = run_job(config, arguments.limit)
    wall_s = time.monotonic() - start
    rows, cores = manifest["counts"]["rows"], os.cpu_count() or 1
    engine, one_by_one = bare_engine(config, arguments.limit)
    figures: dict[str, Any] = {"rows": rows, "cores": cores, "wall_s": wall_s}
    figures |= {"job_pairs_per_s": rows / wall_s, "engine_pairs_per_s": engine, "ratio": rows / wall_s / engine}
    figures |= {"tokens": sum(manifest["spent"]["tokens"].values()), "tokens_one_by_one": one_by_one}
    for stage, seconds in manifest["spent"]["seconds"].items():
        figures[f"{stage}_s"] = seconds
    # Processor seconds inside the scorers over the core time available from start to end.
    figures["model_share_of_cores"] = sum(manifest["spent"]["model_s"].values()) / (wall_s * cores)

    other = config.model_copy(update={"selection": config.selection.model_copy(update={"alpha": 2.5})})
    start = time.monotonic()
    rank_job(other, arguments.limit)
    figures["rank_other_alpha_s"] = time.monotonic() - start

    scored, ranking = rank_scored(prepare(config, arguments.limit))
    return figures | compare_with_authors(scored, ranking, config)


def run_file(arguments: argparse.Namespace, output: Path) -> Config:
    tree: dict[str, Any] = {
        "input": {"path": str(arguments.corpus)},
        "output": {"path": str(output)},
        "models": {"policy": {"path": str(arguments.policy)}, "reward": {"path": str(arguments.reward)}},
    }
    if arguments.rows_per_unit:
        tree["execution"] = {"rows_per_unit": arguments.rows_per_unit}
    return parse_config(tree)


def bare_engine(config: Config, limit: int | None) -> tuple[float, int]:
    """(pairs/s of policy and reward model, one after the other on all cores, on encoded records: scoring only; tokens
    of all sequences, each with its own prompt, as without packs and shared prompts)."""
    prepared = prepare(config, limit)
    corpus, seconds, one_by_one = prepared.plan.corpus, 0.0, 0
    torch.set_num_threads(os.cpu_count() or 1)
    tables = [read_rows(u.file, u.start, u.stop, corpus.own_columns) for u in prepared.plan.units]
    units = [read_records(table, corpus.reading) for table in tables]
    for spec in prepared.scorers:
        encoder, scorer = Encoder(spec.encoding, corpus), make_scorer(spec)
        encoded = [encoder.encode(records) for records in units]
        good = [record for records in encoded for record in records if isinstance(record, Encoded)]
        one_by_one += sum(len(record.prompt) + len(ids) for record in good for ids in record.completions)
        scorer.score(encoded[0])
        start = time.monotonic()
        for records in encoded:
            scorer.score(records)
        seconds += time.monotonic() - start
    return prepared.plan.num_rows / seconds, one_by_one


def compare_with_authors(scored: Scored, ranking: Ranking, config: Config) -> dict[str, int]:
    """Number of pairs by which their z-scored top 40 % and ours differ; 0: the same set."""
    units = [unit.pairs.take(np.isin(unit.pairs.position, ranking.pairs.position)) for unit in scored.units.read()]
    columns = {name: np.concatenate([pairs.columns[name] for pairs in units]) for name in units[0].columns}
    a = np.maximum(columns["chosen_reward"], columns["rejected_reward"])
    a = a - np.minimum(columns["chosen_reward"], columns["rejected_reward"])
    chosen_mean = columns["chosen_logps"] / columns["chosen_num_tokens"]
    b = np.abs(chosen_mean - columns["rejected_logps"] / columns["rejected_num_tokens"])
    score = (a - a.mean()) / a.std() - config.selection.alpha * (b - b.mean()) / b.std()
    theirs = set(np.argsort(-score, kind="stable")[: int(0.4 * len(score))].tolist())
    ours = set(ranking.kept.tolist())
    return {"selected": len(ours), "differ_from_authors_formula": len(theirs ^ ours)}


if __name__ == "__main__":
    main()

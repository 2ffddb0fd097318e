"""The scoring engine compared with its peers and with the processor's peak, in one process and interleaved rounds.

    python -m benchmarks.scoring [--pairs N] [--rounds N] [--quick] [--json]

Models are created on the spot: Llama of 110M parameters, random weights that bfloat16 holds exactly, so that one
float64 reference serves every dtype. L is the share of the peak that goes into useful work: each prompt once, the head
on completion tokens only. lead is the fastest peer's time over ours.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["GOMP_SPINCOUNT"] = "0"  # before torch is imported: threads that spin while they wait slow their neighbours

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from benchmarks import peers
from benchmarks.models import make_models
from benchmarks.yardsticks import (
    Scenario,
    memory_elsewhere,
    peak_flops,
    records_of,
    spec_of,
    spread,
    timed,
    useful_flops,
)
from mapjob.scoring.encode import Encoded
from mapjob.scoring.models import arithmetic, default_device
from mapjob.scoring.scorers import Scorer, make_scorer

AUTO = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}
KIND = {"policy": "logps", "reward": "rewards"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="records of two completions (default 3; 2 if bfloat16 is emulated)")
    parser.add_argument("--rounds", type=int, help="rounds after the first (default 2; 1 if bfloat16 is emulated)")
    parser.add_argument("--quick", action="store_true", help="only policy pairs, with few peers")
    parser.add_argument("--json", action="store_true", help="one object per line after the table")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # TRL sets options that transformers has renamed
    # If the processor has no bfloat16, peers take four times as long for it; the benchmark must end within ten minutes.
    few = arguments.quick or peers_crawl("bfloat16")
    scenarios = plan(arguments.pairs or (2 if few else 3), arguments.quick)
    rounds = (1 if few else 2) if arguments.rounds is None else arguments.rounds
    with tempfile.TemporaryDirectory(prefix="mapjob-benchmark-") as folder:
        make_models(Path(folder))
        results = compare(Path(folder), scenarios, rounds, arguments.quick)
    print(table(results))
    if arguments.json:
        print("\n".join(json.dumps(result) for result in results))


def peers_crawl(dtype: str) -> bool:
    """Whether peers compute in a dtype that the processor only emulates; our engine then uses another."""
    return arithmetic(dtype, default_device()) != dtype


def plan(pairs: int, quick: bool) -> list[Scenario]:
    """Both dtypes have the same records, so that one float64 reference serves both."""
    kinds = [("policy", 2, pairs)]
    if not quick:
        kinds += [("reward", 2, pairs), ("policy", 5, math.ceil(pairs * 2 / 5))]
    return [Scenario(scorer, dtype, n, num) for scorer, n, num in kinds for dtype in ("float32", "bfloat16")]


def load(folder: Path, scenario: Scenario, dtype: torch.dtype, **more: Any) -> PreTrainedModel:
    return AUTO[scenario.scorer].from_pretrained(folder / scenario.scorer, dtype=dtype, **more).eval()


def compare(folder: Path, scenarios: list[Scenario], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """The results of all scenarios. Exits if a scorer's scores are wrong."""
    results: list[dict[str, Any]] = []
    true: dict[tuple, list[float]] = {}
    rates: dict[str, float] = {}
    for scenario in scenarios:
        config = LlamaConfig.from_pretrained(folder / scenario.scorer)
        records = records_of(scenario, config.vocab_size)
        sequences = [(record.prompt.tolist(), ids.tolist()) for record in records for ids in record.completions]
        if scenario.work not in true:
            say(f"{scenario.scorer}, {len(sequences)} completions: float64 reference")
            model = load(folder, scenario, torch.float64, attn_implementation="eager")
            true[scenario.work] = peers.reference(model, sequences)
        scorer, model = make_scorer(spec_of(folder, scenario)), load(folder, scenario, getattr(torch, scenario.dtype))
        say(f"{scenario}: {scorer}")

        def ours(records: list[Encoded] = records, scorer: Scorer = scorer, kind: str = KIND[scenario.scorer]):
            columns = scorer.score(records).table
            return [value for row in columns[kind].to_pylist() for value in row]

        try:
            result = play(scenario, ours, model, sequences, true[scenario.work], rounds, quick)
        except peers.Disagreement as error:
            sys.exit(f"nothing to report for {scenario}: {error}")
        best_s, useful = min(result["ours_s"]), useful_flops(config, records, head=scenario.scorer == "policy")
        result["L"] = spread([useful / (s * result["peak_flops"]) for s in result["ours_s"]])
        result["memory_bytes"] = memory_elsewhere(folder, scenario)
        rate = result["completions_per_s"] = len(sequences) / best_s
        if scenario.completions == 2 and scenario.scorer == "policy":
            rates[scenario.dtype] = rate
        elif scenario.completions > 2:
            result["candidates_rate_over_pairs"] = rate / rates[scenario.dtype]
        results.append(result)
        del scorer, model, ours
    return results


def play(
    scenario: Scenario,
    ours: Callable[[], list[float]],
    model: PreTrainedModel,
    sequences: list[tuple[list[int], list[int]]],
    true: list[float],
    rounds: int,
    quick: bool,
) -> dict[str, Any]:
    """One round with all scorers, to check their scores, then rounds with those that matter."""
    few = quick or peers_crawl(scenario.dtype)
    pool = [peer for peer in (peers.QUICK if few else peers.PEERS) if takes_part(peer, scenario, len(sequences))]
    short = [(prompt[:8], completion[:8]) for prompt, completion in sequences[:2]]
    for peer in pool:
        peer.score(model, short, peer.batch_size)  # warm-up
    scores, peaks, ours_s, peers_s = {}, [peak_flops(scenario.dtype)], [], {}
    scores[peers.OURS] = timed(ours, ours_s)
    for peer in pool:
        scores[str(peer)] = timed(lambda p=peer: p.score(model, sequences, p.batch_size), peers_s.setdefault(peer, []))
        say(f"  {peer}: {peers_s[peer][0] / ours_s[0]:.2f} times our {ours_s[0]:.2f} s")
    errors = peers.check(scores, true, KIND[scenario.scorer], scenario.dtype)
    for _ in range(rounds):
        peaks.append(peak_flops(scenario.dtype))
        timed(ours, ours_s)
        best = sorted(peers_s, key=lambda peer: min(peers_s[peer]))[: 1 if few else 2]
        slow = [] if few else [peer for peer in peers_s if str(peer) == peers.BATCH_8]
        for peer in dict.fromkeys([*best, *slow]):
            timed(lambda p=peer: p.score(model, sequences, p.batch_size), peers_s[peer])
    # The fastest at the end was among the best in every round, so it has a time in each.
    best = min(peers_s, key=lambda peer: min(peers_s[peer]))
    batch_8_s = next(seconds for peer, seconds in peers_s.items() if str(peer) == peers.BATCH_8)
    return {
        "model": "llama-110M",
        **{name: value for name, value in asdict(scenario).items() if name != "num_records"},
        "records": scenario.num_records,
        "L": {},
        "lead": spread([theirs / own for theirs, own in zip(peers_s[best], ours_s)]),
        "best_peer": str(best),
        "lead_batch8": spread([theirs / own for theirs, own in zip(batch_8_s, ours_s)]),
        "memory_bytes": 0,
        "peak_flops": max(peaks),
        "ours_s": ours_s,
        "peers_s": {str(peer): seconds for peer, seconds in peers_s.items()},
        "mean_errors": errors,
    }


def takes_part(peer: Any, scenario: Scenario, num_sequences: int) -> bool:
    """Whether a peer is run: reward models and many candidates meet only the strongest, which policy pairs show."""
    pairs_of_policy = scenario.scorer == "policy" and scenario.completions == 2
    if not pairs_of_policy and (peer.engine == "trl" or peer.weak):
        return False
    # From twice the number of sequences on, a batch holds them all, as the size before did.
    other_work = peer.batch_size < 2 * num_sequences or str(peer) == peers.BATCH_8
    return other_work and (scenario.scorer == "policy" or peer.engine != "lm-eval")


def table(results: list[dict[str, Any]]) -> str:
    """One line per scenario, and below it the errors and what was left out."""
    lines = [
        f"{'scenario':<22}{'L min/median/max':>19}{'lead min/median/max':>22}  {'best peer':<24}{'over batch 8':>12}"
        f"{'memory MB':>11}"
    ]
    for r in results:
        name = f"{r['scorer']} {r['dtype']} N={r['completions']}"
        share, lead = ("/".join(f"{r[key][which]:.2f}" for which in ("min", "median", "max")) for key in ("L", "lead"))
        lines.append(
            f"{name:<22}{share:>19}{lead:>22}  {r['best_peer']:<24}{r['lead_batch8']['median']:>12.2f}"
            f"{r['memory_bytes'] / 1e6:>11.0f}"
        )
    lines.append("")
    for r in results:
        name = f"{r['scorer']} {r['dtype']} N={r['completions']}"
        rate = f"{r['completions_per_s']:.2f} completions/s, peak {r['peak_flops'] / 1e9:.0f} GFLOP/s"
        if "candidates_rate_over_pairs" in r:
            rate += f", {r['candidates_rate_over_pairs']:.2f} times the rate of pairs"
        lines.append(f"{name}: {rate}")
        lines.append("  mean errors: " + "; ".join(f"{who} {error:.2g}" for who, error in r["mean_errors"].items()))
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

"""The scoring engine against its peers and against the processor's peak, in one process and interleaved rounds.

    python -m benchmarks.scoring [--pairs N] [--rounds N] [--quick] [--json]

Models are made on the spot: Llama of 110M parameters, random weights that bfloat16 holds exactly, so that one float64
reference judges every dtype. L is the share of the peak that useful work gets: each prompt once, the head on completion
tokens only. lead is the fastest peer's time over ours.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ["GOMP_SPINCOUNT"] = "0"  # before torch is imported: threads that spin while they wait slow their neighbours

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from mapjob.config import Columns, parse_config
from mapjob.corpus.plan import Corpus
from mapjob.scoring.encode import Encoded
from mapjob.scoring.scorers import Scorer
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs

AUTO = {"policy": AutoModelForCausalLM, "reward": AutoModelForSequenceClassification}
KIND = {"policy": "logps", "reward": "rewards"}
LLAMA_110M = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 2048}
LLAMA_110M |= {"vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": True, "pad_token_id": 0}
PROMPT_MEAN, RESPONSE_MEAN = 200, 300  # tokens
PRODUCTS = [(2048, 2048, 2048), (1024, 768, 3072), (1024, 768, 768)]
SECONDS = 40  # of a scenario's first round, after which optional peers are left out
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"


@dataclass(frozen=True)
class Scenario:
    scorer: str
    dtype: str
    completions: int
    num_records: int

    def __str__(self) -> str:
        return f"{self.scorer} {self.dtype} N={self.completions}"

    @property
    def work(self) -> tuple[str, int, int]:
        """What has a float64 reference of its own."""
        return self.scorer, self.completions, self.num_records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, help="records of two completions in a scenario (default 6, quick 3)")
    parser.add_argument("--rounds", type=int, help="rounds after the first (default 2, quick 1)")
    parser.add_argument("--quick", action="store_true", help="policy pairs alone, against few peers")
    parser.add_argument("--json", action="store_true", help="one object a line after the table")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)  # the subprocess: folder, scenario
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if arguments.memory:
        print(memory_here(Path(arguments.memory[0]), Scenario(**json.loads(arguments.memory[1]))))
        return
    scenarios = plan(arguments.pairs or (3 if arguments.quick else 6), arguments.quick)
    rounds = (1 if arguments.quick else 2) if arguments.rounds is None else arguments.rounds
    with tempfile.TemporaryDirectory(prefix="mapjob-benchmark-") as folder:
        make_models(Path(folder), LLAMA_110M)
        results = compare(Path(folder), scenarios, rounds, arguments.quick)
    print(table(results))
    if arguments.json:
        print("\n".join(json.dumps(result) for result in results))


def plan(pairs: int, quick: bool) -> list[Scenario]:
    dtypes = ("float32", "bfloat16")
    if quick:
        return [Scenario("policy", dtype, 2, pairs) for dtype in dtypes]
    scenarios = [Scenario(scorer, dtype, 2, pairs) for scorer in ("policy", "reward") for dtype in dtypes]
    return scenarios + [Scenario("policy", dtype, 5, max(1, round(pairs * 2 / 5))) for dtype in dtypes]


def make_models(folder: Path, shape: dict[str, Any]) -> None:
    """A policy and a reward model of one shape, each with a tokenizer that is only there to be found."""
    core = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=TEMPLATE
    )
    for seed, (name, auto) in enumerate(AUTO.items()):
        torch.manual_seed(seed)
        more = {"num_labels": 1} if name == "reward" else {}
        auto.from_config(LlamaConfig(**shape, **more)).to(torch.bfloat16).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def records_of(scenario: Scenario, vocabulary: int) -> list[Encoded]:
    """Random ids. Lengths are even quantiles of a gamma distribution of shape 2, so that few stand for many."""
    rng = np.random.default_rng(scenario.completions)

    def lengths(mean: float, num: int) -> np.ndarray:
        x = np.linspace(0, 12, 10_000)  # in units of half the mean
        quantiles = np.interp((np.arange(num) + 0.5) / num, 1 - (1 + x) * np.exp(-x), x)
        return rng.permutation(np.maximum(2, quantiles * mean / 2).astype(int))

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, vocabulary, length, dtype=np.int32)

    prompts = lengths(PROMPT_MEAN, scenario.num_records)
    responses = lengths(RESPONSE_MEAN, scenario.num_records * scenario.completions).reshape(len(prompts), -1)
    return [Encoded(ids(prompt), [ids(length) for length in own]) for prompt, own in zip(prompts, responses)]


def spec_of(folder: Path, scenario: Scenario) -> ScorerSpec:
    tree = {
        "input": {"path": "unused"},
        "output": {"path": "unused"},
        "models": {name: {"path": str(folder / name), "dtype": scenario.dtype} for name in AUTO},
        "scoring": {"max_length": 4096},
    }
    config = parse_config(tree)
    specs = scorer_specs(config, Corpus("trl", Columns(), "chat"), scorer_files(config))
    return next(spec for spec in specs if spec.name == scenario.scorer)


def load(folder: Path, scenario: Scenario, dtype: torch.dtype, **more: Any) -> PreTrainedModel:
    return AUTO[scenario.scorer].from_pretrained(folder / scenario.scorer, dtype=dtype, **more).eval()


def compare(folder: Path, scenarios: list[Scenario], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """The results of all scenarios. Stops the process where someone's scores are wrong."""
    from benchmarks import peers  # TRL takes seconds to import, and the memory's subprocess has no use for it

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
        scorer, model = Scorer(spec_of(folder, scenario)), load(folder, scenario, getattr(torch, scenario.dtype))
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
    """One round with everyone, whose scores are checked, then rounds with those who matter."""
    from benchmarks import peers

    pool = [peer for peer in (peers.QUICK if quick else peers.PEERS) if takes_part(peer, scenario, len(sequences))]
    short = [(prompt[:8], completion[:8]) for prompt, completion in sequences[:2]]
    for peer in pool:
        peer.score(model, short, peer.batch_size)  # whoever is measured has run before
    scores, skipped, start = {}, [], time.monotonic()
    peaks, ours_s, peers_s = [peak_flops(scenario.dtype)], [], {}
    scores[peers.OURS] = timed(ours, ours_s)
    for peer in pool:
        if peer.optional and time.monotonic() - start > SECONDS:
            skipped.append(str(peer))
            continue
        scores[str(peer)] = timed(lambda p=peer: p.score(model, sequences, p.batch_size), peers_s.setdefault(peer, []))
        say(f"  {peer}: {peers_s[peer][0] / ours_s[0]:.2f} times our {ours_s[0]:.2f} s")
    errors = peers.check(scores, true, KIND[scenario.scorer], scenario.dtype)
    for _ in range(rounds):
        peaks.append(peak_flops(scenario.dtype))
        timed(ours, ours_s)
        best = sorted(peers_s, key=lambda peer: min(peers_s[peer]))[:2]
        for peer in dict.fromkeys([*best, *(peer for peer in peers_s if str(peer) == peers.BATCH_8)]):
            timed(lambda p=peer: p.score(model, sequences, p.batch_size), peers_s[peer])
    # Whoever is fastest at the end was among the two best in every round, so it has a time in each.
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
        "skipped": skipped,
        "mean_errors": errors,
    }


def takes_part(peer: Any, scenario: Scenario, num_sequences: int) -> bool:
    if peer.engine == "trl" and scenario.completions != 2:
        return False
    # From twice the sequences on a batch holds them all, as the size before did.
    enough = peer.batch_size < 2 * num_sequences or peer.batch_size == 8
    return enough and (scenario.scorer == "policy" or peer.engine not in ("trl", "lm-eval"))


def timed(work: Callable[[], Any], seconds: list[float]) -> Any:
    gc.collect()
    start = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - start)
    return result


def peak_flops(dtype: str) -> float:
    """The best rate of a matrix product that this moment allows."""
    rates = []
    for m, k, n in PRODUCTS:
        a, b = torch.randn(m, k).to(getattr(torch, dtype)), torch.randn(k, n).to(getattr(torch, dtype))
        seconds: list[float] = []
        for _ in range(6):
            timed(lambda a=a, b=b: a @ b, seconds)
        rates.append(2 * m * k * n / min(seconds))
    return max(rates)


def useful_flops(config: LlamaConfig, records: list[Encoded], head: bool) -> float:
    """Operations that the scores need: prompts once, the causal half of attention, the head where tokens are scored."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * hidden * hidden + 3 * hidden * config.intermediate_size)
    total = 0.0
    for record in records:
        prompt, lengths = len(record.prompt), [len(ids) for ids in record.completions]
        attended = prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in lengths)
        total += 2 * weights * (prompt + sum(lengths)) + 4 * hidden * layers * attended
        total += 2 * hidden * config.vocab_size * sum(lengths) if head else 0
    return total


def memory_elsewhere(folder: Path, scenario: Scenario) -> int:
    """What `memory_here` finds in a process of its own, where nothing else has been allocated before."""
    command = [sys.executable, "-m", "benchmarks.scoring", "--memory", str(folder), json.dumps(asdict(scenario))]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def memory_here(folder: Path, scenario: Scenario) -> int:
    """Peak bytes that scoring adds to a process with a loaded scorer."""
    scorer = Scorer(spec_of(folder, scenario))
    for weight in scorer.body.network.parameters():
        weight.sum()  # weights are mapped from their file: pages that were not read yet are not counted as resident
    records = records_of(scenario, scorer.body.network.config.vocab_size)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading left in malloc's hands would hide as much of scoring's own
    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    scorer.score(records)
    done.set()
    watcher.join()
    return max(peak, resident()) - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def spread(values: list[float]) -> dict[str, float]:
    return {"min": min(values), "median": median(values), "max": max(values)}


def table(results: list[dict[str, Any]]) -> str:
    """A line for each scenario, and under it the errors and what was left out."""
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
        if r["skipped"]:
            lines.append("  skipped for time: " + "; ".join(r["skipped"]))
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

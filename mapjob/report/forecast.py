"""A forecast for people: rows, tokens, memory, time and cost, each with what it was worked out from."""

import os
from collections.abc import Iterator
from typing import Any

import torch

from mapjob.forecast import QUANTILES, Forecast, ScorerLoad, quantiles
from mapjob.inert import in_line
from mapjob.prepare import Job
from mapjob.scoring.budget import CUDA_RANGE, bytes_per_token
from mapjob.scoring.costs import model_config
from mapjob.scoring.gpus import GPUS, peak_flop_per_s
from mapjob.scoring.models import default_device, torch_dtype
from mapjob.scoring.vocabulary import ROWS, TILE

UTILISATION = 0.4  # of the peak, in forward passes of this kind
SHARE_OF_SCORING = 0.85  # of the cores' time, beside reading, encoding and committing
LONGEST_SHOWN = 160


def forecast_text(found: Forecast, job: Job, gpu: str, price: float) -> Iterator[str]:
    """Lines of plain text. price: of one GPU hour."""
    total = job.plan.num_rows
    yield f"sample: {found.num_rows:,} of {total:,} rows, {found.num_units} of {len(job.plan.units)} units, each whole"
    for reason, number in found.reasons.most_common():
        yield f"  {reason:<24}{number / found.num_rows:>7.2%}   about {found.whole(number, total):,.0f} rows"
    for name, load in found.loads.items():
        lengths = ", ".join(f"{q:.0%} {n:,}" for q, n in zip(QUANTILES, quantiles(load.lengths)))
        cost, tokens = load.cost, found.whole(load.tokens, total)
        yield f"{name}: {cost.parameters / 1e6:,.1f}M parameters, {_size(cost.weight_bytes)} of weights"
        yield f"  tokens a row, prompt and longest completion: {lengths} (the last is the longest)"
        flop = operations(found, load, total)
        yield f"  to score: {tokens:,.0f} tokens (a prompt once for its completions), {flop:.2e} FLOP"
        yield f"  memory: {_memory(load)}"
    encodings: dict[str, list[str]] = {}
    for name, load in found.loads.items():
        encodings.setdefault(load.spec.encoding.key, []).append(name)
    for names in encodings.values():
        for prompt, *completions in found.loads[names[0]].shown:
            ends = "".join(f"\n    ‖{in_line(_start(text))}" for text in completions)
            yield f"{' and '.join(names)} read: {in_line(_end(prompt))}{ends}"
    hours = gpu_hours(found, total, gpu)
    yield (
        f"{gpu}: {hours:.3g} GPU hours at {UTILISATION:.0%} of {GPUS[gpu].bfloat16:g} TFLOP/s"
        + (f", {hours * price:,.2f} at {price:g} an hour" if price else "")
    )
    for name, load in found.loads.items():
        if (share := utilisation(load)) is not None:
            yield f"{name} on this GPU: {share:.0%} MFU (operations of its model over the GPU's peak)"
    speed = pairs_per_s(found)
    if speed is not None:
        yield f"this machine: about {speed:,.0f} rows/s, {total / speed / 60:,.1f} minutes (measured on these rows)"


def operations(found: Forecast, load: ScorerLoad, total: int) -> float:
    return found.whole(load.operations, total)


def gpu_hours(found: Forecast, total: int, gpu: str) -> float:
    flop = sum(operations(found, load, total) for load in found.loads.values())
    return flop / (GPUS[gpu].bfloat16 * 1e12 * UTILISATION) / 3600


def utilisation(load: ScorerLoad) -> float | None:
    """Model FLOP utilisation as measured: operations over what this GPU does at most; None on CPU, and on others."""
    if load.tokens_per_s is None or default_device().type != "cuda":
        return None
    peak = peak_flop_per_s(torch.cuda.get_device_name(), load.spec.files.dtype)
    return load.operations / load.tokens * load.tokens_per_s / peak if peak else None


def pairs_per_s(found: Forecast) -> float | None:
    """Rows a second on this machine, where every scorer was measured: its actors share the cores, or the GPU."""
    if any(load.tokens_per_s is None for load in found.loads.values()):
        return None
    seconds = sum(load.tokens / load.tokens_per_s for load in found.loads.values())
    actors = SHARE_OF_SCORING * (os.cpu_count() or 1) if default_device().type == "cpu" else 1.0
    return actors * found.num_rows / seconds


def as_json(found: Forecast, job: Job, gpu: str) -> dict[str, Any]:
    total = job.plan.num_rows
    return {
        "sampled_rows": found.num_rows,
        "sampled_units": found.num_units,
        "reasons": {reason: found.whole(number, total) for reason, number in found.reasons.items()},
        "scorers": {
            name: {
                "parameters": load.cost.parameters,
                "weight_bytes": load.cost.weight_bytes,
                "tokens": found.whole(load.tokens, total),
                "operations": operations(found, load, total),
                "lengths": dict(zip(map(str, QUANTILES), quantiles(load.lengths))),
                "tokens_per_s": load.tokens_per_s,
                "utilisation": utilisation(load),
            }
            for name, load in found.loads.items()
        },
        "gpu": gpu,
        "gpu_hours": gpu_hours(found, total, gpu),
        "rows_per_s": pairs_per_s(found),
    }


def _memory(load: ScorerLoad) -> str:
    """Weights, and activations of the largest pack, against every kind of GPU."""
    config = model_config(load.spec.files)
    largest = CUDA_RANGE[1] * bytes_per_token(config, torch_dtype(load.spec.files.dtype))
    smallest = largest * CUDA_RANGE[0] // CUDA_RANGE[1]
    tiles = 2 * 4 * ROWS["cuda"] * TILE["cuda"]
    needed = (load.cost.weight_bytes + smallest + tiles) / 2**30
    fits = [f"{name}" for name, known in GPUS.items() if needed < 0.9 * known.gib] or [
        "none alone: num_gpus: 2 or more"
    ]
    return f"activations {_size(smallest)} to {_size(largest)}; weights and activations fit {', '.join(fits)}"


def _size(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.0f} MiB"


def _start(text: str) -> str:
    """Its start and its very end, where the end of the turn stands."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 30]} … {text[-30:]}"


def _end(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"… {text[-LONGEST_SHOWN:]}"

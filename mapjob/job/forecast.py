"""What a run will meet, from a sample of its units read and encoded as the run does it: rows, tokens, operations."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mapjob.corpus.plan import read_unit
from mapjob.corpus.reader import read_records
from mapjob.corpus.records import Record
from mapjob.errors import RowError
from mapjob.escaping import one_line
from mapjob.job.prepare import Job
from mapjob.scoring.budget import CUDA_RANGE, bytes_per_token, tokens_that_fit
from mapjob.scoring.costs import GPUS, ModelCost, model_config, model_cost, peak_flop_per_s
from mapjob.scoring.encode import Encoded, Encoder
from mapjob.scoring.models import arithmetic, default_device
from mapjob.scoring.packing import Group, packs, shared_prompts
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec
from mapjob.scoring.vocabulary import ROWS, TILE

UTILISATION = 0.4  # of the peak, in forward passes of this kind
SHARE_OF_SCORING = 0.85  # of the cores' time, beside reading, encoding and committing
QUANTILES = (0.05, 0.5, 0.95, 1.0)
NUM_SHOWN = 3
WARM_UP_ROWS, ROWS_AT_ONCE = 8, 128


@dataclass
class ScorerLoad:
    """What one scorer meets in the sample; `tokens` counts a prompt once for its completions, as scoring does."""

    spec: ScorerSpec
    cost: ModelCost
    tokens: int = 0
    completion_tokens: int = 0
    pairs_of_tokens: float = 0.0
    lengths: list[int] = field(default_factory=list)  # of prompt and longest completion, of rows that can be scored
    shown: list[tuple[str, ...]] = field(default_factory=list)  # prompt and two completions as this model reads them
    some: list[Encoded] = field(default_factory=list)  # records to measure by
    tokens_per_s: float | None = None  # of one actor, where it was measured

    @property
    def operations(self) -> float:
        return self.cost.operations(self.tokens, self.completion_tokens, self.pairs_of_tokens)

    def add(self, records: Sequence[Encoded | RowError], budget: int) -> None:
        groups, _ = shared_prompts(records)
        for pack in packs(groups, budget):
            for group in pack:
                self._add(group)
        good = [record for record in records if isinstance(record, Encoded)]
        self.lengths += [len(record.prompt) + max(map(len, record.completions)) for record in good]
        self.some = self.some or good

    def _add(self, group: Group) -> None:
        prompt, completions = len(group.prompt), [len(completion) for completion in group.completions]
        self.tokens += prompt + sum(completions)
        self.completion_tokens += sum(completions)
        self.pairs_of_tokens += prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in completions)


@dataclass
class Forecast:
    """Of `num_rows` rows in `num_units` units that were looked at."""

    num_units: int
    num_rows: int
    reasons: Counter[str]
    loads: dict[str, ScorerLoad]

    def whole(self, number: float, total_rows: int) -> float:
        """A number of the sample for the whole corpus."""
        return number * total_rows / self.num_rows


def forecast(job: Job, seconds: float) -> Forecast:
    """Read and encode units for about so many seconds, spread over the corpus; at least one, and each of them whole."""
    start = time.monotonic()
    corpus, plan = job.plan.corpus, job.plan
    encoders = {s.encoding.key: Encoder(s.encoding, corpus.spec) for s in job.scorers}
    result = Forecast(0, 0, Counter(), {s.name: ScorerLoad(s, _cost(s)) for s in job.scorers})
    budgets = {s.name: _budget(s, job.config.execution.tokens_per_batch) for s in job.scorers}
    for index in spread(len(plan.units)):
        unit = plan.units[index]
        records = read_records(read_unit(unit, corpus.own_columns), corpus.spec, corpus.columns)
        encoded = {key: encoder.encode(records) for key, encoder in encoders.items()}
        for load in result.loads.values():
            own = encoded[load.spec.encoding.key]
            load.add(own, budgets[load.spec.name])
            load.shown = load.shown or shown(encoders[load.spec.encoding.key], own)
        result.reasons.update(_reasons(records, list(encoded.values())))
        result.num_units, result.num_rows = result.num_units + 1, result.num_rows + unit.num_rows
        if time.monotonic() - start > seconds:
            break
    return result


def measure(load: ScorerLoad, job: Job, seconds: float) -> None:
    """Load the model as an actor would, and score real rows for about so many seconds."""
    device = default_device()
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)  # as an actor on CPU
    try:
        scorer = make_scorer(load.spec, job.config.execution.tokens_per_batch, device)
        scorer.score(load.some[:WARM_UP_ROWS])
        tokens, at, start = 0, 0, time.monotonic()
        while at < len(load.some) and time.monotonic() - start < seconds:
            tokens += scorer.score(load.some[at : at + ROWS_AT_ONCE]).num_tokens
            at += ROWS_AT_ONCE
        load.tokens_per_s = tokens / (time.monotonic() - start) if tokens else None
    finally:
        torch.set_num_threads(threads)


def spread(number: int) -> Iterator[int]:
    """0 to number - 1, each prefix of it spread evenly: by the bits of the place in reverse (van der Corput)."""
    bits = max(1, (number - 1).bit_length())
    for place in range(1 << bits):
        index = int(f"{place:0{bits}b}"[::-1], 2)
        if index < number:
            yield index


def quantiles(lengths: Sequence[int]) -> list[int]:
    return [int(value) for value in np.quantile(lengths, QUANTILES)] if lengths else []


def shown(encoder: Encoder, records: Sequence[Encoded | RowError]) -> list[tuple[str, ...]]:
    """Prompt, and the first two completions, of a few records from all over a unit, as their tokens read."""
    good = [record for record in records if isinstance(record, Encoded)]
    few = good[:: max(1, len(good) // NUM_SHOWN)][:NUM_SHOWN]
    return [tuple(encoder.decode(ids) for ids in (r.prompt, *r.completions[:2])) for r in few]


def _reasons(records: Sequence[Record | RowError], encoded: Sequence[Sequence[Encoded | RowError]]) -> Iterator[str]:
    """The reason of each row that would not be scored by every model; the first that applies."""
    for row in zip(records, *encoded):
        error = next((item for item in row if isinstance(item, RowError)), None)
        if error is not None:
            yield error.reason.value


def _cost(spec: ScorerSpec) -> ModelCost:
    return model_cost(spec.files, head=spec.kind != "rewards")


def _budget(spec: ScorerSpec, tokens_per_batch: Any) -> int:
    if tokens_per_batch != "auto":
        return tokens_per_batch
    device = default_device()
    dtype = getattr(torch, arithmetic(spec.files.dtype, device))
    return tokens_that_fit(model_config(spec.files), dtype, device).tokens


# A forecast for people: rows, tokens, memory, time and cost, each with what it was worked out from.

LONGEST_SHOWN = 160


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
            ends = "".join(f"\n    ‖{one_line(_start(text))}" for text in completions)
            yield f"{' and '.join(names)} read: {one_line(_end(prompt))}{ends}"
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


def _memory(load: ScorerLoad) -> str:
    """Weights, and activations of the largest pack, against every kind of GPU."""
    config = model_config(load.spec.files)
    largest = CUDA_RANGE[1] * bytes_per_token(config, getattr(torch, load.spec.files.dtype))
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

"""What a run will meet, from a sample of its units read and encoded as the run does it, in numbers and in words."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mapjob.corpus.plan import read_unit
from mapjob.corpus.reader import RowReader, read_records
from mapjob.errors import InputError, Reason, RowError
from mapjob.escaping import one_line
from mapjob.job.prepare import Job
from mapjob.scoring.budget import CUDA_RANGE, bytes_per_token, tokens_that_fit
from mapjob.scoring.costs import GPUS, ModelCost, model_config, model_cost, peak_flop_per_s
from mapjob.scoring.encode import Encoded, Encoder
from mapjob.scoring.models import arithmetic, default_device
from mapjob.scoring.packing import packs, shared_prompts
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec
from mapjob.scoring.vocabulary import ROWS, TILE

UTILISATION = 0.4  # of the peak, in forward passes of this kind
SHARE_OF_SCORING = 0.85  # of the cores' time, beside reading, encoding and committing
QUANTILES = (0.05, 0.5, 0.95, 1.0)
NUM_EXAMPLES, LONGEST_EXAMPLE = 3, 160
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
    examples: list[tuple[str, ...]] = field(default_factory=list)  # prompt and two completions as the model reads them
    records: list[Encoded] = field(default_factory=list)  # of the first unit, to measure by
    tokens_per_s: float | None = None  # of one actor, if it was measured
    seconds_per_row: float | None = None

    def add(self, encoded: Sequence[Encoded | RowError], budget: int, encoder: Encoder) -> None:
        groups, _ = shared_prompts(encoded)
        for group in (group for pack in packs(groups, budget) for group in pack):
            prompt, completions = len(group.prompt), [len(completion) for completion in group.completions]
            self.tokens += prompt + sum(completions)
            self.completion_tokens += sum(completions)
            self.pairs_of_tokens += prompt**2 / 2 + sum(length * prompt + length**2 / 2 for length in completions)
        good = [record for record in encoded if isinstance(record, Encoded)]
        self.lengths += [len(record.prompt) + max(map(len, record.completions)) for record in good]
        self.records = self.records or good
        if not self.examples:
            chosen = good[:: max(1, len(good) // NUM_EXAMPLES)][:NUM_EXAMPLES]
            self.examples = [tuple(encoder.decode(ids) for ids in (r.prompt, *r.completions[:2])) for r in chosen]

    @property
    def operations(self) -> float:
        return self.cost.operations(self.tokens, self.completion_tokens, self.pairs_of_tokens)

    @property
    def quantiles(self) -> list[int]:
        return [int(value) for value in np.quantile(self.lengths, QUANTILES)] if self.lengths else []

    @property
    def utilisation(self) -> float | None:
        """Model FLOP utilisation as measured: operations over what this GPU does at most; None if that is not known."""
        if self.tokens_per_s is None or default_device().type != "cuda":
            return None
        peak = peak_flop_per_s(torch.cuda.get_device_name(), self.spec.files.dtype)
        return self.operations / self.tokens * self.tokens_per_s / peak if peak else None

    def measure(self, tokens_per_batch: Any, seconds: float) -> None:
        """Load the model as an actor would, and score real rows for about so many seconds."""
        device = default_device()
        threads = torch.get_num_threads()
        if device.type == "cpu":
            torch.set_num_threads(1)  # as an actor on CPU
        try:
            scorer = make_scorer(self.spec, tokens_per_batch, device)
            scorer.score(self.records[:WARM_UP_ROWS])
            tokens, rows, start = 0, 0, time.monotonic()
            while rows < len(self.records) and time.monotonic() - start < seconds:
                some = self.records[rows : rows + ROWS_AT_ONCE]
                tokens += scorer.score(some).num_tokens
                rows += len(some)
            if tokens:
                took = time.monotonic() - start
                self.tokens_per_s, self.seconds_per_row = tokens / took, took / rows
        finally:
            torch.set_num_threads(threads)


@dataclass
class Forecast:
    """Of the `num_rows` rows in `num_units` units that were looked at, for all rows and units of the corpus."""

    total_rows: int
    total_units: int
    loads: dict[str, ScorerLoad]
    num_units: int = 0
    num_rows: int = 0
    reasons: Counter[Reason] = field(default_factory=Counter)
    first_broken: tuple[str, RowError] | None = None  # the first broken row: where it is, and why

    def whole(self, number: float) -> float:
        """A number of the sample for the whole corpus."""
        return number * self.total_rows / self.num_rows

    def gpu_hours(self, gpu: str) -> float:
        flop = self.whole(sum(load.operations for load in self.loads.values()))
        return flop / (GPUS[gpu].bfloat16 * 1e12 * UTILISATION) / 3600

    @property
    def rows_per_s(self) -> float | None:
        """On this machine, if every scorer was measured: its actors share the cores, or the GPU."""
        if any(load.tokens_per_s is None for load in self.loads.values()):
            return None
        seconds = sum(load.tokens / load.tokens_per_s for load in self.loads.values())
        actors = SHARE_OF_SCORING * (os.cpu_count() or 1) if default_device().type == "cpu" else 1.0
        return actors * self.num_rows / seconds

    def check_broken(self, max_error_rate: float) -> None:
        """Raises InputError if more of the sample's rows are broken than a run allows."""
        broken = {reason: number for reason, number in self.reasons.items() if not reason.is_dropped}
        share = sum(broken.values()) / self.num_rows
        if self.first_broken is not None and share > max_error_rate:
            where, error = self.first_broken
            reasons = ", ".join(f"{number:,} {reason.value}" for reason, number in broken.items())
            raise InputError(
                f"{share:.2%} of the {self.num_rows:,} rows looked at are broken ({reasons}), more than max_error_rate "
                f"{max_error_rate:.2%}",
                f"the first is {where}: {error.reason.value} ({error.detail or 'no detail'})",
                "fix the corpus, check input.reading (mapjob read shows the rows), or raise max_error_rate",
            )

    def as_json(self, gpu: str) -> dict[str, Any]:
        return {
            "sampled_rows": self.num_rows,
            "sampled_units": self.num_units,
            "reasons": {reason.value: self.whole(number) for reason, number in self.reasons.items()},
            "scorers": {
                name: {
                    "parameters": load.cost.parameters,
                    "weight_bytes": load.cost.weight_bytes,
                    "tokens": self.whole(load.tokens),
                    "operations": self.whole(load.operations),
                    "lengths": dict(zip(map(str, QUANTILES), load.quantiles)),
                    "tokens_per_s": load.tokens_per_s,
                    "utilisation": load.utilisation,
                }
                for name, load in self.loads.items()
            },
            "gpu": gpu,
            "gpu_hours": self.gpu_hours(gpu),
            "rows_per_s": self.rows_per_s,
        }

    def lines(self, gpu: str, price: float) -> Iterator[str]:
        """Plain text: rows, tokens, memory, time and cost, each with its basis. price: of one GPU hour."""
        whole_units = f"{self.num_units} of {self.total_units} units, each whole"
        yield f"sample: {self.num_rows:,} of {self.total_rows:,} rows, {whole_units}"
        for reason, number in self.reasons.most_common():
            yield f"  {reason.value:<24}{number / self.num_rows:>7.2%}   about {self.whole(number):,.0f} rows"
        names_by_encoding: dict[str, list[str]] = {}
        for name, load in self.loads.items():
            names_by_encoding.setdefault(load.spec.encoding.key, []).append(name)
            lengths = ", ".join(f"{q:.0%} {n:,}" for q, n in zip(QUANTILES, load.quantiles))
            tokens, flop = self.whole(load.tokens), self.whole(load.operations)
            yield f"{name}: {load.cost.parameters / 1e6:,.1f}M parameters, {_size(load.cost.weight_bytes)} of weights"
            yield f"  tokens per row, prompt and longest completion: {lengths} (the last is the longest)"
            yield f"  to score: {tokens:,.0f} tokens (a prompt once for its completions), {flop:.2e} FLOP"
            yield f"  memory: {_memory(load)}"
        for names in names_by_encoding.values():
            for prompt, *completions in self.loads[names[0]].examples:
                ends = "".join(f"\n    ‖{one_line(_shorten(text))}" for text in completions)
                prompt_end = prompt if len(prompt) <= LONGEST_EXAMPLE else f"… {prompt[-LONGEST_EXAMPLE:]}"
                yield f"{' and '.join(names)} read: {one_line(prompt_end)}{ends}"
        hours = self.gpu_hours(gpu)
        cost = f", {hours * price:,.2f} at {price:g} per hour" if price else ""
        yield f"{gpu}: {hours:.3g} GPU hours at {UTILISATION:.0%} of {GPUS[gpu].bfloat16:g} TFLOP/s{cost}"
        for name, load in self.loads.items():
            if (share := load.utilisation) is not None:
                yield f"{name} on this GPU: {share:.0%} MFU (operations of its model over the GPU's peak)"
        if (speed := self.rows_per_s) is not None:
            minutes = self.total_rows / speed / 60
            yield f"this machine: about {speed:,.0f} rows/s, {minutes:,.1f} minutes (measured on these rows)"


def forecast(job: Job, seconds: float) -> Forecast:
    """Read and encode units for about so many seconds, spread over the corpus; at least one, and each of them whole."""
    start = time.monotonic()
    corpus, plan = job.plan.corpus, job.plan
    encoders = {s.encoding.key: Encoder(s.encoding, corpus) for s in job.scorers}
    loads = {s.name: ScorerLoad(s, model_cost(s.files, head=s.kind != "rewards")) for s in job.scorers}
    budgets = {s.name: _budget(s, job.config.execution.tokens_per_batch) for s in job.scorers}
    reader = RowReader(corpus.own_columns)
    result = Forecast(plan.num_rows, len(plan.units), loads)
    for index in spread(len(plan.units)):
        unit = plan.units[index]
        records = read_records(read_unit(unit, reader), corpus.reading, corpus.columns)
        encoded = {key: encoder.encode(records) for key, encoder in encoders.items()}
        for name, load in loads.items():
            key = load.spec.encoding.key
            load.add(encoded[key], budgets[name], encoders[key])
        for index, row in enumerate(zip(records, *encoded.values())):
            # The first reason that keeps the row from being scored by every model.
            error = next((item for item in row if isinstance(item, RowError)), None)
            if error is not None:
                result.reasons[error.reason] += 1
                if not error.reason.is_dropped and result.first_broken is None:
                    result.first_broken = f"{unit.name}, row {unit.start + index}", error
        result.num_units, result.num_rows = result.num_units + 1, result.num_rows + unit.num_rows
        if time.monotonic() - start > seconds:
            break
    return result


def spread(number: int) -> Iterator[int]:
    """0 to number - 1, each prefix of it spread evenly: by the bits of the index in reverse (van der Corput)."""
    bits = max(1, (number - 1).bit_length())
    for index in range(1 << bits):
        reverse = int(f"{index:0{bits}b}"[::-1], 2)
        if reverse < number:
            yield reverse


def _budget(spec: ScorerSpec, tokens_per_batch: Any) -> int:
    if tokens_per_batch != "auto":
        return tokens_per_batch
    device = default_device()
    dtype = getattr(torch, arithmetic(spec.files.dtype, device))
    return tokens_that_fit(model_config(spec.files), dtype, device).tokens


def _memory(load: ScorerLoad) -> str:
    """Activations of the smallest and largest packs, and the kinds of GPU that weights and the smallest pack fit."""
    per_token = bytes_per_token(model_config(load.spec.files), getattr(torch, load.spec.files.dtype))
    smallest, largest = (tokens * per_token for tokens in CUDA_RANGE)
    needed = (load.cost.weight_bytes + smallest + 2 * 4 * ROWS["cuda"] * TILE["cuda"]) / 2**30
    fits = [name for name, gpu in GPUS.items() if needed < 0.9 * gpu.gib] or ["none alone: num_gpus: 2 or more"]
    return f"activations {_size(smallest)} to {_size(largest)}; weights and activations fit {', '.join(fits)}"


def _size(number: int) -> str:
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.0f} MiB"


def _shorten(text: str) -> str:
    """Its start and its very end, which shows the end of the turn."""
    return text if len(text) <= LONGEST_EXAMPLE else f"{text[: LONGEST_EXAMPLE - 30]} … {text[-30:]}"

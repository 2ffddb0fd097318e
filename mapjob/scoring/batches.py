"""Batches of sequences of like length under a budget of padded tokens; equal sequences are computed once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mapjob.errors import RowError
from mapjob.scoring.encode import Encoded

# Best of a sweep over 1 to 16,384 on a small Llama on CPU, where larger batches leave the caches; a GPU wants more.
DEFAULT_TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}


@dataclass(frozen=True)
class TokenSequence:
    """A prompt with one completion: ids, and the position of the first completion token."""

    ids: np.ndarray
    start: int


def unique_sequences(records: Sequence[Encoded | RowError]) -> tuple[list[TokenSequence], list[list[int]]]:
    """(distinct sequences, for each record the index of each completion's sequence; no index for a RowError)."""
    sequences: list[TokenSequence] = []
    places: dict[tuple[int, bytes], int] = {}
    index: list[list[int]] = []
    for record in records:
        index.append([])
        if isinstance(record, RowError):
            continue
        for completion in record.completions:
            ids = np.concatenate([record.prompt, completion], dtype=np.int64)
            key = (len(record.prompt), ids.tobytes())
            if key not in places:
                places[key] = len(sequences)
                sequences.append(TokenSequence(ids, len(record.prompt)))
            index[-1].append(places[key])
    return sequences, index


def batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of each batch, longest sequences first; padded tokens within the budget, but at least one sequence.

    Longest first, so that running out of memory shows at once. A pure function of the lengths.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for i in order:
        if batch and lengths[batch[0]] * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def padded(sequences: Sequence[TokenSequence], device: torch.device) -> torch.Tensor:
    """Token ids (B, L), right-padded with 0: what stands there is never looked at."""
    ids_BL = torch.zeros(len(sequences), max(len(s.ids) for s in sequences), dtype=torch.long)
    for row, sequence in zip(ids_BL, sequences):
        row[: len(sequence.ids)] = torch.from_numpy(sequence.ids)
    return ids_BL.to(device)


def forward_halving(
    forward: Callable[[list[TokenSequence]], np.ndarray], batch: list[TokenSequence]
) -> list[float | None]:
    """One value for each sequence. A batch that does not fit is halved; a sequence that does not fit alone is None."""
    try:
        return list(forward(batch))
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
    if len(batch) == 1:
        return [None]
    half = len(batch) // 2
    return forward_halving(forward, batch[:half]) + forward_halving(forward, batch[half:])

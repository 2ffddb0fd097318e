"""The layout of a pack: the position of each token, what it may see, and where each completion is read.

A group lies as [prompt][completion 0][completion 1]... Positions go on after the prompt for each completion. A segment
is a prompt, which sees itself, or a completion, which sees [prompt | itself]; both causally. The keys that a segment
sees are gathered one after the other, so that one call can attend them all. The last prompt token predicts the first
token of every completion. Every completion is treated alike, so its numbers do not depend on its index in the group.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from mapjob.arrays import I64
from mapjob.scoring.packing import Group


@dataclass(frozen=True)
class Reading:
    """Where C completions lie among T tokens, and which tokens predict theirs."""

    ids_T: I64
    prompt_start_C: I64
    prompt_length_C: I64
    start_C: I64
    length_C: I64
    completion_ids: list[int]  # which completion of the unit each of them is

    @cached_property
    def num_scored_C(self) -> I64:
        """Completion tokens with something before them that predicts them."""
        return self.length_C - (self.prompt_length_C == 0)

    @cached_property
    def predicting_R(self) -> I64:
        """The tokens whose states predict the completions' tokens, one completion after the other."""
        last = self.prompt_start_C + self.prompt_length_C - 1
        spans = zip(last, self.prompt_length_C, self.start_C, self.length_C)
        rows = [np.r_[[before] if size else [], start : start + length - 1] for before, size, start, length in spans]
        return np.concatenate(rows).astype(np.int64)

    @cached_property
    def targets_R(self) -> I64:
        """The token ids that `predicting_R` predict."""
        stops = self.start_C + self.length_C
        return np.concatenate([self.ids_T[stop - n : stop] for stop, n in zip(stops, self.num_scored_C)])

    def sequence(self, c: int) -> I64:
        """The token ids of prompt and completion c."""
        prompt, start = self.prompt_start_C[c], self.start_C[c]
        completion = self.ids_T[start : start + self.length_C[c]]
        return np.concatenate([self.ids_T[prompt : prompt + self.prompt_length_C[c]], completion])

    def token(self, c: int, position: int) -> int:
        """Where among the T tokens the one at a position of prompt and completion c lies."""
        size = int(self.prompt_length_C[c])
        return int(self.prompt_start_C[c] if position < size else self.start_C[c] - size) + position


@dataclass(frozen=True)
class Layout:
    """A pack of T tokens in S segments that together see K keys."""

    reading: Reading
    positions_T: I64
    seen_K: I64  # which tokens the segments see, one segment after the other
    queries_S: I64  # tokens of each segment
    keys_S: I64  # tokens that each segment sees


@dataclass(frozen=True)
class Padded:
    """Prompts with one completion each as rows of equal length, right-padded, one after the other."""

    reading: Reading
    width: int


def layout(pack: list[Group], multiple: int = 1) -> Layout:
    """The pack's layout, its length padded to a multiple; the padding is a segment of its own that nobody reads."""
    ids, positions, seen, queries, keys = [], [], [], [], []
    completions: list[tuple[int, int, int, int, int]] = []
    end = 0

    def segment(tokens: np.ndarray, prompt_start: int = 0, prompt_length: int = 0) -> int:
        nonlocal end
        start, end = end, end + len(tokens)
        ids.append(tokens)
        positions.append(np.arange(prompt_length, prompt_length + len(tokens)))
        seen.extend([np.arange(prompt_start, prompt_start + prompt_length), np.arange(start, end)])
        queries.append(len(tokens))
        keys.append(prompt_length + len(tokens))
        return start

    for group in pack:
        size = len(group.prompt)
        prompt = segment(group.prompt) if size else end
        for tokens, completion_id in zip(group.completions, group.completion_ids):
            completions.append((prompt, size, segment(tokens, prompt, size), len(tokens), completion_id))
    if end % multiple:
        segment(np.zeros(multiple - end % multiple, np.int64))
    ids_T, positions_T, seen_K = (np.concatenate(parts).astype(np.int64) for parts in (ids, positions, seen))
    return Layout(_reading(ids_T, completions), positions_T, seen_K, np.array(queries), np.array(keys))


def pad(sequences: list[Group], multiple: int = 1) -> Padded:
    """Sequences (groups of one completion) as a batch, its width a multiple."""
    longest = max(sequence.num_tokens for sequence in sequences)
    width = -(-longest // multiple) * multiple
    ids_BL = np.zeros((len(sequences), width), np.int64)
    completions = []
    for b, sequence in enumerate(sequences):
        (tokens,), (completion_id,), size = sequence.completions, sequence.completion_ids, len(sequence.prompt)
        ids_BL[b, : sequence.num_tokens] = np.concatenate([sequence.prompt, tokens])
        completions.append((b * width, size, b * width + size, len(tokens), completion_id))
    return Padded(_reading(ids_BL.ravel(), completions), width)


def _reading(ids_T: I64, completions: list[tuple[int, int, int, int, int]]) -> Reading:
    *numbers, completion_ids = (np.array(column, np.int64) for column in zip(*completions))
    return Reading(ids_T, *numbers, completion_ids.tolist())


def on_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array on the device; on CUDA the copy does not wait for what is being computed there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

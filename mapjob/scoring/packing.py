"""Packs: the tokens of a prompt once for all its completions, prompts packed best-fit under a budget of tokens.

A unit's plan is a pure function of its records. Records with one prompt are one group, and equal completions of it are
one completion, so nothing in a unit is computed twice.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mapjob.errors import RowError
from mapjob.scoring.encode import Encoded

I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Group:
    """A prompt with completions of it. `completion_ids` says which completion of the unit each of them is."""

    prompt: I32
    completions: list[I32]
    completion_ids: list[int]

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))

    def part(self, indices: Sequence[int]) -> "Group":
        """The same prompt with some of the completions."""
        return Group(self.prompt, [self.completions[i] for i in indices], [self.completion_ids[i] for i in indices])


Pack = list[Group]


def shared_prompts(records: Sequence[Encoded | RowError]) -> tuple[list[Group], list[list[int]]]:
    """(groups of distinct completions, the ids of each record's completions; none for a RowError)."""
    groups: dict[bytes, Group] = {}
    ids: dict[tuple[bytes, bytes], int] = {}
    ids_of_records: list[list[int]] = []
    for record in records:
        ids_of_records.append([])
        if isinstance(record, RowError):
            continue
        prompt = record.prompt.tobytes()
        group = groups.setdefault(prompt, Group(record.prompt, [], []))
        for completion in record.completions:
            key = (prompt, completion.tobytes())
            if key not in ids:
                ids[key] = len(ids)
                group.completions.append(completion)
                group.completion_ids.append(ids[key])
            ids_of_records[-1].append(ids[key])
    return list(groups.values()), ids_of_records


def packs(groups: Sequence[Group], tokens_per_pack: int) -> list[Pack]:
    """The groups in packs of at most so many tokens, best-fit, longest first; what is longer is a pack by itself.

    Longest first fills packs best, and running out of memory shows at once.
    """
    parts = [part for group in groups for part in _parts(group, tokens_per_pack)]
    parts.sort(key=lambda part: (-part.num_tokens, part.completion_ids[0]))
    result: list[Pack] = []
    room: list[tuple[int, int]] = []  # (tokens left, index of the pack), sorted
    for part in parts:
        best = bisect_left(room, (part.num_tokens, -1))
        if best < len(room):
            left, index = room.pop(best)
            result[index].append(part)
        else:
            left, index = tokens_per_pack, len(result)
            result.append([part])
        insort(room, (left - part.num_tokens, index))
    return result


def _parts(group: Group, tokens_per_pack: int) -> Iterator[Group]:
    """A group that is longer than two packs, in parts, longest completions first; each part repeats the prompt.

    What a repeated prompt costs is lost for good, so a part may be twice as long as a pack, and longer if the
    prompt alone would be most of it.
    """
    limit = 2 * max(tokens_per_pack, len(group.prompt))
    part: list[int] = []
    tokens = len(group.prompt)
    for i in sorted(range(len(group.completions)), key=lambda i: (-len(group.completions[i]), group.completion_ids[i])):
        if part and tokens + len(group.completions[i]) > limit:
            yield group.part(part)
            part, tokens = [], len(group.prompt)
        part.append(i)
        tokens += len(group.completions[i])
    yield group.part(part)


def halves(pack: Pack) -> tuple[Pack, Pack] | None:
    """The pack in two, for one that does not fit into memory; None when it is a single completion."""
    if len(pack) > 1:
        return pack[: len(pack) // 2], pack[len(pack) // 2 :]
    middle = len(pack[0].completions) // 2
    if middle == 0:
        return None
    return [pack[0].part(range(middle))], [pack[0].part(range(middle, len(pack[0].completions)))]


def batches(groups: Sequence[Group], tokens_per_batch: int) -> Iterator[Pack]:
    """For models that take no packs: prompts with one completion each, longest first, in batches of like length.

    Padded tokens stay within the budget, but a batch holds at least one sequence.
    """
    sequences = [group.part([i]) for group in groups for i in range(len(group.completions))]
    sequences.sort(key=lambda sequence: (-sequence.num_tokens, sequence.completion_ids[0]))
    batch: Pack = []
    for sequence in sequences:
        if batch and batch[0].num_tokens * (len(batch) + 1) > tokens_per_batch:
            yield batch
            batch = []
        batch.append(sequence)
    if batch:
        yield batch

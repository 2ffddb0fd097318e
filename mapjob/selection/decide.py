"""Decisions of people on scored pairs: verdicts, which hold for texts, and what is left out by group or id."""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob import collective
from mapjob.arrays import Bools
from mapjob.config.selection import Selection
from mapjob.errors import Reason, suggest
from mapjob.escaping import one_line
from mapjob.ranking.gather import RULE_OF, SETTLED
from mapjob.ranking.pairs import Pairs
from mapjob.selection.decisions import ANSWERS, Answers, Decisions

Warnings = dict[str, str]  # by what a manifest says, what is added on the screen alone: ids, which may have to leave
U64 = npt.NDArray[np.uint64]
SIDES = re.compile(r"(.*):(\d+)-(\d+)", re.S)


@dataclass(frozen=True)
class Settled:
    """What people said of texts, whatever row holds them. Arrays of shape (M,), sorted by `mixed`.

    winner, loser: keys of the two sides, each with its prompt; is_dropped: neither is to be learned from. counts: of
    the answers, by what became of them.
    """

    mixed: U64
    winner: U64
    loser: U64
    is_dropped: Bools
    counts: dict[str, int]
    warnings: Warnings

    def apply(self, pairs: Pairs) -> Pairs:
        """The pairs with the side chosen that people chose; `decision` says of which pairs they said anything."""
        first, second = pairs.content_key.T
        decision = np.zeros(len(pairs), np.int8)
        at = np.minimum(np.searchsorted(self.mixed, _mix(first, second)), max(0, len(self.mixed) - 1))
        if not len(self.mixed):
            return replace(pairs, decision=decision)
        is_same, is_other = (
            (self.winner[at] == one) & (self.loser[at] == other) for one, other in ((first, second), (second, first))
        )
        decision[is_same | is_other] = SETTLED
        decision[(is_same | is_other) & self.is_dropped[at]] = RULE_OF[Reason.EXCLUDED_VERDICT]
        return replace(pairs.swap(is_other & ~self.is_dropped[at]), decision=decision)


def _mix(first: U64, second: U64) -> U64:
    """The same for two sides in either order."""
    return np.minimum(first, second) ^ (np.maximum(first, second) * np.uint64(0x9E3779B97F4A7C15))


def settle(records: Any, answers: Answers, is_of_candidates: bool) -> Settled:
    """The texts that verdicts are about, looked up by pair_id in the rows of all pieces.

    records: tables of pair_id and completion_keys of this piece's rows, in their order. is_of_candidates: ids name the
    two responses, `id:chosen-rejected`. If two verdicts contradict each other on the same texts, the earlier row's
    holds.
    """
    by_row: dict[str, list[tuple[int, int, int]]] = {}
    for number, pair_id in enumerate(answers):
        match = SIDES.fullmatch(pair_id) if is_of_candidates else None
        if match or not is_of_candidates:
            row_id, *sides = match.groups() if match else (pair_id, 0, 1)
            by_row.setdefault(row_id, []).append((number, int(sides[0]), int(sides[1])))
    wanted, here = pa.array(list(by_row), pa.string()), []
    for table in records:
        table = table.filter(pc.is_in(table["pair_id"], wanted))
        for pair_id, keys in zip(table["pair_id"].to_pylist(), table["completion_keys"].to_pylist()):
            for number, chosen, rejected in by_row[pair_id]:
                if keys is not None and max(chosen, rejected) < len(keys):
                    here.append((number, keys[chosen], keys[rejected]))
    return _join(collective.share(here or None), answers)


def _join(parts: list[list[tuple[int, int, int]]], answers: Answers) -> Settled:
    ids, verdicts = [*answers], [*answers.values()]
    by_texts: dict[tuple[int, int], tuple[int, tuple[int, int], str]] = {}
    matched, against = set(), {}
    for number, chosen, rejected in (one for part in parts for one in part):
        matched.add(number)
        winner = {"swap": (rejected, chosen), "keep": (chosen, rejected)}.get(verdicts[number], (0, 0))
        texts = (min(chosen, rejected), max(chosen, rejected))
        earlier = by_texts.setdefault(texts, (number, winner, verdicts[number]))
        if earlier[1] != winner:
            against[number] = earlier[0]
    sides = [texts if answer == "drop" else winner for texts, (_, winner, answer) in by_texts.items()]
    winner, loser = np.array(sides, np.uint64).reshape(-1, 2).T
    is_dropped = np.array([answer == "drop" for _, _, answer in by_texts.values()], bool)
    mixed = _mix(winner, loser)
    order = np.argsort(mixed, kind="stable")
    used = Counter(verdicts[number] for number in matched)
    counts = {name: used[answer] for name, answer in zip(("swapped", "dropped", "kept"), ANSWERS)}
    counts["unmatched"] = len(ids) - len(matched)
    warnings: Warnings = {}
    if counts["unmatched"]:
        example = next(pair_id for number, pair_id in enumerate(ids) if number not in matched)
        warnings[f"selection.verdicts: {counts['unmatched']:,} of {len(ids):,} ids match no pair"] = example
    if against:
        later, earlier = next(iter(against.items()))
        what = f"selection.verdicts: {len(against):,} contradict that of the same texts in an earlier row, which holds"
        warnings[what] = f"{ids[later]}: {verdicts[later]}; {ids[earlier]}: {verdicts[earlier]}"
    return Settled(mixed[order], winner[order], loser[order], is_dropped[order], counts, warnings)


@dataclass
class Excluded:
    """What the run file leaves out by name, and which of these names were met. is_met: (M,), by id of the file."""

    ids: pa.Array
    groups: pa.Array
    is_met: Bools
    num_by_group: Counter[str | None] = field(default_factory=Counter)

    @classmethod
    def of(cls, selection: Selection, decisions: Decisions) -> "Excluded":
        ids = decisions.excluded or ()
        groups = pa.array(selection.exclude.groups, pa.string())
        return cls(pa.array(ids, pa.string()), groups, np.zeros(len(ids), bool))

    def judge(self, pairs: Pairs, row_ids: pa.Array, first_row: int, several: bool) -> Pairs:
        """The pairs with the rule by which they are left out as `decision`: that of the group first.

        row_ids: of all rows from first_row on, if ids are excluded. several: ids of pairs are more than those of rows.
        """
        decision = np.zeros(len(pairs), np.int8) if pairs.decision is None else pairs.decision.copy()
        if len(self.ids):
            decision[self._meet(row_ids)[pairs.position - first_row]] = RULE_OF[Reason.EXCLUDED_ID]
            if several:
                decision[self._meet(pairs.pair_id)] = RULE_OF[Reason.EXCLUDED_ID]
        if len(self.groups):
            self.num_by_group.update(
                {item["values"]: item["counts"] for item in pairs.group.value_counts().to_pylist()}
            )
            is_excluded = pc.is_in(pairs.group, self.groups).to_numpy(zero_copy_only=False)
            decision[is_excluded] = RULE_OF[Reason.EXCLUDED_GROUP]
        return replace(pairs, decision=decision)

    def _meet(self, names: pa.Array) -> Bools:
        index = pc.index_in(names, self.ids)
        self.is_met[index.drop_null().to_numpy()] = True
        return index.is_valid().to_numpy(zero_copy_only=False)

    def report(self) -> tuple[dict[str, Any], Warnings]:
        """(counts for the manifest, warnings), over all pieces."""
        counts: dict[str, Any] = {}
        warnings: Warnings = {}
        num = len(self.ids)
        if num:
            met = collective.fold(np.packbits(self.is_met), np.bitwise_or.reduce)
            unmatched = np.flatnonzero(np.unpackbits(met, count=num) == 0)
            counts["excluded_ids"] = {"in_file": num, "unmatched": len(unmatched)}
            if len(unmatched):
                what = f"selection.exclude.ids: {len(unmatched):,} of {num:,} ids match no row"
                warnings[what] = self.ids[int(unmatched[0])].as_py()
        if len(self.groups):
            met = collective.fold(self.num_by_group, lambda parts: sum(parts, Counter()))
            for group in self.groups.to_pylist():
                if group not in met:
                    did_you_mean = suggest(group, [name for name in met if name is not None])
                    warnings[one_line(f"selection.exclude.groups: no pair is of the group {group}{did_you_mean}")] = ""
        return counts, warnings

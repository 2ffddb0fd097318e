"""How two selections differ: which pairs entered, which left, which moved, and what that did to each group."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from mapjob.escaping import one_line
from mapjob.store.run_folder import FinishedRun

MAX_NAMED = 5  # pairs that are named for each kind of change


@dataclass(frozen=True)
class Diff:
    """pair_ids by rank: `entered` by the new one, `left` by the old one; `moved` = (pair_id, old rank, new rank)."""

    num_old: int
    num_new: int
    entered: list[str]
    left: list[str]
    moved: list[tuple[str, int, int]]  # in both, the largest change of rank first
    groups: dict[str, tuple[int, int]]  # pairs of each group in the old and in the new selection, if both have groups

    @property
    def num_shared(self) -> int:
        return self.num_new - len(self.entered)

    @property
    def jaccard(self) -> float:
        """Shared pairs over all pairs of either selection; 1 if both are empty."""
        union = self.num_old + len(self.entered)
        return self.num_shared / union if union else 1.0


def compare(old: FinishedRun, new: FinishedRun) -> Diff:
    """The difference between two finished runs' selections, by pair_id."""
    (old_ranks, old_groups), (new_ranks, new_groups) = _read_selection(old), _read_selection(new)
    entered = [pair for pair in new_ranks if pair not in old_ranks]
    left = [pair for pair in old_ranks if pair not in new_ranks]
    moved = [(pair, old_ranks[pair], rank) for pair, rank in new_ranks.items() if old_ranks.get(pair, rank) != rank]
    moved.sort(key=lambda move: (-abs(move[1] - move[2]), move[2]))
    by_groups = all(run.manifest["config"]["input"]["columns"]["group"] for run in (old, new))
    names = sorted(old_groups.keys() | new_groups.keys()) if by_groups else []
    groups = {name: (old_groups[name], new_groups[name]) for name in names}
    return Diff(len(old_ranks), len(new_ranks), entered, left, moved, groups)


def _read_selection(run: FinishedRun) -> tuple[dict[str, int], Counter[str]]:
    """(rank by pair_id, in rank order; pairs of each group, if the run file names a column for groups)."""
    group = run.manifest["config"]["input"]["columns"]["group"]
    ranks: dict[str, int] = {}
    groups: Counter[str] = Counter()
    for name in run.folder.tables("selected"):
        table = run.folder.read_table(name, ["pair_id", "rank", *([group] if group else [])])
        ranks |= zip(table["pair_id"].to_pylist(), table["rank"].to_pylist())
        if group:
            groups.update(str(value) for value in table[group].to_pylist())
    return ranks, groups


def diff_text(diff: Diff) -> str:
    shifts = np.array([abs(old - new) for _, old, new in diff.moved]) if diff.moved else np.zeros(1)
    lines = [
        f"selected   {diff.num_old:>10,} -> {diff.num_new:,}",
        f"shared     {diff.num_shared:>10,}    (Jaccard {diff.jaccard:.3f})",
        f"entered    {len(diff.entered):>10,}    {_names(diff.entered)}",
        f"left       {len(diff.left):>10,}    {_names(diff.left)}",
        f"moved      {len(diff.moved):>10,}    (median {np.median(shifts):,.0f} ranks, at most {shifts.max():,.0f})",
    ]
    lines += [f"  {one_line(pair)}: {old:,} -> {new:,}" for pair, old, new in diff.moved[:MAX_NAMED]]
    for name, (before, after) in diff.groups.items():
        lines.append(f"group {one_line(name)}: {before:,} -> {after:,} ({after - before:+,})")
    return "\n".join(lines)


def _names(pairs: list[str]) -> str:
    return ", ".join(map(one_line, pairs[:MAX_NAMED])) + (", …" if len(pairs) > MAX_NAMED else "")

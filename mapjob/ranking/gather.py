"""One pass over the scored pairs of a corpus: keep what ranking needs of them, drop what a rule excludes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob import collective
from mapjob.arrays import I64
from mapjob.config.selection import Selection
from mapjob.errors import Reason
from mapjob.metrics.statistics import Moments
from mapjob.ranking.pairs import Pairs, RankedPairs, ranking_columns

# Exact repeats: the first occurrence stays, in corpus order.

BITS = 22  # of a mixed key, by which the rows that may be repeats are found


def is_repeat(keys: npt.NDArray[np.uint64], either_way: bool = False) -> npt.NDArray[np.bool_]:
    """True for every row whose pair is in an earlier row. Returns (N,).

    keys: (N, 2), of the chosen and of the rejected side, each with its prompt. either_way: the same two sides the other
    way round are a repeat too, which is so if the reward model and not the corpus says which side is chosen.
    """
    repeats = np.zeros(len(keys), bool)
    if either_way:
        keys = np.sort(keys, axis=1)
    mixed = keys[:, 0] ^ (keys[:, 1] * np.uint64(0x9E3779B97F4A7C15))  # equal if both are; few others
    ordered = np.sort(mixed)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if not len(again):
        return repeats
    # Sorting whole keys takes long, so only those whose mixture may occur again are sorted.
    shift = np.uint64(64 - BITS)
    may_repeat = np.zeros(1 << BITS, bool)
    may_repeat[again >> shift] = True
    rows = np.flatnonzero(may_repeat[mixed >> shift])
    order = rows[np.lexsort((keys[rows, 1], keys[rows, 0]))]  # stable: equal keys stay in corpus order
    repeats[order[1:]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return repeats


# Which prompts are held out: decided by the prompt alone, so that no prompt is on both sides, tonight or tomorrow.


def is_held_out(prompt_key: npt.NDArray[np.uint64], share: float, seed: int) -> npt.NDArray[np.bool_]:
    """True for the pairs of the held-out prompts, about `share` of all prompts. prompt_key: (N, 2). Returns (N,)."""
    # Keys are hashes; the seed is mixed in by the finaliser of splitmix64 (Steele, Lea and Flood 2014).
    with np.errstate(over="ignore"):
        mixed = prompt_key[:, 0] + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) < np.uint64(share * 2**53)


# The rules by which a pair is dropped; 0: by none. The excluded ones are judged before repeats are.
RULES = {
    1: Reason.DUPLICATE,
    2: Reason.DISAGREEMENT,
    3: Reason.EXCLUDED_GROUP,
    4: Reason.EXCLUDED_ID,
    5: Reason.EXCLUDED_WHERE,
    6: Reason.EXCLUDED_VERDICT,
}
RULE_OF = {reason: index for index, reason in RULES.items()}
SETTLED = -1  # by people: whatever the reward model says, it is not dropped and not exchanged


@dataclass
class Gathered:
    """What ranking needs of scored pairs in corpus order, before any is dropped. columns: of RankedPairs, each (N,);
    fields: its other arrays, and those that decide what is dropped.
    """

    columns: dict[str, npt.NDArray]
    fields: dict[str, npt.NDArray]
    groups: tuple[str | None, ...]
    rewards: Mapping[str, Moments]


def gather(
    units: Iterable[Pairs],
    num_rows: int,
    selection: Selection,
    rewards: Mapping[str, Moments] | None = None,
    extra_columns: Sequence[str] = (),
) -> RankedPairs:
    """Go through the scored pairs of a corpus once, in corpus order, and keep what ranking needs of those it ranks.

    All as in `collect` and `drop`.
    """
    return drop(collect(units, num_rows, selection, rewards, extra_columns), selection)


def collect(
    units: Iterable[Pairs],
    num_rows: int,
    selection: Selection,
    rewards: Mapping[str, Moments] | None = None,
    extra_columns: Sequence[str] = (),
) -> Gathered:
    """What ranking needs of a piece's pairs, in corpus order.

    num_rows: of the piece; each gives at most selection.pairs_per_record pairs. rewards: moments of each of several
    reward models. extra_columns: `group`, `prompt`, or scored columns, kept in single precision if ranking does not go
    by them.
    """
    columns: dict[str, npt.NDArray] = {}
    fields: dict[str, npt.NDArray] = {}
    groups: dict[str | None, int] = {}
    num = 0
    for pairs in units:
        for arrays, parts in (
            (columns, _columns_of(pairs, selection, extra_columns)),
            (fields, _fields_of(pairs, selection, extra_columns, groups)),
        ):
            for name, values in parts.items():
                if name not in arrays:  # what is not filled costs nothing
                    shape = (num_rows * selection.pairs_per_record, *values.shape[1:])
                    arrays[name] = np.empty(shape, values.dtype)
                arrays[name][num : num + len(pairs)] = values
        num += len(pairs)
    columns, fields = ({name: values[:num] for name, values in arrays.items()} for arrays in (columns, fields))
    return Gathered(columns, fields, tuple(groups), rewards or {})


def drop(gathered: Gathered, selection: Selection) -> RankedPairs:
    """Without what people left out, then without exact repeats, over all pieces, and then, if the selection says so,
    without pairs whose label the reward model contradicts. Takes the arrays out of `gathered`.
    """
    columns, fields = gathered.columns, gathered.fields
    judge = partial(is_repeat, either_way=selection.on_disagreement == "relabel")
    groups = tuple(collective.fold(gathered.groups, _unite))
    decision = fields.get("decision")
    if decision is None:
        rule = collective.judge_by_key(fields["content_key"], judge).astype(np.int8)
    else:
        rule, left = np.maximum(decision, 0), np.flatnonzero(decision <= 0)
        rule[left] = collective.judge_by_key(fields["content_key"][left], judge)
    if "contradicted" in fields:
        rule[(rule == 0) & fields["contradicted"]] = RULE_OF[Reason.DISAGREEMENT]
    dropped, num_beside = _account(fields["position"], rule)
    for name in {"content_key", "decision", "contradicted"} & set(fields):
        del fields[name]
    if rule.any():
        for arrays in (columns, fields):
            for name in arrays:  # one after the other, so that memory holds only one of them twice
                arrays[name] = arrays[name][rule == 0]
    if "group" in fields and groups != gathered.groups:
        index = {name: number for number, name in enumerate(groups)}
        fields["group"] = np.array([index[name] for name in gathered.groups], np.int32)[fields["group"]]
    return RankedPairs(
        columns=columns, dropped=dropped, num_beside=num_beside, groups=groups, rewards=gathered.rewards, **fields
    )


def _unite(groups: list[tuple[str | None, ...]]) -> list[str | None]:
    """The groups of all pieces, in the order in which the corpus has them."""
    return list(dict.fromkeys(chain(*groups)))


def _columns_of(pairs: Pairs, selection: Selection, extra_columns: Sequence[str]) -> dict[str, npt.NDArray]:
    columns: dict[str, npt.NDArray] = ranking_columns(pairs, selection)
    extra = [name for name in extra_columns if name not in ("group", "prompt", *columns)]
    return columns | {name: pairs.columns[name].astype(np.float32) for name in extra}


def _fields_of(
    pairs: Pairs, selection: Selection, extra_columns: Sequence[str], groups: dict[str | None, int]
) -> dict[str, npt.NDArray]:
    fields: dict[str, npt.NDArray] = {"position": pairs.position, "content_key": pairs.content_key}
    if selection.pairs_per_record > 1:
        fields["pair_in_row"] = pairs.pair_in_row.astype(np.int32)
    if selection.per_prompt is not None or selection.held_out:
        fields["prompt_key"] = pairs.prompt_key
    elif "prompt" in extra_columns:
        fields["prompt_key"] = pairs.prompt_key[:, :1]  # enough to count by
    if selection.quotas is not None or "group" in extra_columns:
        assert pairs.group is not None, "quotas go by a column of the corpus"
        kept, left = pairs.group, slice(None)
        if pairs.decision is not None:  # a group that is left out is none
            left = pairs.decision <= 0
            kept = kept.filter(pa.array(left))
        encoded = kept.dictionary_encode(null_encoding="encode")
        index = [groups.setdefault(name, len(groups)) for name in encoded.dictionary.to_pylist()]
        fields["group"] = np.zeros(len(pairs), np.int32)
        fields["group"][left] = np.array(index, np.int32)[pc.fill_null(encoded.indices, 0).to_numpy()]
    if pairs.decision is not None:
        fields["decision"] = pairs.decision
    if selection.on_disagreement == "drop":
        fields["contradicted"] = pairs.contradicted(selection.votes)
    if selection.near_duplicates is not None:
        assert pairs.signature is not None, "signatures are made if near duplicates are dropped"
        fields["signature"] = pairs.signature
    return fields


def _account(position: I64, rule: npt.NDArray[np.int8]) -> tuple[dict[Reason, I64], dict[Reason, int]]:
    """(positions of rows that lost every pair, by the rule of the first; numbers of pairs dropped from other rows)."""
    first = np.flatnonzero(np.diff(position, prepend=-1))  # the pairs of a row are together
    keeps_one = np.logical_or.reduceat(rule == 0, first) if len(first) else np.zeros(0, bool)
    lost, rule_of_lost = position[first][~keeps_one], rule[first][~keeps_one]
    beside_kept = rule[np.repeat(keeps_one, np.diff(np.append(first, len(position)))) & (rule > 0)]
    dropped = {reason: lost[rule_of_lost == index] for index, reason in RULES.items()}
    beside = {reason: int((beside_kept == index).sum()) for index, reason in RULES.items()}
    return dropped, {reason: number for reason, number in beside.items() if number}

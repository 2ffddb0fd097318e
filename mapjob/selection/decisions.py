"""What people decide about pairs, as files have it: ids that are left out, and verdicts; and what of it makes a run."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import pyarrow as pa

from mapjob.config.selection import Selection
from mapjob.corpus.ids import COLUMN, read_ids, read_listed
from mapjob.errors import ConfigError
from mapjob.escaping import one_line
from mapjob.store.run_folder import FinishedRun

log = logging.getLogger(__name__)

ANSWERS = ("swap", "drop", "keep")
FILE = "decisions.parquet"  # of a run folder
EXCLUDE = "exclude"  # there beside the answers
VERDICT = "verdict"
Answers = dict[str, str]  # pair_id -> one of ANSWERS


@dataclass(frozen=True)
class Decisions:
    """excluded: ids that are left out; verdicts: by pair_id; both sorted, None of what the run file does not name."""

    excluded: tuple[str, ...] | None = None
    verdicts: Answers | None = None

    @cached_property
    def identity(self) -> dict[str, str]:
        """A hash of each content, whatever the form of its file."""
        contents = {"exclude.ids": self.excluded, "verdicts": self.verdicts}
        return {
            name: sha256(json.dumps(content).encode()).hexdigest()
            for name, content in contents.items()
            if content is not None
        }

    def as_table(self) -> pa.Table:
        """For the run folder, so that a finished run can be ranked again whatever becomes of the files."""
        rows = [(pair_id, EXCLUDE) for pair_id in self.excluded or ()] + list((self.verdicts or {}).items())
        ids, decisions = zip(*rows) if rows else ((), ())
        return pa.table({COLUMN: pa.array(ids, pa.string()), "decision": pa.array(decisions, pa.string())})


NO_DECISIONS = Decisions()


def load_decisions(selection: Selection, ran: FinishedRun | None) -> Decisions:
    """From the files that the selection names; of those that a finished run had too, from its folder.

    Raises ConfigError for a file that cannot be read or that contradicts itself.
    """
    ids, verdicts = selection.exclude.ids, selection.verdicts
    had = Selection() if ran is None else Selection(**ran.manifest["config"]["selection"])
    same_ids, same_verdicts = ids and ids == had.exclude.ids, verdicts and verdicts == had.verdicts
    stored: list[tuple[str, str]] = []
    if same_ids or same_verdicts:
        stored = [(row[COLUMN], row["decision"]) for row in ran.folder.read_table(FILE).to_pylist()]
        log.info(f"decisions of people are those that the run was made with ({ran.folder.url}/{FILE})")
    excluded, answers = None, None
    if ids is not None:
        excluded = [pair_id for pair_id, decision in stored if decision == EXCLUDE] if same_ids else read_ids(ids)
    if verdicts is not None:
        before = {pair_id: decision for pair_id, decision in stored if decision != EXCLUDE}
        answers = before if same_verdicts else read_verdicts(verdicts)
    return Decisions(
        None if excluded is None else tuple(sorted(set(excluded))),
        None if answers is None else dict(sorted(answers.items())),
    )


def read_verdicts(path: str) -> Answers:
    """The answers of selection.verdicts. Raises as `read_listed` and `take_answers` do."""
    rows = read_listed(path, (COLUMN, VERDICT))
    return take_answers((f"{path}, row {number}", *cells) for number, cells in enumerate(rows, 1))


def take_answers(rows: Iterable[tuple[str, Any, Any]]) -> Answers:
    """The verdict by pair_id, of rows that have one. rows: (where it is, pair_id, verdict).

    Verdicts that say the same of a pair again are counted on the screen. Raises ConfigError for an unknown verdict, and
    for two of a pair that differ.
    """
    answers: Answers = {}
    first: dict[str, str] = {}
    again: list[str] = []
    for where, pair_id, answer in rows:
        answer = "" if answer is None else str(answer).strip().lower()
        if not answer:
            continue
        if pair_id is None or pair_id == "":
            raise ConfigError("a verdict on no pair: pair_id is empty", where, "give the pair_id, or remove the row")
        if answer not in ANSWERS:
            raise ConfigError(f"{answer!r} is no verdict", where, f"write one of {', '.join(ANSWERS)}, or nothing")
        if answers.setdefault(str(pair_id), answer) != answer:
            what = f"the pair {pair_id} has two verdicts, {answers[str(pair_id)]} and {answer}"
            raise ConfigError(what, f"{first[str(pair_id)]}; {where}", "leave one of them")
        if str(pair_id) in first:
            again.append(str(pair_id))
        first.setdefault(str(pair_id), where)
    if again:
        log.warning(f"{len(again):,} verdicts repeat an earlier one of the same pair ({one_line(again[0])})")
    return answers

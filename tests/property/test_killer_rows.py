"""Rows that end the process of whoever touches them are found by halving: any set of such rows, simulated."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from mapjob.errors import RowError
from mapjob.pipeline.attempts import KILLED, Attempts, bisect_crashes


class Death(BaseException):
    """Stands for the end of a process: nothing after it runs, and only Attempts remembers."""


class Machine:
    """Restarts a worker until it is through, as Ray does; counts deaths and the rows that were worked on."""

    def __init__(self, killers: set[int], chance: list[bool]):
        self.killers, self.chance = killers, chance  # chance: whether the n-th call dies without a fault of its rows
        self.deaths = self.worked = 0

    def work(self, rows: list[int | RowError]) -> pa.Table:
        if self.killers & {row for row in rows if isinstance(row, int)} or (self.chance and self.chance.pop()):
            raise Death
        self.worked += len(rows)
        return pa.table({"value": [-1 if row is KILLED else row * 10 for row in rows]})

    def run(self, num_rows: int) -> list[int]:
        attempts = Attempts()
        while True:
            try:
                table = bisect_crashes(attempts, ("work", "unit"), list(range(num_rows)), self.work)
            except Death:
                self.deaths += 1
                continue
            return table["value"].to_pylist()


@settings(deadline=None)
@given(st.integers(1, 70).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=5))))
def test_exactly_the_killers_are_refused(case: tuple[int, set[int]]) -> None:
    num_rows, killers = case
    assert Machine(killers, []).run(num_rows) == [-1 if i in killers else i * 10 for i in range(num_rows)]


@given(st.integers(1, 40), st.integers(0, 39), st.integers(0, 20))
def test_a_death_by_chance_refuses_no_row(num_rows: int, killer: int, calls_before: int) -> None:
    """One death at any moment that no row is to blame for, beside those by a row that is, or without."""
    values = Machine({killer}, [True] + [False] * calls_before).run(num_rows)
    assert [i for i, value in enumerate(values) if value == -1] == ([killer] if killer < num_rows else [])


def test_one_killer_of_a_large_unit_is_found_within_the_restarts_of_two() -> None:
    machine = Machine({1999}, [])
    machine.run(2000)
    assert machine.deaths == 14
    assert machine.worked < 2 * 2000, "what was finished is not done again"

"""selection.where: a condition in SQL over columns of the corpus and scores, which DuckDB evaluates row by row."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from mapjob.arrays import Bools
from mapjob.config.selection import Selection
from mapjob.corpus.plan import Plan, read_parts
from mapjob.corpus.reader import RowReader
from mapjob.errors import ConfigError, check_extra, suggest
from mapjob.escaping import first_line, redact
from mapjob.metrics.columns import COLLISION, DISTANCE, REFERENCE, UNCONDITIONAL
from mapjob.metrics.table import METRICS
from mapjob.ranking.pairing import CandidatePairs, Completions
from mapjob.ranking.pairs import MARGIN, MARGINS, Pairs
from mapjob.selection.scored import COLUMNS

if TYPE_CHECKING:
    import duckdb

KEY = "selection.where"
NOTHING = np.zeros(0, np.int64)
SINCE_NOW = ("age", 1)  # age(x) is the time until now, though DuckDB calls it consistent
LATER = ("rank", "map_score", "selected")  # and metrics: known once all pairs are ranked
REFUSED = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "PARAMETER": "a parameter",
    "STAR": "a star",
    "POSITIONAL_REFERENCE": "a column by its number",
    "DEFAULT": "DEFAULT",
}
Node = dict[str, Any]


def pair_columns(families: Mapping[str, str]) -> list[str]:
    """The names of `Pairs.columns` if these column families are stored."""
    scored = {column: np.zeros(0) for column, family, _ in COLUMNS if family in families}
    scored |= {name: np.zeros(0) for name in ["reward", *families] if name.partition(".")[0] == "reward"}
    distances = NOTHING if DISTANCE in families else None
    nothing = CandidatePairs(NOTHING, NOTHING, NOTHING)
    return [*Completions(np.zeros(1, np.int64), scored, distances).columns_of(nothing)]


@dataclass(frozen=True)
class Where:
    """A condition that was checked. Row by row, so the same however a corpus is cut into units and pieces.

    of_corpus: name in the condition -> column of the corpus, of those that it names. types: of all that it names.
    """

    expression: str
    implicit: str
    of_corpus: dict[str, str]
    types: pa.Schema

    @classmethod
    def check(cls, selection: Selection, plan: Plan, families: Mapping[str, str]) -> "Where":
        """Raises ConfigError for what is no condition on single rows of this corpus, by name."""
        assert selection.where is not None
        check_extra("duckdb", "where", "a condition", KEY)
        known = _types(selection, plan, families)
        users = _user_names(plan, known)
        connection = connect()
        names = _Checker(connection, selection.where, plan, {**known, **users}).names
        of_corpus = {name: users[name] for name in names if name in users}
        kinds = {name: plan.schema.field(of_corpus[name]).type if name in of_corpus else known[name] for name in names}
        where = cls(selection.where, selection.implicit, of_corpus, pa.schema(kinds))
        where._evaluate(connection, pa.table({field.name: pa.nulls(1, field.type) for field in where.types}))
        return where

    def judge(self, pairs: Pairs, plan: Plan, unit_indices: Sequence[int]) -> Bools:
        """For which pairs it is not true. pairs: of these units, in corpus order."""
        if not self.of_corpus:
            return ~self._evaluate(self._connection, self._table(pairs, {}))
        fails, starts = np.zeros(len(pairs), bool), plan.first_rows
        reader = RowReader(list(dict.fromkeys(self.of_corpus.values())))
        for index in unit_indices:
            edges = np.searchsorted(pairs.position, starts[index : index + 2])
            if edges[0] == edges[1]:
                continue
            row = int(starts[index])
            for part in read_parts(plan.units[index], reader):
                start, stop = np.searchsorted(pairs.position, [row, row + part.num_rows])
                here = pairs.take(np.arange(start, stop))
                rows = part.take(pa.array(here.position - row))
                columns = {name: self._column(rows, name, len(here)) for name in self.of_corpus}
                where = f"{KEY}, at {plan.units[index].where}"
                fails[start:stop] = ~self._evaluate(self._connection, self._table(here, columns), where)
                row += part.num_rows
        return fails

    @cached_property
    def _connection(self) -> "duckdb.DuckDBPyConnection":
        return connect()

    def _column(self, rows: pa.Table, name: str, num: int) -> pa.Array | pa.ChunkedArray:
        """num: of the rows; their file may lack the column."""
        kind, column = self.types.field(name).type, self.of_corpus[name]
        return rows[column].cast(kind) if column in rows.column_names else pa.nulls(num, kind)

    def _table(self, pairs: Pairs, of_corpus: Mapping[str, Any]) -> pa.Table:
        """The columns that the condition names. pairs: as they are ranked, sides exchanged."""
        columns = {"pair_id": lambda: pairs.pair_id, "group": lambda: pairs.group}
        columns |= {
            "reward_margin": lambda: _margin(pairs, "reward_margin"),
            "implicit_margin": lambda: _margin(pairs, f"{self.implicit}_margin"),
            "label_agrees": lambda: _margin(pairs, "reward_margin") > 0,
        }
        arrays = {
            field.name: of_corpus[field.name]
            if field.name in of_corpus
            else pa.array(columns.get(field.name, lambda name=field.name: pairs.columns[name])()).cast(field.type)
            for field in self.types
        }
        return pa.table(arrays)

    def _evaluate(self, connection: "duckdb.DuckDBPyConnection", table: pa.Table, where: str = KEY) -> Bools:
        import duckdb

        try:
            connection.register("pairs", table)
            (kind,) = connection.sql(f"SELECT ({self.expression}\n) FROM pairs").types
            if str(kind) != "BOOLEAN":
                what = f"the condition is a value of type {kind}, not true or false"
                raise ConfigError(what, f"{KEY}: {self.expression}", "compare it with something")
            fits = connection.sql(f"SELECT coalesce(({self.expression}\n), false) AS fits FROM pairs").to_arrow_table()
        except duckdb.Error as error:
            why = " ".join(str(error).partition("\n\nLINE")[0].split())
            what = f"the condition cannot be evaluated: {redact(why)}"
            do = "mind the types of columns; try_cast(x AS DOUBLE) is null for what is no number"
            raise ConfigError(what, f"{where}: {self.expression}", do) from None
        return fits["fits"].to_numpy()


def check_where(selection: Selection, plan: Plan, families: Mapping[str, str]) -> None:
    """Raises ConfigError for a condition that cannot be evaluated on this corpus, by name."""
    if selection.where is not None:
        Where.check(selection, plan, families)


def connect() -> "duckdb.DuckDBPyConnection":
    """A database in memory that reaches no file, no network and no variable of this process, and stays so."""
    import duckdb

    safe = {"enable_external_access": False, "autoload_known_extensions": False, "autoinstall_known_extensions": False}
    connection = duckdb.connect(":memory:", config={**safe, "threads": 1, "python_enable_replacements": False})
    connection.execute("SET TimeZone = 'UTC'")  # not that of the machine
    connection.execute("SET lock_configuration = true")
    return connection


def _margin(pairs: Pairs, name: str) -> Any:
    return MARGIN[name](*(pairs.columns[part] for part in MARGINS[name]))


def _types(selection: Selection, plan: Plan, families: Mapping[str, str]) -> dict[str, pa.DataType]:
    """The columns of mapjob's that a condition may name."""
    types: dict[str, pa.DataType] = {"pair_id": pa.string()}
    if plan.corpus.columns.group is not None:
        types["group"] = pa.string()
    for name in pair_columns(families):
        types[name] = pa.int64() if name.endswith(("num_tokens", DISTANCE)) else pa.float64()
    return types | {"reward_margin": pa.float64(), "implicit_margin": pa.float64(), "label_agrees": pa.bool_()}


def _user_names(plan: Plan, taken: Mapping[str, Any]) -> dict[str, str]:
    """Name in a condition -> column of the corpus: `input_<name>` if the name is taken, as in a selection."""
    names = {}
    for column in plan.schema.names:
        name = column
        while name in taken or name in LATER or (name != column and name in plan.schema.names):
            name = f"input_{name}"
        names[name] = column
    return names


class _Checker:
    """Walks the tree of a condition. `names`: the known names of columns that it uses, in their order."""

    def __init__(self, connection: "duckdb.DuckDBPyConnection", expression: str, plan: Plan, known: Mapping[str, Any]):
        self._connection, self._expression, self._known = connection, expression, known
        self._folded = {name.lower(): name for name in known}
        self.names: list[str] = []
        self._walk(self._parse(expression), frozenset())
        if not self.names:
            self._refuse("the condition names no column, so it says the same of every row")

    def _refuse(self, what: str, do: str = "write a condition on the columns of one row") -> None:
        raise ConfigError(what, f"{KEY}: {self._expression}", do)

    def _parse(self, expression: str) -> Node:
        sql = f"SELECT ({expression}\n) FROM pairs"
        answer = json.loads(self._connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0])
        if answer["error"]:
            do = 'names of columns that are words of SQL go in double quotes: "group"'
            self._refuse(f"the condition is no SQL expression: {first_line(answer['error_message'])}", do)
        if len(answer["statements"]) != 1:
            self._refuse(f"the condition holds {len(answer['statements'])} statements")
        node = answer["statements"][0]["node"]
        plain = node["type"] == "SELECT_NODE" and len(node["select_list"]) == 1 and not node["where_clause"]
        if not plain or node["modifiers"] or node["group_expressions"] or node["from_table"]["type"] != "BASE_TABLE":
            self._refuse("the condition is more than one expression")
        return node["select_list"][0]

    def _walk(self, node: Any, variables: frozenset[str], is_macro: bool = False) -> None:
        """variables: of lambdas, or parameters of a built-in macro."""
        if isinstance(node, list):
            for part in node:
                self._walk(part, variables, is_macro)
        if not isinstance(node, dict):
            return
        kind = node.get("class")
        if kind in REFUSED:
            self._refuse(f"the condition has {REFUSED[kind]}, and it is evaluated for one row at a time")
        if kind == "LAMBDA":  # x -> x > 1, but also the arrow of JSON: column -> 'key'
            variables |= {name.lower() for name in _names_in(node["lhs"]) if name.lower() not in self._folded}
        if kind == "COLUMN_REF":
            self._name(node["column_names"], variables, is_macro)
        if kind == "FUNCTION":
            self._check_function(node["function_name"], len(node["arguments"]))
        for part in node.values():
            self._walk(part, variables, is_macro)

    def _name(self, path: list[str], variables: frozenset[str], is_macro: bool) -> None:
        name = path[0].lower()
        if name in variables:
            return
        if not is_macro and name in self._folded:
            known = path[0] if path[0] in self._known else self._folded[name]
            if known not in self.names and name in map(str.lower, self.names):
                self._refuse(f"two columns are called {name} but for upper and lower case", "rename one of them")
            self.names += [known] * (known not in self.names)
            return
        if not is_macro and (name in LATER or name in METRICS):
            what = f"{path[0]} is known only once all pairs are ranked, which is after this"
            self._refuse(what, "use margins, rewards, log-probabilities, lengths; selection.keep cuts the ranking")
        if is_macro or self._overloads(name):
            self._refuse(f"{path[0]} is not a column, and what it is changes from run to run")
        if name in {*REFERENCE, *UNCONDITIONAL, *COLLISION, DISTANCE}:
            self._refuse(f"{path[0]} is not scored by this run", "it needs models.reference, or a metric that uses it")
        if name == "group":
            self._refuse("there is no group", "name its column as input.columns.group")
        self._refuse(
            f"unknown column {path[0]}{suggest(path[0], self._known)}", f"the columns are {', '.join(self._known)}"
        )

    def _check_function(self, name: str, num_arguments: int) -> None:
        overloads = self._overloads(name)
        kinds = {kind for kind, *_ in overloads}
        if not overloads:
            return  # the binder says so, with its own suggestions
        if "aggregate" in kinds or "window" in kinds:
            self._refuse(f"{name} is over many rows, and the condition is evaluated for one row at a time")
        if not kinds & {"scalar", "macro"}:
            self._refuse(f"{name} is no function of one row")
        scalars = [one for one in overloads if one[0] == "scalar"]
        is_stable = any(stability == "CONSISTENT" for _, stability, *_ in scalars)
        if (scalars and not is_stable) or (name.lower(), num_arguments) == SINCE_NOW:
            self._refuse(f"{name} gives another value at another time, and a run is the same whenever it runs")
        for kind, _, definition, parameters in overloads:
            if kind == "macro" and not scalars:
                self._walk(self._parse(definition), frozenset(map(str.lower, parameters)), is_macro=True)

    def _overloads(self, name: str) -> list[tuple[str, str, str, list[str]]]:
        """(kind, stability, definition of a macro, parameters) of the functions of a name."""
        columns = "function_type, stability, macro_definition, parameters"
        sql = f"SELECT {columns} FROM duckdb_functions() WHERE function_name = ?"
        return self._connection.execute(sql, [name.lower()]).fetchall()


def _names_in(node: Node) -> Iterator[str]:
    """Of the parameters of a lambda: one column reference, or several in a row."""
    if node["class"] == "COLUMN_REF":
        yield node["column_names"][-1]
    for argument in node.get("arguments", ()):
        yield from _names_in(argument["expression"])

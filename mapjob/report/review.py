"""Pairs for people to look at, as files of the tools that they look with, and their answers back from these files."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from mapjob.corpus.ids import COLUMN, read_file, read_listed
from mapjob.errors import ConfigError
from mapjob.escaping import for_terminal
from mapjob.selection.decisions import ANSWERS, VERDICT, Answers, take_answers
from mapjob.store.tables import to_parquet

Row = dict[str, Any]
TEXTS = ("prompt", "chosen", "rejected")
MEANING = {
    "keep": "keep: chosen is the better answer",
    "swap": "swap: rejected is the better answer",
    "drop": "drop: learn from neither",
}
ASK = "Is the answer that the corpus calls chosen the better one?"
CELL = 32_000  # characters that a spreadsheet's cell surely holds
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # what a spreadsheet runs, or takes away

# CSV


def _as_csv(rows: Sequence[Row]) -> dict[str, bytes]:
    """For spreadsheets. An id always has an apostrophe before it, so that 007, 1e5 or MAR1 stay as they are."""
    file = io.StringIO(newline="")
    names = [COLUMN, VERDICT, "answers", *(name for name in _names(rows) if name != COLUMN)]
    writer = csv.writer(file)
    writer.writerow(names)
    for row in rows:
        cells = {**row, COLUMN: f"'{row[COLUMN]}", VERDICT: "", "answers": " | ".join(ANSWERS)}
        writer.writerow([cells[name] if name == COLUMN else _cell(cells[name]) for name in names])
    return {"": file.getvalue().encode("utf-8-sig")}


def _cell(value: Any) -> Any:
    """A text that a spreadsheet shows, runs nothing of, and can hold."""
    if not isinstance(value, str):
        return value
    text = for_terminal(value)
    if len(text) > CELL:
        text = f"{text[:CELL]}… ({len(text) - CELL:,} more characters)"
    return f"'{text}" if text.startswith(FORMULA) else text


# JSON Lines


def _as_jsonl(rows: Sequence[Row]) -> dict[str, bytes]:
    lines = ({COLUMN: row[COLUMN], VERDICT: None, "answers": ANSWERS, **row} for row in rows)
    return {"": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode("utf-8", "replace")}


# Argilla 2: what `rg.Dataset.from_disk(folder)` reads, and what `dataset.to_disk(folder)` writes.


def _as_argilla(rows: Sequence[Row]) -> dict[str, bytes]:
    question = {
        "name": VERDICT,
        "title": ASK,
        "required": True,
        "settings": {
            "type": "label_selection",
            "options": [{"value": value, "text": text} for value, text in MEANING.items()],
        },
    }
    fields = [
        {"name": name, "title": name, "required": True, "settings": {"type": "text", "use_markdown": False}}
        for name in TEXTS
    ]
    kinds = {float: "float", int: "integer", str: "terms"}
    others = [name for name in _names(rows) if name not in (COLUMN, *TEXTS)]
    kind_of = {
        name: next((kinds[type(row[name])] for row in rows if row[name] is not None), "terms") for name in others
    }
    metadata = [
        {"name": name, "title": name, "settings": {"type": kind_of[name]}, "visible_for_annotators": True}
        for name in others
    ]
    settings = {
        "guidelines": ASK,
        "fields": fields,
        "questions": [question],
        "metadata": metadata,
        "vectors": [],
        "allow_extra_metadata": True,
        "distribution": {"strategy": "overlap", "min_submitted": 1},
        "mapping": None,
    }
    records = [
        {
            "id": row[COLUMN],
            "fields": {name: row[name] for name in TEXTS},
            "metadata": {name: row[name] for name in others if row[name] is not None},
            "suggestions": {},
            "responses": {},
            "vectors": {},
        }
        for row in rows
    ]
    parts = {".argilla/dataset.json": {"name": "review"}, ".argilla/settings.json": settings, "records.json": records}
    return {name: json.dumps(part).encode() for name, part in parts.items()}


def _from_argilla(records: Iterable[Row]) -> Iterator[tuple[str, Any, Any]]:
    for record in records:
        for response in (record["responses"] or {}).get(VERDICT, ()):
            if response.get("status", "submitted") == "submitted":
                yield f"record {record['id']}, user {response.get('user_id')}", record["id"], response["value"]


# Label Studio: tasks to import, and beside them the labelling interface; back comes its JSON export.


def _as_label_studio(rows: Sequence[Row]) -> dict[str, bytes]:
    texts = "".join(f'  <Header value="{name}"/>\n  <Text name="{name}" value="${name}"/>\n' for name in TEXTS)
    choices = "".join(
        f'    <Choice value="{value}" hint="{escape(text)}" html="{escape(text)}"/>\n'
        for value, text in MEANING.items()
    )
    opening = f'  <Choices name="{VERDICT}" toName="prompt" choice="single" required="true">\n'
    interface = f'<View>\n{texts}  <Header value="{ASK}"/>\n{opening}{choices}  </Choices>\n</View>\n'
    tasks = json.dumps([{"data": row} for row in rows])
    return {"": tasks.encode(), ".xml": interface.encode()}


def _from_label_studio(tasks: Iterable[Row]) -> Iterator[tuple[str, Any, Any]]:
    for task in tasks:
        for annotation in task["annotations"]:
            for result in () if annotation.get("was_cancelled") else annotation["result"]:
                if result.get("from_name") == VERDICT:
                    where = f"task {task.get('id')}, annotation {annotation.get('id')}"
                    for choice in result["value"]["choices"]:
                        yield where, task["data"].get(COLUMN), choice


FORMATS: dict[str, tuple[str, Callable[[Sequence[Row]], dict[str, bytes]]]] = {
    "csv": (".csv", _as_csv),
    "jsonl": (".jsonl", _as_jsonl),
    "argilla": ("", _as_argilla),
    "label-studio": (".json", _as_label_studio),
}


def _names(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]) if rows else [COLUMN, *TEXTS]


def write_review(rows: Sequence[Row], to: str, out: str) -> list[str]:
    """Write the pairs for a tool. out: a file, or the folder of an Argilla dataset. Returns the paths that it wrote.

    Raises ConfigError if there is something already: it may hold answers.
    """
    _, write = FORMATS[to]
    parts = write(rows)
    paths = {
        Path(out, name) if to == "argilla" else Path(out).with_suffix(name) if name else Path(out): data
        for name, data in parts.items()
    }
    for path in paths:
        if path.exists():
            raise ConfigError("this file exists, and may hold answers of people", str(path), "give another --out")
    for path, data in paths.items():
        _write(path, data)
    return [out] if to == "argilla" else [str(path) for path in paths]


def read_answers(path: str) -> list[tuple[str, Any, Any]]:
    """(where, pair_id, verdict or nothing) of a file of answers: CSV, JSONL or Parquet, the folder or the records of an
    Argilla dataset, or a JSON export of Label Studio.

    Raises ConfigError for anything else.
    """
    folder = Path(path, "records.json")
    path = str(folder) if folder.is_file() else path
    if path.lower().endswith(".json"):
        try:
            rows = json.loads(read_file(path, "give the file that was exported"))
        except ValueError as error:
            raise ConfigError(f"this file is no JSON: {error}", path, "export it again") from None
        is_list = isinstance(rows, list) and all(isinstance(row, dict) for row in rows)
        for key, read in (("responses", _from_argilla), ("annotations", _from_label_studio)):
            if is_list and rows and all(key in row for row in rows):
                try:
                    return [(f"{path}, {where}", pair_id, answer) for where, pair_id, answer in read(rows)]
                except (KeyError, TypeError, AttributeError) as error:
                    what = f"this is no export of Argilla or Label Studio after all: {error!r}"
                    raise ConfigError(what, path, "export it again") from None
    cells = read_listed(path, (COLUMN, VERDICT))
    return [(f"{path}, row {number}", *row) for number, row in enumerate(cells, 1)]


def gather_answers(paths: Sequence[str], out: str) -> tuple[Answers, int]:
    """Write the answers of all files as one that selection.verdicts reads. out: .csv, .jsonl or .parquet.

    Returns them, and how many rows have none. Raises ConfigError for an unknown answer, for two of one pair that
    differ, and if `out` exists and is none of the files.
    """
    rows = [row for path in paths for row in read_answers(path)]
    answers = dict(sorted(take_answers(rows).items()))
    columns = {COLUMN: list(answers), VERDICT: list(answers.values())}
    writers: dict[str, Callable[[], bytes]] = {
        ".csv": lambda: _answers_as_csv(answers),
        ".jsonl": lambda: "".join(json.dumps(dict(zip(columns, row))) + "\n" for row in answers.items()).encode(),
        ".parquet": lambda: to_parquet(pa.table({name: pa.array(part, pa.string()) for name, part in columns.items()})),
    }
    target = Path(out)
    if target.suffix not in writers:
        raise ConfigError("the form of this file is not known by its name", out, f"end it in {', '.join(writers)}")
    if target.exists() and all(target.resolve() != Path(path).resolve() for path in paths):
        do = "give it as one of the files too, or another --out"
        raise ConfigError("this file exists, and may hold answers of people", out, do)
    _write(target, writers[target.suffix]())
    num_empty = sum(answer is None or not str(answer).strip() for _, _, answer in rows)
    return answers, num_empty


def _answers_as_csv(answers: Answers) -> bytes:
    file = io.StringIO(newline="")
    csv.writer(file).writerows([(COLUMN, VERDICT), *((f"'{pair_id}", verdict) for pair_id, verdict in answers.items())])
    return file.getvalue().encode("utf-8-sig")


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.writing")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"the file cannot be written: {error.strerror}", str(path), "give another --out") from None

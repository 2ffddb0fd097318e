"""A reading: from a row of the corpus to a record, by the columns that the run file names or that were recognised."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from mapjob.config.input import Verdict
from mapjob.corpus.cells import HH_ANSWER, HH_OPENING, cut_hh, decode_json, read_hh, read_turns, rows_of, shape_of
from mapjob.corpus.dialogues import is_system, read_dialogue, split_dialogues
from mapjob.corpus.records import Record, Text
from mapjob.errors import Reason, RowError

Row = dict[str, Any]
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Reading:
    """Which columns hold what. Plain values, so that it travels to workers and into fingerprints.

    prompt: columns in order (dotted paths into structs); one whose name begins with "system" is a system turn.
    sides: the two answers; else responses: the column with N of them. verdict: which side is chosen (else the first).
    json: columns whose strings hold messages as JSON. template: columns that are given to the chat template. as_is: the
    run file says that strings are meant as they are, so that none is taken for messages as JSON.
    """

    prompt: tuple[str, ...] = ("prompt",)
    sides: tuple[str, str] | None = None
    responses: str | None = None
    verdict: Verdict | None = None
    json: tuple[str, ...] = ()
    template: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    as_is: bool = False

    @property
    def gives_candidates(self) -> bool:
        """Whether a row holds N answers of which a pairing makes pairs, and not one pair."""
        return self.responses is not None and self.verdict is None

    @property
    def texts(self) -> list[str]:
        """The paths of prompt and answers."""
        return list(dict.fromkeys([*self.prompt, *(self.sides or ()), *filter(None, [self.responses])]))

    @property
    def columns(self) -> list[str]:
        """Every path that decides the record."""
        verdict = self.verdict.paths if self.verdict else ()
        return list(dict.fromkeys([*self.texts, *verdict, *self.template]))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the record, as plain values without what is empty; part of every scorer's fingerprint."""
        parts = {
            "prompt": list(self.prompt),
            "sides": self.sides and list(self.sides),
            "responses": self.responses,
            "verdict": self.verdict and self.verdict.model_dump(mode="json", exclude_none=True),
            "json": sorted(self.json),
            "template": sorted(self.template),
            "as_is": self.as_is,
        }
        return {name: value for name, value in parts.items() if value}

    @classmethod
    def of(cls, identity: dict[str, Any]) -> "Reading":
        """The reading that has this identity, as a manifest keeps it."""
        given = {name: tuple(value) if isinstance(value, list) else value for name, value in identity.items()}
        verdict = given.get("verdict")
        return cls(**{"prompt": (), **given, "verdict": verdict and Verdict(**verdict)})


def read_record(row: Row, reading: Reading) -> Record:
    """The record of a row. Raises RowError for a row that has none: broken, or a tie."""
    order = _order(row, reading)
    cells = [_cell(row, path, reading) for path in reading.prompt]
    answers, names = _answers(row, reading)
    template = _template(row, reading)
    if order and len(answers) != 2:
        raise RowError(Reason.BAD_MESSAGES, f"{len(answers)} answers, and a verdict between two")
    plain = _plain(cells, answers, reading)
    prompt, completions = plain or read_dialogue(dict(zip(reading.prompt, cells)), dict(zip(names, answers)))
    if order:
        completions = [completions[side] for side in order]
    return Record(prompt, completions, template, order if order != (0, 1) else ())


def pick(row: Row, path: str) -> Any:
    """The value at a dotted path; a column of that whole name comes first; null inside a null struct."""
    if path in row:
        return row[path]
    value: Any = row
    for part in path.split("."):
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            value = [item.get(part) for item in value]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def _cell(row: Row, path: str, reading: Reading) -> Any:
    value = pick(row, path)
    if path not in reading.json or value is None:
        if not reading.as_is and shape_of(decode_json(value)) in ("dialogue", "message"):
            raise RowError(Reason.BAD_MESSAGES, f"{path}: messages as JSON, unlike the first rows")
        return value
    if (decoded := decode_json(value)) is None:
        raise RowError(Reason.BAD_MESSAGES, f"{path}: no messages as JSON, as in the other rows")
    if "\\ud" in value.lower() and LONE_SURROGATE.search(json.dumps(decoded, ensure_ascii=False)):
        raise RowError(Reason.INVALID_UTF8, f"{path}: JSON with half a character")
    return decoded


def _answers(row: Row, reading: Reading) -> tuple[list[Any], list[str]]:
    """The cells of the answers, and what to call each in an error."""
    if reading.sides is not None:
        values, names = [_cell(row, path, reading) for path in reading.sides], list(reading.sides)
    else:
        assert reading.responses is not None, "a reading has sides or responses"
        answers, path = _cell(row, reading.responses, reading), reading.responses
        if answers is None:
            raise RowError(Reason.NULL_FIELD, f"{path} is null")
        if isinstance(answers, dict):
            answers = rows_of(answers, path)
        if not isinstance(answers, list):
            raise RowError(Reason.BAD_MESSAGES, f"{path} is not a list")
        values, names = answers, [f"{path}, answer {index}" for index in range(len(answers))]
    for value, name in zip(values, names):
        if value is None:
            raise RowError(Reason.NULL_FIELD, f"{name} is null")
    return values, names


def _order(row: Row, reading: Reading) -> tuple[int, ...]:
    """Which side is chosen, then the other; empty if no verdict decides. Raises RowError for a tie."""
    if reading.verdict is None:
        return ()
    chosen = reading.verdict.side([pick(row, path) for path in reading.verdict.paths])
    if chosen is None:
        raise RowError(Reason.TIE, f"no side by {', '.join(reading.verdict.paths)}")
    return (chosen, 1 - chosen)


def _template(row: Row, reading: Reading) -> dict[str, Any] | None:
    """What the row gives to the chat template beside its messages: tools (also as JSON), chat_template_kwargs."""
    given: dict[str, Any] = {}
    for path in reading.template:
        value = row.get(path)
        if isinstance(value, str) and value:
            try:
                value = json.loads(value)
            except ValueError:
                raise RowError(Reason.BAD_MESSAGES, f"{path}: a string that is no JSON") from None
        if value:
            given |= {path: value} if path == "tools" else value
    return given or None


# Plain strings: kept as they are, so that a model without a template can read them; `as_chat` makes messages of them.


def _plain(cells: list[Any], answers: list[Any], reading: Reading) -> tuple[Text, list[Text]] | None:
    """Prompt and completions of a row that holds nothing but plain strings and one prompt; else None."""
    filled = [cell for path, cell in zip(reading.prompt, cells) if cell not in (None, "") or not is_system(path)]
    texts = [_single_text(answer) for answer in answers]
    if any(text is None for text in texts):
        return None
    if not filled and all(text.startswith(HH_OPENING) for text in texts):
        return _split_hh(texts)
    if len(filled) == 1 and len(filled) == len([p for p in reading.prompt if not is_system(p)]):
        prompt = filled[0]
        if isinstance(prompt, str) and not all(text.startswith(HH_OPENING) for text in texts):
            return prompt, texts
    return None


def _single_text(answer: Any) -> str | None:
    if isinstance(answer, str):
        return answer
    if shape_of(answer) != "struct":
        return None
    (turn,) = read_turns(answer, "assistant", "")
    return turn["content"] if len(turn) == 2 else None


def _split_hh(texts: list[str]) -> tuple[Text, list[Text]]:
    """Anthropic HH: the prompt ends with the last common "\\n\\nAssistant:"."""
    prompt, completions = split_dialogues([read_hh(text, f"answer {index}") for index, text in enumerate(texts)])
    if all(completion == completions[0] for completion in completions):
        raise RowError(Reason.IDENTICAL_COMPLETIONS, "but for white space")
    cuts = [cut_hh(text, len(prompt)) for text in texts]
    if any(cut[0] != cuts[0][0] for cut in cuts):
        raise RowError(Reason.BAD_MESSAGES, "chosen and rejected differ in white space inside the prompt")
    return cuts[0][0], [cut[1] for cut in cuts]


def as_chat(record: Record) -> Record:
    """Plain strings as messages: one user turn and one assistant turn, or the turns of an HH dialogue; a record of
    messages is returned as it is."""
    if not isinstance(record.prompt, str):
        return record
    if not record.prompt.startswith(HH_OPENING):
        completions = [[{"role": "assistant", "content": text}] for text in record.completions]
        return replace(record, prompt=[{"role": "user", "content": record.prompt}], completions=completions)
    prompt = read_turns(record.prompt, "user", "prompt")
    opened = (text if text.startswith(HH_ANSWER) else HH_ANSWER + text for text in record.completions)
    completions = [read_hh(text, "completion") for text in opened]
    return replace(record, prompt=prompt, completions=completions)

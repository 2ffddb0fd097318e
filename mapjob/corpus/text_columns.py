"""Prompt and sides of many rows as whole Arrow columns, for the commonest forms of a corpus: strings and messages.

What columns seem to hold is a guess, since a row may mean something else: a dialogue in one string, other names for
roles, further keys of a message. The keys of what was scored say whether it is right (Record.completion_keys).
"""

from itertools import pairwise
from json.encoder import encode_basestring_ascii as to_json

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mapjob.arrays import I64
from mapjob.corpus.reading import Reading
from mapjob.corpus.records import hash_texts

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])


def guess_texts(table: pa.Table, reading: Reading) -> list[pa.Array] | None:
    """Prompt and both sides of every row, (3, N): all strings, or all lists of MESSAGE, without nulls; None if the
    columns hold anything else. Sides that are whole dialogues are cut before their last message.
    """
    paths = [*reading.prompt, *(reading.sides or ())]
    if reading.sides is None or reading.verdict or reading.json or not {*paths} <= {*table.column_names}:
        return None
    *prompts, chosen, rejected = columns = [_decode(table[path].combine_chunks()) for path in paths]
    if len(prompts) == 1 and all(column.type == pa.string() for column in columns):
        return None if any(column.null_count for column in columns) else columns
    chosen, rejected = (as_messages(side, "assistant") for side in (chosen, rejected))
    if chosen is None or rejected is None:
        return None
    if len(chosen) and chosen.values.field("role")[0].as_py() != "assistant":
        (prompt, chosen), (_, rejected) = map(_cut, (chosen, rejected))
    else:
        prompt = as_messages(prompts[0], "user") if len(prompts) == 1 else None
    return None if prompt is None else [prompt, chosen, rejected]


def as_messages(texts: pa.Array, role: str) -> pa.ListArray | None:
    """Lists of MESSAGE, of this role if the texts are strings; None if they are no messages, or some have nulls."""
    if texts.type == pa.string():
        lengths, (roles, contents) = np.ones(len(texts), np.int64), (pa.repeat(role, len(texts)), texts)
    elif _holds_messages(texts.type) and not texts.null_count and not (turns := texts.flatten()).null_count:
        lengths = pc.list_value_length(texts).to_numpy().astype(np.int64)
        roles, contents = (_decode(turns.field(field.name)) for field in MESSAGE)
    else:
        return None
    if not lengths.all() or any(part.type != pa.string() or part.null_count for part in (roles, contents)):
        return None
    return _lists(lengths, pa.StructArray.from_arrays([roles, contents], fields=list(MESSAGE)))


def keys_of(texts: list[pa.Array]) -> npt.NDArray[np.uint64]:
    """The keys of both sides (Record.completion_keys), (N, 2). Raises UnicodeDecodeError for text that is not UTF-8."""
    prompts, *sides = map(_json, texts)
    hashes = b"".join(hash_texts(prompt, side) for prompt, *of_row in zip(prompts, *sides) for side in of_row)
    return np.frombuffer(hashes, "<u8").reshape(-1, 2, 2)[:, :, 0]


def _decode(values: pa.Array) -> pa.Array:
    """Strings of any type as `string`; other values as they are."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    return values.cast(pa.string()) if pa.types.is_string(kind) or pa.types.is_large_string(kind) else values


def _holds_messages(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_struct(kind.value_type):
        return False
    return all(kind.value_type.get_field_index(field.name) >= 0 for field in MESSAGE)


def _lists(lengths: I64, turns: pa.StructArray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(lengths))), pa.int32()), turns)


def _cut(dialogues: pa.ListArray) -> tuple[pa.ListArray, pa.ListArray]:
    """All messages but the last of each, and the last of each."""
    ends = dialogues.offsets.to_numpy()[1:]
    is_last = np.zeros(len(dialogues.values), bool)
    is_last[ends - 1] = True
    start, end = (dialogues.values.filter(pa.array(is_there)) for is_there in (~is_last, is_last))
    ones = np.ones(len(dialogues), np.int64)
    return _lists(np.diff(ends, prepend=0) - ones, start), _lists(ones, end)


def _json(texts: pa.Array) -> list[str]:
    """Every text as it is hashed."""
    if texts.type == pa.string():
        return list(map(to_json, texts.to_pylist()))
    roles, contents = (map(to_json, texts.values.field(field.name).to_pylist()) for field in MESSAGE)
    turns = [f'{{"role":{role},"content":{content}}}' for role, content in zip(roles, contents)]
    return [f"[{','.join(turns[start:stop])}]" for start, stop in pairwise(texts.offsets.to_pylist())]

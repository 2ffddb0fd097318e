"""From records to token ids: template, boundary, end of turn, control tokens and length, as TRL trains on them.

An encoded record is a prompt and its completions as token ids. The completion starts where the tokens of the prompt
and of prompt + completion part ways, for all completions of a record at the earliest such place (TRL's rule).
"""

import inspect
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jinja2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from mapjob.corpus.message_fields import as_loaded
from mapjob.corpus.plan import Corpus
from mapjob.corpus.reader import reason_columns
from mapjob.corpus.reading import as_chat
from mapjob.corpus.records import Message, Record, control_pattern, is_empty, sanitize, strings
from mapjob.errors import ModelError, Reason, RowError
from mapjob.scoring.spec import EncodingSpec
from mapjob.scoring.tokenizers import LengthBound, load_tokenizer, on_day, special_tokens

I32 = npt.NDArray[np.int32]
OPTIONS = "chat_template_kwargs"
TEXTS = ("content", "reasoning_content", "reasoning", "thinking")  # what a completion says; of a prompt, the first

# What apply_chat_template takes for itself, and the clock that it gives to templates: no row may set it.
RESERVED = {*inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters, "strftime_now"}
RESERVED -= {"tools", "documents"}


@dataclass(frozen=True)
class Encoded:
    """Token ids of a record, int32.

    truncated: a completion lost its end to max_length. boundary_moved: the prompt's last tokens differ when a
    completion follows, so that the completion starts before them. text_not_kept: the template left out, trimmed or
    rewrote a message, so that what was scored is not all that is written.
    """

    prompt: I32
    completions: list[I32]
    truncated: bool = False
    boundary_moved: bool = False
    text_not_kept: bool = False


FLAGS = ("truncated", "boundary_moved", "text_not_kept")


class Rendered(NamedTuple):
    """The text of the prompt, then of the prompt with each completion; whether all messages are in these texts."""

    texts: list[str]
    keeps_all: bool


class Encoder:
    """Encodes records for every scorer that shares this encoding spec. Pure: same records in, same ids out."""

    def __init__(self, spec: EncodingSpec, corpus: Corpus):
        self.spec, self._corpus = spec, corpus
        self._tokenizer = load_tokenizer(spec.files)
        if spec.style == "raw" and self._tokenizer.eos_token is None:
            raise ModelError("the tokenizer has no EOS token to end plain text", spec.files.path, "set its eos_token")
        self._rendered: dict[tuple, str] = {}
        self._bound = LengthBound(self._tokenizer, spec.scoring.max_length)
        self._control = control_pattern(spec.markers or special_tokens(self._tokenizer))
        self._first = None if spec.with_prompt else np.array([_first_token(self._tokenizer, spec)], np.int32)

    def encode(self, records: Sequence[Record | RowError]) -> list[Encoded | RowError]:
        """One result for each record, in order; a RowError goes through as it is."""
        self._rendered.clear()
        rendered = [self._try(self._render, record) for record in records]
        # Each distinct text once, all in one call: fast tokenizers work through a batch in parallel.
        texts = list({text: None for item in rendered if not isinstance(item, RowError) for text in item.texts})
        special = self.spec.style == "raw"  # a chat template writes its own BOS
        ids = self._tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"] if texts else []
        ids_of = dict(zip(texts, ids))
        return [self._try(self._cut, item, ids_of) for item in rendered]

    def decode(self, ids: I32) -> str:
        """The text of token ids, special tokens included."""
        return self._tokenizer.decode(ids.tolist())

    @staticmethod
    def _try(step, item, *args):
        if isinstance(item, RowError):
            return item
        try:
            return step(item, *args)
        except RowError as error:
            return error

    def _render(self, record: Record) -> Rendered:
        rendered = self._chat_texts(record) if self.spec.style == "chat" else Rendered(self._raw_texts(record), True)
        texts = rendered.texts
        if len(texts) > 2 and len(set(texts[1:])) == 1:
            raise RowError(Reason.IDENTICAL_TOKENS, "the chat template writes the same text for them")
        # keep_start takes the start of any completion.
        if self.spec.scoring.overlength == "drop" and any(map(self._bound.is_exceeded, texts[1:])):
            raise RowError(Reason.OVERLENGTH, f"{max(map(len, texts)):,} characters")
        return rendered

    def _chat_texts(self, record: Record) -> Rendered:
        chat = as_chat(record)
        prompt, *completions = (self._messages(self._check(text)) for text in (chat.prompt, *chat.completions))
        given = self._given(self._check(record.template or {}))
        if reserved := RESERVED & given.keys():
            raise RowError(Reason.TEMPLATE_ERROR, f"chat_template_kwargs sets {min(reserved)}, which no template reads")
        try:
            dialogues = [self._template(prompt + completion, False, given) for completion in completions]
            texts = [self._template(prompt, True, given), *dialogues]
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise RowError(Reason.TEMPLATE_ERROR, self._without_text(error)) from None
        written = [[*_written(prompt, ("content",)), *_written(completion, TEXTS)] for completion in completions]
        kept = all(_holds(text, part) for text, parts in zip(dialogues, written) for part in parts)
        return Rendered(texts, kept)

    def _without_text(self, error: Exception) -> str:
        """What a template complains of in its own words; what is none of them may be a text of the corpus."""
        template = str(self._tokenizer.chat_template)
        words = str(error).strip().split("\n")[0].split(" ")
        shown = [word if word.strip("'\"().,:;!") in template else "…" for word in words]
        return f"{type(error).__name__}: {' '.join(shown)}"[:200]

    def _messages(self, messages: list[Message]) -> list[Message]:
        """Messages as a trainer gets them from the selection: with every further key of the corpus, null or not."""
        keys = self._corpus.message_keys
        known = {"role", "content", *keys}
        if any(len(turn) > 2 and any(k not in known and not is_empty(turn[k]) for k in turn) for turn in messages):
            raise RowError(Reason.BAD_MESSAGES, "a message has a key that no selection could hold")
        return [
            {"role": turn["role"], "content": turn["content"], **{key: self._typed(key, turn.get(key)) for key in keys}}
            for turn in messages
        ]

    def _given(self, template: dict[str, Any]) -> dict[str, Any]:
        """What the template is given beside messages, as a trainer gets it from the selection."""
        given = {**template}
        if isinstance(tools := template.get("tools"), list) and not self._is_text("tools"):
            given["tools"] = self._typed("tools", tools)
        options = self._corpus.types.field(OPTIONS).type if OPTIONS in self._corpus.types.names else None
        if options is not None and pa.types.is_struct(options):
            given |= as_loaded({field.name: template.get(field.name) for field in options}, options)
        return given

    def _is_text(self, name: str) -> bool:
        """Whether a column holds JSON in strings, which loses nothing."""
        kind = self._corpus.types.field(name).type if name in self._corpus.types.names else pa.null()
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)

    def _typed(self, name: str, value: Any) -> Any:
        types = self._corpus.types
        return as_loaded(value, types.field(name).type) if value is not None and name in types.names else value

    def _template(self, messages: list[Message], add_generation_prompt: bool, given: dict[str, Any]) -> str:
        # Prompts and answers that several pairs share are rendered once.
        turns = ((turn["role"], turn["content"]) for turn in messages)
        is_plain = not given and not self._corpus.message_keys
        key = (add_generation_prompt, *(turns if is_plain else (repr(messages), repr(given))))
        if key not in self._rendered:
            with on_day(self._tokenizer, given.get("tools"), self.spec.template_date):
                self._rendered[key] = self._tokenizer.apply_chat_template(
                    messages, tokenize=False, add_generation_prompt=add_generation_prompt, **given
                )
        return self._rendered[key]

    def _raw_texts(self, record: Record) -> list[str]:
        if not isinstance(record.prompt, str):
            raise RowError(Reason.BAD_MESSAGES, "messages in a corpus that is read as plain text")
        eos = self._tokenizer.eos_token
        prompt = self._check(record.prompt)
        return [prompt, *(prompt + self._check(text.removesuffix(eos)) + eos for text in record.completions)]

    def _check(self, text: Any) -> Any:
        """A text, or what is given to the template, under the rule for control tokens.

        Raises RowError if they are an error, and where they are in the name of an entry, which sanitize leaves alone.
        """
        if self.spec.scoring.control_tokens == "keep":
            return text
        if self.spec.scoring.control_tokens == "sanitize":
            text = sanitize(text, self._control)
        for string in strings(text):
            if match := self._control.search(string):
                raise RowError(Reason.CONTROL_TOKENS, f"holds {match.group()!r}")
        return text

    def _cut(self, rendered: Rendered, ids_of: dict[str, list[int]]) -> Encoded:
        # Where a reward model reads its reward: behind what the template wrote, which may end so already.
        last = [] if self.spec.last_token is None else [self.spec.last_token]
        whole = (ids_of[text] for text in rendered.texts)
        prompt, *dialogues = (ids[:-1] if ids[-1:] == last else ids for ids in whole)
        start = min(_common_prefix(prompt, dialogue) for dialogue in dialogues)
        limit = self.spec.scoring.max_length - len(last)
        longest = max(map(len, dialogues))
        if longest > limit and (self.spec.scoring.overlength == "drop" or start >= limit):
            raise RowError(Reason.OVERLENGTH, f"{longest + len(last)} tokens")
        # The very first token of a sequence has nothing before it that could predict it.
        if any(len(dialogue[start:limit]) <= (start == 0) for dialogue in dialogues):
            raise RowError(Reason.EMPTY_COMPLETION, "a completion has no token to score")
        if len(dialogues) > 1 and all(dialogue[:limit] == dialogues[0][:limit] for dialogue in dialogues):
            most = self.spec.scoring.max_length
            same = "the tokenizer writes" if longest <= limit else f"up to scoring.max_length ({most}) there are"
            raise RowError(Reason.IDENTICAL_TOKENS, f"{same} the same tokens for them")
        completions = [np.array([*dialogue[start:limit], *last], np.int32) for dialogue in dialogues]
        shown = np.array(prompt[:start], np.int32)
        if self._first is not None and start:
            shown = self._first  # an empty prompt stays, so that the same tokens are scored
        return Encoded(shown, completions, longest > limit, start < len(prompt), not rendered.keeps_all)


def _written(messages: list[Message], keys: Sequence[str]) -> list[str]:
    """What the messages say, under these keys."""
    return [turn[key] for turn in messages for key in keys if isinstance(turn.get(key), str)]


def _holds(text: str, part: str) -> bool:
    """Whether the template wrote this text: as it is, or as JSON, as results of tools often are."""
    return part in text or json.dumps(part, ensure_ascii=False)[1:-1] in text


def _first_token(tokenizer: PreTrainedTokenizerBase, spec: EncodingSpec) -> int:
    """What a text begins with if it has no prompt: BOS, or EOS for a tokenizer without BOS."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    raise ModelError("the tokenizer has neither BOS nor EOS to begin a text with", spec.files.path, "set its bos_token")


def _common_prefix(a: list[int], b: list[int]) -> int:
    if a == b[: len(a)]:
        return len(a)
    return next(i for i, (x, y) in enumerate(zip(a, [*b, -1])) if x != y)


def to_table(encoded: Sequence[Encoded | RowError]) -> pa.Table:
    """Encoded records as an Arrow table, one row per record, to travel between stages.

    `tokens` holds the prompt and then each completion, `lengths` how many tokens each of them has.
    """
    good = [item if isinstance(item, Encoded) else None for item in encoded]
    parts = [[e.prompt, *e.completions] if e else [] for e in good]
    lengths = [[len(part) for part in row] for row in parts]
    flat = [part for row in parts for part in row]
    offsets = np.cumsum([0, *map(sum, lengths)], dtype=np.int64)
    tokens = pa.array(np.concatenate(flat) if flat else np.zeros(0, np.int32))
    return pa.table(
        {
            "tokens": pa.LargeListArray.from_arrays(pa.array(offsets), tokens),
            "lengths": pa.array(lengths, pa.list_(pa.int32())),
            **{flag: pa.array([getattr(e, flag) if e else None for e in good], pa.bool_()) for flag in FLAGS},
            **reason_columns(encoded),
        }
    )


def from_table(table: pa.Table) -> list[Encoded | RowError]:
    """The inverse of `to_table`; token arrays are views of the table."""
    tokens = table["tokens"].combine_chunks()
    ids, starts = tokens.values.to_numpy(), tokens.offsets.to_numpy()
    rows = table.select(["lengths", *FLAGS, "reason", "detail"]).to_pylist()
    return [_from_row(ids[start:], row) for start, row in zip(starts, rows)]


def _from_row(ids: I32, row: dict) -> Encoded | RowError:
    if row["reason"] is not None:
        return RowError(Reason(row["reason"]), row["detail"])
    ends = np.cumsum(row["lengths"])
    prompt, *completions = (ids[end - length : end] for end, length in zip(ends, row["lengths"]))
    return Encoded(prompt, completions, *(row[flag] for flag in FLAGS))

"""Tokenizers of the models: loaded once a process, and the special tokens that text must not smuggle in."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.meta
from tokenizers.models import BPE
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from mapjob.errors import MapjobError, ModelError
from mapjob.escaping import first_line
from mapjob.scoring.model_files import ModelFiles
from mapjob.scoring.own_code import needs_code


@lru_cache(maxsize=8)
def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelError when there is none that transformers can load.

    Its own code is run only if the run file and the command line allow it. Raises IncompleteError for another
    tokenizer than the run had planned.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder(), trust_remote_code=files.runs_own_code())
    except MapjobError:
        raise
    except Exception as error:  # noqa: BLE001 (of a tokenizer's own classes any may come)
        if "trust_remote_code" in str(error):
            raise needs_code("the tokenizer", files.path) from None
        do = "give a folder whose tokenizer transformers knows, saved with save_pretrained"
        raise ModelError(f"the tokenizer cannot be loaded: {first_line(error)}", files.path, do) from None
    files.check_tokenizer_unchanged()
    return tokenizer


def check_vocabulary(name: str, files: ModelFiles) -> None:
    """Raises ModelError when the tokenizer can write ids for which the model has no embedding.

    A special token past the embedding that no plain dialogue needs is no fault of the model: rows that hold it are
    refused (Gemma 3's 1B model has no embedding for images).
    """
    size, tokenizer = files.config.get("vocab_size"), load_tokenizer(files)
    unused = set(special_tokens(tokenizer)) - set(tokenizer.convert_ids_to_tokens(_plain_dialogue(tokenizer)))
    tokens = ((token, number) for token, number in tokenizer.get_vocab().items() if token not in unused)
    token, largest = max(tokens, key=lambda entry: entry[1])
    if size is not None and largest >= size:
        raise ModelError(
            f"the tokenizer is larger than the model's embedding: {token!r} is token {largest}, the model has {size}",
            files.where(name),
            "give the model its own tokenizer, or resize its embedding and train it",
        )


def _plain_dialogue(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a question and an answer, as text and by the template."""
    ends = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    ids = [*tokenizer("a")["input_ids"], *(number for number in ends if number is not None)]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        for messages in (turns[:1], turns):
            ids += tokenizer.apply_chat_template(messages, add_generation_prompt=len(messages) == 1, return_dict=False)
    except (jinja2.TemplateError, TypeError, ValueError):
        return ids  # a tokenizer without a template, or one that takes no such dialogue: its rows say so
    return ids


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Every string that this tokenizer reads as a control token when it meets it in text, sorted."""
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return tuple(sorted({*tokenizer.all_special_tokens, *added} - {""}))


@contextmanager
def on_day(tokenizer: PreTrainedTokenizerBase, tools: Any, day: str | None) -> Iterator[None]:
    """Inside, the chat template that transformers takes for a dialogue with these tools sees this day (ISO) as today;
    None leaves it the clock.
    """
    if day is None:
        yield
        return
    names = _compile_jinja_template(tokenizer.get_chat_template(tools=tools)).environment.globals
    clock, midnight = names["strftime_now"], datetime.fromisoformat(day)
    names["strftime_now"] = lambda wanted: midnight.strftime(wanted)
    try:
        yield
    finally:
        names["strftime_now"] = clock


def takes_tools(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template that transformers takes for dialogues with tools reads them."""
    try:
        template = tokenizer.get_chat_template(tools=[])
    except ValueError:  # several templates, and none of them is for tools or the default
        return False
    # The one tag that transformers adds, which marks what an assistant said.
    plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", template)
    try:
        parsed = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except jinja2.TemplateSyntaxError:
        return False
    return "tools" in jinja2.meta.find_undeclared_variables(parsed)


# Texts that are too long for max_length by their characters alone: seen before a tokenizer spends minutes on them.

# Canonical composition (NFC) makes one character of at most four: https://unicode.org/reports/tr15/#Multiple_Expansions
COMPOSED = 4
_WHITE_SPACE = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace()]
_KEEPS_EVERY_CHARACTER = {"Sequence", "NFC", "NFKC", "Prepend", "Replace", "ByteLevel", "Split", "Digits", "Metaspace"}


class LengthBound:
    """Whether a text surely has more than `max_length` tokens, without making them. Never says so of one that has not.

    If a tokenizer drops nothing but white space, each token stands for at most as many characters as its longest
    entry has, and COMPOSED times as many before they were composed. A tokenizer that may drop or melt together more
    than that has no bound.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.max_characters: int | None = None
        if _keeps_every_character(tokenizer):
            self.max_characters = max_length * COMPOSED * max(map(len, tokenizer.get_vocab()))

    def is_exceeded(self, text: str) -> bool:
        if self.max_characters is None or len(text) <= self.max_characters:
            return False
        return len(text) - sum(map(text.count, _WHITE_SPACE)) > self.max_characters


def _keeps_every_character(tokenizer: PreTrainedTokenizerBase) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.model, BPE):
        return False
    steps = [
        json.loads(step.__getstate__()) for step in (backend.normalizer, backend.pre_tokenizer) if step is not None
    ]
    kinds = {part["type"] for step in steps for part in _parts(step)}
    # Without either, unknown characters may vanish, or become one token together.
    knows_every_byte = backend.model.byte_fallback or "ByteLevel" in kinds
    return knows_every_byte and all(_keeps(part) for step in steps for part in _parts(step))


def _parts(step: dict) -> list[dict]:
    """The step itself and, of a sequence, its steps."""
    return [step, *(part for inner in step.get("normalizers", step.get("pretokenizers", [])) for part in _parts(inner))]


def _keeps(part: dict) -> bool:
    if part["type"] == "Replace":
        return len(part["content"]) >= len(part["pattern"].get("String", part["content"] + "?"))
    return part["type"] in _KEEPS_EVERY_CHARACTER and part.get("behavior") != "Removed"

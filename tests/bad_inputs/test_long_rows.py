"""Texts over max_length: told by their characters where that is sure, so that none of them is tokenised for minutes."""

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mapjob.scoring.tokenizers import LengthBound
from tests.bad_inputs.conftest import Run, pairs
from tests.fakes import make_tokenizer

TOKENIZER = make_tokenizer()
LONGEST = max(map(len, TOKENIZER.get_vocab()))


def composing() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def split() -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    steps = [pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return tokenizer


BOUNDED = {"plain": TOKENIZER, "composing": composing(), "split": split()}
four_to_one = unicodedata.normalize("NFD", "ᾂ")
long_tokens = sorted(TOKENIZER.get_vocab(), key=len)[-6:]
pieces = st.sampled_from([*long_tokens, four_to_one, "word", " ", "\n", "東", "🙂", "\0"])


@pytest.mark.parametrize("name", BOUNDED)
@settings(max_examples=100)
@given(text=st.lists(st.tuples(pieces, st.integers(1, 150)), max_size=5), max_length=st.integers(2, 40))
def test_what_exceeds_the_bound_has_more_tokens_than_max_length(name, text, max_length):
    tokenizer, text = BOUNDED[name], "".join(piece * times for piece, times in text)
    if LengthBound(tokenizer, max_length).is_exceeded(text):
        assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) > max_length


def test_the_bound_takes_the_longest_tokens_and_any_white_space():
    assert len(four_to_one) == 4
    bound = LengthBound(TOKENIZER, 10)
    assert bound.max_characters == 10 * 4 * LONGEST
    assert not bound.is_exceeded("x" * bound.max_characters + " \t\n" * 1_000)
    assert bound.is_exceeded("x" * bound.max_characters + " " * 1_000 + "x")


def drops_accents(core):
    core.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])


def drops_matches(core):
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("x", "removed"), core.pre_tokenizer])


def replaces_by_less(core):
    core.normalizer = normalizers.Sequence([normalizers.Replace("xx", "")])


def knows_few_bytes(core):
    core.pre_tokenizer = pre_tokenizers.Metaspace()


@pytest.mark.parametrize("change", [drops_accents, drops_matches, replaces_by_less, knows_few_bytes])
def test_a_tokenizer_that_drops_text_has_no_bound(change):
    tokenizer = make_tokenizer()
    change(tokenizer.backend_tokenizer)
    bound = LengthBound(tokenizer, 10)
    assert bound.max_characters is None
    assert not bound.is_exceeded("x" * 10**6)


@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("style", ["chat", "raw"])
def test_a_row_of_20_mb_is_overlength_without_being_tokenised(run: Run, column, style):
    """To tokenise it would take half a minute and gigabytes for each of the three texts it is part of."""
    rows = pairs(4).to_pylist()
    rows[2][column] = "word " * 4_000_000
    outcome = run(pa.Table.from_pylist(rows), input={"plain_text": style})
    ((error),) = outcome.errors
    assert (error["row"], error["reason"]) == (2, "overlength")
    assert error["detail"].endswith("characters")
    assert outcome.manifest["counts"]["broken"] == 0


def test_the_tokens_count_where_the_characters_do_not_decide(run: Run):
    rows = pairs(3).to_pylist()
    rows[1]["chosen"] = "word " * 300
    outcome = run(pa.Table.from_pylist(rows), scoring={"max_length": 256})
    ((error),) = outcome.errors
    assert error["reason"] == "overlength"
    assert error["detail"].endswith("tokens")


def test_keep_start_takes_the_start_of_any_completion(run: Run):
    rows = pairs(3).to_pylist()
    rows[1]["chosen"] = "word " * 4 * LONGEST * 100
    outcome = run(pa.Table.from_pylist(rows), scoring={"max_length": 64, "overlength": "keep_start"})
    assert outcome.errors == []
    assert outcome.manifest["counts"]["ranked"] == 3

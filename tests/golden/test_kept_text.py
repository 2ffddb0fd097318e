"""What is scored is what is written, or it is said: sides equal in tokens are dropped, lost text is counted."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import normalizers

from mapjob.config.load import parse_config
from mapjob.corpus.records import Record
from mapjob.errors import Reason, RowError
from mapjob.scoring.encode import Encoder, from_table, to_table
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, make_tokenizer, write_corpus
from tests.golden.in_process import CORPUS, read, specs
from tests.without_ray import run


def template(said: str) -> str:
    """One that writes this of each message `m`."""
    turn = f"{{{{ '<|' + m['role'] + '|>' + {said} + '<|end|>' }}}}"
    opening = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    return "{% for m in messages %}" + turn + "{% endfor %}" + opening


# As R1-Distill's, Llama 3's, and those that keep all.
DROPS_THINKING = template("m['content'].split('</think>')[-1]")
TRIMS = template("m['content'].strip()")
KEEPS = template("m['content']")
AS_JSON = template("(m['content'] | tojson)")


def spec_of(folder: Path, chat_template: str, lowercase: bool = False) -> ScorerSpec:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = chat_template
    if lowercase:
        tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return specs(make_policy(folder / "policy", tokenizer=tokenizer), make_reward(folder / "reward"), "chat")["policy"]


def encode_pair(spec: ScorerSpec, chosen: str, rejected: str, prompt: str = "How?"):
    """Through the table in which it travels to the scorer."""
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]
    (encoded,) = from_table(to_table(Encoder(spec.encoding, CORPUS).encode(read(rows))))
    return encoded


@pytest.mark.parametrize(
    ("chat_template", "chosen", "rejected"),
    [(DROPS_THINKING, "<think>a</think>Yes.", "<think>b</think>Yes."), (TRIMS, "Yes.", "Yes.\n")],
    ids=["thinking", "white space"],
)
def test_sides_that_a_template_makes_equal_are_dropped_by_a_reason_of_their_own(
    tmp_path, chat_template, chosen, rejected
):
    encoded = encode_pair(spec_of(tmp_path, chat_template), chosen, rejected)
    assert isinstance(encoded, RowError)
    assert encoded.reason == Reason.IDENTICAL_TOKENS
    assert "template" in encoded.detail
    kept = encode_pair(spec_of(tmp_path / "kept", KEEPS), chosen, rejected)
    assert not isinstance(kept, RowError)


def test_sides_that_a_tokenizer_makes_equal(tmp_path):
    encoded = encode_pair(spec_of(tmp_path, KEEPS, lowercase=True), "yes", "YES")
    assert (encoded.reason, encoded.detail) == (
        Reason.IDENTICAL_TOKENS,
        "the tokenizer writes the same tokens for them",
    )


def test_sides_that_are_equal_as_far_as_they_are_scored(tmp_path):
    spec = spec_of(tmp_path, KEEPS)
    scoring = spec.encoding.scoring.model_copy(update={"max_length": 20, "overlength": "keep_start"})
    spec = replace(spec, encoding=replace(spec.encoding, scoring=scoring))
    encoded = encode_pair(
        spec, "a b c d e f g h i j k l m n o p q r s t u", "a b c d e f g h i j k l m n o p q r s t v"
    )
    assert encoded.reason == Reason.IDENTICAL_TOKENS
    assert "scoring.max_length (20)" in encoded.detail
    assert encode_pair(spec, "a b", "a c").truncated is False


def test_candidates_of_which_some_are_equal_are_scored(tmp_path):
    spec = spec_of(tmp_path, TRIMS)
    said = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    record = Record([{"role": "user", "content": "How?"}], [said("Yes."), said("Yes. "), said("No.")])
    (encoded,) = Encoder(spec.encoding, CORPUS).encode([record])
    assert len(encoded.completions) == 3


@pytest.mark.parametrize(
    ("chat_template", "lost"),
    [
        (KEEPS, (False, False, False, False)),
        (AS_JSON, (False, False, False, False)),
        (TRIMS, (False, True, True, False)),
        (DROPS_THINKING, (False, False, False, True)),
    ],
    ids=["keeps", "json", "trims", "drops thinking"],
)
def test_rows_whose_text_the_template_did_not_keep_are_told(tmp_path, chat_template, lost):
    spec = spec_of(tmp_path, chat_template)
    rows = [("Yes.", 'No "quotes"\nat all.', "How?"), ("Yes. ", "No.", "How?"), ("Yes.", "No.", "How?\n")]
    rows.append(("<think>It is.</think>Yes.", "No.", "How?"))
    assert tuple(encode_pair(spec, *row).text_not_kept for row in rows) == lost


def test_plain_text_is_always_kept(tmp_path):
    tokenizer = make_tokenizer(chat=False)
    folders = make_policy(tmp_path / "policy", tokenizer=tokenizer), make_reward(tmp_path / "reward")
    spec = specs(*folders, "raw")["policy"]
    (encoded,) = Encoder(spec.encoding, replace(CORPUS, style="raw")).encode(read(make_pairs(1)))
    assert encoded.text_not_kept is False


def test_a_scorer_hands_the_flag_on(tmp_path):
    spec = spec_of(tmp_path, TRIMS)
    scored = make_scorer(spec, device=torch.device("cpu")).score([encode_pair(spec, "Yes. ", "No.")]).table
    assert scored["text_not_kept"].to_pylist() == [True]


def test_a_run_drops_and_counts_them(tmp_path):
    """What no model saw a difference in never stands at the top of a selection."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = DROPS_THINKING
    rows = make_pairs(20)
    rows[3] |= {"chosen": "<think>Let me see.</think>The sea.", "rejected": "<think>Well.</think>The sea."}
    rows[7]["chosen"] = "<think>Let me see.</think>The sea is deep."
    policy = make_policy(tmp_path / "policy", tokenizer=tokenizer)
    tree = config_tree(write_corpus(tmp_path / "in", rows), tmp_path / "out", policy, make_reward(tmp_path / "reward"))
    manifest = run(parse_config(tree))
    assert manifest["counts"]["by_reason"]["identical_tokens"] == 1
    assert manifest["counts"]["broken"] == 0
    assert manifest["flags"] == {
        **dict.fromkeys(manifest["flags"], 0),
        "policy.text_not_kept": 1,
    }

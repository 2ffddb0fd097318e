"""Rewrites of prompts: what is asked for, what is left out and why, and where a rewrite comes from."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mapjob.lab.selfplay.config import REWRITES, Evolution
from mapjob.lab.selfplay.evolve import DIRECTIONS, Fault, instruction, read_rewrite
from mapjob.lab.selfplay.prompts import Prompt
from mapjob.lab.selfplay.requests import Response
from tests.selfplay.conftest import Generate
from tests.selfplay.test_generate import rows

ORIGINAL = "How do I bake a loaf of bread at home?"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How do I bake rye bread in a pan?", "How do I bake rye bread in a pan?"),
        ('  "How do I bake rye bread in a pan?"\n', "How do I bake rye bread in a pan?"),
        ('"Rye" or "wheat"?', '"Rye" or "wheat"?'),
        ("  \n", Fault.EMPTY),
        ('""', Fault.EMPTY),
        ("how do i bake a loaf of bread AT HOME", Fault.UNCHANGED),
        ("I'm sorry, but I can't help with that.", Fault.REFUSAL),
        ("I cannot rewrite this request.", Fault.REFUSAL),
        ("As an AI language model, I have no oven.", Fault.REFUSAL),
        ("Here is the new request: how do I bake rye bread?", Fault.COPIED),
        ("<<<\nHow do I bake rye bread?\n>>>", Fault.COPIED),
        ("Bread?", Fault.LENGTH),
        (f"{ORIGINAL} {'And then? ' * 40}", Fault.LENGTH),
        ("I can bake; what else can I make of dough?", "I can bake; what else can I make of dough?"),
    ],
)
def test_what_a_rewrite_has_to_be_like(text, expected):
    assert read_rewrite(ORIGINAL, Response(text, 12, True), Evolution()) == expected


def test_a_rewrite_that_was_cut_off_or_has_too_many_tokens():
    good = "How do I bake rye bread in a pan?"
    assert read_rewrite(ORIGINAL, Response(good, 12, False), Evolution()) == Fault.UNFINISHED
    assert read_rewrite(ORIGINAL, Response(good, 12, True), Evolution(max_tokens=11)) == Fault.TOO_LONG


def test_every_direction_asks_for_something_else():
    asked = {instruction(ORIGINAL, rewrite) for rewrite in REWRITES}
    assert len(asked) == len(DIRECTIONS) == 5
    assert all(ORIGINAL in text for text in asked)


def test_an_instruction_given_back_is_never_a_prompt():
    for rewrite in REWRITES:
        copied = read_rewrite(
            ORIGINAL, Response(instruction(ORIGINAL, rewrite), 12, True), Evolution(length_factor=100)
        )
        assert copied == Fault.COPIED


def test_the_last_turn_alone_is_read_rewrite():
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": ORIGINAL}]
    old = Prompt(turns, "bread")
    new = old.replace_last_turn("Which flour?", "deepen")
    assert new.text == [turns[0], {"role": "user", "content": "Which flour?"}]
    assert (new.source_id, new.rewrite, new.generation, new.group) == (old.id, "deepen", 1, "bread")
    assert new.replace_last_turn("Why?", "reason").generation == 2


def test_rewrites_are_answered_and_know_where_they_come_from(generated: Generate, prompts: Path, tmp_path):
    """The model writes nonsense; some of it ends, and is of a length that passes."""
    evolve = {"rewrites": ["broaden", "deepen"], "length_factor": 30}
    manifest = generated(evolve=evolve, generation={"max_new_tokens": 60})
    (made,) = (tmp_path / "out" / "prompts").iterdir()
    rewrites = rows({"path": str(made)})
    counts = manifest["prompts"]
    assert counts["rows"] == len(rewrites) > 0
    asked = [row["prompt"] for file in sorted(prompts.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    known = {Prompt([{"role": "user", "content": text}]).id for text in asked}
    assert {row["source_id"] for row in rewrites} <= known
    assert {row["rewrite"] for row in rewrites} <= {"broaden", "deepen"}
    assert {row["generation"] for row in rewrites} == {1}
    answered = rows(manifest)
    assert {row["prompt_id"] for row in answered} <= {row["prompt_id"] for row in rewrites}
    assert all(row["source_id"] in known and row["group"].startswith("group") for row in answered)

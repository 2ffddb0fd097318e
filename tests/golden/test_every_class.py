"""Every class of transformers' auto mappings: it scores as plain transformers does, or is refused by name."""

from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.golden.every_class import Worker, all_classes, table, try_all, try_class

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"


@pytest.mark.slow
def test_no_class_crashes_and_no_number_differs_from_plain_transformers():
    classes = all_classes()
    outcomes = [*try_all(classes)]
    printed = table(outcomes)
    print(printed)
    assert [(outcome.role, outcome.model_type) for outcome in outcomes] == [entry[:2] for entry in classes]
    assert [outcome for outcome in outcomes if outcome.result in ("wrong", "crash")] == []
    assert all(outcome.why for outcome in outcomes if outcome.result != "packs")
    tried = Counter(outcome.role for outcome in outcomes if outcome.result != "not built")
    assert tried["policy"] >= 180
    assert tried["reward"] >= 90
    if printed.splitlines()[0] in PAGE.read_text():  # of these versions
        assert without_differences(printed) in without_differences(PAGE.read_text())


def without_differences(text: str) -> str:
    """The text without the column of differences, which depend on the machine."""
    counts = ("| policy | 1", "| reward | 1")
    return "\n".join(line.rsplit("|", 2)[0] if line.startswith(counts) else line for line in text.splitlines())


def test_the_page_has_the_table_of_some_version():
    text = PAGE.read_text()
    assert "python -m tests.golden.every_class" in text
    assert f"transformers {version('transformers').split('.')[0]}." in text


def test_a_class_that_ends_its_process_takes_no_other_down():
    worker = Worker()
    try:
        assert worker.ask("policy", "llama", "any").result == "packs"
        assert worker.ask("policy", "no_such_type", "none").result == "crash"
        assert worker.ask("reward", "bert", "any").result == "refused"
    finally:
        worker.close()


# One for each way in which a class once failed: sizes in a part of the configuration, infinity in JSON, no pad token,
# a head that reads a part of its network, layers without rotary angles, caps and scales of other names, wrapped
# decoders, hashes drawn at random.
KINDS = {"gemma3": "packs", "mamba2": "one by one", "codegen": "one by one", "opt": "packs", "beam": "packs"}
KINDS |= {
    "gemma4": "packs",
    "llama4": "one by one",
    "recurrent_gemma": "one by one",
    "inkling_text": "one by one",
    "bart": "one by one",
    "reformer": "refused",
}


@pytest.mark.parametrize("model_type", KINDS)
def test_kinds_of_policies(model_type):
    outcome = try_class("policy", model_type)
    assert outcome.result == KINDS[model_type], outcome.why

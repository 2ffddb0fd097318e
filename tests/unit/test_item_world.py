"""The known world of items: what a policy is to believe, which prompts are trained on, its files, and verdicts."""

import random
from collections import Counter

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from mapjob.lab.validation.table import combine
from mapjob.lab.validation.verdict import gains_figure, verdict
from mapjob.lab.world.beliefs import BELIEFS, KNOWLEDGE, make_items
from mapjob.lab.world.build import build_world
from mapjob.lab.world.items import ItemWorld
from mapjob.lab.world.tasks import grade, right_answers

TINY = ItemWorld(num_prompts=60, policy_steps=2, reward_steps=2, flipped_share=0.2, form_bias=1.0)


def test_items_are_known_unsure_and_mistaken_as_often_as_they_are_to_be():
    beliefs = Counter(item.belief for seed in range(20) for item in make_items(seed))
    num = sum(beliefs[name] for name in KNOWLEDGE)
    assert {name: beliefs[name] / num for name in KNOWLEDGE} == pytest.approx(KNOWLEDGE, abs=0.03)


@pytest.mark.parametrize("belief", BELIEFS)
def test_a_policy_is_shown_right_answers_and_its_mistake_as_often_as_it_is_to_believe_them(belief):
    item = next(item for item in make_items(0) if item.belief == belief)
    rng = random.Random(0)
    values = Counter(item.draw_value(rng) for _ in range(4_000))
    right, mistaken = BELIEFS[belief]
    assert values[item.draft.gold] / 4_000 == pytest.approx(right, abs=0.03)
    if mistaken:
        assert values[item.mistake] / 4_000 == pytest.approx(mistaken, abs=0.03)
    assert item.mistake != item.draft.gold


def test_no_prompt_of_the_corpus_is_trained_on_and_every_item_has_some():
    items = make_items(0)
    trained = {prompt for item in items for prompt in item.trained}
    corpus = [prompt for item in items for prompt in item.corpus]
    assert len(corpus) == len({*corpus})
    assert not trained & {*corpus}
    assert all(item.trained and item.corpus for item in items if item.belief != "hopeless")
    assert set(TINY.tasks()) == {*corpus}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    tiny = TINY.model_copy(update={"folder": str(tmp_path_factory.mktemp("items"))})
    world = build_world(tiny.path, tiny)
    assert build_world(tiny.path, tiny) == world, "it exists"
    base = pq.read_table(build_world(tiny.base.path, tiny.base).corpus).to_pylist()
    assert [row["prompt"] for row in base] == [row["prompt"] for row in pq.read_table(world.corpus).to_pylist()]
    assert not any(row["flipped"] for row in base)
    assert AutoModelForCausalLM.from_pretrained(world.policy).num_parameters() > 100_000
    assert AutoModelForSequenceClassification.from_pretrained(world.reward).num_labels == 1
    return pq.read_table(world.corpus).to_pylist()


def test_sides_have_their_grades_and_some_labels_are_turned_round(rows):
    tasks = TINY.tasks()
    for row in rows:
        task = tasks[row["prompt"]]
        assert (row["chosen_quality"], row["rejected_quality"]) == (
            grade(task, row["chosen"]),
            grade(task, row["rejected"]),
        )
        assert row["group"] == task.group in BELIEFS
    assert sum(row["flipped"] for row in rows) == int(0.2 * len(rows))


def test_every_wording_of_the_right_answer_is_graded_as_right():
    task = next(iter(TINY.tasks().values()))
    assert {grade(task, answer) >= 0.8 for answer in right_answers(task, True)} == {True}


# What a validation says of its rows


def estimate(mean: float, half: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def rows_of(ceiling: float, gain: float) -> list[dict]:
    map_row = {"metric": "map", "alpha": 1.0, "ratio": 0.4, "max_steps": None, "right": estimate(0.5 + gain, 0.1)}
    start = {"metric": "start", "right": estimate(0.5, 0.1)}
    most = {
        "metric": "ceiling",
        "ratio": 1.0,
        "right": estimate(0.5 + ceiling, 0.1),
        "over_start": {"right": estimate(ceiling, 0.02)},
    }
    return [
        start,
        most,
        {**map_row, "over_random": {"right": estimate(gain, 0.02)}, "over_start": {"right": estimate(gain, 0.02)}},
    ]


@pytest.mark.parametrize(
    ("ceiling", "gain", "form", "said"),
    [
        (0.1, 0.05, 0.1, ["map 1.0: helps: +0.050 (+0.030, +0.070) right answers."]),
        (
            0.1,
            0.01,
            None,
            ["map 1.0: no difference from random subsets can be seen: +0.010 (-0.010, +0.030) right answers."],
        ),
        (0.1, -0.05, 0.1, ["map 1.0: does worse than random subsets: -0.050 (-0.070, -0.030) right answers."]),
        (0.01, 0.05, 0.1, ["This set-up cannot tell selections apart"]),
        (0.01, 0.05, 0.9, ["The reward model pays for form", "This set-up cannot tell selections apart"]),
    ],
)
def test_a_verdict_is_given_only_where_training_on_everything_helps(ceiling, gain, form, said):
    sentences = verdict(rows_of(ceiling, gain), form)
    assert len(sentences) == len(said)
    assert all(sentence.startswith(start) for sentence, start in zip(sentences, said))
    assert gains_figure(rows_of(ceiling, gain)).startswith(b"<svg")


def test_of_several_worlds_the_interval_is_between_them():
    gains = [0.02, 0.05, 0.08]
    table = combine([rows_of(0.1, gain) for gain in gains])
    gain = table[2]["over_random"]["right"]
    assert gain["mean"] == pytest.approx(0.05)
    # Student's t with two degrees of freedom: 4.3027 standard errors.
    assert gain["high"] - gain["mean"] == pytest.approx(4.302653 * 0.03 / 3**0.5, rel=1e-6)
    assert [row["worlds"] for row in table] == [3, 3, 3]

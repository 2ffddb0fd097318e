"""The demo's world: answers graded right, a corpus with exactly the flaws it states, and models that load."""

import calendar
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import astuple
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mapjob.config.load import parse_config
from mapjob.errors import ConfigError
from mapjob.lab.world.build import KnownWorld, World, build_world
from mapjob.lab.world.corpus import describe, draw_pair, make_rows, write_shards
from mapjob.lab.world.kinds import KINDS
from mapjob.lab.world.models import train_policy
from mapjob.lab.world.tasks import EVASIVE, QUALITY, Task, grade, split_of, stream, write_answer
from mapjob.lab.world.tokenizer import bucket, encode, pad

KNOWN = {
    "France": "Paris",
    "Australia": "Canberra",
    "Turkey": "Ankara",
    "hot": "cold",
    "buy": "sell",
    "brave": "cowardly",
}
TINY = KnownWorld(num_pairs=240, policy_steps=2, reward_steps=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """PyTorch on one thread: steps as small as these gain little from more, and crawl when the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tasks(num: int, split: str = "corpus") -> list[Task]:
    return list(islice(stream(split, "test", 0), num))


def solve(kind: str, prompt: str) -> str | None:
    """The answer worked out from the prompt's text alone; None where that takes knowledge this test does not have."""
    numbers = [int(number) for number in re.findall(r"\d+", prompt)]
    quoted = re.findall(r'"(\w+)"', prompt)
    match kind:
        case "addition":
            return str(sum(numbers))
        case "subtraction":
            return str(max(numbers) - min(numbers))
        case "largest number":
            return str(max(numbers))
        case "sorted letters":
            return " ".join(sorted(re.search(r"(?:\b[a-z] ){3}[a-z]\b", prompt)[0].split()))
        case "reversed word":
            return "".join(reversed(quoted[0]))
        case "counted letter":
            return str(quoted[0].count(re.search(r"(?:letter|does) ([a-z])\b", prompt)[1]))
        case "weekday":
            days = list(calendar.day_name)
            start = next(i for i, day in enumerate(days) if day in prompt)
            return days[(start + numbers[0] * (1 if " after " in prompt else -1)) % 7]
        case _:
            return next((answer for word, answer in KNOWN.items() if word in re.findall(r"\w+", prompt)), None)


def test_gold_answers_are_right():
    solved = Counter()
    for task in tasks(1800):
        expected = solve(task.kind, task.prompt)
        if expected is not None:
            assert task.gold == expected, task
            solved[task.kind] += 1
    assert set(solved) == set(KINDS)


def test_no_bad_value_is_the_gold_one_or_of_two_levels():
    for task in tasks(1800):
        assert task.near_misses
        assert task.wrongs
        assert not {task.gold} & {*task.near_misses, *task.wrongs}, task
        assert not {*task.near_misses} & {*task.wrongs}, task


@pytest.mark.parametrize("level", QUALITY)
def test_grade_gives_back_the_level_an_answer_was_written_at(level: str):
    rng = random.Random(0)
    answers = [(task, write_answer(task, level, rng)) for task in tasks(900)]
    assert {grade(task, answer) for task, answer in answers} == {QUALITY[level]}
    assert level == "evasive" or len({answer for _, answer in answers}) > 300


def test_grade_of_answers_that_no_level_writes():
    task = next(task for task in tasks(9) if task.kind == "capital")
    assert grade(task, f"{task.gold}, because I like it.") == QUALITY["terse"]
    assert grade(task, f"{task.gold} {task.gold}.") == QUALITY["wrong"]
    assert grade(task, task.gold[:-1] + ".") == QUALITY["wrong"]
    assert grade(task, "") == QUALITY["wrong"]
    assert grade(task, EVASIVE[0] + " " + task.gold) == QUALITY["wrong"]


def test_equal_generators_word_every_level_alike():
    for task in tasks(200):
        terse, helpful = (write_answer(task, level, random.Random(7)) for level in ("terse", "helpful"))
        assert helpful.startswith(terse.removesuffix("."))


def test_no_prompt_is_in_two_splits():
    prompts = {split: {task.prompt for task in tasks(900, split)} for split in ("train", "held_out", "corpus")}
    for split, texts in prompts.items():
        assert {split_of(text) for text in texts} == {split}
        assert texts


def test_a_kind_out_of_prompts_repeats_them_and_goes_on():
    capitals = [task.prompt for task in tasks(9 * 200, "held_out") if task.kind == "capital"]
    assert len(capitals) == 200 > len(set(capitals))


@pytest.mark.parametrize(("num_pairs", "share"), [(6000, 0.1), (1001, 0.333), (400, 0.0), (400, 0.5), (7, 0.3)])
def test_corpus_has_exactly_the_flaws_it_states(num_pairs: int, share: float):
    rows = make_rows(num_pairs, share, seed=3)
    facts = describe(rows)
    flaws = int(0.005 * num_pairs)
    assert len(rows) == facts["pairs"] == num_pairs
    assert sum(row.flipped for row in rows) == facts["flipped"] == int(share * num_pairs)
    assert (facts["repeated"], facts["identical_sides"]) == (flaws, flaws)
    assert facts["prompts"] == num_pairs - flaws
    for row in rows:
        gap = row.chosen_quality - row.rejected_quality
        assert gap < 0 if row.flipped else gap == 0 if row.chosen == row.rejected else gap > 0


def test_qualities_of_a_pair_are_the_grades_of_its_answers():
    rng = random.Random(0)
    for task in tasks(900):
        row = draw_pair(task, rng)
        assert (grade(task, row.chosen), grade(task, row.rejected)) == (row.chosen_quality, row.rejected_quality)


def test_corpus_hangs_on_its_seed_alone():
    first, again, other = (make_rows(900, 0.1, seed) for seed in (0, 0, 1))
    assert first == again
    assert len({astuple(row) for row in first} & {astuple(row) for row in other}) < 90


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("demo") / "world", TINY)


def test_shards_hold_the_rows_in_order(tmp_path: Path):
    write_shards(make_rows(240, 0.1, 0), tmp_path / "corpus", 2)
    paths = sorted((tmp_path / "corpus").iterdir())
    assert [path.name for path in paths] == ["shard-00000-of-00002.parquet", "shard-00001-of-00002.parquet"]
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert rows == [vars(row) for row in make_rows(240, 0.1, 0)]
    assert {pq.read_metadata(path).num_rows for path in paths} == {120}
    assert pq.read_metadata(paths[0]).row_group(0).column(0).compression == "ZSTD"


def test_a_world_holds_the_corpus_of_its_settings(world: World):
    assert pq.read_table(world.corpus).to_pylist() == [vars(row) for row in make_rows(240, 0.1, 0)]
    assert world.facts["corpus"]["flipped"] == 24


@pytest.mark.parametrize("role", ["policy", "reward"])
def test_prompt_is_a_prefix_of_the_dialogue_in_text_and_tokens(world: World, role: str):
    tokenizer = AutoTokenizer.from_pretrained(getattr(world, role))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Reverse "lemon". '}]
    answer = {"role": "assistant", "content": " nomel.\n"}
    head = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, answer], tokenize=False)
    assert whole == head + " nomel.\n<|end|>"
    head_ids, whole_ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (head, whole))
    assert whole_ids[: len(head_ids)] == head_ids
    assert tokenizer.decode(whole_ids) == whole
    assert tokenizer(head)["input_ids"] == head_ids
    assert whole_ids[-1] == tokenizer.eos_token_id


def test_tokenizer_has_five_special_tokens_and_splits_digits(world: World):
    tokenizer = AutoTokenizer.from_pretrained(world.policy)
    assert set(tokenizer.all_special_tokens) == {"<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"}
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|end|>")
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]
    assert tokenizer.decode(tokenizer.encode("naïve 猫 🙂")) == "naïve 猫 🙂"
    with pytest.raises(TemplateError, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_models_load_and_are_configured(world: World):
    policy = AutoModelForCausalLM.from_pretrained(world.policy)
    reward = AutoModelForSequenceClassification.from_pretrained(world.reward)
    tokenizer = AutoTokenizer.from_pretrained(world.policy)
    for folder, model in ((world.policy, policy), (world.reward, reward)):
        assert (folder / "model.safetensors").is_file()
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
        assert model.config.eos_token_id == tokenizer.eos_token_id
        assert model.config.max_position_embeddings == 512
        assert 500_000 < model.num_parameters() < 2_000_000
    assert reward.config.num_labels == 1
    assert set(world.facts["reward"]["accuracy"]) == {"all", *KINDS}
    assert set(world.facts["policy"]["mean_gold"]) == {"all", "arithmetic", "words", "facts"}


def test_right_padding_changes_no_score_without_a_mask(world: World):
    tokenizer = AutoTokenizer.from_pretrained(world.reward)
    policy = AutoModelForCausalLM.from_pretrained(world.policy).eval()
    reward = AutoModelForSequenceClassification.from_pretrained(world.reward).eval()
    (short, start), (long, _) = encode(tokenizer, [("Add 2 and 3.", "5."), ("Add 2 and 3.", "It is 5, " * 9)])
    assert tokenizer.decode(short[start:]) == "5.<|end|>"
    with torch.inference_mode():
        batch, alone = pad([short, long], tokenizer.pad_token_id), torch.tensor([short])
        assert batch.shape == (2, len(long))
        torch.testing.assert_close(reward(input_ids=batch).logits[:1], reward(input_ids=alone).logits)
        torch.testing.assert_close(policy(input_ids=batch).logits[:1, : len(short)], policy(input_ids=alone).logits)


def test_batches_hold_every_example_once_and_waste_little():
    rng = random.Random(0)
    lengths = [rng.randint(10, 60) for _ in range(1000)]
    batches = bucket(lengths, 20, rng)
    assert sorted(i for batch in batches for i in batch) == list(range(1000))
    assert {len(batch) for batch in batches} == {20}
    assert sum(20 * max(lengths[i] for i in batch) for batch in batches) < 1.15 * sum(lengths)


def test_training_learns(world: World, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", "mapjob")
    train_policy(AutoTokenizer.from_pretrained(world.policy), steps=20, seed=0, hidden_size=128)
    losses = [float(line.rsplit("loss ")[1]) for line in caplog.messages]
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 1


def test_a_finished_world_is_returned_at_once(world: World):
    folder = world.corpus.parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code = (
        "import logging, sys; from pathlib import Path; from mapjob.lab.world.build import KnownWorld, build_world\n"
        "logging.basicConfig(level=logging.INFO)\n"
        f"build_world(Path({str(folder)!r}), KnownWorld(num_pairs=240, policy_steps=2, reward_steps=2))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "found finished" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert build_world(folder, TINY) == world


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Calls of a stand-in for the training, which only makes the folders."""
    made = []

    def make_models(folder: Path, **given) -> dict:
        made.append(given)
        for name in ("policy", "reward"):
            (folder / name).mkdir()
        return {}

    monkeypatch.setattr("mapjob.lab.world.models.make_models", make_models)
    return made


def test_other_parameters_rebuild_the_world(tmp_path: Path, calls: list[dict]):
    for num_pairs in (40, 40, 50):
        build_world(tmp_path, KnownWorld(num_pairs=num_pairs))
    build_world(tmp_path, KnownWorld(num_pairs=50, seed=1))
    assert [call["seed"] for call in calls] == [0, 0, 1]
    assert pq.read_table(tmp_path / "corpus").num_rows == 50
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "policy", "reward", "world.json"}


def test_a_world_broken_off_is_built_anew(tmp_path: Path, calls: list[dict], monkeypatch: pytest.MonkeyPatch):
    def break_off(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("mapjob.lab.world.build.os.replace", break_off)
        with pytest.raises(KeyboardInterrupt):
            build_world(tmp_path, KnownWorld(num_pairs=40))
    assert not (tmp_path / "world.json").exists()
    build_world(tmp_path, KnownWorld(num_pairs=40))
    (tmp_path / "reward").rmdir()
    build_world(tmp_path, KnownWorld(num_pairs=40))
    assert len(calls) == 3


def test_a_corpus_that_is_not_ours_is_left_alone(tmp_path: Path, calls: list[dict]):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not from here"):
        build_world(tmp_path, KnownWorld(num_pairs=40))
    assert [path.name for path in tmp_path.rglob("*")] == ["corpus", "mine.txt"]
    assert calls == []


@pytest.mark.parametrize("wrong", [{"num_pairs": 0}, {"flipped_share": 0.6}, {"reward_flipped": -0.1}])
def test_impossible_settings_are_refused(wrong: dict):
    (key,) = wrong
    with pytest.raises(ConfigError, match=key):
        parse_config(wrong, "world", KnownWorld)

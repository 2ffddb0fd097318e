"""Measures of held-out prompts against plain PyTorch, the judge's verdict, and self-play in a tiny known world."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from mapjob.config.load import parse_config
from mapjob.config.run import Model
from mapjob.errors import ConfigError
from mapjob.lab.selfplay.config import SelfPlayConfig, load_selfplay
from mapjob.lab.selfplay.iterate import play
from mapjob.lab.selfplay.measures import HeldOutPrompts, best_of, describe_fall, means_of
from mapjob.lab.selfplay.prompts import read_prompts
from mapjob.lab.world.beliefs import make_items
from tests.fakes import make_policy
from tests.selfplay.in_process import without_ray
from tests.without_ray import run


@pytest.fixture
def config(models, judge, prompts, tmp_path) -> SelfPlayConfig:
    tree = {
        "prompts": {"path": str(prompts)},
        "output": {"path": str(tmp_path / "out")},
        "models": {name: {"path": str(path), "dtype": "float32"} for name, path in models.items()},
        "judge": {"path": str(judge), "dtype": "float32"},
        "generation": {"num_responses": 3, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8},
        "scoring": {"max_length": 512, "control_tokens": "sanitize"},
        "selection": {"held_out": 0.4},
    }
    return parse_config(tree, "test", SelfPlayConfig)


def judged(*policies: list[float | None]) -> list[dict]:
    return [{"by_prompt": {"judge": values}} for values in policies]


def test_measures_are_those_of_plain_forward_passes(config, tokenizer, tmp_path):
    held_out = HeldOutPrompts.of(config, "chat")
    other = Model(path=str(make_policy(tmp_path / "other", tokenizer=tokenizer, seed=9)), dtype="float32")
    measured = held_out.measure(other)["by_prompt"]
    samples, refused = held_out._sample(other)
    assert not refused.any()
    tokenizer = AutoTokenizer.from_pretrained(other.path)

    def encoded(prompt, text):
        turns = [*prompt.text, {"role": "assistant", "content": text}]
        head = tokenizer.apply_chat_template(prompt.text, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        head_ids, ids = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, whole))
        start = next((i for i, (a, b) in enumerate(zip(head_ids, ids)) if a != b), len(head_ids))
        return torch.tensor([ids]), start

    @torch.inference_mode()
    def logps(path, prompt, text):
        ids, start = encoded(prompt, text)
        lines = AutoModelForCausalLM.from_pretrained(path)(input_ids=ids).logits[0].log_softmax(1)
        return lines[start - 1 : -1].gather(1, ids[0, start:, None]).sum().item(), ids.shape[1] - start

    @torch.inference_mode()
    def reward(path, prompt, text):
        ids, _ = encoded(prompt, text)
        return AutoModelForSequenceClassification.from_pretrained(path)(input_ids=ids).logits.item()

    for index, (prompt, texts) in enumerate(zip(held_out.prompts, samples)):
        now, first = ([logps(path, prompt, t) for t in texts] for path in (other.path, config.models.policy.path))
        moved = [abs(a - b) / n for (a, n), (b, _) in zip(now, first)]
        assert measured["log_ratio"][index] == pytest.approx(np.mean(moved), rel=1e-3)
        assert measured["tokens"][index] == pytest.approx(np.mean([n for _, n in now]), rel=1e-5)
        assert measured["identical"][index] == pytest.approx(
            np.mean([a == b for a, b in combinations(texts, 2)]), rel=1e-5
        )
        for name, model in (("reward", config.models.reward), ("judge", config.judge)):
            rewards = [reward(model.path, prompt, text) for text in texts]
            assert measured[name][index] == pytest.approx(np.mean(rewards), rel=1e-3)


def test_the_first_policy_has_not_moved_and_is_measured_once(config, monkeypatch):
    held_out = HeldOutPrompts.of(config, "chat")
    measured = held_out.measure(config.models.policy)
    assert means_of(measured)["log_ratio"] == 0
    monkeypatch.setattr(HeldOutPrompts, "_measure", None)
    assert HeldOutPrompts.of(config, "chat").measure(config.models.policy) == measured


def test_held_out_prompts_depend_on_their_texts_alone(config, prompts):
    every = {prompt.id for prompt in read_prompts(config.prompts, "chat").prompts}
    held_out = HeldOutPrompts.of(config, "chat").ids
    assert held_out < every
    more = config.model_copy(update={"selection": config.selection.model_copy(update={"held_out": 0.7})})
    assert held_out < HeldOutPrompts.of(more, "chat").ids < every


def test_a_fall_is_one_that_chance_does_not_explain():
    noise = [0.5, -0.5] * 20
    assert describe_fall(judged([1.0] * 40, [0.99 + n for n in noise])) is None
    assert "fell by 0.500" in describe_fall(judged([1.0] * 40, [0.5 + n / 10 for n in noise]))
    creeping = judged([1.0] * 40, [1.3] * 40, [1.2 + n for n in noise], [0.8 + n for n in noise])
    assert describe_fall(creeping[:3]) is None
    assert "from what it was after iteration 1" in describe_fall(creeping)
    assert (best_of(creeping), best_of(creeping[:1])) == (1, 0)


def test_prompts_without_a_value_do_not_count():
    assert means_of({"by_prompt": {"judge": [1.0, None, 2.0], "reward": [None]}}) == {"judge": 1.5, "reward": None}
    assert "fell by 1.000" in describe_fall(judged([1.0, 1.0, None], [0.0, 0.0, -9.0]))


def test_self_play_from_nothing_in_a_tiny_known_world(tmp_path):
    world = {"kind": "items", "folder": str(tmp_path / "world"), "num_prompts": 80, "form_bias": 2.0}
    world |= {"policy_steps": 2, "reward_steps": 2, "hidden_size": 32}
    tree = {
        "world": world,
        "output": {"path": str(tmp_path / "out")},
        "generation": {"num_responses": 2, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": 6},
        "evolve": None,
        "scoring": {"max_length": 256},
        "selection": {"held_out": 0.3},
        "training": {"objective": "dpo", "max_steps": 1, "batch_size": 4, "accumulate": 1},
        "max_error_rate": 1.0,
    }
    (tmp_path / "selfplay.yaml").write_text(yaml.safe_dump(tree))
    config = load_selfplay(tmp_path / "selfplay.yaml")
    with without_ray():
        played = play(config, run)
    judge = json.loads((Path(config.judge.path).parent / "world.json").read_text())["parameters"]
    assert 0 < judge["form_bias"] < 0.01
    assert judge["seed"] != config.world.seed
    hopeless = {prompt for item in make_items(0) if item.belief == "hopeless" for prompt in item.corpus}
    held_out = HeldOutPrompts.of(config, "chat")
    measured = held_out.measure(config.models.policy)["by_prompt"]
    skipped = [value is None for value in measured["right"]]
    assert skipped == [prompt.last_turn in hopeless for prompt in held_out.prompts]
    for row in (played["start"], played["iterations"][0]["held_out"]):
        assert 0 <= row["right_probability"] <= 1
        assert 0 <= row["right"] <= 1
    assert load_selfplay(tmp_path / "selfplay.yaml", ["judge=null"]).judge is None
    with pytest.raises(ConfigError, match="sedd: unknown key"):
        load_selfplay(tmp_path / "selfplay.yaml", ["world.sedd=1"])

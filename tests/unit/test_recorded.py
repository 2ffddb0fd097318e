"""Fingerprints told from what a manifest keeps of the models: those that the models themselves give."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from mapjob.config.load import parse_config
from mapjob.job.prepare import prepare
from mapjob.scoring.recorded import recorded_families, recorded_models
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, make_tokenizer, write_corpus
from tests.golden.test_adapters import make_adapter

SELECTIONS = {
    "plain": {},
    "edit distances": {"metric": "dcrm"},
    "near duplicates": {"near_duplicates": 0.9},
    "alone": {"metric": "ifd_margin"},
    "collisions": {"signals": {"wpo_weight": {}}, "metrics": ["ifd_margin", "dcrm"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_corpus(folder / "corpus", make_pairs(8))
    bare = make_tokenizer(chat=False)
    make_policy(folder / "chat")
    make_policy(folder / "bare", tokenizer=bare)
    make_reward(folder / "reward")
    make_reward(folder / "bare_reward", tokenizer=bare)
    make_adapter(folder / "adapter", folder / "chat")
    return folder


def tree(folder: Path, policy: str, reward: str, **more: Any) -> dict[str, Any]:
    return config_tree(folder / "corpus", folder / "out", folder / policy, folder / reward, **more)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize(
    ("policy", "reward", "control_tokens"),
    [("chat", "reward", "sanitize"), ("bare", "reward", "error"), ("bare", "bare_reward", "sanitize")],
)
def test_as_the_models_give_them(folder: Path, policy: str, reward: str, control_tokens: str, selection: str) -> None:
    scoring = {"control_tokens": control_tokens}
    of_run = prepare(parse_config(tree(folder, policy, reward, scoring=scoring)))
    config = parse_config(tree(folder, policy, reward, scoring=scoring, selection=SELECTIONS[selection]))
    expected = prepare(config)
    models = recorded_models(config, json.loads(json.dumps(of_run.models)))
    assert models == expected.models
    assert list(recorded_families(config, expected.plan.corpus, models).items()) == list(expected.families.items())


def test_a_reference_that_is_the_policys_base(folder: Path) -> None:
    models = {"policy": {"path": str(folder / "chat"), "dtype": "float32", "adapter": str(folder / "adapter")}}
    models["reward"] = {"path": str(folder / "reward")}
    plain = {**tree(folder, "chat", "reward"), "models": models}
    config = parse_config({**plain, "selection": {"implicit": "dpo"}})
    expected = prepare(config)
    assert "reference" in expected.families
    recorded = recorded_models(config, prepare(parse_config(plain)).models)
    assert recorded == expected.models
    assert recorded_families(config, expected.plan.corpus, recorded) == expected.families
    assert recorded_models(parse_config(plain), expected.models).keys() == {"policy", "reward"}


def test_several_rewards_each_in_its_own_style(folder: Path) -> None:
    rewards = {name: {"path": str(folder / name)} for name in ("reward", "bare_reward")}
    whole = {**tree(folder, "bare", "reward"), "models": {"policy": {"path": str(folder / "bare")}, "reward": rewards}}
    expected = prepare(parse_config(whole))
    assert {model["encoding"]["style"] for model in expected.models.values()} == {"raw", "chat"}
    assert recorded_families(expected.config, expected.plan.corpus, expected.models) == expected.families


def test_no_path_is_kept(folder: Path) -> None:
    assert AutoTokenizer.from_pretrained(folder / "chat").chat_template
    assert str(folder) not in json.dumps(prepare(parse_config(tree(folder, "chat", "reward"))).models)

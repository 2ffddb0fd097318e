"""Reward heads of the field by name, each beside what its authors' code computes, written out here in float64."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, LlamaModel

from mapjob.errors import ConfigError, ModelError, Reason
from mapjob.scoring.models import load_model
from mapjob.scoring.scorers import make_scorer
from tests.fakes import make_open_rlhf, make_policy, make_reward, make_tokenizer
from tests.golden.in_process import columns, encode, read, specs

CPU = torch.device("cpu")
NEW_LINES = {number for token, number in make_tokenizer().get_vocab().items() if token and not token.strip("Ċ")}


def rewards_of(folder: Path, tmp_path: Path, pairs: list[dict], reward_token: int | None = None) -> tuple[list, list]:
    """(token ids of every whole text, its reward)."""
    spec = specs(make_policy(tmp_path / "policy"), folder, "chat", reward_token)["reward"]
    scorer, records = make_scorer(spec, device=CPU), encode(spec, read(pairs))
    assert scorer.backbone.why_not_packed is None
    texts = [[*record.prompt.tolist(), *y.tolist()] for record in records for y in record.completions]
    return texts, [reward for row in columns(scorer, records)["rewards"] for reward in row]


def change_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@torch.no_grad()
def read_states(folder: Path, ids: list[int]) -> torch.Tensor:
    """Last hidden states (L, H) in float64."""
    return AutoModel.from_pretrained(folder).double().eval()(input_ids=torch.tensor([ids])).last_hidden_state[0]


@pytest.mark.parametrize(
    ("head", "pad_is_eos", "config"),
    [
        ("score", False, {}),
        ("score", True, {"value_head_prefix": "score"}),
        ("value_head", True, {}),
        ("reward_head", True, {"value_head_prefix": "reward_head"}),
        ("value_head", False, {"normalize_reward": True, "mean": 0.25, "std": 1.5}),
        ("value_head", False, {"normalize_reward": False, "mean": 0.25, "std": 1.5}),
    ],
)
def test_openrlhf(tmp_path, short_pairs, head, pad_is_eos, config):
    """Read at EOS, the last token that is no line end, also where EOS is the pad token."""
    folder = make_open_rlhf(tmp_path / "reward", head, make_tokenizer(pad_is_eos=pad_is_eos), **config)
    weight_H = load_file(folder / "model.safetensors")[f"{head}.weight"][0].double()
    texts, ours = rewards_of(folder, tmp_path, short_pairs[:6])
    mean, std = (0.25, 1.5) if config.get("normalize_reward") else (0.0, 1.0)
    assert all(ids[-1] in NEW_LINES for ids in texts), "the template writes a line end behind EOS"
    theirs = []
    for ids in texts:
        while ids[-1] in NEW_LINES:
            ids = ids[:-1]
        theirs.append(((read_states(folder, ids)[-1] @ weight_H).item() - mean) / std)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert max(ours) - min(ours) > 0.1


def test_openrlhf_with_a_template_that_ends_no_answer_with_eos(tmp_path, short_pairs):
    folder = make_open_rlhf(tmp_path / "reward", "value_head")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    spec = specs(make_policy(tmp_path / "policy"), folder, "chat")["reward"]
    rows = make_scorer(spec, device=CPU).score(encode(spec, read(short_pairs[:2]))).table.to_pylist()
    assert [row["reason"] for row in rows] == [Reason.TEMPLATE_ERROR.value] * 2
    assert "EOS" in rows[0]["detail"]


@pytest.mark.parametrize("separate", [True, False], ids=["value_head.safetensors", "one file"])
@pytest.mark.parametrize("head", ["v_head.summary", "v_head"])
def test_value_heads_of_trl_and_llama_factory(tmp_path, short_pairs, head, separate):
    """A causal language model with `v_head` beside it, read at the very last token."""
    folder = make_policy(tmp_path / "reward", seed=4)
    torch.manual_seed(9)
    linear = nn.Linear(32, 1)
    weights = {f"{head}.{name}": tensor.clone() for name, tensor in linear.state_dict().items()}
    if separate:
        save_file(weights, folder / "value_head.safetensors", {"format": "pt"})
    else:
        whole = load_file(folder / "model.safetensors")
        save_file({**whole, **weights}, folder / "model.safetensors", {"format": "pt"})
    texts, ours = rewards_of(folder, tmp_path, short_pairs[:6])
    linear = linear.double()
    assert ours == pytest.approx([linear(read_states(folder, ids)[-1]).item() for ids in texts], abs=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("token", [0, 77])
def test_the_logit_of_one_token(tmp_path, short_pairs, architecture, token):
    """As NVIDIA's Nemotron reward models say it: the first logit of the first token after the dialogue."""
    folder = make_policy(tmp_path / "reward", architecture, seed=4)
    texts, ours = rewards_of(folder, tmp_path, short_pairs[:6], reward_token=token)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double().eval()
    with torch.no_grad():
        theirs = [model(input_ids=torch.tensor([ids])).logits[0, -1, token].item() for ids in texts]
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_token_is_part_of_what_rewards_are_kept_under(tmp_path):
    policy, reward = make_policy(tmp_path / "policy"), make_policy(tmp_path / "reward", seed=4)
    prints = {specs(policy, reward, "chat", token)["reward"].fingerprint for token in (0, 1)}
    assert len(prints) == 2
    with pytest.raises(ModelError, match="the model has 400 tokens"):
        make_scorer(specs(policy, reward, "chat", 400)["reward"], device=CPU)


def test_only_a_reward_model_has_a_reward_token(tmp_path):
    from mapjob.config.load import parse_config
    from tests.fakes import config_tree

    tree = config_tree(tmp_path, tmp_path, tmp_path, tmp_path)
    tree["models"]["policy"]["reward_token"] = 0
    with pytest.raises(ConfigError, match="only a reward model"):
        parse_config(tree)


REFUSED = {
    "PairRM": ({"ranker_type": "pairranker"}, "pair model"),
    "PairRM for transformers": ({"architectures": ["DebertaV2PairRM"]}, "pair model"),
    "critic": ({"architectures": ["CriticModel"]}, "critic"),
    "a token to read at, and no head": ({"reward_token_id": 77}, "reward_token_id"),
    "causal": ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM has no reward head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_reward_of_one_answer_is_refused_by_name(tmp_path, name):
    changes, what = REFUSED[name]
    policy = make_policy(tmp_path / "policy")
    reward = change_config(make_policy(tmp_path / "reward"), **changes)
    with pytest.raises(ModelError, match=what) as caught:
        specs(policy, reward, "chat")
    assert caught.value.where == f"models.reward.path: {reward}"
    assert "one number of one answer" in caught.value.do
    assert ("reward_token" in caught.value.do) == (name == "causal")


@pytest.mark.parametrize("kind", [AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModel])
def test_weights_go_straight_to_the_gpu(tmp_path, monkeypatch, kind):
    """And on a CPU they are loaded as ever."""
    reward = make_reward(tmp_path / "reward")
    if kind is AutoModel:
        reward = make_open_rlhf(tmp_path / "other", "value_head")
    spec = specs(make_policy(tmp_path / "policy"), reward, "chat")[
        "policy" if kind is AutoModelForCausalLM else "reward"
    ]
    maps = []

    def look(*_: Any, device_map: Any, **__: Any) -> None:
        maps.append(device_map)
        raise ZeroDivisionError

    monkeypatch.setattr(kind, "from_pretrained", look)
    for device in (torch.device("cuda", 1), CPU):
        with pytest.raises(ModelError):
            load_model(spec.files, spec.kind, spec.name, device)
    assert maps == [{"": torch.device("cuda", 1)}, None]


def test_a_map_to_one_device_leaves_the_model_as_it_is(tmp_path):
    plain = LlamaModel.from_pretrained(make_policy(tmp_path / "policy"))
    mapped = LlamaModel.from_pretrained(tmp_path / "policy", device_map={"": CPU})
    assert not any(hasattr(module, "_hf_hook") for module in mapped.modules())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), mapped.parameters()))

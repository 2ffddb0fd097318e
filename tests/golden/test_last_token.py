"""Reward models that are read at a token behind the text (InternLM2's), against their authors' rule in float64."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from mapjob.config.run import Model
from mapjob.errors import ModelError, Reason, RowError
from mapjob.scoring.encode import Encoded, Encoder
from mapjob.scoring.model_files import model_files
from mapjob.scoring.models import check_architecture
from mapjob.scoring.scorers import Scorer, make_scorer
from mapjob.scoring.spec import ScorerSpec
from tests.fakes import make_policy, make_tokenizer
from tests.golden.in_process import CORPUS, columns, encode, read, specs

pytestmark = pytest.mark.usefixtures("modules_cache")
CPU = torch.device("cpu")
TOKEN = 77
SIGNS = torch.tensor([1.0, -1.0]).repeat(16)
# As InternLM2ForRewardModel: the network is called model, the head v_head, the value is read at the end that the mask
# says, and a buffer is not among the weights (rotary angles there, signs here).
CODE = """
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.models.llama.modeling_llama import LlamaPreTrainedModel

class TokenConfig(LlamaConfig):
    model_type = "read_at_a_token"

class TokenModel(LlamaPreTrainedModel):
    config_class = TokenConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.model.norm.register_buffer("signs", torch.tensor([1.0, -1.0]).repeat(16), persistent=False)
        self.model.norm.register_forward_hook(lambda norm, _, states: states * norm.signs)
        self.v_head = nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, use_cache=None):
        assert input_ids[:, -1].eq(self.config.reward_token_id).all()
        states = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)[0]
        values = self.v_head(states).squeeze(-1)
        ends = attention_mask.cumsum(1).argmax(1)[:, None]
        return SequenceClassifierOutputWithPast(logits=SCALE * values.gather(1, ends))
"""


def make_folder(folder: Path, template_end: str = "", **config: Any) -> Path:
    """A Llama with `v_head` and reward_token_id, as XTuner would save it."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template += template_end
    make_policy(folder, tokenizer=tokenizer, seed=4)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    weights["v_head.weight"] = torch.randn(1, 32, generator=torch.Generator().manual_seed(3))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    tree = json.loads((folder / "config.json").read_text())
    tree |= {"architectures": ["TokenModel"], "reward_token_id": TOKEN, **config}
    (folder / "config.json").write_text(json.dumps(tree))
    return folder


def make_folder_with_code(folder: Path, scale: float = 1.0) -> Path:
    auto_map = {"AutoConfig": "modeling_token.TokenConfig", "AutoModel": "modeling_token.TokenModel"}
    make_folder(folder, model_type="read_at_a_token", auto_map=auto_map)
    (folder / "modeling_token.py").write_text(CODE.replace("SCALE", str(scale)))
    return folder


def spec_of(folder: Path, tmp_path: Path, trusted: bool = False, **scoring: Any) -> ScorerSpec:
    spec = specs(make_policy(tmp_path / "policy"), folder, "chat", **scoring)["reward"]
    if not trusted:
        return spec
    files = model_files(Model(path=str(folder), dtype="float32", trust_remote_code=True), "reward", code_allowed=True)
    return replace(spec, files=files, encoding=replace(spec.encoding, files=files))


def expect(folder: Path, pairs: list[dict], max_length: int = 1024, signs: Any = 1.0) -> list[list[float]]:
    """Rewards by the authors' rule, from the text on: the token if the text does not end with it, and its value."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    network, weight_H = AutoModel.from_pretrained(folder).double().eval(), weights["v_head.weight"][0].double() * signs

    def reward(prompt: str, answer: str) -> float:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ids if ids[-1] == TOKEN else [*ids, TOKEN]
        if len(ids) > max_length:
            ids = [*ids[: max_length - 1], TOKEN]
        with torch.no_grad():
            return (network(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] @ weight_H).item()

    return [[reward(pair["prompt"], pair[side]) for side in ("chosen", "rejected")] for pair in pairs]


def rewards_of(scorer: Scorer, encoded: list[Encoded]) -> np.ndarray:
    return np.array(columns(scorer, encoded)["rewards"])


@pytest.mark.parametrize("end", ["", "TOKEN"], ids=["the token is missing", "the template ends with the token"])
def test_a_value_head_is_read_at_the_token_behind_the_text(tmp_path, short_pairs, end):
    pairs, text = short_pairs[:6], make_tokenizer().convert_ids_to_tokens(TOKEN)
    folder = make_folder(tmp_path / "reward", end and text)
    spec = spec_of(folder, tmp_path)
    scorer, encoded = make_scorer(spec, device=CPU), encode(spec, read(pairs))
    assert scorer.backbone.why_not_packed is None
    for record in encoded:
        assert all(y[-1] == TOKEN != y[-2] for y in record.completions)
        assert not record.boundary_moved
    ours = rewards_of(scorer, encoded)
    assert ours == pytest.approx(np.array(expect(folder, pairs)), abs=1e-5)
    assert np.ptp(ours) > 0.1


def test_the_token_counts_among_max_length(tmp_path, short_pairs):
    """A text that fits without it is over-long with it; what is cut keeps the token."""
    folder, pairs = make_folder(tmp_path / "reward"), short_pairs[:6]
    whole = encode(spec_of(folder, tmp_path), read(pairs))
    lengths = [max(len(record.prompt) + len(y) for y in record.completions) for record in whole]
    limit = sorted(lengths)[3]
    spec = spec_of(folder, tmp_path, max_length=limit)
    assert [isinstance(item, RowError) for item in _encode(spec, pairs)] == [length > limit for length in lengths]
    spec = spec_of(folder, tmp_path, max_length=limit - 1)
    dropped = [item for item in _encode(spec, pairs) if isinstance(item, RowError)]
    assert len(dropped) == 3
    assert {item.reason for item in dropped} == {Reason.OVERLENGTH}
    assert f"{limit} tokens" in {item.detail for item in dropped}
    spec = spec_of(folder, tmp_path, max_length=limit - 1, overlength="keep_start")
    cut = encode(spec, read(pairs))
    assert [record.truncated for record in cut] == [length >= limit for length in lengths]
    assert all(y[-1] == TOKEN and len(r.prompt) + len(y) < limit for r in cut for y in r.completions)
    ours = rewards_of(make_scorer(spec, device=CPU), cut)
    assert ours == pytest.approx(np.array(expect(folder, pairs, limit - 1)), abs=1e-5)


def _encode(spec: ScorerSpec, pairs: list[dict]) -> list[Encoded | RowError]:
    return Encoder(spec.encoding, CORPUS).encode(read(pairs))


def test_a_class_that_comes_with_the_model(tmp_path, short_pairs):
    """Its buffers have the values that it computes, also those that no file holds."""
    pairs = short_pairs[:6]
    folder = make_folder_with_code(tmp_path / "reward")
    spec = spec_of(folder, tmp_path, trusted=True)
    scorer = make_scorer(spec, device=CPU)
    assert type(scorer.backbone._model).__name__ == "TokenModel"
    theirs = expect(make_folder(tmp_path / "plain"), pairs, signs=SIGNS)
    assert rewards_of(scorer, encode(spec, read(pairs))) == pytest.approx(np.array(theirs), abs=1e-5)


def test_a_class_that_makes_more_of_the_value_is_refused(tmp_path):
    spec = spec_of(make_folder_with_code(tmp_path / "reward", scale=2.0), tmp_path, trusted=True)
    with pytest.raises(ModelError, match="in a way not known here"):
        make_scorer(spec, device=CPU)


def test_a_class_that_is_not_allowed_is_refused_by_the_key_that_allows_it(tmp_path):
    spec = spec_of(make_folder_with_code(tmp_path / "reward"), tmp_path)
    with pytest.raises(ModelError, match="code of its own") as caught:
        check_architecture(spec.files, "rewards", "reward")
    assert "trust_remote_code" in caught.value.do


def test_the_token_is_part_of_what_rewards_are_kept_under(tmp_path):
    spec = spec_of(make_folder(tmp_path / "reward"), tmp_path)
    assert spec.encoding.last_token == TOKEN
    other = replace(spec, encoding=replace(spec.encoding, last_token=78))
    assert spec.fingerprint != other.fingerprint
    assert spec.encoding.key != replace(spec.encoding, last_token=None).key


def test_a_policy_has_no_such_token(tmp_path):
    folder = make_folder(tmp_path / "reward")
    assert specs(folder, folder, "chat")["policy"].encoding.last_token is None


def test_polar_is_refused_by_its_name(tmp_path):
    """It needs a reference answer, and its files are those of a reward model that is read at a token of its own."""
    policy = make_policy(tmp_path / "policy")
    for name in ("POLAR-7B", "my-polar", "models--internlm--POLAR-1_8B/snapshots/0a1b2c"):
        reward = make_folder(tmp_path / name)
        with pytest.raises(ModelError, match="reference answer"):
            specs(policy, reward, "chat")

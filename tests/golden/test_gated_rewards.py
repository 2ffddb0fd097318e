"""A reward model of ArmoRM's shape: its numbers without running its code, against that code written out here."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, LlamaModel, PreTrainedTokenizerFast

from mapjob.errors import ModelError, Reason
from mapjob.scoring.encode import Encoded
from mapjob.scoring.rewards import GatedObjectivesHead
from mapjob.scoring.scorers import make_scorer
from tests.fakes import make_config, make_policy, make_tokenizer
from tests.golden.in_process import columns, encode, read, specs

NUM_OBJECTIVES, GATE = 7, 24
LLAMA_3 = (
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] "
    "+ '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


class Gated(nn.Module):
    """The computation of the published model, one whole sequence at a time, in float64."""

    def __init__(self, body: LlamaModel, tokenizer: PreTrainedTokenizerFast, pad: int):
        super().__init__()
        self.body, self.pad = body, pad
        self.header = tokenizer(GatedObjectivesHead.HEADER, add_special_tokens=False)["input_ids"]
        size = body.config.hidden_size
        self.regression_layer = nn.Linear(size, NUM_OBJECTIVES, bias=False)
        self.reward_transform_matrix = nn.Parameter(torch.randn(NUM_OBJECTIVES, NUM_OBJECTIVES))
        self.gating = nn.Module()
        sizes = [size, GATE, GATE, NUM_OBJECTIVES]
        self.gating.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.gating.logit_scale = nn.Parameter(torch.tensor([1.7]))

    @torch.no_grad()
    def forward(self, ids: list[int]) -> float:
        states = self.body(input_ids=torch.tensor([ids])).last_hidden_state[0]
        end = ids.index(self.pad) - 1 if self.pad in ids else len(ids) - 1
        width = len(self.header)
        gate_at = max(j for j in range(len(ids) - width + 1) if ids[j : j + width] == self.header)
        x = states[gate_at]
        for layer in self.gating.layers[:-1]:
            x = torch.relu(layer(x))
        gate = torch.softmax(self.gating.layers[-1](x) / 10, 0) * self.gating.logit_scale
        return (gate * (self.regression_layer(states[end]) @ self.reward_transform_matrix)).sum().item()


@pytest.fixture(scope="module")
def armo(tmp_path_factory) -> tuple[Path, Gated]:
    """(folder as published: body, heads and a config that names its own class; the model in float64)."""
    folder = tmp_path_factory.mktemp("armo") / "reward"
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]}
    )
    tokenizer.chat_template = LLAMA_3
    torch.manual_seed(5)
    config = make_config("llama", tokenizer, num_labels=3)
    model = Gated(AutoModel.from_config(config), tokenizer, tokenizer.pad_token_id)
    model.body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {f"model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    heads = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("body.")}
    save_file({**weights, **heads}, folder / "model.safetensors", metadata={"format": "pt"})
    own = json.loads((folder / "config.json").read_text())
    own |= {"architectures": ["LlamaForRewardModelWithGating"], "num_objectives": NUM_OBJECTIVES}
    own |= {"auto_map": {"AutoModelForSequenceClassification": "modeling_custom.LlamaForRewardModelWithGating"}}
    (folder / "config.json").write_text(json.dumps(own))
    (folder / "modeling_custom.py").write_text("raise SystemExit('this code must never run')\n")
    return folder, model.double().eval()


def test_rewards(armo, tmp_path, short_pairs):
    folder, model = armo
    spec = specs(make_policy(tmp_path / "policy"), folder, "chat")["reward"]
    records = encode(spec, read(short_pairs[:40]))
    scorer = make_scorer(spec, device=torch.device("cpu"))
    assert scorer.backbone.why_not_packed is None
    ours = [reward for row in columns(scorer, records)["rewards"] for reward in row]
    theirs = [model([*record.prompt, *c]) for record in records for c in record.completions]
    print(f"largest deviation {max(abs(a - b) for a, b in zip(ours, theirs)):.2e} of values up to {max(theirs):.3g}")
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert max(theirs) - min(theirs) > 0.1


def test_a_text_without_an_assistant_header(armo, tmp_path, short_pairs):
    """It is refused as a row; its neighbours are scored."""
    spec = specs(make_policy(tmp_path / "policy"), armo[0], "chat")["reward"]
    good = encode(spec, read(short_pairs[:2]))
    bad = Encoded(good[0].completions[0], good[0].completions)
    table = make_scorer(spec, device=torch.device("cpu")).score([good[0], bad, good[1]]).table
    assert table["reason"].to_pylist() == [None, Reason.TEMPLATE_ERROR, None]
    assert [rewards is None for rewards in table["rewards"].to_pylist()] == [False, True, False]


def test_missing_gate(armo, tmp_path):
    folder = tmp_path / "reward"
    folder.mkdir()
    for file in armo[0].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("gating.")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    spec = specs(make_policy(tmp_path / "policy"), folder, "chat")["reward"]
    with pytest.raises(ModelError, match="lacks the weights of its gate"):
        make_scorer(spec, device=torch.device("cpu"))

"""LoRA adapters: the policy is base and adapter, its reference the base alone, on one set of weights."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from mapjob.config.input import Columns
from mapjob.config.load import parse_config
from mapjob.corpus.plan import Corpus
from mapjob.errors import ConfigError, ModelError
from mapjob.pipeline.stages import by_base
from mapjob.scoring.models import load_model
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs
from tests.fakes import config_tree, make_policy, make_reward
from tests.golden.in_process import columns, encode, read
from tests.readings import READINGS

CPU = torch.device("cpu")
CORPUS = Corpus(READINGS["trl"], Columns(), "chat")


def make_adapter(folder: Path, base: Path, kind=AutoModelForCausalLM, task: str = "CAUSAL_LM", seed: int = 3) -> Path:
    """An adapter whose weights are far from zero on both of its sides."""
    torch.manual_seed(seed)
    model = get_peft_model(kind.from_pretrained(base), LoraConfig(task, r=4, lora_alpha=8, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    base, reward = make_policy(folder / "base"), make_reward(folder / "reward")
    adapter = make_adapter(folder / "adapter", base)
    classifier = make_adapter(folder / "classifier", reward, AutoModelForSequenceClassification, "SEQ_CLS")
    return {"base": base, "reward": reward, "adapter": adapter, "classifier": classifier}


def specs_of(folders: dict[str, Path], **models: dict) -> dict[str, ScorerSpec]:
    """Scorers of a run with implicit: dpo; further keys of its models by name."""
    tree = config_tree(Path("unused"), Path("unused"), folders["base"], folders["reward"])
    tree["selection"] = {"implicit": "dpo"}
    for name, more in models.items():
        tree["models"][name] = {**tree["models"].get(name, {}), **more}
    config = parse_config(tree)
    return {spec.name: spec for spec in scorer_specs(config, CORPUS, scorer_files(config))}


def test_base_and_adapter_share_one_model(folders, short_pairs):
    specs = specs_of(folders, policy={"adapter": str(folders["adapter"])})
    assert list(specs) == ["policy", "reference", "reward"], "the reference is the policy's base"
    assert [[s.name for s in shared] for shared in by_base(specs.values())] == [["policy", "reference"], ["reward"]]
    pair = [specs["policy"], specs["reference"]]
    model = load_model(pair[0].files, "logps", "policy", CPU)
    records = encode(specs["policy"], read(short_pairs[:10]))
    scorers = [make_scorer(spec, device=CPU, model=model) for spec in pair]
    policy, reference = ([sum(row) for row in columns(s, records)["logps"]] for s in scorers)
    again = [sum(row) for row in columns(scorers[0], records)["logps"]]
    assert policy == again, "the reference left the adapter as it was"
    base = AutoModelForCausalLM.from_pretrained(folders["base"])
    with torch.no_grad():
        assert reference == pytest.approx([plain(base, record) for record in records], abs=1e-3)
        tuned = PeftModel.from_pretrained(base, folders["adapter"])
        assert policy == pytest.approx([plain(tuned, record) for record in records], abs=1e-3)
    assert max(abs(a - b) for a, b in zip(policy, reference)) > 1


def plain(model: torch.nn.Module, record) -> float:
    """Log-probability of all completions of a record together, one sequence at a time."""
    total = 0.0
    for completion in record.completions:
        ids = torch.tensor([[*record.prompt, *completion]]).long()
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        total += logps[len(record.prompt) - 1 :].sum().item()
    return total


def test_reward_model_with_an_adapter(folders, short_pairs):
    spec = specs_of(
        folders, policy={"adapter": str(folders["adapter"])}, reward={"adapter": str(folders["classifier"])}
    )
    records = encode(spec["reward"], read(short_pairs[:10]))
    base = AutoModelForSequenceClassification.from_pretrained(folders["reward"])
    tuned = PeftModel.from_pretrained(base, folders["classifier"]).eval()
    ours = columns(make_scorer(spec["reward"], device=CPU), records)["rewards"]
    with torch.no_grad():
        for record, rewards in zip(records, ours):
            ids = [torch.tensor([[*record.prompt, *completion]]).long() for completion in record.completions]
            assert rewards == pytest.approx([tuned(input_ids=i).logits.item() for i in ids], abs=1e-4)


def test_fingerprints_tell_adapters_apart(folders, tmp_path):
    with_adapter = specs_of(folders, policy={"adapter": str(folders["adapter"])})
    other = make_adapter(tmp_path / "other", folders["base"], seed=4)
    prints = [with_adapter[name].fingerprint for name in ("policy", "reference")]
    prints.append(specs_of(folders, policy={"adapter": str(other)})["policy"].fingerprint)
    assert len(set(prints)) == 3


def test_refusals(folders, tmp_path):
    with pytest.raises(ModelError, match=r"adapter_config.json is missing"):
        specs_of(folders, policy={"adapter": str(folders["base"])})
    with pytest.raises(ConfigError, match=r"name one"):
        specs_of(folders)
    gpt2 = make_policy(tmp_path / "gpt2", "gpt2")
    specs = specs_of({**folders, "base": gpt2}, policy={"adapter": str(folders["adapter"])})
    with pytest.raises(ModelError, match=r"the adapter does not fit the model"):
        load_model(specs["policy"].files, "logps", "policy", CPU)


def test_a_model_spread_over_devices(folders, short_pairs):
    """On one device, by the same hooks that carry states from GPU to GPU."""
    spec = specs_of(folders, policy={"adapter": str(folders["adapter"])})["reference"]
    records = encode(spec, read(short_pairs[:5]))
    spread = make_scorer(spec, device=CPU, model=load_model(spec.files, "logps", "reference", CPU, spread=True))
    assert spread.score(records).table.equals(make_scorer(spec, device=CPU).score(records).table)

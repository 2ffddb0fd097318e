"""LoRA adapters: the policy is base and adapter, its reference the base alone, on one set of weights."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from mapjob.config.input import Columns
from mapjob.config.load import parse_config
from mapjob.corpus.plan import Corpus
from mapjob.errors import ConfigError, ModelError
from mapjob.pipeline.stages import by_base
from mapjob.scoring.models import load_model
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec, scorer_files, scorer_specs
from mapjob.scoring.vocabulary import VocabularyHead
from tests.fakes import config_tree, make_policy, make_reward
from tests.golden.in_process import columns, encode, read
from tests.readings import READINGS

CPU = torch.device("cpu")
CORPUS = Corpus(READINGS["trl"], Columns(), "chat")


# What an adapter trains beside its low-rank matrices, or as it starts at zero.
TRAINED = ("lora_B", "embedding_B", "magnitude", "trainable_tokens_delta", "modules_to_save")


def make_adapter(
    folder: Path, base: Path, kind=AutoModelForCausalLM, task: str = "CAUSAL_LM", seed: int = 3, **more: Any
) -> Path:
    """An adapter whose weights are far from those that it begins with, everywhere."""
    torch.manual_seed(seed)
    model = kind.from_pretrained(base, **({"num_labels": 1} if task == "SEQ_CLS" else {}))
    model = get_peft_model(model, LoraConfig(task, r=4, lora_alpha=8, **{"target_modules": "all-linear", **more}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in TRAINED):
                parameter += 0.2 * torch.randn_like(parameter)
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


ON_EMBEDDINGS = {
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [*range(5, 80)]},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "directions": {"target_modules": ["q_proj", "v_proj"], "use_dora": True},
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", ON_EMBEDDINGS)
def test_adapters_on_head_and_embeddings_are_applied(tmp_path, short_pairs, kind, tied):
    """Policy and reference, on one set of weights, are what peft and transformers make of them."""
    base = make_policy(tmp_path / "base", tie_word_embeddings=tied)
    adapter = make_adapter(tmp_path / "adapter", base, **ON_EMBEDDINGS[kind])
    specs = specs_of({"base": base, "reward": make_reward(tmp_path / "reward")}, policy={"adapter": str(adapter)})
    model = load_model(specs["policy"].files, "logps", "policy", CPU)
    records = encode(specs["policy"], read(short_pairs[:4]))
    scorers = [make_scorer(specs[name], device=CPU, model=model) for name in ("policy", "reference")]
    policy, reference = ([sum(row) for row in columns(s, records)["logps"]] for s in scorers)
    plain_base = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        assert reference == pytest.approx([plain(plain_base, record) for record in records], abs=2e-3)
        tuned = PeftModel.from_pretrained(plain_base, adapter).eval()
        assert policy == pytest.approx([plain(tuned, record) for record in records], abs=2e-3)
    assert max(abs(a - b) for a, b in zip(policy, reference)) > 0.1


@pytest.mark.parametrize("kind", ON_EMBEDDINGS)
def test_two_adapters_of_different_kinds_on_one_base(tmp_path, short_pairs, kind):
    """What the one brings and the other does not, such as an output embedding, is the base's own for the other."""
    base = make_policy(tmp_path / "base", tie_word_embeddings=True)
    kinds = {"policy": ON_EMBEDDINGS[kind], "reference": {"target_modules": ["k_proj"]}}
    adapters = {name: make_adapter(tmp_path / name, base, **of_kind) for name, of_kind in kinds.items()}
    models = {name: {"path": str(base), "dtype": "float32", "adapter": str(path)} for name, path in adapters.items()}
    specs = specs_of({"base": base, "reward": make_reward(tmp_path / "reward")}, **models)
    groups = by_base([specs["policy"], specs["reference"]])
    assert len(groups) == (2 if kind in ("tokens", "whole") else 1)
    records = encode(specs["policy"], read(short_pairs[:4]))
    scorers = {}
    for group in groups:
        model = load_model(group[0].files, "logps", group[0].name, CPU, {s.name: s.files.adapter for s in group})
        scorers |= {spec.name: make_scorer(spec, device=CPU, model=model) for spec in group}
    for name in ("policy", "reference", "policy"):
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters[name]).eval()
        ours = [sum(row) for row in columns(scorers[name], records)["logps"]]
        with torch.no_grad():
            assert ours == pytest.approx([plain(tuned, record) for record in records], abs=2e-3)


def test_an_adapter_on_the_head_counts_in_bfloat16(tmp_path, short_pairs, multiplies_bfloat16):
    """Small enough that it is within bfloat16's own rounding of a log-probability, token by token."""
    base = make_policy(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["lm_head"])
    models = {name: {"adapter": str(adapter), "dtype": "bfloat16"} for name in ("policy",)}
    specs = specs_of({"base": base, "reward": make_reward(tmp_path / "reward")}, **models)
    model = load_model(specs["policy"].files, "logps", "policy", CPU)
    records = encode(specs["policy"], read(short_pairs[:4]))
    policy, reference = (
        columns(make_scorer(specs[name], device=CPU, model=model), records)["logps"] for name in ("policy", "reference")
    )
    assert policy != reference


def test_a_head_that_is_not_the_models_own_is_refused_in_bfloat16(folders, monkeypatch, multiplies_bfloat16):
    """A difference of a hundredth of a nat a token, far within bfloat16's rounding."""
    spec = specs_of(folders, policy={"adapter": str(folders["adapter"]), "dtype": "bfloat16"})["reference"]
    logits = VocabularyHead.logits
    monkeypatch.setattr(VocabularyHead, "logits", lambda *given: logits(*given) * 1.01)
    with pytest.raises(ModelError, match="transforms its logits"):
        make_scorer(spec, device=CPU)


def test_directions_on_the_head_are_refused_by_name(folders, tmp_path):
    adapter = make_adapter(tmp_path / "dora", folders["base"], target_modules=["lm_head"], use_dora=True)
    spec = specs_of(folders, policy={"adapter": str(adapter)})["policy"]
    with pytest.raises(ModelError, match="the output embedding by DoRA"):
        make_scorer(spec, device=CPU)


def test_a_tensor_that_peft_would_leave_out_is_refused_by_name(folders, tmp_path):
    adapter = Path(shutil.copytree(folders["adapter"], tmp_path / "adapter"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.model.norm.lora_A.weight"] = torch.ones(4, 32)
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    spec = specs_of(folders, policy={"adapter": str(adapter)})["policy"]
    with pytest.raises(ModelError, match=r"the adapter changes model\.norm\.lora_A\.weight"):
        make_scorer(spec, device=CPU)


@pytest.mark.parametrize("base", ["base", "reward"])
def test_a_reward_adapter_brings_its_own_head(folders, tmp_path, short_pairs, base):
    """On a causal language model, which has none, and on a reward model, whose head it replaces."""
    classifier = make_adapter(tmp_path / "lora", folders[base], AutoModelForSequenceClassification, "SEQ_CLS", seed=5)
    spec = specs_of(
        {**folders, "reward": folders[base]},
        policy={"adapter": str(folders["adapter"])},
        reward={"adapter": str(classifier)},
    )["reward"]
    records = encode(spec, read(short_pairs[:5]))
    plain_base = AutoModelForSequenceClassification.from_pretrained(folders[base], num_labels=1)
    tuned = PeftModel.from_pretrained(plain_base, classifier).eval()
    ours = columns(make_scorer(spec, device=CPU), records)["rewards"]
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

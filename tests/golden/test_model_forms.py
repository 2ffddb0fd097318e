"""Models as others save them: labels said in other ways, tokens without embeddings, architectures that do not fit."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma3nForCausalLM,
    Gemma3nTextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    Llama4ForCausalLM,
    Llama4TextConfig,
    T5Config,
    T5ForSequenceClassification,
)

from mapjob.errors import ModelError, Reason
from mapjob.pipeline.actors import defer_error
from mapjob.scoring.architecture import check_architecture
from mapjob.scoring.costs import model_cost, token_cost
from mapjob.scoring.models import load_model
from mapjob.scoring.rewards import LinearHead
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.tokenizers import check_vocabulary
from tests.fakes import make_policy, make_reward, make_tokenizer
from tests.golden.in_process import columns, encode, read, specs
from tests.golden.reference import assert_logps_close, flat

CPU = torch.device("cpu")
TOKENIZER = make_tokenizer()


def change_config(folder: Path, drop: tuple[str, ...] = (), **changes: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in drop} | changes))
    return folder


def rewards_of(policy: Path, reward: Path, pairs: list[dict]) -> list[list[float]]:
    spec = specs(policy, reward, "chat")["reward"]
    return columns(make_scorer(spec, device=CPU), encode(spec, read(pairs)))["rewards"]


@pytest.mark.parametrize("said", [{"num_labels": 1}, {}], ids=["num_labels", "head"])
def test_one_label_by_the_shape_of_the_head_or_by_its_number(tmp_path, short_pairs, said):
    """Where config.json names no labels, and where only the weights say how many there are."""
    policy, reward = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")
    expected = rewards_of(policy, reward, short_pairs[:3])
    change_config(reward, ("id2label", "label2id"), **said)
    assert rewards_of(policy, reward, short_pairs[:3]) == expected


def test_a_head_of_three_rows_is_refused_whatever_its_config_says(tmp_path):
    policy, reward = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward", num_labels=3)
    change_config(reward, ("label2id",), id2label={"0": "reward"})
    with pytest.raises(ModelError, match="one label, this one has 3"):
        specs(policy, reward, "chat")


def with_token(text: str) -> object:
    """A tokenizer with one special token more than its models have embeddings."""
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [text]})
    return tokenizer


@pytest.mark.parametrize("make", [make_policy, make_reward])
def test_a_special_token_past_the_embedding_refuses_the_rows_that_hold_it(tmp_path, short_pairs, make):
    folders = {"policy": make_policy(tmp_path / "policy"), "reward": make_reward(tmp_path / "reward")}
    name = make.__name__.removeprefix("make_")
    plain = specs(**folders, style="chat", control_tokens="keep")[name]
    folders[name] = make(tmp_path / "longer", tokenizer=with_token("<image>"), vocab_size=len(TOKENIZER))
    longer = specs(**folders, style="chat", control_tokens="keep")[name]
    check_vocabulary(name, longer.files)
    rows = [*short_pairs[:2], {**short_pairs[2], "chosen": "an <image> of it"}]
    scorer = make_scorer(longer, device=CPU)
    scored = scorer.score(encode(longer, read(rows))).table.to_pylist()
    assert [row["reason"] for row in scored] == [None, None, Reason.CONTROL_TOKENS.value]
    assert str(len(TOKENIZER)) in scored[2]["detail"]
    kind = scorer.spec.kind
    expected = columns(make_scorer(plain, device=CPU), encode(plain, read(rows[:2])))[kind]
    assert [row[kind] for row in scored[:2]] == expected


def test_a_special_token_past_the_embedding_that_every_row_needs_refuses_the_model(tmp_path):
    tokenizer = with_token("<turn>")
    tokenizer.chat_template = "{% for m in messages %}<turn>{{ m['content'] }}{% endfor %}"
    policy = make_policy(tmp_path / "policy", tokenizer=tokenizer, vocab_size=len(TOKENIZER))
    spec = specs(policy, make_reward(tmp_path / "reward"), "chat")["policy"]
    with pytest.raises(ModelError, match="larger than the model's embedding: '<turn>'"):
        check_vocabulary("policy", spec.files)


SHAPE = {"vocab_size": len(TOKENIZER), "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 1024, "head_dim": 8}
SHAPE |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1}
PER_LAYER = {"vocab_size_per_layer_input": len(TOKENIZER), "hidden_size_per_layer_input": 8, "sliding_window": 16}
BY_LAYER = {
    "llama4": (
        Llama4ForCausalLM,
        Llama4TextConfig(**SHAPE, intermediate_size_mlp=64, num_local_experts=2, num_experts_per_tok=1),
    ),
    "gemma3n": (
        Gemma3nForCausalLM,
        Gemma3nTextConfig(
            **SHAPE,
            **PER_LAYER,
            laurel_rank=4,
            num_kv_shared_layers=0,
            altup_num_inputs=2,
            layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
            activation_sparsity_pattern=[0.0] * 4,
        ),
    ),
    "gemma4": (Gemma4ForCausalLM, Gemma4TextConfig(**SHAPE, **PER_LAYER)),
}


@pytest.mark.parametrize("name", BY_LAYER)
def test_sizes_that_differ_from_layer_to_layer(tmp_path, short_pairs, name):
    """Their costs are known before they are loaded, and their scores are those of plain forward passes."""
    kind, config = BY_LAYER[name]
    torch.manual_seed(0)
    kind(config).save_pretrained(tmp_path / "policy")
    TOKENIZER.save_pretrained(tmp_path / "policy")
    spec = specs(tmp_path / "policy", make_reward(tmp_path / "reward"), "chat")["policy"]
    assert token_cost(spec.files) > 0
    assert model_cost(spec.files, head=True).parameters > 0
    records = encode(spec, read(short_pairs[:6]))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy").eval()
    with torch.no_grad():
        theirs = [plain_logps(model, record.prompt, y) for record in records for y in record.completions]
    assert_logps_close(flat(columns(make_scorer(spec, device=CPU), records)["logps"]), theirs)


def plain_logps(model: torch.nn.Module, prompt, completion) -> float:
    ids_1L = torch.tensor([[*prompt, *completion]]).long()
    logps = model(input_ids=ids_1L).logits[0, :-1].double().log_softmax(-1).gather(1, ids_1L[0, 1:, None])
    return logps[len(prompt) - 1 :].sum().item()


def t5(folder: Path) -> None:
    sizes = {"vocab_size": len(TOKENIZER), "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    config = T5Config(**sizes, num_labels=1, pad_token_id=0, decoder_start_token_id=0, eos_token_id=2)
    T5ForSequenceClassification(config).save_pretrained(folder)


def test_an_architecture_that_does_not_fit_is_refused_by_name(tmp_path):
    t5(tmp_path / "reward")
    TOKENIZER.save_pretrained(tmp_path / "reward")
    spec = specs(make_policy(tmp_path / "policy"), tmp_path / "reward", "chat")["reward"]
    with pytest.raises(ModelError, match=r"T5ForSequenceClassification\): .*\w") as caught:
        make_scorer(spec, device=CPU)
    assert caught.value.where == f"models.reward.path: {tmp_path / 'reward'}"
    assert "run" not in caught.value.do
    assert caught.value.exit_code == 2


def test_a_model_that_does_not_say_its_sizes_is_refused_before_a_worker_starts(tmp_path):
    policy = change_config(make_policy(tmp_path / "policy"), ("hidden_size",), model_type="perceiver")
    spec = specs(policy, make_reward(tmp_path / "reward"), "chat")["policy"]
    with pytest.raises(ModelError, match=r"sizes of its layers \(LlamaForCausalLM\): .*hidden_size"):
        check_architecture(spec.files, spec.kind, spec.name)


@pytest.mark.parametrize("kind", [AutoModelForCausalLM, AutoModelForSequenceClassification])
@pytest.mark.parametrize("error", [ZeroDivisionError("division by zero"), NotImplementedError(), AssertionError("odd")])
def test_whatever_a_models_classes_raise_is_an_error_of_the_model(tmp_path, monkeypatch, kind, error):
    folders = {"policy": make_policy(tmp_path / "policy"), "reward": make_reward(tmp_path / "reward")}
    spec = specs(**folders, style="chat")["policy" if kind is AutoModelForCausalLM else "reward"]

    def fail(*_, **__) -> None:
        raise error

    monkeypatch.setattr(kind, "from_pretrained", fail)
    with pytest.raises(ModelError, match=f"{spec.files.architecture}.*{str(error) or type(error).__name__}"):
        load_model(spec.files, spec.kind, spec.name, CPU)


def test_a_worker_that_cannot_be_built_says_why_at_its_first_unit():
    """Ray takes an error of a constructor for a lost worker, and the run would ask for the same command again."""

    def fail() -> None:
        raise ZeroDivisionError("a bug")

    build = defer_error(fail)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        build()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_reward_that_its_model_makes_otherwise_is_refused(tmp_path, monkeypatch, multiplies_bfloat16, dtype):
    """Such as from the mean of all states, or from the first."""
    spec = specs(make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward"), "chat")["reward"]
    spec = replace(spec, files=replace(spec.files, dtype=dtype))
    make_scorer(spec, device=CPU)
    monkeypatch.setattr(LinearHead, "tokens", lambda *_: [0])
    with pytest.raises(ModelError, match="makes its reward in a way not known"):
        make_scorer(spec, device=CPU)

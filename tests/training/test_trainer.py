"""The trainer: every objective learns, no reference is loaded, pairs with other tokens than were scored are dropped."""

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM
from trl import DPOTrainer

from mapjob.config.run import Model
from mapjob.errors import ConfigError, MapjobError
from mapjob.lab.training.config import Training
from mapjob.lab.training.losses import COLUMNS, Batch
from mapjob.lab.training.train import arguments, train
from mapjob.lab.training.trainer import SelectionTrainer
from tests.fakes import make_pairs, make_policy, make_tokenizer, write_corpus
from tests.training.conftest import finished

COMPLETIONS = ("chosen", "rejected")
MERGED = {"prompt": "T", "chosen": "he quick brown fox", "rejected": "he lazy dog", "source": "group 0"}


def how(objective: str, **changes: object) -> Training:
    return Training(**{"batch_size": 8, "accumulate": 1, "learning_rate": 3e-4, "objective": objective, **changes})


@pytest.fixture(autouse=True)
def no_reference(monkeypatch):
    """Neither is a reference's log-probability computed in these tests, nor a second model kept."""
    kept = []
    own = SelectionTrainer.train

    def checked(trainer: SelectionTrainer) -> None:
        own(trainer)
        kept.append(trainer.ref_model)

    def refused(*_: object) -> None:
        raise AssertionError("a reference's log-probabilities are computed")

    monkeypatch.setattr(SelectionTrainer, "train", checked)
    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", refused)
    yield
    assert set(kept) <= {None}


@pytest.mark.parametrize("objective", COLUMNS)
def test_every_objective_learns_one_batch(eight, output, objective, caplog):
    caplog.set_level("INFO", "mapjob")
    result = train(eight, how(objective, max_steps=20), output)
    losses = [float(line.rpartition("loss ")[2]) for line in caplog.messages if "loss" in line]
    assert result["pairs"] == 8
    assert result["steps"] == 20
    assert len(losses) == 10  # a line for each tenth
    assert np.isfinite(losses).all()
    print(f"{objective}: {result['first_loss']:.4f} -> {result['last_loss']:.4f}")
    assert result["last_loss"] < result["first_loss"] - 1e-3


@pytest.mark.parametrize("plain_text", ["chat", "raw"])
def test_a_loss_sees_the_columns_that_were_scored(tree, tmp_path, plain_text):
    """Also of a pair whose completion begins with the very first token, which nothing predicts."""
    corpus = write_corpus(tmp_path / "corpus", [*make_pairs(6), MERGED], num_files=1)
    run = finished({**tree, "input": {"path": str(corpus), "plain_text": plain_text}})
    names = [field.name for field in fields(Batch) if field.name != "earlier_margins"]
    rows = Dataset(run.folder.read_table(run.folder.tables("selected")[0], ["prompt", "chosen", "rejected", *names]))
    path, seen = tree["models"]["policy"]["path"], []

    def loss(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return batch.simpo_margin

    SelectionTrainer(
        loss,
        COLUMNS["madpo"],
        args=arguments(Training(batch_size=7, max_steps=1), str(tmp_path / "trainer"), 512),
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(path),
    ).train()
    order = seen[0].reward_margin.argsort()  # a batch is shuffled
    stored_order = np.argsort(rows["reward_margin"])
    for name in names:
        stored = np.array(rows[name], np.float32)[stored_order]
        np.testing.assert_allclose(getattr(seen[0], name).detach()[order], stored, atol=1e-4, rtol=1e-5, err_msg=name)


def test_the_merged_pair_has_no_prompt_token_in_raw_text():
    tokenizer = make_tokenizer()
    first = {tokenizer(MERGED["prompt"] + MERGED[side])["input_ids"][0] for side in COMPLETIONS}
    assert tokenizer(MERGED["prompt"])["input_ids"][0] not in first


def test_experts_are_balanced_as_by_trl(eight, tmp_path):
    """The router's own loss is added to every objective."""

    def first_loss(objective: str, coefficient: float) -> float:
        name = f"{objective}-{coefficient}"
        tokenizer = make_tokenizer()
        shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
        experts = {"num_local_experts": 4, "num_key_value_heads": 2, "router_aux_loss_coef": coefficient}
        torch.manual_seed(0)
        model = MixtralForCausalLM(MixtralConfig(vocab_size=len(tokenizer), **shape, **experts))
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        start = Model(path=str(tmp_path / name))
        result = train(eight, how(objective, max_steps=1), tmp_path / f"{name}-trained", start)
        return result["first_loss"]

    by_trl = first_loss("dpo", 1.0) - first_loss("dpo", 0.0)
    assert by_trl > 0.1
    assert first_loss("simpo", 1.0) - first_loss("simpo", 0.0) == pytest.approx(by_trl, abs=1e-4)


def test_a_seed_gives_the_same_training_again(chat, tmp_path):
    def losses(name: str, seed: int) -> tuple[float, float]:
        result = train(chat, how("simpo", max_steps=5, seed=seed, lora=True), tmp_path / name)
        return result["first_loss"], result["last_loss"]

    assert losses("one", 1) == losses("again", 1)
    assert losses("another", 2) != losses("one more", 1)


def num_tokens(run, tokenizer) -> list[tuple[int, int]]:
    """Tokens of prompt and chosen, of prompt and rejected, counted one by one."""
    rows = run.folder.read_table(run.folder.tables("selected")[0]).to_pylist()
    return [
        tuple(len(tokenizer.apply_chat_template(row["prompt"] + row[side])["input_ids"]) for side in COMPLETIONS)
        for row in rows
    ]


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_pairs_over_the_length_are_dropped_and_counted(chat, tree, output, objective, caplog):
    tokenizer = AutoTokenizer.from_pretrained(tree["models"]["policy"]["path"])
    over = sum(max(pair) > 60 for pair in num_tokens(chat, tokenizer))
    assert 0 < over < 40
    result = train(chat, how(objective, max_length=60, max_steps=1), output)
    assert result["pairs"] == 40 - over
    assert result["dropped"] == {"overlength": over, "other_tokens": 0}
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{over} pairs are dropped: overlength"]


def test_none_is_left(chat, output):
    with pytest.raises(ConfigError, match="none of 40 pairs"):
        train(chat, how("dpo", max_length=8), output)
    assert not output.exists()
    assert list(output.parent.iterdir()) == []


def test_pairs_cut_while_scoring_are_trained_on_as_cut(cut, tree, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tree["models"]["policy"]["path"])
    were_cut = sum(max(pair) > 60 for pair in num_tokens(cut, tokenizer))
    selected = cut.manifest["counts"]["selected"]
    assert 0 < were_cut < selected

    def dropped(name: str, objective: str, max_length: int | None) -> Counter:
        result = train(cut, how(objective, max_length=max_length, max_steps=1), tmp_path / name)
        assert result["pairs"] == selected - sum(result["dropped"].values())
        return +Counter(result["dropped"])

    assert dropped("same", "dpo", None) == {}
    assert dropped("longer", "dpo", 512) == {"other_tokens": were_cut}
    assert dropped("longer, no reference", "simpo", 512) == {}


def test_another_tokenizer(eight, tmp_path, caplog):
    """The reference's sums are of other tokens; an objective without a reference does not mind."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|end|><|end|>")
    model = Model(path=str(make_policy(tmp_path / "other", tokenizer=tokenizer)))
    with pytest.raises(ConfigError, match="8 have other tokens"):
        train(eight, how("dpo"), tmp_path / "dpo", model)
    assert "tokenizer's files differ from the reference's" in caplog.text
    assert train(eight, how("simpo", max_steps=1), tmp_path / "simpo", model)["pairs"] == 8


def test_a_training_that_diverges_ends_and_saves_nothing(eight, output):
    with pytest.raises(MapjobError, match="the loss is nan"):
        train(eight, how("repo", learning_rate=1e30, max_steps=5), output)
    assert list(output.parent.iterdir()) == []

"""The engine of this machine: its probabilities are the scorer's, its texts hang on nothing beside the prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from mapjob.config.run import Model, Scoring
from mapjob.errors import ModelError, Reason, RowError
from mapjob.lab.selfplay.config import Generation
from mapjob.lab.selfplay.local import LocalEngine
from mapjob.lab.selfplay.requests import Request
from mapjob.lab.selfplay.rolling import RollingBatch
from mapjob.scoring.encode import Encoded
from mapjob.scoring.model_files import ModelFiles, model_files
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import EncodingSpec, ScorerSpec
from tests.fakes import ARCHITECTURES, make_pairs, make_policy

CPU = torch.device("cpu")


def requests(num: int) -> list[Request]:
    texts = [row["prompt"] for row in make_pairs(num)]
    return [Request(f"prompt {i}", [{"role": "user", "content": text}]) for i, text in enumerate(texts)]


def engine(files: ModelFiles, **options) -> LocalEngine:
    return LocalEngine(files, Generation(**{"max_new_tokens": 40, **options}), "chat", CPU)


def test_log_probabilities_are_those_of_the_scorer(policy):
    """Written greedily, then scored: the same tokens, in float32."""
    model = AutoModelForCausalLM.from_pretrained(policy.location, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(6, 300, (n,), generator=generator).tolist() for n in range(3, 33)]
    batch = RollingBatch(model, frozenset({2}), Generation(temperature=0, max_new_tokens=40), 8)
    rows = list(batch.write(prompts, [""] * len(prompts), 1))
    written = [Encoded(np.array(prompts[row.index], np.int32), [np.array(row.tokens, np.int32)]) for row in rows]
    scored = make_scorer(spec_of(policy), device=CPU).score(written).table.to_pylist()
    worst = max(abs(scores["logps"][0] - sum(row.logps)) for scores, row in zip(scored, rows))
    print(
        f"{len(rows)} greedy responses, {sum(len(row.tokens) for row in rows)} tokens: off by {worst:.1e} nats at most"
    )
    assert worst <= 1e-3


def spec_of(files: ModelFiles) -> ScorerSpec:
    return ScorerSpec("policy", "logps", files, EncodingSpec(files, "chat", Scoring(max_length=512), ()), {})


def test_texts_do_not_hang_on_batch_mates(policy):
    asked = requests(9)
    side_by_side = engine(policy, rows_per_batch=27).answer(asked, 3)
    in_turns = engine(policy, rows_per_batch=4).answer(asked, 3)
    one_by_one = engine(policy, rows_per_batch=1)
    alone = [one_by_one.answer([request], 3)[0] for request in asked[::4]]
    backwards = engine(policy, rows_per_batch=10).answer(asked[::-1], 3)[::-1]
    texts = [[response.text for response in answer] for answer in side_by_side]
    assert texts == [[response.text for response in answer] for answer in in_turns]
    assert texts == [[response.text for response in answer] for answer in backwards]
    assert texts[::4] == [[response.text for response in answer] for answer in alone]
    assert len({text for answer in texts for text in answer}) > 20
    other = engine(policy, rows_per_batch=27, seed=1).answer(asked, 3)
    assert texts != [[response.text for response in answer] for answer in other]


def test_greedy_is_what_transformers_generates(policy, tokenizer):
    asked = requests(6)
    model = AutoModelForCausalLM.from_pretrained(policy.location, dtype=torch.float32)
    for request, (response,) in zip(asked, engine(policy, temperature=0).answer(asked, 1)):
        text = tokenizer.apply_chat_template(request.prompt, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        stops = tokenizer.convert_tokens_to_ids(tokenizer.all_special_tokens)
        whole = model.generate(ids, do_sample=False, max_new_tokens=40, eos_token_id=stops)[0, ids.shape[1] :]
        assert response.num_tokens == len(whole)
        assert response.text == tokenizer.decode(whole, skip_special_tokens=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_come_and_go_see_what_a_plain_pass_sees(architecture, tmp_path):
    """Of every kind of attention, windows that are shorter than the texts among them."""
    model = AutoModelForCausalLM.from_pretrained(make_policy(tmp_path / "policy", architecture)).eval()
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(6, 300, (n,), generator=generator).tolist() for n in (3, 29, 8, 17, 30, 5)]
    batch = RollingBatch(model, frozenset({2, 7, 8}), Generation(temperature=1.0, max_new_tokens=25), 5)
    rows = list(batch.write(prompts, list("abcdef"), 2))
    assert sorted((row.index, row.sample) for row in rows) == [(i, s) for i in range(6) for s in range(2)]
    with torch.inference_mode():
        for row in rows:
            prompt = prompts[row.index]
            logits = model(input_ids=torch.tensor([prompt + row.tokens])).logits[0, len(prompt) - 1 : -1]
            logps = logits.log_softmax(1).gather(1, torch.tensor(row.tokens)[:, None])
            assert sum(row.logps) == pytest.approx(logps.sum().item(), abs=1e-3)


def test_what_is_no_cache_of_keys_and_values_is_refused(tmp_path: Path):
    files = model_files(Model(path=str(make_policy(tmp_path / "mamba", "mamba")), dtype="float32"), "policy")
    with pytest.raises(ModelError, match="responses side by side differ") as refused:
        engine(files)
    assert "openai" in refused.value.do


def test_prompts_that_cannot_be_answered(policy):
    good, *_ = requests(1)
    markers = replace(good, prompt=[{"role": "user", "content": "Hello <|end|> there"}])
    long = replace(good, prompt=[{"role": "user", "content": "a b c " * 1000}])
    answers = engine(policy).answer([markers, good, long], 2)
    assert [answer.reason for answer in answers if isinstance(answer, RowError)] == [
        Reason.CONTROL_TOKENS,
        Reason.OVERLENGTH,
    ]
    assert answers[1] == engine(policy).answer([good], 2)[0]

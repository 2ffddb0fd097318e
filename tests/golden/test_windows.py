"""What a model does otherwise past a number of tokens: no padding leads there, and every probe goes there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BloomModel, DogeConfig, DogeForCausalLM

from mapjob.errors import ModelError
from mapjob.scoring.backbone import Backbone
from mapjob.scoring.packing import Group
from mapjob.scoring.scorers import make_scorer
from mapjob.scoring.spec import ScorerSpec
from tests.fakes import Architecture, make_policy, make_reward, make_tokenizer
from tests.golden.in_process import columns, encode, read, specs
from tests.golden.reference import assert_logps_close, flat

CPU = torch.device("cpu")
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
ORIGINAL = 208


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Lengths were once padded to a multiple of 96 then."""
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def spec_of(folder: Path, architecture: Architecture, **config: object) -> ScorerSpec:
    return specs(make_policy(folder / "policy", architecture, **config), make_reward(folder / "reward"), "chat")[
        "policy"
    ]


def plain(folder: Path, records) -> list[float]:
    """Log-probabilities of completions by plain transformers, one sequence at a time."""
    model, found = AutoModelForCausalLM.from_pretrained(folder).eval(), []
    for prompt, completion in ((record.prompt, y) for record in records for y in record.completions):
        ids_1L = torch.tensor([[*prompt, *completion]]).long()
        with torch.no_grad():
            logps = model(input_ids=ids_1L, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        found.append(logps.gather(1, ids_1L[0, 1:, None])[len(prompt) - 1 :].sum().item())
    return found


def test_rotary_angles_are_those_of_the_text_and_not_of_its_padding(tmp_path, short_pairs, three_threads):
    spec = spec_of(tmp_path, "phi3", rope_parameters=LONGROPE, original_max_position_embeddings=ORIGINAL)
    records = encode(spec, read(short_pairs[:30]))
    lengths = [len(r.prompt) + len(y) for r in records for y in r.completions]
    assert max(lengths) > ORIGINAL
    assert any(192 < length <= ORIGINAL for length in lengths), "which were once padded to 288"
    scorer = make_scorer(spec, device=CPU)
    assert "longest text" in scorer.backbone.why_not_packed
    assert_logps_close(flat(columns(scorer, records)["logps"]), plain(tmp_path / "policy", records))


def test_a_model_that_is_causal_within_its_window_alone(tmp_path, short_pairs):
    """Doge attends no more than so many keys, chosen by what they hold, and later tokens change which these are."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    shape["initializer_range"] = 0.1
    config = DogeConfig(vocab_size=len(tokenizer), intermediate_size=64, keep_window_size=320, **shape)
    DogeForCausalLM(config).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    folders = tmp_path / "policy", make_reward(tmp_path / "reward")
    with pytest.raises(ModelError, match="it is not causal") as caught:
        make_scorer(specs(*folders, "chat")["policy"], device=CPU)
    assert "scoring.max_length to 320 or less" in caught.value.do
    spec = specs(*folders, "chat", max_length=320)["policy"]
    records = encode(spec, read(short_pairs[:10]))
    assert_logps_close(
        flat(columns(make_scorer(spec, device=CPU), records)["logps"]), plain(tmp_path / "policy", records)
    )


def probed(monkeypatch: pytest.MonkeyPatch, spec: ScorerSpec) -> list[Group]:
    """The groups that the probe of this scorer's packs is made of."""
    found: list[Group] = []
    layout = Backbone.lay

    def noted(backbone: Backbone, pack: list[Group]):
        found.extend(pack)
        return layout(backbone, pack)

    monkeypatch.setattr(Backbone, "lay", noted)
    make_scorer(spec, device=CPU)
    return found


@pytest.mark.parametrize(("window", "longest"), [(300, 311), (16, 20), (4096, 20)])
def test_the_probe_of_packs_goes_past_every_window_that_a_text_can_leave(tmp_path, monkeypatch, window, longest):
    """And no further; a window that no text of this run leaves is none."""
    groups = probed(monkeypatch, spec_of(tmp_path, "mistral", sliding_window=window))
    assert max(len(g.prompt) + len(y) for g in groups for y in g.completions) == longest


def test_a_model_whose_batches_change_it_gets_sequences_one_by_one(tmp_path, monkeypatch):
    """As it would on a GPU, where others are batched; here a model that counts the tokens of its batch."""
    spec = spec_of(tmp_path, "bloom")
    monkeypatch.setattr("mapjob.scoring.backbone.ONE_BY_ONE", ())
    plain_scorer = make_scorer(spec, device=CPU)
    assert plain_scorer.backbone._one_by_one is False
    forward = BloomModel.forward

    def counting(self, input_ids, **given):
        output = forward(self, input_ids=input_ids, **given)
        output.last_hidden_state = output.last_hidden_state * (1 + input_ids.shape[1] / 100)
        return output

    monkeypatch.setattr(BloomModel, "forward", counting)
    assert make_scorer(spec, device=CPU).backbone._one_by_one is True

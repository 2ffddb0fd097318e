"""Log-probabilities and rewards against a float64 computation by plain transformers calls, one sequence at a time.

The reference shares nothing with mapjob but the model folders: its own tokenisation, its own boundary, no batches, no
padding, eager attention, weights and activations in float64. (transformers keeps rotary angles and RMS norms in
float32 by itself.) Each case is an architecture with another kind of tokenizer; padding and BOS must not matter.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from mapjob.scoring.scorers import make_scorer
from tests.fakes import ARCHITECTURES, Architecture, make_config, make_policy, make_reward, make_tokenizer
from tests.golden.conftest import evenly
from tests.golden.in_process import columns, encode, read, specs
from tests.golden.reference import assert_logps_close, assert_rewards_close, flat, in_float64, reward_of, summed_logps

SIDES = ("chosen", "rejected")
LEFT = {"padding_side": "left"}
PAD_IS_EOS = {"pad_is_eos": True}
ENDS_IN_EOS = {"pad_is_eos": True, "ends_in_eos": True}
BOS = {"bos": True}
NO_TEMPLATE = {"chat": False}

# Boundaries that real pairs rarely have: words, spaces and line ends that merge across it, and nothing before it.
EDGES = [
    {"prompt": "Please wri", "chosen": "te a poem", "rejected": "ng the bell"},
    {"prompt": "The quick brown", "chosen": "fox", "rejected": " fox"},
    {"prompt": "What is 1", "chosen": "2 + 30?", "rejected": "?"},
    {"prompt": "The sea\n", "chosen": "\nsings", "rejected": "\n\nis deep"},
    {"prompt": "", "chosen": "def add(a, b):", "rejected": "\nnaïve café – 東京 🙂"},
]


@dataclass(frozen=True)
class Case:
    """An architecture, how text meets it, and the tokenizers of its policy and reward model."""

    architecture: Architecture
    style: str
    policy: dict[str, Any] = field(default_factory=dict)
    reward: dict[str, Any] = field(default_factory=dict)
    num_pairs: int = 200

    def __str__(self) -> str:
        kinds = ["+".join(f"{name}={value}" for name, value in kind.items()) for kind in (self.policy, self.reward)]
        return "-".join([self.architecture, self.style, *(kind or "plain" for kind in kinds)])


CASES = [
    Case("llama", "chat", {}, ENDS_IN_EOS),
    Case("qwen2", "chat", LEFT, PAD_IS_EOS | LEFT),
    Case("gemma2", "chat", BOS, BOS | LEFT),
    Case("gpt_neox", "chat", PAD_IS_EOS, LEFT),
    Case("gpt2", "chat", BOS | PAD_IS_EOS | LEFT, ENDS_IN_EOS | BOS | LEFT),
    Case("llama", "raw", NO_TEMPLATE, NO_TEMPLATE | PAD_IS_EOS, 40),
    Case("qwen2", "raw", NO_TEMPLATE | BOS | LEFT, NO_TEMPLATE | BOS | PAD_IS_EOS | LEFT, 40),
    Case("gemma2", "raw", NO_TEMPLATE | BOS, {}, 40),  # a reward model with a template gets it all the same
    Case("gpt_neox", "raw", LEFT, NO_TEMPLATE | BOS, 40),
    Case("gpt2", "raw", NO_TEMPLATE | PAD_IS_EOS, NO_TEMPLATE | LEFT, 40),
    Case("mistral", "chat", LEFT, ENDS_IN_EOS, 40),
    Case("qwen3", "chat", PAD_IS_EOS, LEFT, 40),
    Case("gemma3", "chat", BOS, BOS | PAD_IS_EOS, 40),
    Case("phi3", "raw", NO_TEMPLATE | BOS, NO_TEMPLATE | BOS | LEFT, 40),
    Case("olmo2", "chat", BOS | PAD_IS_EOS, ENDS_IN_EOS | LEFT, 40),
]


@dataclass(frozen=True)
class Computed:
    """What mapjob and the reference make of the same pairs: a list of two for each pair."""

    ours: dict[str, list[Any]]
    theirs: dict[str, list[Any]]


@pytest.fixture(scope="module", params=CASES, ids=str)
def computed(request, tmp_path_factory, short_pairs) -> Computed:
    case: Case = request.param
    folder = tmp_path_factory.mktemp("models")
    policy = make_policy(folder / "policy", case.architecture, tokenizer_of(**case.policy))
    reward = make_reward(folder / "reward", case.architecture, tokenizer_of(**case.reward))
    pairs = evenly(short_pairs, case.num_pairs) + EDGES
    return Computed(ours(policy, reward, pairs, case.style), theirs(policy, reward, pairs, case.style))


def test_architectures_are_covered():
    assert {case.architecture for case in CASES} == set(ARCHITECTURES)
    assert len({case.architecture for case in CASES if case.num_pairs == 200}) == 5


def test_token_ids(computed):
    assert computed.ours["policy_ids"] == computed.theirs["policy_ids"]
    assert computed.ours["reward_ids"] == computed.theirs["reward_ids"]


def test_num_tokens(computed):
    assert computed.ours["num_tokens"] == computed.theirs["num_tokens"]


def test_logps(computed):
    assert_logps_close(flat(computed.ours["logps"]), flat(computed.theirs["logps"]))


def test_rewards(computed):
    theirs = flat(computed.theirs["rewards"])
    assert_rewards_close(flat(computed.ours["rewards"]), theirs)
    assert max(theirs) - min(theirs) > 0.1, "rewards that are all alike would agree whatever is computed"


def test_one_bos(tmp_path, short_pairs):
    """A template that writes BOS and a tokenizer that adds one give one together, in either style."""
    for style, chat in (("chat", True), ("raw", False)):
        tokenizer = make_tokenizer(bos=True, chat=chat)
        policy = make_policy(tmp_path / f"policy-{style}", "llama", tokenizer)
        reward = make_reward(tmp_path / f"reward-{style}", "llama", tokenizer)
        spec = specs(policy, reward, style)["policy"]
        for item in encode(spec, read(short_pairs[:40])):
            for completion in item.completions:
                ids = [*item.prompt, *completion]
                assert ids[0] == tokenizer.bos_token_id
                assert ids.count(tokenizer.bos_token_id) == 1


def test_soft_caps_that_bind(tmp_path, short_pairs):
    """Gemma 2 with caps so low that leaving either out moves every number."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    caps = {"attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.5}
    model = AutoModelForCausalLM.from_config(make_config("gemma2", tokenizer, **caps))
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    reward = make_reward(tmp_path / "reward", "gemma2", tokenizer, **caps)
    pairs = short_pairs[:20]
    mine, reference = (f(tmp_path / "policy", reward, pairs, "chat") for f in (ours, theirs))
    assert_logps_close(flat(mine["logps"]), flat(reference["logps"]))
    assert_rewards_close(flat(mine["rewards"]), flat(reference["rewards"]))


def test_truncated_completions(tmp_path, short_pairs):
    """overlength: keep_start scores what is left of the sequence, and counts only that."""
    policy, reward = make_policy(tmp_path / "policy"), make_reward(tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    pairs = [row for row in short_pairs if len(prompt_ids(tokenizer, row, "chat")) < 90]
    starts = lambda row: [dialogue_ids(tokenizer, row, side, "chat")[:96] for side in SIDES]  # noqa: E731
    pairs = [row for row in pairs if len({tuple(ids) for ids in starts(row)}) == 2][:40]
    mine = ours(policy, reward, pairs, "chat", max_length=96, overlength="keep_start")
    reference = theirs(policy, reward, pairs, "chat", max_length=96)
    assert max(map(len, flat(mine["policy_ids"]))) == 96
    assert mine["policy_ids"] == reference["policy_ids"]
    assert mine["num_tokens"] == reference["num_tokens"]
    assert_logps_close(flat(mine["logps"]), flat(reference["logps"]))
    assert_rewards_close(flat(mine["rewards"]), flat(reference["rewards"]))


def tokenizer_of(*, ends_in_eos: bool = False, **kind: Any) -> PreTrainedTokenizerFast:
    """ends_in_eos: the template's last token is EOS, where it otherwise is a line end."""
    tokenizer = make_tokenizer(**kind)
    if ends_in_eos:
        tokenizer.chat_template = tokenizer.chat_template.replace("'<|end|>\n'", "'<|end|>'")
        assert "<|end|>'" in tokenizer.chat_template
    return tokenizer


# mapjob's side


def ours(policy: Path, reward: Path, pairs: list[dict], style: str, **scoring: Any) -> dict[str, list[Any]]:
    by_name, records = specs(policy, reward, style, **scoring), read(pairs)
    computed = {}
    for name, spec in by_name.items():
        encoded = encode(spec, records)
        computed |= columns(make_scorer(spec, device=torch.device("cpu")), encoded)
        computed[f"{name}_ids"] = [[[*e.prompt, *completion] for completion in e.completions] for e in encoded]
    return computed


# The reference


def theirs(
    policy: Path, reward: Path, pairs: list[dict], style: str, max_length: int | None = None
) -> dict[str, list[Any]]:
    computed: dict[str, list[Any]] = {"logps": [], "num_tokens": [], "rewards": [], "policy_ids": [], "reward_ids": []}
    tokenizer, model = AutoTokenizer.from_pretrained(policy), in_float64(AutoModelForCausalLM, policy)
    for row in pairs:
        prompt = prompt_ids(tokenizer, row, style)
        both = [dialogue_ids(tokenizer, row, side, style) for side in SIDES]
        start = min(common_prefix_length(prompt, ids) for ids in both)
        both = [ids[:max_length] for ids in both]
        first = max(start, 1)  # nothing predicts the first token of all
        computed["policy_ids"].append(both)
        computed["logps"].append([summed_logps(model, ids, first) for ids in both])
        computed["num_tokens"].append([len(ids) - first for ids in both])
    tokenizer, model = AutoTokenizer.from_pretrained(reward), in_float64(AutoModelForSequenceClassification, reward)
    style = "chat" if tokenizer.chat_template else style
    for row in pairs:
        both = [dialogue_ids(tokenizer, row, side, style)[:max_length] for side in SIDES]
        computed["reward_ids"].append(both)
        computed["rewards"].append([reward_of(model, ids) for ids in both])
    return computed


def prompt_ids(tokenizer: PreTrainedTokenizerFast, row: dict[str, str], style: str) -> list[int]:
    if style == "raw":
        return tokenizer(row["prompt"])["input_ids"]
    messages = [{"role": "user", "content": row["prompt"]}]
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, add_generation_prompt=True)


def dialogue_ids(tokenizer: PreTrainedTokenizerFast, row: dict[str, str], side: str, style: str) -> list[int]:
    if style == "raw":
        return tokenizer(row["prompt"] + row[side] + tokenizer.eos_token)["input_ids"]
    messages = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


def common_prefix_length(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length

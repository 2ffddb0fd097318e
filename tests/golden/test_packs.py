"""Packs of every architecture against float64, one sequence at a time, on records that show how packs lie.

Several completions of a prompt, one alone, empty prompts, one-token prompts and completions, and texts longer than
sliding windows and blocks of queries. Architectures that take no packs get the same numbers from batches.
"""

from dataclasses import replace

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from mapjob.scoring.encode import Encoded
from mapjob.scoring.scorers import Scorer
from tests.fakes import ARCHITECTURES, UNPACKED, make_tokenizer
from tests.golden.random_ids import make_models, make_scorers, numbers, random_record, sequences
from tests.golden.reference import assert_logps_close, assert_rewards_close, flat, in_float64, reward_of, summed_logps

SHAPES = [
    (20, [9]),
    (31, [4, 17]),
    (7, [1, 6, 2, 30, 11]),
    (40, [3, 1, 12, 25, 8, 8, 1, 19, 2, 33, 5, 7, 14]),
    (0, [10]),
    (0, [2, 21, 5]),
    (1, [1, 1, 4]),
    (150, [140, 1, 3]),  # more than a block of queries in the prompt and in a completion
]


def records() -> list[Encoded]:
    generator = np.random.default_rng(0)
    return [random_record(generator, prompt, lengths, 400) for prompt, lengths in SHAPES]


def assert_as_in_float64(scorer: Scorer, of: list[Encoded]) -> None:
    """The scorer's numbers are those of plain transformers in float64."""
    ours, folder = flat(numbers(scorer, of)), scorer.spec.files.folder()
    if scorer.spec.kind == "logps":
        model = in_float64(AutoModelForCausalLM, folder)
        assert_logps_close(ours, [summed_logps(model, ids, first) for ids, first in sequences(of)])
    else:
        model = in_float64(AutoModelForSequenceClassification, folder)
        assert_rewards_close(ours, [reward_of(model, ids) for ids, _ in sequences(of)])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packs(tmp_path, architecture):
    for name, scorer in make_scorers(make_models(tmp_path, architecture)).items():
        assert scorer.backbone.why_not_packed is None
        assert str(scorer).startswith(f"{name}: CPU, float32, shared-prompt packing, 4,096 tokens per pack")
        assert_as_in_float64(scorer, records())


@pytest.mark.parametrize("architecture", UNPACKED)
def test_batches(tmp_path, architecture):
    for name, scorer in make_scorers(make_models(tmp_path, architecture)).items():
        assert scorer.backbone.why_not_packed
        reason = "its attention cannot be replaced"
        assert str(scorer) == f"{name}: CPU, float32, length-sorted batches because {reason}"
        assert_as_in_float64(scorer, records())


@pytest.mark.parametrize("window", [1, 2, 127, 128, 129, 200])
def test_sliding_windows_and_blocks_of_queries(tmp_path, window):
    """Windows around the length of a block, and texts longer than both."""
    generator = np.random.default_rng(1)
    shapes = [(300, [290, 5]), (0, [300]), (129, [1, 127, 128]), (10, [260])]
    of = [random_record(generator, prompt, lengths, 400) for prompt, lengths in shapes]
    for scorer in make_scorers(make_models(tmp_path, "mistral", sliding_window=window)).values():
        assert scorer.backbone.why_not_packed is None
        assert_as_in_float64(scorer, of)


def test_a_prompt_that_is_repeated_in_several_packs(tmp_path):
    for scorer in make_scorers(make_models(tmp_path, "llama"), tokens=64).values():
        assert_as_in_float64(scorer, records())


def test_pad_tokens_in_a_reward_models_text(tmp_path):
    """pad == eos: the reward is read before the last run of it, and at the first token where there is nothing else."""
    models = make_models(tmp_path, "llama", tokenizer=make_tokenizer(pad_is_eos=True))
    scorer = make_scorers(models)["reward"]
    record = random_record(np.random.default_rng(2), 12, [6, 5, 4, 3], 400)
    pad = scorer.spec.files.config["pad_token_id"]
    inside, at_the_end, only, run = record.completions
    inside[2], at_the_end[-1:], only[:], run[1:] = pad, pad, pad, pad
    nothing_else = Encoded(np.full(5, pad, np.int32), [np.full(2, pad, np.int32)])
    assert_as_in_float64(scorer, [record, nothing_else, replace(record, prompt=record.prompt[:0])])

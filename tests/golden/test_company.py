"""Real pairs score the same in any company: order of rows, records around a sequence, its place in a record."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from mapjob.corpus.reading import as_chat
from mapjob.corpus.records import Record
from mapjob.metrics.map import reward_margin, simpo_margin
from mapjob.scoring.budget import Budget
from mapjob.scoring.encode import Encoded
from mapjob.scoring.scorers import make_scorer
from tests.fakes import ARCHITECTURES, make_policy, make_reward
from tests.golden.conftest import evenly
from tests.golden.in_process import columns, encode, read, specs

TOLERANCE = 1e-4
NUM_PAIRS = 60


class Scorers:
    """The policy and the reward model of one architecture, with the real pairs that they score."""

    def __init__(self, folder: Path, architecture: str, pairs: list[dict[str, str]]):
        policy = make_policy(folder / "policy", architecture)
        reward = make_reward(folder / "reward", architecture)
        self.specs = specs(policy, reward, "chat")
        self.scorers = {name: make_scorer(spec, device=torch.device("cpu")) for name, spec in self.specs.items()}
        self.pairs = pairs
        self.alone = self.score(self.encode(pairs), tokens_per_batch=1)

    def encode(self, pairs: list[dict[str, str]]) -> dict[str, list[Encoded]]:
        return self.encode_records(read(pairs))

    def encode_records(self, records: list[Record]) -> dict[str, list[Encoded]]:
        return {name: encode(spec, records) for name, spec in self.specs.items()}

    def score(self, encoded: dict[str, list[Encoded]], tokens_per_batch: int = 4096) -> dict[str, list[Any]]:
        scored = {}
        for name, scorer in self.scorers.items():
            scorer.budget = Budget(tokens_per_batch, "as the test says")
            scored |= columns(scorer, encoded[name])
        return {name: scored[name] for name in ("logps", "num_tokens", "rewards")}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def scorers(request, tmp_path_factory, short_pairs) -> Scorers:
    return Scorers(tmp_path_factory.mktemp(request.param), request.param, evenly(short_pairs, NUM_PAIRS))


def assert_same(scored: dict[str, list[Any]], expected: dict[str, list[Any]]) -> None:
    assert scored["num_tokens"] == expected["num_tokens"]
    for name in ("logps", "rewards"):
        assert flat(scored[name]) == pytest.approx(flat(expected[name]), rel=0, abs=TOLERANCE)


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def test_order_of_rows(scorers):
    """To the last bit; test_batch_mates has the hard cases."""
    order = np.random.default_rng(0).permutation(NUM_PAIRS)
    for tokens_per_batch in (256, 4096):
        scored = scorers.score(scorers.encode([scorers.pairs[i] for i in order]), tokens_per_batch)
        assert scored == {name: [values[i] for i in order] for name, values in scorers.alone.items()}


def test_swapped_sides_negate_the_margins(scorers):
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in scorers.pairs]
    scored = scorers.score(scorers.encode(swapped))
    for margin in (rewards_apart, simpo_apart):
        margins = margin(scorers.alone)
        assert np.abs(margins).max() > 100 * TOLERANCE
        np.testing.assert_allclose(margin(scored), -margins, rtol=0, atol=TOLERANCE)


def rewards_apart(scored: dict[str, list[Any]]) -> np.ndarray:
    return reward_margin(*np.array(scored["rewards"]).T)


def simpo_apart(scored: dict[str, list[Any]]) -> np.ndarray:
    return simpo_margin(*np.array(scored["logps"]).T, *np.array(scored["num_tokens"]).T)


def test_the_same_sequences_elsewhere(scorers):
    """A repeat of a record, and of its sides in other records, changes nothing and costs no forward pass."""
    first, second, third = scorers.pairs[:3]
    mixed = {"prompt": first["prompt"], "chosen": first["rejected"], "rejected": first["chosen"] + " Or not?"}
    encoded = scorers.encode([first, second, mixed, third, first])
    scored = scorers.score(encoded)
    for name in ("logps", "num_tokens", "rewards"):
        assert scored[name][0] == scored[name][4]
        assert scored[name][0][1] == scored[name][2][0]
    assert_same({name: values[:2] for name, values in scored.items()}, head(scorers.alone, 2))
    for name, scorer in scorers.scorers.items():
        assert scorer.score(encoded[name]).num_tokens == scorer.score(encoded[name][:4]).num_tokens


def head(scored: dict[str, list[Any]], num: int) -> dict[str, list[Any]]:
    return {name: values[:num] for name, values in scored.items()}


def test_a_group_equals_its_pairs(scorers, shared):
    """N completions of one prompt score as in N pairs of that prompt."""
    for group in real_groups(shared):
        completions = group.completions
        pairs = [Record(group.prompt, [text, completions[i - 1]]) for i, text in enumerate(completions)]
        together, in_pairs = (scorers.score(scorers.encode_records(records)) for records in ([group], pairs))
        assert len(together["logps"][0]) == len(completions) >= 4
        assert_same(together, {name: [[row[0] for row in values]] for name, values in in_pairs.items()})


def real_groups(shared: Path) -> list[Record]:
    """Six real prompts with all their short responses, of which each has at least four different ones."""
    groups = []
    for row in pq.read_table(shared / "data" / "alpaca_eval_candidates").to_pylist():
        texts = list(dict.fromkeys(r["text"] for r in row["responses"] if 0 < len(r["text"].strip()) <= 250))
        if len(texts) >= 4 and len(row["prompt"]) <= 100:
            groups.append(as_chat(Record(row["prompt"], texts)))
    return groups[:6]

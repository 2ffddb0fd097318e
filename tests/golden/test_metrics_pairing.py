"""Best-of-N^2 on real candidates: 805 prompts with 12 or 13 responses each, against all ordered pairs in plain Python.

Token ids are those of the small tokenizer, of the first 40 tokens; rewards and log-probabilities are made.
"""

import numpy as np
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from mapjob.metrics.dcrm import edit_distances
from mapjob.ranking.pairing import best_by_dcrm
from tests.golden import plain_metrics as plain


@pytest.fixture(scope="module")
def responses(shared) -> list[list[list[int]]]:
    """Token ids of each response of each prompt."""
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "small" / "policy")
    rows = pq.read_table(shared / "data" / "alpaca_eval_candidates", columns=["responses"])["responses"].to_pylist()
    return [[tokenizer(response["text"][:400])["input_ids"][:40] for response in row] for row in rows]


def test_best_of_all_ordered_pairs(responses):
    rng = np.random.default_rng(0)
    offsets = np.cumsum([0, *map(len, responses)])
    rewards = rng.normal(size=offsets[-1]).round(1)  # with ties
    logps = -rng.gamma(20, 5, offsets[-1])
    distances = np.concatenate([edit_distances([np.array(ids) for ids in row]) for row in responses])
    ours = best_by_dcrm(rewards, logps, distances, offsets)

    assert len(responses) == 805
    assert ours.record.tolist() == list(range(805))
    at = 0
    for record, row in enumerate(responses):
        scores = {}
        for a in range(len(row)):
            for b in range(a + 1, len(row)):
                for chosen, rejected in ((a, b), (b, a)):
                    one, other = offsets[record] + chosen, offsets[record] + rejected
                    if rewards[one] > rewards[other]:
                        sides = {"chosen_reward": rewards[one], "rejected_reward": rewards[other]}
                        sides |= {"chosen_logps": logps[one], "rejected_logps": logps[other]}
                        scores[chosen, rejected] = plain.dcrm({**sides, "edit_distance": distances[at]}, 1.0)
                at += 1
        best = scores[int(ours.chosen[record]), int(ours.rejected[record])]
        assert best == pytest.approx(max(scores.values()), rel=1e-12)
    assert at == len(distances)
    first = offsets[ours.record]
    assert (rewards[first + ours.chosen] > rewards[first + ours.rejected]).all()


def test_edit_distances_of_real_responses(responses):
    for row in responses[::200]:
        expected = [plain.levenshtein(row[a], row[b]) for a in range(len(row)) for b in range(a + 1, len(row))]
        assert edit_distances([np.array(ids) for ids in row]).tolist() == expected

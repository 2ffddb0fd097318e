"""Wrong labels and disturbed rewards: MAP does not move by a bit, map_signed finds them, and nothing else changes."""

import numpy as np
import pytest

from mapjob.lab.validation.labels import disturb_rewards, label_noise
from mapjob.lab.validation.selections import Corpus, Selections
from mapjob.ranking.compare import Choice


@pytest.fixture(scope="module")
def corpus(validation, result) -> Corpus:
    return Corpus.of(validation.everything)


def test_map_is_the_same_to_the_last_bit_for_any_labels(validation, corpus):
    flipped = np.zeros(corpus.job.plan.num_rows, bool)
    flipped[corpus.pairs.position[corpus.column("flipped")]] = True
    for swap in (flipped, ~flipped, np.random.default_rng(0).random(len(flipped)) < 0.5):
        other = corpus.change(lambda pairs, swap=swap: pairs.swap(swap[pairs.position]))
        assert (other.everything.reward_margin != corpus.everything.reward_margin).any()
        for alpha in (0.25, 1.0, 2.5):
            choice = Choice("map", alpha, 0.4)
            before, after = (pairs.ranking(choice, validation.run.selection) for pairs in (corpus, other))
            for part in (swap, ~swap):
                rows = part[corpus.pairs.position]
                assert np.sort(before.score[rows]).tobytes() == np.sort(after.score[rows]).tobytes()
            assert before.score.tobytes() == after.score.tobytes()
            assert (before.kept == after.kept).all()


def test_map_signed_finds_wrong_labels(validation, result, corpus):
    margin, flipped = corpus.everything.reward_margin, corpus.column("flipped")
    assert ((margin > 0) != flipped).mean() >= 0.75
    rows = {(row["metric"], row["alpha"]): row for row in result["label_noise"]}
    assert rows["map_signed", 1.0]["auroc"] >= 0.8
    assert rows["map_signed", 1.0]["selected"] < rows["map", 1.0]["selected"]
    assert rows["map", 1.0]["moved"] == 0.0 == rows["random", None]["moved"]
    assert rows["map_signed", 1.0]["moved"] > 0
    assert {row["flipped"] for row in rows.values()} == {flipped.mean()}


def test_labels_that_are_swapped_anew_are_found_too(validation, corpus):
    own = validation.model_copy(update={"label_noise": 0.2, "metrics": {"map": (1.0,), "map_signed": (1.0,)}})
    by_chance, blind, signed = label_noise(own, Selections(own, corpus, {}))
    assert (by_chance["metric"], blind["metric"], signed["metric"]) == ("random", "map", "map_signed")
    assert signed["flipped"] == pytest.approx(0.2, abs=0.08)
    assert signed["auroc"] > max(0.65, blind["auroc"])  # what was wrong before counts as right here
    assert blind["moved"] == 0.0


def test_selections_follow_disturbed_rewards(validation, result, corpus):
    rows = {(row["metric"], row["alpha"], row["disturbance"]): row for row in result["disturbed"]}
    for metric, alpha in (("map", 1.0), ("map_signed", 1.0), ("random", None)):
        plain, scaled, biased = (rows[metric, alpha, name] for name in ("none", "scale 10", "length 1"))
        assert plain["same"] == scaled["same"] == 1.0
        assert scaled["length_gap"] == plain["length_gap"]
        assert biased["longer_preferred"] > plain["longer_preferred"]
    assert rows["map", 1.0, "length 1"]["length_gap"] > rows["map", 1.0, "none"]["length_gap"]
    assert rows["random", None, "length 1"]["same"] == 1.0
    assert 0 < rows["map", 1.0, "noise 0.5"]["same"] < 1
    alone = validation.model_copy(update={"metrics": {}})
    at_random = [row for row in result["disturbed"] if row["metric"] == "random"]
    assert disturb_rewards(alone, Selections(alone, corpus, {})) == at_random

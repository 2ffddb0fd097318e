"""A corpus that is ranked and published in pieces: the same bytes as in one, however it is cut, here and on Ray."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mapjob import collective
from mapjob.collective import Local
from mapjob.config.load import parse_config
from mapjob.config.selection import Selection
from mapjob.errors import ConfigError
from mapjob.job import prepare, rank
from mapjob.job.rank import sweep_job
from mapjob.job.run import load_scores, rank_job
from mapjob.metrics.quantiles import quantiles
from mapjob.metrics.table import METRICS
from mapjob.pipeline import cluster, on_ray
from mapjob.ranking.compare import choices
from mapjob.ranking.gather import collect, drop
from mapjob.ranking.rank import rank_pairs
from mapjob.selection import spool
from mapjob.selection.decisions import ANSWERS
from mapjob.store.run_folder import path_of
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.golden.columns import pairs_of
from tests.golden.test_rank_by_metric import COLUMNS, REWARDS, SIGNAL
from tests.without_ray import run

SIGNALS = {name: options for name, (options, _) in SIGNAL.items()}
SELECTIONS = {
    "plain": {},
    "every rule": {
        "metric": "map_signed",
        "metrics": ["explicit", "random", "dcrm"],
        "signals": {"amapo_margin": {}, "gamma_po_margin": {}},
        "held_out": 0.2,
        "on_disagreement": "relabel",
        "per_prompt": 2,
        "quotas": {"web": 0.3},
        "keep": {"tokens": 700},
    },
    "goals": {"signals": {"reward_goals": {}}, "per_prompt": 1, "keep": {"ratio": 0.6}},
    "middle": {"keep": {"between": [0.3, 0.7]}, "per_prompt": 1},
    "threshold": {"on_disagreement": "drop", "keep": {"threshold": 0.5}, "metric": "explicit"},
    "nothing": {"keep": {"count": 0}},
    "decisions": {
        "exclude": {"groups": ["group 1", "group 9"], "ids": "DECISIONS/ids.txt"},
        "verdicts": "DECISIONS/verdicts.jsonl",
        "where": "length(prompt) % 7 > 0 and chosen_num_tokens < 60 and pair_id > '3'",
        "on_disagreement": "drop",
        "held_out": 0.2,
        "quotas": {"group 0": 0},
        "keep": {"ratio": 0.8},
    },
}
VOTES = {
    "a majority drops": {"on_disagreement": "drop", "votes": "majority", "per_prompt": 1, "keep": {"ratio": 0.8}},
    "all relabel": {"on_disagreement": "relabel", "votes": "all", "exclude": {"ids": "DECISIONS/ids.txt"}},
}
CANDIDATES = {
    "sigma": {"pairing": "best_sigma", "metric": "length_free", "metrics": ["data_map", "chosen_quality"]},
    "several": {"pairing": "map", "pairs_per_record": 2, "keep": {"ratio": 0.7}},
    "decided": {
        "pairing": "ranked",
        "pairs_per_record": 3,
        "verdicts": "DECISIONS/verdicts.jsonl",
        "exclude": {"ids": "DECISIONS/ids.txt"},
        "where": "reward_margin > 0.1 or label_agrees is false",
        "keep": {"ratio": 0.9},
    },
    "ensemble": {"metric": "ensemble_worst", "metrics": ["ensemble_bees"], "held_out": 0.3, "keep": {"ratio": 1.0}},
}


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Scored corpora: of pairs, with repeats and rows without an answer, the same with three reward models, and of
    candidates with two.
    """
    folder = tmp_path_factory.mktemp("pieces")
    rows = make_pairs(120)
    for i in range(0, 120, 10):
        rows[i] = {
            **rows[i],
            "chosen": rows[i + 1]["chosen"],
            "rejected": rows[i + 1]["rejected"],
            "prompt": rows[i + 1]["prompt"],
        }
    rows[33]["chosen"] = rows[91]["chosen"] = None
    policy, rewards = make_policy(folder / "policy"), [make_reward(folder / f"reward{i}", seed=i) for i in range(3)]
    pairs = config_tree(write_corpus(folder / "in", rows), folder / "out", policy, rewards[0])
    many = [
        {"prompt": f"q {i}", "responses": [f"{r['chosen']} {k}" for k in range(2 + i % 3)]}
        for i, r in enumerate(make_pairs(60))
    ]
    candidates = config_tree(write_corpus(folder / "in2", many, row_group_size=9), folder / "out2", policy, rewards[0])
    candidates["models"]["reward"] = {name: {"path": str(path)} for name, path in zip("ab", rewards)}
    for tree in (pairs, candidates):
        tree["execution"] = {"rows_per_unit": 9}
        tree["max_error_rate"] = 0.1
    pairs["input"]["columns"] = {"group": "source"}
    by_name = {name: {"path": str(path)} for name, path in zip("abc", rewards)}
    voted = {**pairs, "models": {**pairs["models"], "reward": by_name}}
    run(parse_config({**voted, "selection": {"metric": "random"}}))
    several = {"pairing": "ranked", "pairs_per_record": 3}
    ids: list[str] = []
    for tree, selection in ((pairs, SELECTIONS["every rule"]), (candidates, several)):
        finished = path_of(run(parse_config({**tree, "selection": selection})))
        ids += load_scores(finished)["pair_id"].to_pylist()
        shutil.rmtree(finished)
        rank_job(parse_config({**tree, "selection": {"metric": "random"}}), promote=True)  # others go by it
    answers = [{"pair_id": one, "verdict": ANSWERS[i % 3]} for i, one in enumerate(sorted(ids)[::4])]
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    (folder / "ids.txt").write_text("\n".join([*sorted(ids)[1::9], "nobody"]))
    return {"pairs": pairs, "voted": voted, "candidates": candidates, "folder": folder}


def selection_of(trees: dict[str, Any], name: str) -> dict[str, Any]:
    """By its name; files of decisions lie in the folder of the corpora."""
    text = json.dumps((SELECTIONS | VOTES | CANDIDATES)[name])
    return json.loads(text.replace("DECISIONS", str(trees["folder"])))


@pytest.mark.parametrize(
    ("num_rows", "more", "expected"),
    [
        (20_000_000, {}, 1),
        (20_000_001, {}, 21),
        (1_000_000, {"execution": {"address": "auto"}}, 1),
        (1_000_001, {"execution": {"address": "auto"}}, 2),
        (10**9, {}, 250),
        (20_000_001, {"selection": {"near_duplicates": 0.8}}, 1),
    ],
)
def test_a_corpus_is_ranked_in_pieces_if_it_is_large_or_there_is_a_cluster(
    trees, monkeypatch, num_rows, more, expected
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    plan = SimpleNamespace(num_rows=num_rows, units=range(num_rows // 2_000))
    config = parse_config({**trees["pairs"], **more})
    assert rank.count_pieces(SimpleNamespace(plan=plan, config=config)) == expected


def test_near_duplicates_are_found_among_so_many_rows_only(trees, monkeypatch):
    monkeypatch.setattr(prepare, "NEAR_DUPLICATE_ROWS", 119)
    with pytest.raises(ConfigError, match=r"among at most 119 rows\n.*with 120 rows"):
        rank_job(parse_config({**trees["pairs"], "selection": {"near_duplicates": 0.8}}))


def in_pieces(patch: pytest.MonkeyPatch, num: int, least_bytes: int, run: Any = Local) -> None:
    """From here on corpora are ranked in so many pieces, which divide their work as far as the least bytes allow."""
    patch.setattr(rank, "count_pieces", lambda job: num)
    patch.setattr(on_ray, "OnRay", run)
    patch.setattr(cluster, "connect", lambda address: (1.0, 0.0))
    patch.setattr(collective, "LEAST_BYTES", least_bytes)


def read_run(tree: dict[str, Any], selection: dict[str, Any], *lost: str) -> dict[str, bytes]:
    """The files of a run by name, without the times that it took. lost: files that are written once more."""
    config = parse_config({**tree, "selection": selection})
    folder = Path(path_of(rank_job(config)))
    if lost:
        for name in ("manifest.json", *lost):
            (folder / name).unlink()
        rank_job(config)
    files = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for name in ("manifest.json", "report.json"):
        content = json.loads(files[name])
        files[name] = json.dumps({key: part for key, part in content.items() if key not in ("spent", "finished_at")})
    shutil.rmtree(folder)
    return {name: data for name, data in files.items() if name not in ("README.md", "report.html")}


@pytest.mark.parametrize(
    ("name", "num", "least_bytes"),
    [*((name, 5, 1) for name in [*SELECTIONS, *VOTES, *CANDIDATES]), ("plain", 3, 300), ("every rule", 200, 1)],
)
def test_a_run_in_pieces_holds_the_same_bytes(trees, monkeypatch, name, num, least_bytes):
    tree = trees["pairs" if name in SELECTIONS else "voted" if name in VOTES else "candidates"]
    selection = selection_of(trees, name)
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 8)
    monkeypatch.setattr(spool, "BYTES_PER_FILE", 2_000)
    whole = read_run(tree, selection)
    in_pieces(monkeypatch, num, least_bytes)
    pieces = read_run(tree, selection)
    assert pieces.keys() == whole.keys()
    for file, data in whole.items():
        assert pieces[file] == data, file
    assert name == "nothing" or sum(file.startswith("selected") for file in whole) > 1


def test_a_run_that_was_begun_in_one_piece_may_end_in_several(trees, monkeypatch):
    monkeypatch.setattr(spool, "ROWS_PER_FILE", 8)
    whole = read_run(trees["pairs"], SELECTIONS["goals"])
    in_pieces(monkeypatch, 1, 1)
    switched = iter([1, 6])
    monkeypatch.setattr(rank, "count_pieces", lambda job: next(switched))
    lost = [name for name in whole if name.startswith(("selected", "errors"))][1::2]
    assert read_run(trees["pairs"], SELECTIONS["goals"], *lost) == whole
    assert len(lost) > 2


def test_a_sweep_in_pieces_is_the_same(trees, monkeypatch):
    config, wanted = parse_config(trees["pairs"]), choices(("map", "random"), [0.5, 1.0], [0.1, 0.5])
    whole, _ = sweep_job(config, wanted)
    in_pieces(monkeypatch, 5, 1)
    pieces, _ = sweep_job(config, wanted)
    assert (pieces.everything, pieces.outcomes, pieces.refused) == (whole.everything, whole.outcomes, whole.refused)
    assert pieces.jaccard.tolist() == whole.jaccard.tolist()


@pytest.mark.parametrize(
    ("num", "tree"), [(40, {}), (3, {"scale": "calibrated", "held_out": 0.25, "seed": 3, "implicit": "dpo"})], ids=str
)
def test_every_metric_and_signal_has_the_same_bits_in_pieces(monkeypatch, tree, num):
    monkeypatch.setattr(collective, "LEAST_BYTES", 64)
    selection = Selection(metrics=list(METRICS), signals=SIGNALS, **tree)
    pairs = pairs_of(COLUMNS)
    ids = lambda at: pairs.pair_id.take(at.tolist())  # noqa: E731
    edges = np.sort(np.random.default_rng(num).integers(0, len(pairs) + 1, num - 1))
    parts = [pairs.take(rows) for rows in np.split(np.arange(len(pairs)), edges)]
    gathered = [collect([part], max(1, len(part)), selection, REWARDS) for part in parts]
    (whole,) = Local().run(
        rank_pairs, [[drop(collect([pairs], len(pairs), selection, REWARDS), selection)]], selection, ids
    )
    rankings = Local().run(rank_pairs, [Local().run(drop, [gathered], selection)], selection, ids)
    for name, values in {**whole.further, "map": whole.map_score, "rank": whole.rank}.items():
        of_pieces = [{**r.further, "map": r.map_score, "rank": r.rank}[name] for r in rankings]
        assert np.concatenate(of_pieces).tobytes() == values.tobytes(), name
    assert {ranking.warnings for ranking in rankings} == {whole.warnings}


@pytest.mark.parametrize("method", ["linear", "lower", "higher"])
def test_quantiles_are_those_of_numpy(method):
    random = np.random.default_rng(0)
    columns = [np.array([-0.0, 3.5, -1e300, 5e-324]), random.integers(-5, 5, 999), random.normal(size=500), np.ones(7)]
    shares = [0.0, 0.05, 1 / 3, 0.5, 0.95, 0.995, 1.0]
    pieces = [[column[i::3] for column in columns] for i in range(3)]
    found = Local().run(lambda parts: quantiles([(part, shares, method) for part in parts]), [pieces])[1]
    for column, values in zip(columns, found):
        assert values.tolist() == (np.quantile(column, shares, method=method) + 0.0).tolist()

"""How GPUs are shared among scorers, against every other way of sharing them, and what a run file overrules; how many
actors read and commit."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapjob.config.run import Model, Pool
from mapjob.errors import ConfigError
from mapjob.pipeline.pools import commit_pool, encode_pool, gpu_shares, scorer_pools
from mapjob.scoring.costs import model_cost, token_cost
from mapjob.scoring.model_files import model_files
from tests.fakes import make_policy, make_tokenizer


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=3), st.integers(1, 9))
def test_the_slowest_scorer_is_as_fast_as_can_be(values, gpus):
    costs = {f"{i}": value for i, value in enumerate(values)}
    shares = gpu_shares(costs, dict.fromkeys(costs, 1.0), gpus)
    if gpus < len(costs):
        assert shares == dict.fromkeys(costs, gpus / len(costs))
        return
    assert sum(shares.values()) == gpus
    every = [way for way in product(range(1, gpus + 1), repeat=len(values)) if sum(way) == gpus]
    best = min(max(cost / number for cost, number in zip(values, way)) for way in every)
    assert max(costs[name] / share for name, share in shares.items()) == pytest.approx(best)


def test_a_large_model_gets_most_of_a_cluster():
    pools = scorer_pools({"policy": 8e9, "reward": 70e9}, {}, 64, 8, 1000)
    assert {name: pool.max_size for name, pool in pools.items()} == {"policy": 1, "reward": 7}
    two = scorer_pools({"policy": 8e9, "reward": 70e9}, {"reward": Pool(num_gpus=2)}, 64, 8, 1000)
    assert (two["policy"].max_size, two["reward"].max_size, two["reward"].num_gpus) == (2, 3, 2)


def test_models_of_one_size_share_alike_and_one_gpu_is_cut_up():
    assert {p.max_size for p in scorer_pools({"a": 1.0, "b": 1.0}, {}, 16, 8, 1000).values()} == {4}
    assert {p.num_gpus for p in scorer_pools({"a": 1.0, "b": 9.0}, {}, 16, 1, 1000).values()} == {0.5}
    assert {p.num_gpus for p in scorer_pools({"a": 1.0}, {}, 16, 1, 1000).values()} == {1.0}


def test_no_actor_without_a_unit_and_none_on_cpu_with_a_gpu():
    pools = scorer_pools({"a": 1.0, "b": 1.0}, {}, 16, 8, 2)
    assert {pool.max_size for pool in pools.values()} == {2}
    assert {pool.num_gpus for pool in scorer_pools({"a": 1.0}, {}, 16, 0, 9).values()} == {0.0}


def test_a_name_overrules_and_so_does_the_kind():
    wanted = {"reward": Pool(max_size=1), "reward.b": Pool(max_size=3)}
    pools = scorer_pools({"policy": 1.0, "reward.a": 1.0, "reward.b": 1.0}, wanted, 16, 12, 1000)
    assert [pool.max_size for pool in pools.values()] == [4, 1, 3]


def test_gpus_that_are_not_there_are_refused_but_of_a_cluster_that_may_bring_them():
    wanted = {"policy": Pool(num_gpus=4, max_size=3)}
    with pytest.raises(ConfigError, match="asks for 4 GPUs"):
        scorer_pools({"policy": 1.0}, wanted, 16, 2, 10)
    waiting = scorer_pools({"policy": 1.0}, wanted, 0, 0, 10, grows=True)["policy"]
    assert (waiting.min_size, waiting.max_size, waiting.num_gpus) == (1, 3, 4)


def test_a_cluster_without_a_cpu_yet_has_pools_that_wait():
    pools = scorer_pools({"a": 1.0, "b": 1.0}, {}, 0, 0, 10, grows=True)
    assert {(pool.min_size, pool.num_cpus) for pool in pools.values()} == {(1, 0.0)}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gpt2", "gemma2", "olmo2"])
def test_costs_by_configuration_follow_the_weights(architecture, tmp_path):
    folder = make_policy(tmp_path, architecture, make_tokenizer())
    files = model_files(Model(path=str(folder), dtype="float32"), "policy")
    assert token_cost(files) == pytest.approx(model_cost(files, head=True).multiplied, rel=0.35)


def test_those_who_read_and_commit_grow_with_the_cluster_and_leave_room_for_scorers():
    for cpus in (1, 2, 16, 40, 4000):
        for gpus in (0, 8):
            read, commit = encode_pool(cpus, gpus), commit_pool(cpus)
            assert read.min_size == commit.min_size == 1
            if cpus > 2:
                assert read.max_size * read.num_cpus + commit.max_size * commit.num_cpus <= 0.7 * cpus
    assert [commit_pool(cpus).max_size for cpus in (2, 40, 4000)] == [1, 2, 200]
    assert commit_pool(2).num_cpus == 0.1

"""How many actors each scorer gets, and the CPUs and GPUs of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import ray

from mapjob.config.run import Pool
from mapjob.errors import ConfigError

# Shares of the cluster's CPUs that reading, encoding and committing keep for themselves.
ENCODE_SHARE, COMMIT_SHARE = 0.15, 0.05


def _finite_restarts() -> dict[str, int]:
    """Processes that die again and again must end the run, not hang it: Ray Data's default is forever. Two rows of a
    large unit that kill whoever touches them are found within so many (attempts.py)."""
    return {"max_restarts": 32, "max_task_retries": 32}


@dataclass(frozen=True)
class PoolSize:
    """A pool of actors for Ray Data's map_batches."""

    min_size: int
    max_size: int
    num_cpus: float
    num_gpus: float

    @property
    def ray_options(self) -> dict[str, Any]:
        strategy = ray.data.ActorPoolStrategy(min_size=self.min_size, max_size=self.max_size)
        gpus = {"num_gpus": self.num_gpus} if self.num_gpus else {}
        return {"compute": strategy, "num_cpus": self.num_cpus, "ray_remote_args_fn": _finite_restarts, **gpus}

    def __str__(self) -> str:
        size = f"{self.min_size}" if self.min_size == self.max_size else f"{self.min_size} to {self.max_size}"
        return f"{size} x {f'{self.num_gpus:g} GPU' if self.num_gpus else 'CPU'}"


def scorer_pools(
    costs: Mapping[str, float],
    wanted: Mapping[str, Pool],
    cpus: float,
    gpus: float,
    num_units: int,
    grows: bool = False,
) -> dict[str, PoolSize]:
    """Pools of the scorers that run at the same time, for a cluster with so many CPUs and GPUs.

    costs: of a token in each scorer, in any unit. With GPUs, scorers share whole ones so that the slowest is as fast as
    can be, or get equal parts of one if there are too few. Without, each pool has half as many actors again as its
    share of the cores: models differ in cost, and the cores that one pool leaves idle serve the other. Raises
    ConfigError when the run file asks for GPUs that are not there; a cluster that `grows` may bring them, so that its
    actors wait.
    """
    asked = {name: wanted.get(name, wanted.get(name.partition(".")[0], Pool())) for name in costs}
    shares = gpu_shares(costs, {name: pool.num_gpus or 1.0 for name, pool in asked.items()}, gpus)
    pools = {}
    for name, pool in asked.items():
        if pool.num_gpus and pool.num_gpus > gpus and not grows:
            raise ConfigError(
                f"the pool {name} asks for {pool.num_gpus:g} GPUs per actor, the cluster has {gpus:g}",
                f"execution.pools.{name}.num_gpus",
                "ask for fewer, or set execution.address to a cluster that has them",
            )
        pools[name] = _pool(pool, shares[name], len(costs), cpus, num_units)
    return pools


def gpu_shares(costs: Mapping[str, float], per_actor: Mapping[str, float], gpus: float) -> dict[str, float]:
    """GPUs of each scorer, whole actors of `per_actor` GPUs each: the next actor goes to the slowest scorer per token.

    With fewer GPUs than one actor each needs, equal parts.
    """
    if gpus < sum(per_actor.values()):
        return dict.fromkeys(costs, gpus / len(costs))
    shares = dict(per_actor)
    left = gpus - sum(shares.values())
    while fitting := [name for name in costs if per_actor[name] <= left]:
        slowest = max(fitting, key=lambda name: costs[name] / shares[name])
        shares[slowest] += per_actor[slowest]
        left -= per_actor[slowest]
    return shares


def _pool(pool: Pool, share: float, num_scorers: int, cpus: float, num_units: int) -> PoolSize:
    num_gpus = pool.num_gpus if pool.num_gpus is not None else min(1.0, share)
    if num_gpus:
        size, num_cpus = max(1, int(share / num_gpus + 1e-9)), 0.5
    else:
        size = max(1, ceil(1.5 * cpus / num_scorers))
        num_cpus = (1 - ENCODE_SHARE - COMMIT_SHARE) * cpus / num_scorers / size
    max_size = min(pool.max_size or max(size, pool.min_size or 1), num_units)  # an actor without a unit only idles
    min_size = min(pool.min_size or size, max_size)
    return PoolSize(min_size, max_size, round(num_cpus, 4), num_gpus)


def encode_pool(cpus: float, gpus: float) -> PoolSize:
    """CPU actors that read and encode: one small one beside CPU models, most of the cores beside GPUs."""
    if gpus:
        return PoolSize(1, max(1, int(cpus * 0.6)), 1, 0)
    return _share_of_cpus(cpus, ENCODE_SHARE)


def commit_pool(cpus: float) -> PoolSize:
    """CPU actors that put finished units: they wait for storage most of the time."""
    return _share_of_cpus(cpus, COMMIT_SHARE)


def _share_of_cpus(cpus: float, share: float) -> PoolSize:
    """One actor with a part of a CPU on a small machine, up to so many whole ones on a cluster."""
    return PoolSize(1, max(1, int(cpus * share)), min(1.0, round(cpus * share, 4)), 0)

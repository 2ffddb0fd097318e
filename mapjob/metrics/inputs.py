"""What a metric is given: the columns of the pairs that are ranked, and what the run file says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.columns import IMPLICIT
from mapjob.metrics.ensemble import Ensemble
from mapjob.metrics.map import Scale
from mapjob.metrics.statistics import Moments


@dataclass(frozen=True)
class Inputs:
    """`inputs[name]` is a column of shape (N,) by the names of metrics/columns.py; implicit_margin is that of the run.

    log_odds: what brings the reward margin to log-odds where it was calibrated, else 1. rewards: moments of each of
    several reward models.
    """

    columns: Mapping[str, F64]
    implicit: str  # simpo or dpo
    scale: Scale
    alpha: float = 1.0
    log_odds: float = 1.0
    seed: int = 0
    rewards: Mapping[str, Moments] = field(default_factory=dict)

    def __getitem__(self, name: str) -> F64:
        return self.columns[f"{self.implicit}_margin" if name == IMPLICIT else name]

    def of(self, names: tuple[str, ...]) -> list[F64]:
        return [self[name] for name in names]

    def margins_of_models(self, metric: str) -> dict[str, F64]:
        """Each of several reward models' margins. Raises ConfigError where there is one."""
        if not self.rewards:
            raise ConfigError(
                f"{metric} compares several reward models, and there is one",
                "models.reward",
                "give it as a mapping of name -> model, or take another metric",
            )
        return {model: self.columns[f"reward_margin.{model}"] for model in self.rewards}

    def ensemble(self, metric: str) -> Ensemble:
        return Ensemble.of(self.margins_of_models(metric), self.rewards)

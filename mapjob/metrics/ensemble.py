"""Several reward models as one: margins in units of each model's spread; mean, worst case and disagreement."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mapjob.arrays import F64
from mapjob.errors import ConfigError
from mapjob.metrics.columns import Column, finite
from mapjob.metrics.statistics import Moments


@dataclass(frozen=True)
class Ensemble:
    """K reward models' margins of N pairs, each divided by the standard deviation of that model's rewards, (K, N).

    The margin of z-scored rewards: (r_w - mu) / sigma - (r_l - mu) / sigma = (r_w - r_l) / sigma, signed by the label.
    Raw rewards of different models are never averaged (Coste et al. 2023, arXiv 2310.02743, for mean and worst case).
    """

    margins_KN: F64
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, reward_margins: Mapping[str, F64], rewards: Mapping[str, Moments]) -> "Ensemble":
        """From each model's margins (N,) and the moments of its rewards over all completions of the same corpus.

        A model that gives every completion the same reward says nothing: it is left out, with a warning (a 0 would
        decide worst cases). Raises ConfigError if that leaves none, ValueError for values that are not finite.
        With rewards of single completions in place of margins, differences of `mean` are margins of the ensemble.
        """
        margins = dict(zip(reward_margins, finite(**reward_margins)))
        usable = [name for name in margins if rewards[name].std > 0]
        if not usable:
            raise ConfigError(
                "every reward model gives all completions the same reward, so there is nothing to rank by",
                f"models.reward: {', '.join(margins) or 'none'}",
                "check that the reward models are trained",
            )
        silent = [name for name in margins if name not in usable]
        warnings = tuple(f"every reward of {name} is {rewards[name].mean:g}: it is left out" for name in silent)
        return cls(np.stack([margins[name] / rewards[name].std for name in usable]), warnings)

    @property
    def mean(self) -> F64:
        """Mean over models, (N,): the margin of the ensemble."""
        return self.margins_KN.mean(axis=0)

    @property
    def worst(self) -> F64:
        """Smallest margin of any model, (N,): positive only if all of them agree with the label."""
        return self.margins_KN.min(axis=0)

    @property
    def disagreement(self) -> F64:
        """Population standard deviation over models, (N,); 0 if all give the same margin, or for one model."""
        return self.margins_KN.std(axis=0)

    def column(self, name: str) -> Column:
        """`mean`, `worst` or `disagreement`, with what was left out."""
        return Column(getattr(self, name), self.warnings)

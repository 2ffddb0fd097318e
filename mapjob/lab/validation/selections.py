"""What every metric selects from a scored corpus, as rows of the run that publishes all pairs. Loads no model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mapjob.arrays import F64, I64, Bools
from mapjob.config.run import Config
from mapjob.config.selection import Selection
from mapjob.corpus.reader import read_rows
from mapjob.errors import ConfigError, MapjobError
from mapjob.job.prepare import Job, prepare_for_ranking
from mapjob.job.rank import rank_scored
from mapjob.lab.validation.arms import Arm
from mapjob.lab.validation.config import Validation
from mapjob.ranking.compare import PROFILE_COLUMNS, Choice
from mapjob.ranking.gather import gather
from mapjob.ranking.pairs import Pairs, RankedPairs
from mapjob.ranking.rank import Ranking, rank_pairs
from mapjob.selection.load import Scored


@dataclass(frozen=True)
class Corpus:
    """A scored corpus without its held-out prompts. everything: its ranking in the run that publishes all pairs."""

    job: Job
    scored: Scored
    everything: Ranking

    @classmethod
    def of(cls, config: Config) -> "Corpus":
        prepared = prepare_for_ranking(config, None)
        return cls(prepared, *rank_scored(prepared))

    @property
    def pairs(self) -> RankedPairs:
        """The pairs that selections are made of, in corpus order."""
        return self.everything.pairs

    def ranking(self, choice: Choice, selection: Selection, seed: int = 0) -> Ranking:
        """These pairs by a choice and the other rules of a selection. seed: of the metric random."""
        chosen = choice.of(selection).model_copy(update={"held_out": 0.0, "seed": seed})
        return rank_pairs(self.pairs, chosen, self.scored.units.pair_ids)

    def rows(self, ranking: Ranking) -> I64:
        """The pairs that a ranking keeps, as rows of the run that publishes all pairs; 0 is its first."""
        position = ranking.pairs.position[ranking.kept]
        index = np.searchsorted(self.pairs.position, position)
        if not np.array_equal(self.pairs.position[np.minimum(index, len(self.pairs) - 1)], position):
            what = "a pair that the probe scored was refused by the policy"
            raise MapjobError(what, self.job.config.output.path, "remove the metrics that use the probe")
        return self.everything.rank[index] - 1

    def column(self, name: str) -> npt.NDArray:
        """A column of the corpus's files, for `pairs`."""
        units = self.job.plan.units
        table = pa.concat_tables([read_rows(unit.file, unit.start, unit.stop, [name]) for unit in units])
        return table[name].to_numpy()[self.pairs.position]

    def change(self, change: Callable[[Pairs], Pairs]) -> "Corpus":
        """The same pairs with other scores or labels; `change` is called with the pairs of one unit."""
        selection, position = self.job.config.selection, self.pairs.position

        def units() -> list[Pairs]:
            return [
                change(unit.pairs.take(np.isin(unit.pairs.position, position))) for unit in self.scored.units.read()
            ]

        pairs = gather(units(), self.job.plan.num_rows, selection, self.scored.units.rewards, PROFILE_COLUMNS)
        return replace(self, everything=replace(self.everything, pairs=pairs))


@dataclass(frozen=True)
class Selections:
    """Every selection of a validation. by_probe: the corpus as a probe scored it, by the metrics that use it. gold: of
    both sides of the run's rows, (N, 2), in a known world.
    """

    validation: Validation
    corpus: Corpus
    by_probe: Mapping[str, Corpus]
    gold: F64 | None = None

    def source(self, metric: str) -> Corpus:
        """The scores that a metric goes by. Raises ConfigError if they are those of a probe that cannot be trained."""
        if metric in self.validation.of_probe and metric not in self.by_probe:
            raise ConfigError(
                "its probe is trained on clean development pairs, and there is none, or they are tested on",
                "development",
                "give a larger share of the held-out prompts, and leave --development away",
            )
        return self.by_probe.get(metric, self.corpus)

    def rows(self, arm: Arm) -> tuple[I64, Bools]:
        """(what an arm is trained on, as rows of the run that publishes all pairs; which of them with the sides
        exchanged).
        """
        choice, selection = arm.choice, self.validation.run.selection
        if arm.part in ("middle", "last"):
            order = self.corpus.rows(self.source(choice.metric).ranking(replace(choice, ratio=1.0), selection))
            num = int(choice.ratio * len(order))
            first = (len(order) - num) // (2 if arm.part == "middle" else 1)
            rows = order[first : first + num]
        else:
            rows = self.corpus.rows(self.source(choice.metric).ranking(choice, selection, arm.seed))
        if arm.part != "ceiling":
            return rows, np.zeros(len(rows), bool)
        assert self.gold is not None, "only a known world has a ceiling"
        better, worse = self.gold[rows].T
        return rows[better != worse], (better < worse)[better != worse]

"""What a selection does to labels that are known to be wrong: a line for worlds that know which labels they flipped."""

import pyarrow as pa

from mapjob.corpus.plan import Plan
from mapjob.corpus.reader import read_rows
from mapjob.ranking.select import Ranking

FLIPPED = "flipped"


def flips_line(plan: Plan, ranking: Ranking) -> str:
    """Share of flipped labels among ranked and selected pairs, and how many of them the reward model contradicts."""
    column = pa.concat_tables([read_rows(unit.file, unit.start, unit.stop, [FLIPPED]) for unit in plan.units])
    flipped = column[FLIPPED].to_numpy()[ranking.pairs.position]
    contradicted = (ranking.reward_margin < 0)[flipped]
    return (
        f"flipped labels: {flipped.mean():.1%} of the ranked, {flipped[ranking.kept].mean():.1%} of the selected; the "
        f"reward model contradicts {contradicted.mean():.0%} of them (MAP is blind to labels, map_signed is not)"
    )

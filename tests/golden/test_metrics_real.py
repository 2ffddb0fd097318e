"""The tests of metrics and signals once more, on 2,000 real pairs as the small trained models score them.

In one file, so that one process scores the pairs.
"""

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mapjob.config.load import parse_config
from mapjob.job.rank import rank_scored
from tests.fakes import config_tree, write_corpus
from tests.golden.columns import whole
from tests.golden.conftest import evenly
from tests.golden.metric_inputs import Columns
from tests.golden.test_metrics_selection import *  # noqa: F403
from tests.golden.test_metrics_signals import *  # noqa: F403

NUM_PAIRS = 2_000


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Columns:
    """Every column there is, of different pairs."""
    from tests.without_ray import score_all

    table = pq.read_table(shared / "data" / "alpaca_eval_pairs", columns=["prompt", "chosen", "rejected"])
    chosen, rejected = pc.utf8_length(table["chosen"]), pc.utf8_length(table["rejected"])
    length = pc.add(pc.utf8_length(table["prompt"]), pc.max_element_wise(chosen, rejected))
    rows = table.filter(pc.less_equal(length, 450)).to_pylist()
    rows = list({tuple(row.values()): row for row in rows if row["chosen"] != row["rejected"]}.values())
    rows = evenly(rows, NUM_PAIRS)
    folder, models = tmp_path_factory.mktemp("metrics"), shared / "models" / "small"
    tree = config_tree(write_corpus(folder / "corpus", rows), folder / "out", Path(), Path())
    tree["models"] = {
        name: {"path": str(models / name), "dtype": "float32"} for name in ("policy", "reference", "reward")
    }
    tree["execution"] = {"rows_per_unit": 500}
    tree["selection"] = {"metrics": ["dcrm", "ifd_margin"], "signals": {"wpo_weight": {}}}
    scored, _ = rank_scored(score_all(parse_config(tree)))
    columns = whole(unit.pairs for unit in scored.units.read()).columns
    assert len(columns["chosen_reward"]) == NUM_PAIRS
    return columns

"""Real preference data through the whole job with small trained models: dialogues, multi-turn, candidates."""

from pathlib import Path

import pyarrow as pa
import pytest

from mapjob.config.load import parse_config
from mapjob.corpus.reading import Reading
from mapjob.store.run_folder import open_run, path_of
from tests.readings import READINGS
from tests.without_ray import run


@pytest.mark.parametrize(
    ("data", "form", "limit"),
    [
        ("hh_harmless_test", "hh", 80),
        ("sharegpt_dpo_demo", "sharegpt", 12),
        ("alpaca_eval_candidates", "candidates", 5),
    ],
)
def test_real_data_runs_to_a_selection(shared: Path, tmp_path: Path, data: str, form: str, limit: int) -> None:
    models = shared / "models" / "small"
    tree = {
        "input": {"path": str(shared / "data" / data)},
        "output": {"path": str(tmp_path)},
        "models": {name: {"path": str(models / name), "dtype": "float32"} for name in ("policy", "reward")},
        "execution": {"rows_per_unit": 60, "pools": {name: {"max_size": 1} for name in ("policy", "reward")}},
    }
    manifest = run(parse_config(tree), limit)
    assert Reading.of(manifest["corpus"]["reading"]) == READINGS[form]
    counts = manifest["counts"]
    assert counts["rows"] == limit == counts["ranked"] + counts["dropped"] + counts["broken"]
    assert counts["ranked"] > 0.8 * limit
    folder = open_run(path_of(manifest)).folder
    table = pa.concat_tables([folder.read_table(name) for name in folder.tables("selected")])
    assert table.num_rows == int(0.4 * counts["ranked"])
    first = table.to_pylist()[0]
    assert first["prompt"][-1]["role"] == "user"
    assert first["chosen"][-1]["role"] == "assistant"

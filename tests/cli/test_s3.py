"""A corpus and an output on a real S3 server: the result of the run on a disk."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from datasets import load_dataset

from mapjob.config.load import load_config
from mapjob.job.run import rank_job
from mapjob.store.remote import filesystem
from mapjob.store.run_folder import path_of
from tests.cli.conftest import Mapjob
from tests.cli.test_commands import last_json
from tests.without_ray import run


def test_a_nightly_on_s3(
    here: Mapjob, run_file: Callable[..., Path], files: dict[str, Path], swift_bucket: str, tmp_path: Path
) -> None:
    fs, bucket = filesystem(swift_bucket)
    shards = sorted(files["corpus"].glob("*.parquet"))
    on_disk = run_file(execution={"rows_per_unit": 20})
    on_s3 = ["--set", f"input.path={swift_bucket}/corpus", "--set", f"output.path={swift_bucket}/out"]

    fs.put(str(shards[0]), f"{bucket}/corpus/{shards[0].name}")
    first = run(load_config(on_disk, on_s3[1::2]))
    assert first["counts"]["rows"] == 30

    fs.put(str(shards[1]), f"{bucket}/corpus/{shards[1].name}")
    status = last_json(here("status", f"{swift_bucket}/out", "--json"))
    assert (status["new_units"], status["new_rows"]) == (2, 30)
    ran = here("run", on_disk, *on_s3, "--json")
    second = last_json(ran)
    assert "2 units are already scored, 2 are not" in ran.stderr
    ranked = last_json(here("rank", f"{swift_bucket}/out", "--set", "selection.alpha=2.5", "--json"))

    on_this_disk = [run(load_config(on_disk)), rank_job(load_config(on_disk, ["selection.alpha=2.5"]))]
    for there, local in zip((second, ranked), on_this_disk):
        folder = tmp_path / there["run_id"]
        fs.get(there["run_path"], str(folder), recursive=True)
        assert pq.read_table(folder / "selected").equals(pq.read_table(Path(path_of(local)) / "selected"))
        assert there["counts"] == local["counts"]
        selected = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert selected.num_rows == there["counts"]["selected"]
        assert selected["rank"][:] == list(range(1, selected.num_rows + 1))

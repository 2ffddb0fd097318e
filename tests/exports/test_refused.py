"""What a format cannot hold, and files of an unfinished run."""

from pathlib import Path

import pytest

from mapjob.errors import ConfigError, MapjobError
from mapjob.job.run import rank_job
from mapjob.store.run_folder import path_of
from tests.exports.conftest import CORPORA, config, dialogues
from tests.without_ray import run


@pytest.mark.parametrize("output_format", ["openrlhf", "llama_factory"])
def test_a_pair_that_a_format_cannot_hold_ends_the_run_before_its_folder_is_there(
    models, tmp_path: Path, output_format: str
) -> None:
    rows = dialogues(12)
    long = [*rows[9]["chosen"], {"role": "user", "content": "and?"}, {"role": "assistant", "content": "so."}]
    rows[9] = {**rows[9], "chosen": long}
    settings = {"selection": {"keep": {"ratio": 1.0}}}
    with pytest.raises(ConfigError, match="several messages") as caught:
        run(config(tmp_path, models, rows, output_format=output_format, **settings))
    assert caught.value.where == "part-001.parquet, row 3"
    assert not list((tmp_path / "out" / "runs").glob("*"))
    manifest = rank_job(config(tmp_path, models, rows, output_format="trl", **settings))
    assert manifest["counts"]["selected"] == 12, "as the message says, from the same scores"


def test_another_dataset_info_of_an_unfinished_run_is_refused(models, tmp_path: Path) -> None:
    settings = config(tmp_path, models, CORPORA["raw"], output_format="llama_factory")
    folder = Path(path_of(run(settings)))
    (folder / "manifest.json").unlink()
    before = (folder / "dataset_info.json").read_bytes()
    run(settings)  # adopts what stands
    assert (folder / "dataset_info.json").read_bytes() == before
    (folder / "manifest.json").unlink()
    (folder / "dataset_info.json").write_text("{}")
    with pytest.raises(MapjobError, match="another file") as caught:
        run(settings)
    assert caught.value.where == f"{folder}/dataset_info.json"

"""What is known of files and units: taken where it holds, found out again where it does not, never believed blindly."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapjob.config.input import Input
from mapjob.corpus import look
from mapjob.corpus.plan import Plan, make_plan
from mapjob.store.output import Output
from mapjob.store.snapshots import Snapshots
from tests.fakes import make_pairs


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for number in range(3):
        write(tmp_path / "corpus" / f"part-{number}.parquet", number)
    return tmp_path / "corpus"


def write(file: Path, seed: int) -> None:
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(make_pairs(10, seed=seed)), file)


def plan(corpus: Path, output: Path, rows_per_unit: int = 4) -> Plan:
    return make_plan(Input(path=str(corpus)), True, rows_per_unit, output=str(output))


def keep(made: Plan, output: Path) -> Plan:
    """The plan with made-up ids, written down."""
    named = made.with_ids({index: f"id-{index}" for index in made.unnamed})
    named.keep(str(output))
    return named


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the files whose footers are read."""
    names: list[str] = []
    read_footer = look.read_footer
    monkeypatch.setattr(
        look, "read_footer", lambda file, where: (names.append(Path(where).name), read_footer(file, where))[1]
    )
    return names


def test_a_known_file_is_not_opened_and_a_replaced_one_is(corpus: Path, tmp_path: Path, opened: list[str]) -> None:
    first = keep(plan(corpus, tmp_path / "out"), tmp_path / "out")
    assert sorted(opened) == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    opened.clear()
    second = plan(corpus, tmp_path / "out")
    assert opened == []
    assert (second.units, second.schema, second.corpus) == (first.units, first.schema, first.corpus)
    write(corpus / "part-1.parquet", 9)
    third = plan(corpus, tmp_path / "out")
    assert opened == ["part-1.parquet"]
    assert [bool(unit.id) for unit in third.units] == [True] * 3 + [False] * 3 + [True] * 3


def test_another_reading_or_another_cut_knows_no_unit(corpus: Path, tmp_path: Path) -> None:
    keep(plan(corpus, tmp_path / "out"), tmp_path / "out")
    assert len(plan(corpus, tmp_path / "out", rows_per_unit=5).unnamed) == 6
    source = Input(path=str(corpus), columns={"group": "source"})
    assert len(make_plan(source, True, 4, output=str(tmp_path / "out")).unnamed) == 9


def test_what_is_known_may_be_removed_or_damaged(corpus: Path, tmp_path: Path, opened: list[str]) -> None:
    keep(plan(corpus, tmp_path / "out"), tmp_path / "out")
    files = list((tmp_path / "out" / "plans").iterdir())
    assert len(files) == 2
    for file in files:
        file.write_bytes(file.read_bytes()[:-20] + b"x" * 20)
    opened.clear()
    assert len(plan(corpus, tmp_path / "out").unnamed) == 9
    assert len(opened) == 3
    for file in files:
        file.unlink()
    assert len(plan(corpus, tmp_path / "out").unnamed) == 9


def test_the_newest_counts_and_older_ones_are_orphans(tmp_path: Path) -> None:
    for number in range(3):
        Snapshots(str(tmp_path), "files").write(pa.table({"n": [number]}))
    Snapshots(str(tmp_path), "units").write(pa.table({"n": [7]}))
    assert Snapshots(str(tmp_path), "files").read() == pa.table({"n": [2]})
    assert Snapshots(str(tmp_path), "units").read() == pa.table({"n": [7]})
    assert Snapshots(str(tmp_path), "file").read() is None
    orphans = sorted(orphan.name for orphan in Output(str(tmp_path)).orphans())
    assert orphans == ["plans/files-000000.parquet", "plans/files-000001.parquet"]


def test_of_two_writers_at_once_the_first_is_kept(tmp_path: Path) -> None:
    one, other = Snapshots(str(tmp_path), "files"), Snapshots(str(tmp_path), "files")
    one.write(pa.table({"n": [1]}))
    other.write(pa.table({"n": [2]}))
    assert Snapshots(str(tmp_path), "files").read() == pa.table({"n": [1]})


def test_nothing_new_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    keep(plan(corpus, tmp_path / "out"), tmp_path / "out")
    keep(plan(corpus, tmp_path / "out"), tmp_path / "out")
    assert len(list((tmp_path / "out" / "plans").iterdir())) == 2


def test_a_file_that_was_replaced_between_its_listing_and_its_footer_is_not_known(
    corpus: Path, tmp_path: Path, opened: list[str]
) -> None:
    """Else its footer would be kept under the mark of the file that was listed, and used when that comes back."""
    made = plan(corpus, tmp_path / "out")
    made.with_ids({index: f"id-{index}" for index in range(3)}).keep(str(tmp_path / "out"))  # reading the others failed
    opened.clear()
    plan(corpus, tmp_path / "out")
    assert sorted(opened) == ["part-1.parquet", "part-2.parquet"]

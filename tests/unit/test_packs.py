"""Packs of the score store: few objects are read where there are packs, and nothing depends on them."""

import json
import logging
import pickle
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from mapjob.errors import MapjobError
from mapjob.store import packs
from mapjob.store.output import Output
from mapjob.store.score_store import ScoreStore
from mapjob.store.snapshots import Snapshots
from mapjob.store.storage import Storage
from tests.crash.interrupted import killed

FAMILIES = ["a" * 16, "b" * 16]
ROWS = 3


def columns(family: str, unit: int) -> pa.Table:
    values = [[unit + row / 8, float(family[0] == "a")] for row in range(ROWS)]
    text = [None if row == unit % ROWS else f"{unit}-{row}" for row in range(ROWS)]
    return pa.table({"row": pa.array(range(ROWS), pa.int32()), "logps": values, "detail": pa.array(text, pa.string())})


def ids_of(*numbers: int) -> list[str]:
    return [f"{number:020x}" for number in range(*numbers)]


def rows_of(ids: list[str]) -> dict[str, int]:
    return dict.fromkeys(ids, ROWS)


def score(url: str, *numbers: int) -> list[str]:
    """Put the columns of these units; returns their ids."""
    for number in range(*numbers):
        for family in FAMILIES:
            ScoreStore(url).commit(family, f"{number:020x}", columns(family, number))
    return ids_of(*numbers)


def read(url: str, ids: list[str], family: str = FAMILIES[0]) -> list[pa.Table]:
    return list(ScoreStore(url).read_all(family, ids))


def expected(ids: list[str], family: str = FAMILIES[0]) -> list[pa.Table]:
    return [columns(family, int(unit, 16)) for unit in ids]


@contextmanager
def count_requests() -> Iterator[Counter[str]]:
    """What is read, listed and created inside."""
    requests: Counter[str] = Counter()

    def counted(name: str) -> None:
        call = getattr(Storage, name)

        def count_call(self: Storage, *arguments: object) -> object:
            requests[name] += 1
            return call(self, *arguments)

        patch.setattr(Storage, name, count_call)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "names", "create"):
            counted(name)
        yield requests


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "UNITS_PER_PACK", 10)


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """A store of forty units in four packs a family."""
    ScoreStore(str(tmp_path)).write_packs(FAMILIES, rows_of(score(str(tmp_path), 40)))
    return str(tmp_path)


def pack_files(url: str, family: str = FAMILIES[0]) -> list[str]:
    return [f"scores/{family}/packs/{name}" for name in Storage(url).names(f"scores/{family}/packs")]


def test_a_family_is_read_by_one_request_per_pack(root: str) -> None:
    ScoreStore(root).write_packs(FAMILIES, rows_of(score(root, 40)))
    with count_requests() as requests:
        store = ScoreStore(root)
        for family in FAMILIES:
            assert list(store.read_all(family, ids_of(40))) == expected(ids_of(40), family)
    assert requests == {"names": 1, "read": 1 + 2 * 4}
    assert ScoreStore(root).done(FAMILIES[0]) == set(ids_of(40))


def test_without_packs_one_listing_is_all_that_is_added(tmp_path: Path) -> None:
    ids = score(str(tmp_path), 40)
    with count_requests() as requests:
        store = ScoreStore(str(tmp_path))
        for family in FAMILIES:
            assert list(store.read_all(family, ids)) == expected(ids, family)
    assert requests == {"names": 1, "read": 2 * 40}


def test_nights_of_few_units_leave_few_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One unit per night: what a ranking reads does not grow by a file for every few nights."""
    monkeypatch.setattr(packs, "UNITS_PER_PACK", 250)
    url, read_at = str(tmp_path), []
    for night in range(1, 150):
        score(url, night - 1, night)
        ScoreStore(url).write_packs(FAMILIES, rows_of(ids_of(night)))
        if night in (7, 64, 128, 149):
            with count_requests() as requests:
                assert read(url, ids_of(night)) == expected(ids_of(night))
            read_at.append(requests["read"])
    # What packs there are; packs of 65 units, packs of 8, and units that wait for further ones.
    assert read_at == [7, 1 + 8, 1 + 1 + 7 + 7, 1 + 2 + 2 + 3]


def test_few_units_are_neither_packed_nor_looked_up(tmp_path: Path) -> None:
    ids = score(str(tmp_path), packs.FEWEST_UNITS - 1)
    with count_requests() as requests:
        store = ScoreStore(str(tmp_path))
        store.write_packs(FAMILIES, rows_of(ids))
        assert list(store.read_all(FAMILIES[0], ids)) == expected(ids)
    assert requests == {"read": len(ids)}


def test_a_pack_is_read_for_most_of_its_units_and_not_for_few(stored: str) -> None:
    ids = ids_of(4, 12)
    with count_requests() as requests:
        assert read(stored, ids) == expected(ids)
    assert requests["read"] == 1 + 1 + 2, "what is known of packs, six units of one, two of the next"
    alternating = [unit for pair in zip(ids_of(10), ids_of(10, 20)) for unit in pair]
    with count_requests() as requests:
        assert read(stored, alternating) == expected(alternating)
        assert read(stored, ScoreStore(stored).by_pack(alternating)) == expected(alternating[::2] + alternating[1::2])
    assert requests["read"] == 21 + 1 + 3


def test_at_most_two_packs_are_in_hand(stored: str) -> None:
    with count_requests() as requests:
        tables = ScoreStore(stored).read_all(FAMILIES[0], ids_of(40))
        next(tables)
        assert requests["read"] <= 1 + 2
        assert len(list(tables)) == 39


def test_a_store_that_is_sent_to_a_worker_asks_again_for_what_is_known(stored: str) -> None:
    store = ScoreStore(stored)
    before = len(pickle.dumps(store))
    tables = list(store.read_all(FAMILIES[0], ids_of(40)))
    assert len(pickle.dumps(store)) == before
    assert list(pickle.loads(pickle.dumps(store)).read_all(FAMILIES[0], ids_of(40))) == tables


def test_a_night_packs_what_is_new_and_nothing_else(stored: str) -> None:
    before = pack_files(stored)
    ids = ids_of(40) + score(stored, 40, 45)
    ScoreStore(stored).write_packs(FAMILIES, rows_of(ids))
    assert pack_files(stored) == before, "five units wait"
    ids += score(stored, 45, 50)
    with count_requests() as requests:
        ScoreStore(stored).write_packs(FAMILIES, rows_of(ids))
    assert requests["read"] == 1 + 2 * 10
    assert requests["create"] == 2 + 1
    assert set(before) < set(pack_files(stored))
    with count_requests() as requests:
        ScoreStore(stored).write_packs(FAMILIES, rows_of(ids))
    assert not requests["create"]
    with count_requests() as requests:
        assert read(stored, ids) == expected(ids)
    assert requests["read"] == 1 + 5


def test_a_new_family_gets_the_packs_that_others_have(stored: str) -> None:
    new = "c" * 16
    for number in range(40):
        ScoreStore(stored).commit(new, f"{number:020x}", columns(new, number))
    with count_requests() as requests:
        assert read(stored, ids_of(40), new) == expected(ids_of(40), new)
    assert requests["read"] == 1 + 40
    before = pack_files(stored)
    ScoreStore(stored).write_packs([*FAMILIES, new], rows_of(ids_of(40)))
    assert [name.replace(new, FAMILIES[0]) for name in pack_files(stored, new)] == before == pack_files(stored)
    with count_requests() as requests:
        assert read(stored, ids_of(40), new) == expected(ids_of(40), new)
    assert requests["read"] == 1 + 4


def test_units_whose_pack_has_few_others_left_are_packed_again(stored: str) -> None:
    ids = [unit for unit in ids_of(40) if int(unit, 16) % 10 < 4]
    ScoreStore(stored).write_packs(FAMILIES, rows_of(ids))
    with count_requests() as requests:
        assert read(stored, ids) == expected(ids)
    assert requests["read"] == 1 + 2
    assert read(stored, ids_of(40)) == expected(ids_of(40))


@pytest.mark.parametrize("fault", ["removed", "cut", "of other units", "of another family", "a unit", "one bit"])
def test_a_pack_that_is_not_as_it_was_written_is_passed_over(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    url, ids = str(tmp_path), score(str(tmp_path), 40)
    ScoreStore(url).write_packs(FAMILIES, rows_of(ids))
    file, other = (tmp_path / name for name in pack_files(url)[:2])
    data = file.read_bytes()
    damaged = {
        "cut": data[:-20],
        "of other units": other.read_bytes(),
        "of another family": (tmp_path / pack_files(url, FAMILIES[1])[0]).read_bytes(),
        "a unit": (tmp_path / "scores" / FAMILIES[0] / f"{ids[0]}.parquet").read_bytes(),
        "one bit": data[:50] + bytes([data[50] ^ 1]) + data[51:],
    }
    file.unlink()
    if fault in damaged:
        file.write_bytes(damaged[fault])
    with caplog.at_level(logging.WARNING), count_requests() as requests:
        store = ScoreStore(url)
        for _ in range(2):
            assert list(store.read_all(FAMILIES[0], ids)) == expected(ids)
    (warning,) = (record.message for record in caplog.records if record.levelno >= logging.WARNING)
    assert str(file) in warning
    assert requests["read"] == 1 + 4 + 10 + 3 + 10, "the second time without asking for it again"
    file.unlink(missing_ok=True)
    ScoreStore(url).write_packs(FAMILIES, rows_of(ids))
    assert file.read_bytes() == data


def test_a_unit_that_is_missing_is_named_before_a_pack_lacks_it(tmp_path: Path) -> None:
    url, ids = str(tmp_path), score(str(tmp_path), 10)
    (tmp_path / "scores" / FAMILIES[1] / f"{ids[3]}.parquet").unlink()
    with pytest.raises(MapjobError, match="missing") as caught:
        ScoreStore(url).write_packs(FAMILIES, rows_of(ids))
    assert ids[3] in caught.value.where


def test_whenever_the_writer_of_packs_is_killed_the_next_one_ends_with_the_same_files(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        ScoreStore(str(folder)).write_packs(FAMILIES, rows_of(ids_of(20)))

    def files(folder: Path) -> dict[str, bytes]:
        every = (file for file in folder.rglob("*") if file.is_file() and ".writing" not in file.parts)
        return {str(file.relative_to(folder)): file.read_bytes() for file in every}

    def fresh(number: int) -> Path:
        return shutil.copytree(tmp_path / "scored", tmp_path / str(number))

    score(str(tmp_path / "scored"), 20)

    write(fresh(0))
    for at in count(random.randint(1, 3), 3):
        folder = fresh(at)
        finished = not killed(lambda folder=folder: write(folder), at)
        assert files(folder).items() <= files(tmp_path / "0").items()
        write(folder)
        assert files(folder) == files(tmp_path / "0")
        if finished:
            break
    assert at > 60


def test_clean_knows_which_packs_a_run_uses(stored: str) -> None:
    manifest = {"finished_at": "2026-01-01", "fingerprints": dict(zip(FAMILIES, FAMILIES)), "units": ids_of(25)}
    manifest |= {"corpus": {}, "config": {}}
    Storage(stored).create("runs/one/manifest.json", json.dumps(manifest).encode())
    of_pack = packs.Packs(stored).pack_of
    unused = {of_pack[unit] for unit in ids_of(30, 40)}
    orphans = [orphan.name for orphan in Output(stored).orphans() if "/packs/" in orphan.name]
    assert sorted(orphans) == sorted(f"scores/{f}/packs/{pack}.parquet" for f in FAMILIES for pack in unused)

    Snapshots(stored, "packs").write(pa.table({"n": [1]}))
    orphans = {orphan.name for orphan in Output(stored).orphans()}
    assert orphans >= {"plans/packs-000000.parquet", *pack_files(stored), *pack_files(stored, FAMILIES[1])}
    assert read(stored, ids_of(40)) == expected(ids_of(40))

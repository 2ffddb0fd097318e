"""Each storage call of a run fails once, or is the last of its process: the same command ends in the same files."""

import random
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from mapjob.config.load import parse_config
from mapjob.config.run import Config
from mapjob.errors import MapjobError
from mapjob.store import packs, run_folder, score_store
from tests.crash.interrupted import PUTS, Calls, Mode, killed
from tests.crash.standing import standing
from tests.fakes import config_tree, make_pairs, make_policy, make_reward, write_corpus
from tests.without_ray import run

MEMORY = Path("/dev/shm")  # a disk that syncs at once, where there is one

Outputs = Callable[[], Config]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run file over two units, one row of which is dropped."""
    folder = tmp_path_factory.mktemp("every_call")
    rows = make_pairs(12)
    rows[5]["rejected"] = rows[5]["chosen"]
    corpus = write_corpus(folder / "corpus", rows, num_files=2)
    policy, reward = make_policy(folder / "policy"), make_reward(folder / "reward")
    return config_tree(corpus, folder / "unused", policy, reward, execution={"rows_per_unit": 6})


@pytest.fixture
def outputs(request: pytest.FixtureRequest, tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Outputs]:
    """Each call gives the run file with another empty output of one kind. Two units are enough for a pack, and for
    a list beside the manifest."""
    for module in (packs, score_store):
        monkeypatch.setattr(module, "FEWEST_UNITS", 2)
    monkeypatch.setattr(run_folder, "MOST_UNITS", 1)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        root = {"disk": folder, "memory": f"memory:/{folder}"}.get(request.param)
        root = root or request.getfixturevalue("swift_bucket")
        paths = (f"{root}/{number}" for number in range(10_000))
        yield lambda: parse_config({**tree, "output": {"path": next(paths)}})


@pytest.mark.parametrize(
    ("outputs", "mode", "every"),
    [
        *product(["disk"], ["kill", "lost", "broken"], [3]),
        ("swift", "lost", 3),
        ("memory", "away", 3),
        *(
            pytest.param(*case, 1, marks=pytest.mark.slow)
            for case in product(["disk", "swift"], ["kill", "lost", "broken"])
        ),
        pytest.param("disk", "busy", 1, marks=pytest.mark.slow),  # on Swift, tests/storage/test_a_bad_day.py
    ],
    indirect=["outputs"],
)
def test_every_call(outputs: Outputs, mode: Mode, every: int, capsys: pytest.CaptureFixture) -> None:
    """Of `make test` every third call, from one that is drawn; of `make test-slow` each."""
    config, calls = outputs(), Calls()
    with calls.counted():
        run(config)
    expected = standing(config)
    tried = [at for at, name in enumerate(calls.names, 1) if mode != "lost" or name in PUTS]
    tried = tried[random.randrange(every) :: every]
    for at in tried:
        config, where = outputs(), f"{mode} at call {at}, {calls.names[at - 1]}"
        finished = disturbed(config, at, mode)
        check_whole(standing(config), expected, where)
        assert finished or mode in ("kill", "broken", "away"), where
        run(config)
        assert standing(config) == expected, where
    root, num_calls = config.output.path.rpartition("/")[0], len(calls.names)
    with capsys.disabled():
        print(f"\n{root}: {mode} at {len(tried)} of {num_calls} calls, from {tried[0]} in steps of {every}")


def disturbed(config: Config, at: int, mode: Mode) -> bool:
    """Whether a run finished although something befell its `at`-th storage call."""
    if mode == "kill":
        return not killed(lambda: run(config), at)
    try:
        with Calls(at, mode).counted():
            run(config)
    except MapjobError as raised:
        error = raised
    else:
        return True
    assert all([error.where, error.do, error.exit_code > 1]), error
    assert mode != "away" or error.exit_code == 4, error
    return False


def check_whole(found: dict[str, str], expected: dict[str, str], where: str) -> None:
    """Whatever stands is whole, and the manifest comes after all that it stands for."""
    assert found.items() <= expected.items(), where
    if any(name.endswith("manifest.json") for name in found):
        assert found.keys() >= expected.keys() - {"latest.json"}, where

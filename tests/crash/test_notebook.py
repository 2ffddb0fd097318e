"""`mapjob.run` in the cells of a notebook: what ends a run raises in its cell, and the kernel goes on."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mapjob.config.load import load_config
from tests.crash.test_kill_driver import published, run_file  # noqa: F401
from tests.without_ray import run

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with ipykernel, and with the packages of this one."""
    folder = tmp_path_factory.mktemp("notebook")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = f"{folder}/bin/python"
    if subprocess.run([python, "-m", "pip", "install", "-q", "ipykernel>=7"], check=False).returncode:
        pytest.skip("pip cannot install ipykernel here")
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "beside.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return python


def test_a_stall_and_an_interrupt_end_a_cell_and_no_kernel(python, run_file, tmp_path):  # noqa: F811
    command = [python, Path(__file__).with_name("kernel.py"), run_file, tmp_path]
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=alone, check=False)
    assert done.returncode == 0, done.stderr
    first, second, stalled, interrupted, resumed, after_stall, last = json.loads(done.stdout.splitlines()[-1])
    undisturbed = run(load_config(run_file, [f"output.path={tmp_path / 'undisturbed'}"]))
    ranked = [f"{undisturbed['counts']['ranked']} {undisturbed['run_id']}"]
    assert first == second == resumed == after_stall == ranked
    assert stalled[0] == "IncompleteError"
    assert "no unit finished in 0 s" in stalled[1]
    assert interrupted[0] == "KeyboardInterrupt"
    assert last == ["42"]
    for name in ("first", "second", "stalled", "interrupted"):
        assert published(tmp_path / name) == published(tmp_path / "undisturbed"), name

